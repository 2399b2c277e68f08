"""Small losses that add up: changes of level in a history, and the budget against a release."""

import dataclasses
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.baseline import COMMITTED, Baseline, Noise, write_baseline
from benchmarks.harness.creep import change_points, changes, overruns
from benchmarks.harness.judging import is_required
from benchmarks.harness.machine import Machine
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.record import Record
from benchmarks.harness.verdict import Code

ROOT = Path(__file__).resolve().parents[2]
POLICY = Policy({"time_s": MetricRule("time", "lower")}, (Entry("step*", "Ada", ("time_s",)),))


def stored(machine: Machine, time: float, origin: str = "abc", log_sd: float = 0.002) -> Baseline:
    """A baseline of five sessions."""
    record = Record("step", "n", metrics={"time_s": time})
    noise = {"step": Noise(5, {"time_s": log_sd})}
    return Baseline(machine, "room", {"step": record}, {"step": origin}, noise)


def series(*levels: tuple[int, float], sd: float, seed: int) -> list[float]:
    """So many values on each level, with noise."""
    draw = random.Random(seed)
    return [level + draw.gauss(0.0, sd) for num, level in levels for _ in range(num)]


def test_steady_history_has_no_changes() -> None:
    """In at most one of twenty."""
    found = [bool(change_points(series((30, 0.0), sd=0.01, seed=n))) for n in range(200)]
    assert sum(found) / len(found) <= 0.05


def test_lasting_loss_is_found_where_it_began() -> None:
    """3 % in noise of 1 %, to within two baselines."""
    found = [change_points(series((15, 0.0), (15, 0.03), sd=0.01, seed=n)) for n in range(100)]
    near = [len(points) == 1 and abs(points[0] - 15) <= 2 for points in found]
    assert sum(near) / len(near) >= 0.8


def test_single_outlier_is_no_level() -> None:
    """It has to last."""
    values = [0.0, 0.001] * 10
    values[9] = 0.2
    assert change_points(values) == []


def test_short_history_says_nothing() -> None:
    """Too few to tell noise from change."""
    assert change_points([0.0, 0.0, 1.0, 1.0, 1.0]) == []


def test_change_is_told_with_its_origin(toy_machine: Machine) -> None:
    """By how much, and since which baseline."""
    history = [stored(toy_machine, 1.0 + 0.001 * (n % 2), f"c{n}") for n in range(8)]
    history += [stored(toy_machine, 1.05 + 0.001 * (n % 2), f"c{n}") for n in range(8, 16)]
    (change,) = changes(history, POLICY)
    assert (change.id, change.origin) == ("step", "c8")
    assert change.share == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize(
    ("time", "log_sd", "expected"),
    [(1.019, 0.002, []), (1.04, 0.002, [True]), (1.04, 0.02, [False]), (0.5, 0.002, [])],
)
def test_budget_against_the_release(
    toy_machine: Machine, time: float, log_sd: float, expected: list[bool]
) -> None:
    """2 %; what the sessions' own spread could show is not proven."""
    now = stored(toy_machine, time, log_sd=log_sd)
    release = stored(toy_machine, 1.0, log_sd=log_sd)
    assert [one.proven for one in overruns(now, release, POLICY)] == expected


def git(folder: Path, *arguments: str) -> None:
    """Run git there."""
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER")
                for what in ("NAME", "EMAIL")}  # fmt: skip
    subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **identity},
                   check=True)  # fmt: skip


