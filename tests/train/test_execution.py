"""Ways to run a step: compiled and recorded ones equal the plain one, and fall back with a line."""

import copy
import gc
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch

from rap.config import Config, Execution, LossWeights, Precision
from rap.data.images import ImageBank
from rap.model.regressor import Prediction, build_regressor
from rap.synthesis.augment import photometric
from rap.train import execution
from rap.train.batches import Banks, Batch, batches, epoch_indices
from rap.train.execution import Runner, kept_state
from rap.train.step import Comparison, Learner, Terms, build_learner, compare, optimise, step

CPU = torch.device("cpu")
ALL_TERMS = LossWeights(1.0, 1.0, 1.0, 1.0, 0.7)


def configured(config: Config, **train: Any) -> Config:  # noqa: ANN401 (any setting)
    """All five terms, an average, clipping and dropout: everything that a step can hold."""
    model = replace(config.model, dropout=0.1, drop_connect=0.2)
    settings: dict[str, Any] = {"ema_decay": 0.9, "grad_clip": 50.0, "channels_last": True}
    settings |= train
    return replace(config, weights=ALL_TERMS, model=model, train=replace(config.train, **settings))


def learner_for(config: Config, device: torch.device) -> Learner:
    """A fresh learner with an average.

    A large eps: Adam would make whole steps of gradients that are nothing but rounding, such as
    those of a bias before a normalisation, and on a GPU rounding differs from run to run.
    """
    regressor = build_regressor(config.model, seed=1).to(device)
    learner = build_learner(regressor, copy.deepcopy(regressor), config, device)
    for optimizer in (learner.optimizer, learner.discriminator_optimizer):
        assert optimizer is not None
        for group in optimizer.param_groups:
            group["eps"] = 1e-2
    return learner


def batch_on(device: torch.device, seed: int, height: int = 48) -> Batch:
    """Four photographs, renderings and views."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(12, 3, height, 64, generator=generator)
    poses = torch.eye(4).repeat(12, 1, 1)
    poses[:, :3, 3] = torch.randn(12, 3, generator=generator)
    return Batch(images.to(device), poses.to(device), {"pose": 4, "rendered": 4, "view": 4})


def state_of(learner: Learner) -> list[torch.Tensor]:
    """Weights, statistics and optimisers' state, copied."""
    parts = (
        learner.regressor, learner.average, learner.discriminator, learner.optimizer,
        learner.discriminator_optimizer,
    )  # fmt: skip
    leaves = torch.utils._pytree.tree_leaves([part.state_dict() for part in parts if part])
    return [leaf.clone() for leaf in leaves if isinstance(leaf, torch.Tensor)]


def changes(learner: Learner, fresh: Learner) -> dict[str, torch.Tensor]:
    """How far weights and statistics are from where they began, and the optimisers' moments.

    A second moment by its root: it is compared with a tolerance that is one of gradients.
    """
    found: dict[str, torch.Tensor] = {}
    for name in ("regressor", "average", "discriminator"):
        before = getattr(fresh, name).state_dict()
        for path, value in getattr(learner, name).state_dict().items():
            found[f"{name}.{path}"] = value - before[path]
    for name in ("optimizer", "discriminator_optimizer"):
        for index, state in getattr(learner, name).state_dict()["state"].items():
            for key, value in state.items():
                found[f"{name}.{index}.{key}"] = value.sqrt() if "sq" in key else value.clone()
    return found


CHANGE = 0.05
"""Of a tensor's change; its own norm and that of a thousandth of a step."""


def allowed(change: torch.Tensor) -> float:
    """How far another way may end from a change."""
    return CHANGE * float(change.float().norm()) + 1e-6 * change.numel() ** 0.5


def trained(run: Callable[[Batch, float], Terms], device: torch.device) -> list[Terms]:
    """Six steps on changing batches with a changing learning rate."""
    torch.manual_seed(5)
    return [run(batch_on(device, seed), 1.0 / (1 + seed)) for seed in range(6)]


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that does nothing: shape checks and torch.compile don't mix."""

    def unchanged() -> Comparison:
        return lambda *inputs: compare(*inputs)

    monkeypatch.setattr(execution, "compiled_compare", unchanged)


