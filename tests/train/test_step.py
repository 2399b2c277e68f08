"""One optimisation step: every term lowers itself, and a zero weight costs nothing."""

import contextlib
import copy
from dataclasses import replace

import pytest
import torch

from rap.config import Config, FeatureLoss, LossWeights, Precision
from rap.model.regressor import build_regressor
from rap.train import step
from rap.train.batches import Batch
from rap.train.footprint import Alive
from rap.train.step import (
    Learner,
    build_learner,
    loss_terms,
    micro_batches,
    optimise,
    train_discriminator,
)

TERMS = ["pose", "rendered", "view", "feature", "adversarial"]
CPU = torch.device("cpu")


def only(config: Config, **weights: float) -> Config:
    """The same configuration with only the named terms."""
    none = LossWeights(pose=0.0, rendered=0.0, view=0.0, feature=0.0, adversarial=0.0)
    return replace(config, weights=replace(none, **weights))


def eight_images(device: torch.device = CPU) -> Batch:
    """Eight photographs, renderings that resemble them, and eight views, with distinct poses."""
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(8, 3, 48, 64, generator=generator)
    rendered = (real + 0.1 * torch.randn(real.shape, generator=generator)).clamp(0, 1)
    views = torch.rand(8, 3, 48, 64, generator=generator)
    poses = torch.eye(4).repeat(8, 1, 1)
    poses[:, :3, 3] = torch.randn(8, 3, generator=generator)
    sizes = {"pose": 8, "rendered": 8, "view": 8}
    images = torch.cat([real, rendered, views]).to(device)
    return Batch(images, poses.repeat(3, 1, 1).to(device), sizes)


def learner_for(config: Config, device: torch.device = CPU) -> Learner:
    """A fresh learner with the seed of the configuration."""
    torch.manual_seed(0)  # the discriminator drops channels
    regressor = build_regressor(config.model, config.train.seed).to(device)
    average = copy.deepcopy(regressor) if config.train.ema_decay else None
    return build_learner(regressor, average, config, device)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_alone_lowers_itself(tiny_config: Config, term: str) -> None:
    """A dozen steps on eight images take a tenth off the only term; of a game, half of that."""
    config = only(tiny_config, **{term: 1.0})
    learner, batch = learner_for(config), eight_images()
    # A frozen opponent, or there would be nothing to converge to.
    if learner.discriminator_optimizer is not None:
        learner.discriminator_optimizer.param_groups[0]["lr"] = 0.0
    played = term == "adversarial"  # its channels are dropped at random: it needs more, averaged
    values = [optimise(learner, batch, config, 1.0) for _ in range(30 if played else 12)]
    assert {frozenset(found) for found in values} == {frozenset({term})}
    reached = sum(float(found[term]) for found in values[-5:]) / 5
    assert reached < (0.95 if played else 0.9) * values[0][term]


@pytest.mark.parametrize("kind", ["vicreg", "triplet", "ntxent", "mse"])
@pytest.mark.slow
def test_each_feature_loss_lowers_itself(tiny_config: Config, kind: FeatureLoss) -> None:
    """All four alignments can be trained."""
    config = only(tiny_config, feature=1.0)
    config = replace(config, train=replace(config.train, feature_loss=kind))
    learner, batch = learner_for(config), eight_images()
    values = [optimise(learner, batch, config, 1.0)["feature"] for _ in range(30)]
    assert values[-1] < 0.9 * values[0]


