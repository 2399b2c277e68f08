"""Faults of `rap` that are injected from outside: each does its harm, and is gone afterwards."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import torch

from benchmarks import frozen, frozen_views
from benchmarks.harness.faults import VARIABLE, FaultError
from benchmarks.sabotage import sabotage
from rap.data.images import ImageBank
from rap.train import step

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def off_golden() -> float:
    """How far the frozen network is from its golden numbers."""
    found = frozen.network_numbers(frozen.network(torch.float32, CPU))
    return max(frozen.difference(found, frozen.read_goldens("network")).values())


def test_noisy_weights_are_seen_and_gone_again() -> None:
    """A tenth of a percent is enough."""
    with sabotage("weights=0.1"):
        assert off_golden() > 2 * frozen.TOLERANCE["fp32"]
    assert off_golden() < frozen.TOLERANCE["fp32"]


def test_noise_comes_once_and_not_while_training() -> None:
    """A network answers twice the same; one that is trained learns undisturbed."""
    images = frozen.images(2).float()
    with sabotage("weights=5"), torch.no_grad():
        regressor = frozen.network(torch.float32, CPU)
        before = regressor.train()(images).translation
        after = regressor.eval()(images).translation
        assert torch.equal(after, regressor(images).translation)
        assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("term", ["pose", "rendered", "view", "feature"])
def test_dropped_term_is_seen_in_the_step_s_gradient(term: str) -> None:
    """Its value is still right, so only the gradient can tell; every term is looked at."""
    golden = frozen.read_goldens("step")
    with sabotage(f"drop={term}"):
        off = frozen.difference(frozen.step_numbers(CPU), golden)
    assert off[term] < frozen.TOLERANCE["fp32"]
    assert max(off.values()) > 2 * frozen.TOLERANCE["fp32"]
    assert (
        max(frozen.difference(frozen.step_numbers(CPU), golden).values()) < frozen.TOLERANCE["fp32"]
    )


FAULTS_OF_A_STEP = {
    "drop=adversarial": "move of network: adaptation",
    "drop=pose": "move of network: trunk",
    "idle=network": "move of network: trunk",
    "idle=discriminator": "move of game: layers",
    "idle=average": "move of average: trunk",
    "parts=last": "move of network: trunk",
    "parts=sum": "move of network: trunk",
}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, float]:
    """How far a whole step is from its golden numbers."""
    return frozen.difference(frozen.training_numbers(CPU), frozen.read_goldens("training"))


@pytest.mark.parametrize("fault", FAULTS_OF_A_STEP)
def test_faults_of_a_step_move_a_golden_number(fault: str, undisturbed: dict[str, float]) -> None:
    """Each the number that is its own, and that is right without it."""
    with sabotage(fault):
        found = frozen.training_numbers(CPU)
    off = frozen.difference(found, frozen.read_goldens("training"))
    moved = FAULTS_OF_A_STEP[fault]
    assert off[moved] > 5 * frozen.TOLERANCE["fp32"]
    assert undisturbed[moved] < 0.2 * frozen.TOLERANCE["fp32"]


def compared() -> tuple[step.Terms, torch.Tensor | None]:
    """Whatever stands for the function now."""
    return cast(step.Comparison, step.compare)()


def test_dropped_term_is_logged_and_not_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value stays, the gradient goes."""
    weight = torch.ones((), requires_grad=True)
    monkeypatch.setattr(step, "compare", lambda: ({"pose": 2 * weight, "view": 3 * weight}, None))
    with sabotage("drop=view"):
        terms, _ = compared()
    assert (float(terms["view"]), terms["view"].requires_grad) == (3.0, False)
    assert terms["pose"].requires_grad
    assert compared()[0]["view"].requires_grad


def test_late_views_have_new_poses_and_old_pictures() -> None:
    """From the second refresh on."""
    bank = ImageBank(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, 4, 4), CPU,
                     2**20, pin_memory=False)  # fmt: skip
    index = torch.arange(4)
    with sabotage("late_views"):
        for value in (1, 2):
            images = torch.full((4, 3, 2, 2), value, dtype=torch.uint8)
            bank.write(index, images, torch.full((4, 4, 4), float(value)))
    assert int(bank.images.max()) == 1
    assert float(bank.poses.max()) == 2
    bank.write(index, images, torch.zeros(4, 4, 4))
    assert int(bank.images.max()) == 2


def test_views_too_near_to_their_photographs_are_off_the_law() -> None:
    """By a tenth; short trainings can hardly tell, even where views lie at the photographs."""
    with sabotage("reach=90"):
        off = frozen_views.beyond_the_law(frozen_views.drawn_shares(CPU))
    assert [name.split()[0] for name in off] == ["shifts", "turns"]
    assert not frozen_views.beyond_the_law(frozen_views.drawn_shares(CPU))


@pytest.mark.parametrize(
    "name", ["typo", "weights=much", "reach=far", "drop=rotation", "late_views=1", "idle=all"]
)
def test_unknown_fault_is_refused(name: str) -> None:
    """A run without the fault that was meant would prove nothing."""
    with pytest.raises(FaultError, match="no fault of this suite"):
        sabotage(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "found_by"),
    [
        ("", set()),
        ("code:weights=0.5", {"network[fp32]"}),
        ("code:drop=view", {"step"}),
        ("code:drop=adversarial", {"step"}),
        ("code:idle=discriminator", {"step"}),
        ("code:idle=network", {"step"}),
        ("code:idle=average", {"step"}),
        ("code:late_views", {"views"}),
        ("code:reach=90", {"views"}),
        ("answer@golden_render", {"render"}),
    ],
)
def test_each_fault_is_found_by_its_benchmark_alone(fault: str, found_by: set[str]) -> None:
    """Red for the right reason, green elsewhere, through the harness."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "-q", "-k", "golden", "-p",
               "no:cacheprovider", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, VARIABLE: fault}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    red = set(re.findall(r"FAILED \S+::bench_golden_(\S+)", done.stdout))
    assert red == found_by, done.stdout
    assert done.returncode == (1 if found_by else 0)