@pytest.mark.parametrize("way", ["eager", "compiled", "graphed", "compiled+graphed"])
@pytest.mark.usefixtures("not_compiled")
def test_every_way_takes_the_same_steps(
    tiny_config: Config, device: torch.device, way: Execution
) -> None:
    """Terms and what six steps change are those of the plain step, with dropout.

    Changes are compared, not values: most weights move by less than a tolerance of their own size.
    """
    config = configured(tiny_config, execution=way)
    plain, learner = learner_for(config, device), learner_for(config, device)
    runner = Runner(learner, config, device)
    expected = trained(lambda batch, factor: optimise(plain, batch, config, factor), device)
    found = trained(runner, device)
    for got, want in zip(found, expected, strict=True):
        assert got.keys() == want.keys() == {"pose", "rendered", "view", "feature", "adversarial"}
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=1e-3, atol=1e-3)
    fresh = learner_for(config, device)
    moved, expected_moves = changes(learner, fresh), changes(plain, fresh)
    assert moved.keys() == expected_moves.keys()
    for name, want in expected_moves.items():
        assert float((moved[name] - want).float().norm()) <= allowed(want), name
    missed = [
        n for n, want in expected_moves.items() if float(want.float().norm()) <= allowed(want)
    ]
    still = [n for n, want in expected_moves.items() if not want.any()]
    assert len(set(missed) - set(still)) <= 0.02 * len(expected_moves), (
        "would pass if it never moved"
    )
    assert learner.num_steps == 6
    if device.type == "cuda":
        assert (runner.runs, runner.num_replays) == (way, 6 if "graphed" in way else 0)


def test_trial_steps_change_nothing(tiny_config: Config, device: torch.device) -> None:
    """Weights, statistics, moments, counters and random state are as before, bit for bit."""
    config = configured(tiny_config)
    learner, batch = learner_for(config, device), batch_on(device, 0)
    torch.manual_seed(3)
    optimise(learner, batch, config, 1.0)
    before, drawn = state_of(learner), torch.get_rng_state()
    with kept_state(learner, device):
        step(learner, batch, config)
        assert any((a != b).any() for a, b in zip(before, state_of(learner), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(learner), strict=True))
    assert torch.equal(drawn, torch.get_rng_state())


