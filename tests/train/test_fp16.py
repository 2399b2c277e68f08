"""Steps in fp16: the gradient scaler's search costs none, and is the device's own affair."""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
import torch

from rap.config import Config, LossWeights
from rap.model.regressor import build_regressor
from rap.train import step
from rap.train.batches import Batch
from rap.train.execution import Runner, kept_state
from rap.train.step import INITIAL_SCALE, Learner, build_learner, optimise

CPU = torch.device("cpu")
OVERFLOWING = 2.0**24


def in_fp16(config: Config, **train: Any) -> Config:  # noqa: ANN401 (any setting)
    """All five terms."""
    weights = LossWeights(1.0, 1.0, 1.0, 1.0, 0.7)
    return replace(
        config, weights=weights, train=replace(config.train, precision="fp16", **train)
    )  # fmt: skip


def learner_for(config: Config, device: torch.device = CPU) -> Learner:
    """A fresh learner with an average."""
    regressor = build_regressor(config.model, seed=1).to(device)
    return build_learner(regressor, copy.deepcopy(regressor), config, device)


def batch_on(device: torch.device, seed: int = 0, num: int = 4) -> Batch:
    """Photographs, renderings that resemble them, and views."""
    generator = torch.Generator().manual_seed(seed)
    real, views = torch.rand(2, num, 3, 48, 64, generator=generator)
    rendered = (real + 0.1 * torch.randn(real.shape, generator=generator)).clamp(0, 1)
    poses = torch.eye(4).repeat(num, 1, 1)
    poses[:, :3, 3] = torch.randn(num, 3, generator=generator)
    images = torch.cat([real, rendered, views]).to(device)
    sizes = {"pose": num, "rendered": num, "view": num}
    return Batch(images, poses.repeat(3, 1, 1).to(device), sizes)


def steps_counted(learner: Learner) -> set[float]:
    """How many steps the optimiser has taken with each weight."""
    return {float(state["step"]) for state in learner.optimizer.state.values()}


def test_the_first_step_counts(tiny_config: Config) -> None:
    """With all terms: the scale does not begin so high that steps are spent on halving it."""
    config = in_fp16(tiny_config)
    learner = learner_for(config)
    optimise(learner, batch_on(CPU, num=2), config, 1.0)
    assert learner.scaler.get_scale() == INITIAL_SCALE
    assert steps_counted(learner) == {1.0}


@pytest.mark.slow
def test_what_is_trained_falls(tiny_config: Config) -> None:
    """Nine steps on eight photographs: the pose loss ends below where it began."""
    config = in_fp16(tiny_config)
    learner, batch = learner_for(config), batch_on(CPU, num=8)
    values = [optimise(learner, batch, config, 1.0)["pose"] for _ in range(9)]
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_a_step_that_overflows_is_left_out_without_a_read(
    tiny_config: Config,
    grad_clip: float,
    watched: Callable[[], AbstractContextManager[Counter[str]]],
) -> None:
    """No weight changes and the scale is halved, while the host learns nothing of it."""
    config = in_fp16(tiny_config, grad_clip=grad_clip, ema_decay=0.9)
    learner, batch = learner_for(config), batch_on(CPU, num=2)
    before = copy.deepcopy(list(learner.regressor.parameters()))
    learner.scaler.update(OVERFLOWING)
    with watched() as found:
        optimise(learner, batch, config, 1.0)
    assert dict(found) == {}
    pairs = zip(before, learner.regressor.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert learner.scaler.get_scale() == OVERFLOWING / 2
    assert steps_counted(learner) == {0.0}


@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_trial_steps_leave_the_scaler_as_it_was(
    tiny_config: Config, grad_clip: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scale where a recording reads it, its growth, and no optimiser half way in a step."""
    config = in_fp16(tiny_config, grad_clip=grad_clip)
    learner, batch = learner_for(config), batch_on(CPU, num=2)
    before, place = learner.scaler.state_dict(), learner.scaler._scale

    def broken() -> None:
        raise RuntimeError("in the middle of a step")

    with contextlib.suppress(RuntimeError), kept_state(learner, CPU), monkeypatch.context() as part:
        step.step(learner, batch, config)
        assert learner.scaler.state_dict() != before
        part.setattr(learner.optimizer, "step", broken)
        step.step(learner, batch, config)
    assert learner.scaler.state_dict() == before
    assert learner.scaler._scale is place
    assert not {"grad_scale", "found_inf"} & vars(learner.optimizer).keys()
    optimise(learner, batch, config, 1.0)
    assert steps_counted(learner) == {1.0}


@pytest.mark.cuda
@pytest.mark.parametrize("grad_clip", [0.0, 50.0])
def test_a_replay_leaves_out_what_overflows(tiny_config: Config, grad_clip: float) -> None:
    """Six steps, the first of which is left out, end as plain ones, with the scale lowered."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    config = in_fp16(tiny_config, grad_clip=grad_clip, ema_decay=0.9, execution="graphed")
    plain, learner = (learner_for(config, device) for _ in range(2))
    for one in (plain, learner):
        # One step overflows for sure, and the others as surely do not.
        one.scaler.set_backoff_factor(2.0**-18)
        one.scaler.update(OVERFLOWING)
        for optimizer in (one.optimizer, one.discriminator_optimizer):
            assert optimizer is not None
            for group in optimizer.param_groups:
                group["eps"] = 1e-2  # or Adam makes whole steps of rounding
    runner = Runner(learner, config, device)
    for seed in range(6):
        batch = batch_on(device, seed)
        torch.manual_seed(seed)
        want = optimise(plain, batch, config, 1.0)
        torch.manual_seed(seed)
        got = runner(batch, 1.0)
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=2e-2, atol=2e-2)
    assert (runner.runs, runner.num_replays) == ("graphed", 6)
    assert steps_counted(learner) == steps_counted(plain) == {5.0}
    assert learner.scaler.state_dict() == plain.scaler.state_dict()
    assert learner.scaler.get_scale() == OVERFLOWING * 2.0**-18