def test_the_discriminator_lowers_its_loss(tiny_config: Config) -> None:
    """On fixed features it learns to tell the domains apart."""
    config = only(tiny_config, adversarial=1.0)
    learner = learner_for(config)
    generator = torch.Generator().manual_seed(1)
    real = torch.randn(2, 8, 16, 6, 8, generator=generator) + 0.5
    rendered = torch.randn(2, 8, 16, 6, 8, generator=generator) - 0.5
    losses = [train_discriminator(learner, real, rendered) for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_network_gets_no_gradient_from_the_discriminators_step(tiny_config: Config) -> None:
    """Its features are detached there (the published code paid for a second backward)."""
    learner = learner_for(only(tiny_config, adversarial=1.0))
    features = torch.randn(2, 4, 16, 6, 8, requires_grad=True)
    train_discriminator(learner, features, features)
    assert features.grad is None


def test_a_zero_weight_removes_the_term_and_its_cost(tiny_config: Config) -> None:
    """Without feature terms no adaptation layer runs and no discriminator exists."""
    learner = learner_for(only(tiny_config, pose=1.0))
    calls: list[int] = []
    for layer in learner.regressor.adaptation:
        layer.register_forward_hook(lambda *_: calls.append(1))
    terms = loss_terms(learner, eight_images(), only(tiny_config, pose=1.0))
    assert set(terms) == {"pose"}
    assert calls == []
    assert learner.discriminator is None


def test_adaptation_layers_see_photographs_and_renderings_only(tiny_config: Config) -> None:
    """Views have no partner to compare with, so they cost nothing there."""
    config = only(tiny_config, view=1.0, feature=1.0)
    learner = learner_for(config)
    sizes: list[int] = []
    for layer in learner.regressor.adaptation:
        layer.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    loss_terms(learner, eight_images(), config)
    assert sizes == [16, 16]


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_tensorfloat_is_as_asked_in_the_backward_pass_too(
    tiny_config: Config, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flags are read when a kernel starts, and gradients have kernels of their own."""
    config = only(tiny_config, pose=1.0)
    config = replace(config, train=replace(config.train, precision=precision))
    learner = learner_for(config)
    flags: list[bool] = []
    learner.regressor.translation_branch.head_out.weight.register_hook(
        lambda _: flags.append(torch.backends.cudnn.allow_tf32)
    )
    # tf32 needs a GPU; the flags alone can be seen without one.
    monkeypatch.setattr(step, "precision_scope", lambda *_: contextlib.nullcontext())
    before = torch.backends.cudnn.allow_tf32
    optimise(learner, eight_images(), config, 1.0)
    assert flags == [precision == "tf32"]
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.slow
def test_a_short_training_is_scored_as_it_was_trained(tiny_config: Config) -> None:
    """After sixty steps BatchNorm's running statistics are those of the network that is scored."""
    config = only(tiny_config, pose=1.0)
    learner, batch = learner_for(config), eight_images()
    for _ in range(60):
        trained = optimise(learner, batch, config, 1.0)["pose"]
    learner.regressor.eval()
    with torch.no_grad():
        scored = loss_terms(learner, batch, config)["pose"]
    assert scored < 2 * trained


def test_the_average_lags_behind(tiny_config: Config) -> None:
    """With EMA the scored network is the average, and it differs from the trained one."""
    config = replace(tiny_config, train=replace(tiny_config.train, ema_decay=0.9))
    learner, batch = learner_for(config), eight_images()
    for _ in range(3):
        optimise(learner, batch, config, 1.0)
    assert learner.scored is learner.average
    trained = learner.regressor.translation_branch.head_out.weight
    assert not torch.equal(learner.scored.translation_branch.head_out.weight, trained)


def test_the_learning_rate_factor_scales_the_step(tiny_config: Config) -> None:
    """A factor of zero changes no weight."""
    learner = learner_for(tiny_config)
    before = copy.deepcopy(list(learner.regressor.parameters()))
    optimise(learner, eight_images(), tiny_config, 0.0)
    pairs = zip(before, learner.regressor.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_channels_last_changes_the_layout_not_the_values(
    tiny_config: Config, device: torch.device
) -> None:
    """The switch in both positions: the same terms for three steps, to rounding."""
    plain, batch = learner_for(tiny_config, device), eight_images(device)
    config = replace(tiny_config, train=replace(tiny_config.train, channels_last=True))
    learner = learner_for(config, device)
    kernel = learner.regressor.get_parameter("adaptation.0.2.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    for _ in range(3):
        expected = optimise(plain, batch, tiny_config, 1.0)
        for name, value in optimise(learner, batch, config, 1.0).items():
            torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=2e-3)


def test_learnt_pose_weights_move(tiny_config: Config) -> None:
    """They have an optimiser of their own (the published ones never moved)."""
    config = replace(tiny_config, train=replace(tiny_config.train, learn_pose_weights=True))
    learner, batch = learner_for(config), eight_images()
    before = learner.pose_loss.log_weights.detach().clone()
    optimise(learner, batch, config, 1.0)
    assert (learner.pose_loss.log_weights != before).all()


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_every_precision_trains_on_its_device(
    tiny_config: Config, device: torch.device, precision: Precision
) -> None:
    """All terms fall; bf16 and fp16 stay within a few per cent of fp32 at the first step."""
    if device.type == "cpu" and precision in ("fp16", "tf32"):
        pytest.skip("tf32 needs a GPU; fp16 is slow on a CPU, and test_fp16.py has it")
    weights = LossWeights(1.0, 1.0, 1.0, 1.0, 0.7)
    config = replace(tiny_config, weights=weights)
    config = replace(config, train=replace(config.train, precision=precision))
    batch = eight_images(device)
    learner = learner_for(config, device)
    first = optimise(learner, batch, config, 1.0)
    exact = replace(config, train=replace(config.train, precision="fp32"))
    reference = optimise(learner_for(exact, device), batch, exact, 1.0)
    for name, value in reference.items():
        torch.testing.assert_close(first[name], value, rtol=0.05, atol=0.05)
    for _ in range(8):
        last = optimise(learner, batch, config, 1.0)
    assert last["pose"] < first["pose"]


@pytest.mark.parametrize("terms", [("pose", "rendered", "view"), ("pose", "rendered", "feature")])
def test_micro_batches_change_nothing_where_images_are_independent(
    tiny_config: Config, terms: tuple[str, ...]
) -> None:
    """With frozen statistics, pose terms and `mse` have the gradients of the whole batch."""
    config = only(tiny_config, **dict.fromkeys(terms, 1.0))
    config = replace(config, train=replace(config.train, feature_loss="mse", batch_size=8))
    split = replace(config, train=replace(config.train, micro_batches=4))
    batch, learners = eight_images(), []
    for chosen in (config, split):
        learner = learner_for(chosen)
        learner.regressor.train().apply(_frozen)
        learners.append(learner)
    values = [
        optimise(learner, batch, chosen, 1.0)
        for learner, chosen in zip(learners, (config, split), strict=True)
    ]
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value)
    pairs = zip(*(learner.regressor.parameters() for learner in learners), strict=True)
    for whole, parts in pairs:
        assert (whole.grad is None) == (parts.grad is None)
        if whole.grad is not None:
            torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-3, atol=1e-4)


def _frozen(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.BatchNorm2d):
        module.eval()


def test_micro_batches_hold_photographs_with_their_own_renderings() -> None:
    """Every image is in one part, beside its rendering and its views."""
    number = torch.arange(8.0)
    images = torch.cat([number, 100 + number, 200 + number.repeat_interleave(2)])
    poses = torch.eye(4).repeat(32, 1, 1)
    poses[:, 0, 3] = images
    batch = Batch(images[:, None, None, None].expand(-1, 3, 1, 1), poses,
                  {"pose": 8, "rendered": 8, "view": 16}, are_features=True)  # fmt: skip
    parts = list(micro_batches(batch, 4))
    assert all(part.are_features for part in parts)
    assert [part.sizes for part in parts] == [{"pose": 2, "rendered": 2, "view": 4}] * 4
    assert parts[1].images[:, 0, 0, 0].tolist() == [2, 3, 102, 103, 202, 202, 203, 203]
    assert torch.equal(parts[1].world_from_camera[:, 0, 3], parts[1].images[:, 0, 0, 0])


def test_the_discriminator_steps_once_for_all_micro_batches(tiny_config: Config) -> None:
    """Its gradients add up to those of the whole batch."""
    config = only(tiny_config, adversarial=1.0)
    config = replace(config, train=replace(config.train, micro_batches=4))
    learner = learner_for(config)
    assert learner.discriminator_optimizer is not None
    optimise(learner, eight_images(), config, 1.0)
    states = learner.discriminator_optimizer.state.values()
    assert {float(state["step"]) for state in states} == {1.0}


def in_parts(config: Config, num: int) -> tuple[Learner, Batch, Config]:
    """A learner, and `num` micro-batches of two photographs with renderings and views."""
    config = replace(config, weights=LossWeights(1.0, 1.0, 1.0, 1.0, 0.7))
    config = replace(config, train=replace(config.train, batch_size=2 * num, micro_batches=num))
    whole = eight_images()
    used = [part[: 2 * num] for part in whole.images.split(8)]
    poses = [part[: 2 * num] for part in whole.world_from_camera.split(8)]
    sizes = {"pose": 2 * num, "rendered": 2 * num, "view": 2 * num}
    return learner_for(config), Batch(torch.cat(used), torch.cat(poses), sizes), config


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_micro_batch_leaves_nothing_to_the_next(
    tiny_config: Config, precision: Precision, checkpointing: bool
) -> None:
    """Four of them need no more than two: what the backward pass needed is given back."""
    train = replace(tiny_config.train, precision=precision, checkpointing=checkpointing)
    peaks = []
    for num in (2, 4):
        learner, batch, config = in_parts(replace(tiny_config, train=train), num)
        optimise(learner, batch, config, 1.0)
        learner.optimizer.zero_grad(set_to_none=True)
        with Alive() as alive:
            optimise(learner, batch, config, 1.0)
        peaks.append(alive.peak - batch.images.nbytes)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.01)


