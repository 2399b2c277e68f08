"""Injected faults: parsed strictly, striking only their target, corrupting every kind of answer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from benchmarks.harness import faults
from benchmarks.harness.faults import Fault, FaultError, corrupted, from_environment, slowed


def parse(monkeypatch: pytest.MonkeyPatch, text: str) -> faults.Faults:
    """What a text in the environment asks for."""
    monkeypatch.setenv(faults.VARIABLE, text)
    return from_environment()


def test_no_faults_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unset or empty variable injects nothing."""
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert from_environment().faults == ()
    assert parse(monkeypatch, " ").faults == ()


def test_every_kind_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strengths in percent, targets as globs."""
    found = parse(monkeypatch, "slow:30@step*, memory:20, answer@a, missing:b*, code:x=3@a*")
    assert found.faults == (
        Fault("slow", 30, "step*"), Fault("memory", 20, "*"), Fault("answer", 0, "a"),
        Fault("missing", 0, "b*"), Fault("code", 0, "a*", "x=3"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["slow", "slow:much", "answer:3", "typo:3", "missing", "slow:1,", "code"]
)
def test_misunderstood_fault_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A run without the fault that was meant would prove nothing."""
    with pytest.raises(FaultError, match=faults.VARIABLE):
        parse(monkeypatch, text)


def test_faults_strike_their_target_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """By bare name, id or glob; strengths add up."""
    found = parse(monkeypatch, "slow:30@step*,slow:5,answer@step[n=8]")
    assert found.percent("slow", "step[n=8]") == 35
    assert found.percent("slow", "render") == 5
    assert found.active("answer", "step[n=8]")
    assert not found.active("answer", "step[n=9]")
    assert parse(monkeypatch, "code:x@step,code:y=2").named("step") == ["x", "y=2"]


def test_unstruck_step_is_the_step_itself() -> None:
    """No wrapper, no overhead."""
    step = object
    assert slowed(step, faults.Faults(), "step", "cpu") is step


def test_sleep_lengthens_wall_time(spend: Callable[[float], None]) -> None:
    """By its share of the call."""
    slow = slowed(lambda: spend(1.0), faults.Faults("", (Fault("sleep", 50, "*"),)), "step", "cpu")
    before = faults.time.perf_counter()
    slow()
    assert faults.time.perf_counter() - before == pytest.approx(1.5, rel=1e-3)


def test_a_slowed_step_runs_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of its own would move a training on, and its first terms would be wrong."""
    steps = iter(range(9))
    slept: list[int] = []
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append, raising=False)
    # Ten million cycles take 5 ms on this GPU, the step 100 ms and then 20. Trials sleep, too.
    spans = iter([*[5.0] * 12, 100.0, 20.0])
    monkeypatch.setattr(faults, "_span_ms", lambda work: (work(), next(spans)))
    slow = slowed(lambda: next(steps), faults.Faults("", (Fault("slow", 5, "*"),)), "step", "cuda")
    assert [slow() for _ in range(4)] == [0, 1, 2, 3]
    assert slept[12:] == [10_000_000, 2_000_000, 2_000_000, 2_000_000]


@dataclass(frozen=True)
class Answer:
    """What a step may return."""

    loss: float
    name: str


@pytest.mark.parametrize("value", [1, 2.5, True, (1, 2.0), [3], {"a": 1.0}, Answer(0.5, "x")])
def test_every_answer_is_corrupted(value: object) -> None:
    """The same type with other numbers."""
    wrong = corrupted(value)
    assert type(wrong) is type(value)
    assert wrong != value


def test_arrays_and_tensors_are_corrupted() -> None:
    """Shape and dtype stay, values change; masks are inverted."""
    for value in (np.ones(3), torch.zeros(2, 3), torch.tensor([True, False])):
        wrong = corrupted(value)
        assert (wrong.shape, wrong.dtype) == (value.shape, value.dtype)
        assert not (wrong == value).any()


def test_ballast_has_the_size_asked_for() -> None:
    """Written, so that it is resident."""
    assert faults.ballast(3, "cpu") == bytearray(b"\x01\x01\x01")