def test_trial_steps_leave_optimisers_as_new(tiny_config: Config, device: torch.device) -> None:
    """The first real step after them is the first step of a learner without trials."""
    config, batch = configured(tiny_config), batch_on(device, 0)
    fresh, tried = learner_for(config, device), learner_for(config, device)
    with kept_state(tried, device):
        step(tried, batch, config)
    for learner in (fresh, tried):
        torch.manual_seed(3)
        optimise(learner, batch, config, 1.0)
    pairs = zip(state_of(fresh), state_of(tried), strict=True)
    if device.type == "cpu":
        assert all(torch.equal(a, b) for a, b in pairs)
    else:
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_without_a_gpu_a_graphed_run_says_so_once(
    tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the setting, the reason and what is done instead."""
    config = configured(tiny_config, execution="graphed")
    learner = learner_for(config, CPU)
    runner = Runner(learner, config, CPU)
    trained(runner, CPU)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert "graphed" in lines[0]
    assert "no CUDA graphs on cpu, so steps run eager" in lines[0]
    assert learner.compare is compare


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
def test_a_compiler_that_fails_is_left_out(
    tiny_config: Config, kind: type[Exception], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line says why, and the run is the plain one from the first step on."""

    def broken(*_inputs: object) -> Terms:
        raise kind("\nno compiler found\ndetails")

    monkeypatch.setattr(execution, "compiled_compare", lambda: broken)
    config = configured(tiny_config, execution="compiled")
    learner, plain = learner_for(config, CPU), learner_for(config, CPU)
    runner = Runner(learner, config, CPU)
    expected = trained(lambda batch, factor: optimise(plain, batch, config, factor), CPU)
    for got, want in zip(trained(runner, CPU), expected, strict=True):
        assert all(got[name].equal(want[name]) for name in want)
    assert runner.runs == "eager"
    assert capsys.readouterr().err.count("no compiler found") == 1


@pytest.mark.usefixtures("not_compiled")
def test_a_wait_for_the_compiler_is_told(
    tiny_config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is compiled before the wait, how long it was after it; once for each shape."""
    config = configured(tiny_config, execution="compiled")
    runner = Runner(learner_for(config, CPU), config, CPU)
    seen = []

    def compiled() -> Comparison:
        seen.append(capsys.readouterr().err)
        return lambda *inputs: compare(*inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "compiled_compare", compiled)
        runner(batch_on(CPU, 0), 1.0)
    before = "compiles network and losses for 12 images of 48x64 on cpu; the next step waits for it"
    assert [before in line for line in seen] == [True]
    assert re.fullmatch(r"torch\.compile took \d+\.\d s\n", capsys.readouterr().err)
    runner(batch_on(CPU, 1), 1.0)
    assert capsys.readouterr().err == ""
    runner(batch_on(CPU, 1, height=64), 1.0)
    assert "12 images of 64x64" in capsys.readouterr().err


@pytest.mark.usefixtures("not_compiled")
def test_a_shape_that_cannot_be_compiled_is_left_out(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later image size fails as softly as the first: a line, and the plain steps go on."""

    def for_one_size(*inputs: Any) -> Any:  # noqa: ANN401 (those of compare)
        if inputs[2].shape[2] != 48:
            raise RuntimeError("cannot compile these shapes")
        return compare(*inputs)

    monkeypatch.setattr(execution, "compiled_compare", lambda: for_one_size)
    config = configured(tiny_config, execution="compiled")
    learner, plain = learner_for(config, CPU), learner_for(config, CPU)
    runner = Runner(learner, config, CPU)
    for height, runs in ((48, "compiled"), (64, "eager"), (48, "eager")):
        batch = batch_on(CPU, 0, height)
        torch.manual_seed(height)
        want = optimise(plain, batch, config, 1.0)
        torch.manual_seed(height)
        got = runner(batch, 1.0)
        assert all(got[name].equal(want[name]) for name in want)
        assert runner.runs == runs
    assert capsys.readouterr().err.count("cannot compile these shapes") == 1


@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1)])
def test_checkpointing_with_dropout_is_not_compiled(
    tiny_config: Config, rates: tuple[float, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its masks would not follow the epoch's seed, so that a resumed run would not be exact."""
    model = replace(tiny_config.model, dropout=rates[0], drop_connect=rates[1])
    config = replace(tiny_config, model=model)
    train = replace(config.train, execution="compiled", checkpointing=True)
    config = replace(config, train=train)
    regressor = build_regressor(config.model, seed=1)
    runner = Runner(build_learner(regressor, None, config, CPU), config, CPU)
    assert runner.runs == "eager"
    line = "'compiled': compiled checkpointing draws dropout that does not follow the seed, so"
    assert line in capsys.readouterr().err


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape checks off, and off the functions that the compiler reads."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(Prediction, "__init__", inspect.unwrap(Prediction.__init__))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.slow
def test_network_and_losses_are_one_graph(tiny_config: Config, precision: Precision) -> None:
    """torch.compile(fullgraph=True) takes all that comes before the discriminator."""
    config = configured(tiny_config, precision=precision)
    config = replace(config, model=replace(config.model, layers=1, dropout=0.0, drop_connect=0.0))
    learner, plain = learner_for(config, CPU), learner_for(config, CPU)
    learner.compare = torch.compile(compare, dynamic=False, fullgraph=True, backend="eager")
    batch = batch_on(CPU, 0)
    terms = []
    for run in (learner, plain):
        torch.manual_seed(2)
        terms.append(optimise(run, batch, config, 1.0))
    for name, want in terms[1].items():
        torch.testing.assert_close(terms[0][name], want)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.usefixtures("not_compiled")
class TestRecording:
    """What only a GPU can show."""

    device = torch.device("cuda")

    @pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
    def test_in_every_precision_it_replays_the_plain_step(
        self, tiny_config: Config, precision: Precision
    ) -> None:
        """The first steps' terms are the plain ones, to rounding."""
        config = configured(tiny_config, execution="graphed", precision=precision)
        plain, learner = (learner_for(config, self.device) for _ in range(2))
        runner = Runner(learner, config, self.device)
        expected = trained(lambda batch, f: optimise(plain, batch, config, f), self.device)
        found = trained(runner, self.device)
        assert runner.num_replays == 6
        for got, want in zip(found[:3], expected[:3], strict=True):
            for name in want:
                torch.testing.assert_close(got[name], want[name], rtol=2e-2, atol=2e-2)

    def test_another_image_size_is_recorded_anew(self, tiny_config: Config) -> None:
        """Steps go on from the same state, and equal the plain ones."""
        config = configured(tiny_config, execution="graphed")
        plain, learner = (learner_for(config, self.device) for _ in range(2))
        runner = Runner(learner, config, self.device)
        for height in (48, 48, 64, 64):
            batch = batch_on(self.device, height, height)
            torch.manual_seed(height)
            want = optimise(plain, batch, config, 1.0)
            torch.manual_seed(height)
            got = runner(batch, 1.0)
            for name in want:
                torch.testing.assert_close(got[name], want[name], rtol=1e-2, atol=1e-2)
        assert runner.num_replays == 2

    def test_a_step_that_cannot_be_recorded_runs_without(
        self,
        tiny_config: Config,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """A host read inside the step ends the recording, not the training."""

        def reading(*inputs: Any) -> Any:  # noqa: ANN401 (those of compare)
            terms, features = compare(*inputs)
            assert float(terms["pose"].detach()) > 0
            return terms, features

        monkeypatch.setattr(execution, "compiled_compare", lambda: reading)
        config = configured(tiny_config, execution="compiled+graphed")
        learner = learner_for(config, self.device)
        runner = Runner(learner, config, self.device)
        assert all(bool(torch.isfinite(v)) for v in runner(batch_on(self.device, 0), 1.0).values())
        assert runner.runs == "compiled"
        assert capsys.readouterr().err.count("no CUDA graph") == 1

    def test_recordings_leave_no_memory_behind(self, tiny_config: Config) -> None:
        """The second one and those after it take what the first one gave back."""
        config = configured(tiny_config, execution="graphed")
        left = []
        for _ in range(4):
            runner = Runner(learner_for(config, self.device), config, self.device)
            runner(batch_on(self.device, 0), 1.0)
            assert runner.num_replays == 1
            del runner
            gc.collect()
            left.append(torch.cuda.memory_allocated())
        assert left[0] == left[1] == left[2] == left[3]

    @pytest.mark.parametrize("way", ["eager", "graphed"])
    def test_an_epoch_never_waits_for_the_device(self, tiny_config: Config, way: Execution) -> None:
        """After the first step: order, batches, augmentation and steps without synchronisation."""
        config = configured(tiny_config, execution=way)
        learner = learner_for(config, self.device)
        runner = Runner(learner, config, self.device)
        runner(batch_on(self.device, 0), 1.0)
        images = torch.zeros(10, 3, 48, 64, dtype=torch.uint8)
        bank = ImageBank(images, torch.eye(4).repeat(10, 1, 1), self.device, 2**30, True)
        banks = Banks(bank, bank, bank)
        generator = torch.Generator(self.device).manual_seed(0)
        indices = epoch_indices(10, 4, seed=0, epoch=0)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            totals = torch.zeros(5, device=self.device)
            for batch in batches(banks, indices, views_per_image=1, num_workers=0):
                drawn = replace(batch, images=photometric(batch.images, 1.0, generator))
                totals += torch.stack(list(runner(drawn, 0.5).values()))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert learner.num_steps == 4
        assert bool(totals.isfinite().all())