def make_history(folder: Path, machine: Machine, times: Sequence[float]) -> None:
    """Accepted baselines, a commit for each; the first of another schema, the next tagged."""
    (folder / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks" / "policy.toml", folder / "benchmarks")
    path = folder / COMMITTED / machine.key / "room.json"
    git(folder, "init", "-q")
    for number, time in enumerate((0.5, *times)):
        one = stored(machine, time)
        renamed = {"infer": dataclasses.replace(one.records["step"], id="infer")}
        write_baseline(path, Baseline(machine, "room", renamed, {"infer": f"c{number}"},
                                      {"infer": one.noise["step"]}))  # fmt: skip
        if number == 0:
            path.write_text('{"kind": "baseline", "schema": 1}', encoding="utf-8")
        git(folder, "add", ".")
        git(folder, "commit", "-qm", str(number))
        if number == 1:
            git(folder, "tag", "v1")


def test_history_is_read_from_git(
    tmp_path: Path, toy_machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each accepted baseline is a commit; an unreadable one is left out."""
    make_history(tmp_path, toy_machine, (1.0, 1.001, 1.1))
    assert main(["creep", "--key", toy_machine.key], tmp_path) == Code.REGRESSION
    printed = capsys.readouterr().out
    assert "3 readable baselines" in printed
    assert "infer time_s: +10.0% since v1, 2% are allowed" in printed
    assert main(["creep", "--key", "unknown"], tmp_path) == Code.USAGE


@pytest.mark.parametrize(("last", "code"), [(1.01, Code.PASS), (1.1, Code.REGRESSION)])
def test_every_committed_baseline_is_watched(
    tmp_path: Path, toy_machine: Machine, capsys: pytest.CaptureFixture[str],
    last: float, code: Code,
) -> None:  # fmt: skip
    """On any machine; what calibration has stored beside them is none."""
    make_history(tmp_path, toy_machine, (1.0, last))
    (tmp_path / COMMITTED / toy_machine.key / "room.calibration.json").write_text("{}", "utf-8")
    assert main(["creep", "--all"], tmp_path) == code
    assert capsys.readouterr().out.count("readable baselines") == 1


def foreign(root: Path, machine: Machine) -> None:
    """Another machine's folder holds this one's file: it is not that machine's."""
    path = root / COMMITTED / "a-copy" / "room.json"
    path.parent.mkdir()
    shutil.copy(root / COMMITTED / machine.key / "room.json", path)
    git(root, "add", ".")
    git(root, "commit", "-qm", "a copy")


def uncommitted(root: Path, machine: Machine) -> None:
    """A baseline that has no history yet."""
    path = root / COMMITTED / "a-new" / "room.json"
    path.parent.mkdir()
    shutil.copy(root / COMMITTED / machine.key / "room.json", path)


def damaged(root: Path, machine: Machine) -> None:
    """The newest version of a baseline is none, and no text either; older ones are good."""
    path = root / COMMITTED / "a-bad" / "room.json"
    path.parent.mkdir()
    write_baseline(path, stored(dataclasses.replace(machine, cpu="a-bad"), 1.0))
    git(root, "add", ".")
    git(root, "commit", "-qm", "good")
    path.write_bytes(b"\xff{")
    git(root, "commit", "-qam", "bad")


@pytest.mark.parametrize("spoil", [foreign, uncommitted, damaged])
@pytest.mark.parametrize("last", [1.01, 1.1])
def test_unreadable_baseline_does_not_hide_the_others(
    tmp_path: Path, toy_machine: Machine, capsys: pytest.CaptureFixture[str], last: float,
    spoil: Callable[[Path, Machine], None],
) -> None:  # fmt: skip
    """It is named, the rest is watched, and the end is not green."""
    make_history(tmp_path, toy_machine, (1.0, last))
    spoil(tmp_path, toy_machine)
    assert main(["creep", "--all"], tmp_path) == Code.USAGE
    printed = capsys.readouterr().out
    assert "/a-" in printed
    assert "cannot be watched" in printed
    assert f"{toy_machine.key}/room.json: 2 readable baselines" in printed
    assert ("infer time_s: +10.0% since v1" in printed) == (last == 1.1)


@pytest.mark.parametrize(
    ("ci", "code"),
    [
        *[(no, Code.PASS) for no in ("", "0", "false", "False", "no", "off")],
        *[(yes, Code.ENVIRONMENT) for yes in ("true", "True", "1", "yes", "woodpecker")],
    ],
)
def test_nothing_to_watch_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    ci: str, code: Code,
) -> None:  # fmt: skip
    """In CI a watch without baselines would be green for ever."""
    monkeypatch.setenv("CI", ci)
    assert main(["creep", "--all"], tmp_path) == code
    assert "no baseline is committed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "required"),
    [("TF_BUILD", "True", True), ("JENKINS_URL", "https://ci.example/", True),
     ("BUILD_NUMBER", "17", True), ("TEAMCITY_VERSION", "2026.1 (build 3)", True),
     ("CODEBUILD_BUILD_ID", "rap:0a1b", True), ("GITHUB_ACTIONS", "true", True),
     ("GITHUB_ACTIONS", "false", False), ("TF_BUILD", "", False), ("BUILD_NAME", "mine", False)],
)  # fmt: skip
def test_every_ci_service_requires_a_baseline(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, required: bool
) -> None:
    """Whatever it sets to say that it is one; not all of them set CI, and one suffices."""
    assert not is_required()
    monkeypatch.setenv(name, value)
    assert is_required() is required
    monkeypatch.setenv("CI", "false")
    assert is_required() is required


def test_all_and_one_key_contradict(tmp_path: Path) -> None:
    """Nothing is guessed."""
    assert main(["creep", "--all", "--key", "x"], tmp_path) == Code.USAGE