def test_micro_batches_add_their_gradients_up_in_place(tiny_config: Config) -> None:
    """One gradient for each weight, however many parts there are."""
    learner, batch, config = in_parts(tiny_config, 4)
    weight = learner.regressor.trunk.get_parameter("stem.weight")
    places: list[int] = []

    def note(parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        places.append(parameter.grad.data_ptr())

    weight.register_post_accumulate_grad_hook(note)
    optimise(learner, batch, config, 1.0)
    assert len(places) == 4
    assert len(set(places)) == 1


def test_each_step_casts_the_weights_that_it_has(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under bf16, steps on weights that are cast together follow those that autocast casts."""
    config = only(tiny_config, pose=1.0, rendered=1.0, view=1.0)
    config = replace(config, train=replace(config.train, precision="bf16", micro_batches=2))
    losses = []
    for together in (True, False):
        if not together:
            monkeypatch.setattr(step, "_halves", lambda *_: {})
        learner, batch = learner_for(config), eight_images()
        terms = [optimise(learner, batch, config, 1.0) for _ in range(4)]
        losses.append(torch.tensor([float(found["pose"]) for found in terms]))
    torch.testing.assert_close(*losses, rtol=1e-2, atol=0)
    assert losses[0][-1] < 0.9 * losses[0][0]
