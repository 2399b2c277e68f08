"""`python -m benchmarks gate` over a toy repository, its processes played: who judges, and how."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import children, runs
from benchmarks.harness.baseline import COMMITTED, Baseline, read_baseline, write_baseline
from benchmarks.harness.calibration import Calibrated, Calibration, write_calibration
from benchmarks.harness.commands import gate
from benchmarks.harness.processes import Ran
from benchmarks.harness.startup import HELD
from tests.harness.gate_stage import Stage
from tests.harness.pairs_toys import MACHINE, ToyProcesses, toy
from tests.harness.toy_trees import POLICY, make_toy_tree

GATED = POLICY.replace('name = "*"', 'name = "spin"') + POLICY[POLICY.index("[[") :].replace(
    '"*"', '"steady"'
)
MEMORY = """
[metric.peak_bytes]
family = "memory"
better = "lower"
relative = 0.01

[[benchmark]]
name = "spin*"
owner = "toys"
metrics = ["time_s", "peak_bytes"]
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A base commit with its baseline, and nothing changed yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("BENCHMARK_FAULT", "BENCHMARK_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "toy").mkdir()
    stored = [toy("spin", time_s=0.005), toy("steady", time_s=0.01)]
    origins = {record.id: "abc, 2026-01-01" for record in stored}
    path = tmp_path / "toy" / COMMITTED / MACHINE.key / "room.json"
    write_baseline(path, Baseline(MACHINE, "room", {r.id: r for r in stored}, origins))
    commands = tmp_path / "toy" / "benchmarks" / "harness" / "commands"
    commands.mkdir(parents=True)
    (commands / "gate.py").touch()
    repository = make_toy_tree(tmp_path / "toy", harness=False, policy=GATED)
    stage = Stage(repository)
    monkeypatch.setattr(runs, "launcher_of", stage.launcher)
    monkeypatch.setattr(gate, "launcher_of", stage.launcher)
    return stage


def test_unchanged_head_passes_by_the_screen(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pass, no pairs."""
    assert stage.gate() == 0
    assert "0 of 2 times went on to pairs" in capsys.readouterr().out
    assert len(stage.log) == 1


def test_start_that_is_not_stored_is_told_where_the_screen_decides(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that judges it, in pairs."""
    base = stage.toy.git("rev-parse", "--short=12", "HEAD")
    assert stage.gate() == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "not judged" in line]
    assert "the baseline does not have it (baseline record and accept store it)" in note
    assert f"pairs do: python -m benchmarks ab {base} -k bench_s" in note


@pytest.mark.parametrize(("base", "code"), [(300.0, 1), (690.0, 0)])
def test_more_held_than_stored_is_decided_by_pairs(
    stage: Stage, capsys: pytest.CaptureFixture[str], base: float, code: int
) -> None:
    """400 MiB taken at import are red; where the base takes them here, too, they are nobody's."""
    (path,) = (stage.toy.root / COMMITTED).rglob("room.json")
    stored = read_baseline(path, MACHINE.key, "room")
    assert stored is not None
    write_baseline(path, replace(stored, start={HELD: 300.0 * 2**20}))
    stage.toy.write("benchmarks/policy.toml", GATED + MEMORY)
    stage.toy.git("add", "-A")
    stage.toy.git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--amend", "-mfirst")
    stage.held = {"base": base, "head": 700.0}
    assert stage.gate() == code
    printed = capsys.readouterr().out
    assert ("start_rss_bytes: WORSE. 300 -> 700 MiB held" in printed) is bool(code)
    assert len(stage.log) > 1
    stage.held["head"] = 310.0
    stage.log.clear()
    assert stage.gate() == 0
    assert len(stage.log) == 1


@pytest.mark.parametrize(
    ("end", "code"),
    [(-11, 12), (3, 12), (2, 12), (4, 12), (-9, 11), (11, 11)],
    ids=["segfault", "pytest's own", "collection", "conftest", "killed", "time limit"],
)
def test_screen_that_gives_no_records(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    end: int, code: int,
) -> None:  # fmt: skip
    """A crash is COVERAGE, a process that was stopped ENVIRONMENT; neither is the user's fault."""
    monkeypatch.setattr(ToyProcesses, "screen", lambda _: Ran(None, end, "Fatal Python error"))
    assert stage.gate() == code
    assert "Fatal Python error" in capsys.readouterr().err


def test_slower_head_is_proven_by_pairs(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The suspect alone goes on, eight blocks in which every one is fresh."""
    stage.toy.cost(0.0053)
    assert stage.gate() == 1
    assert "spin time_s: slower by 6.0%" in capsys.readouterr().out
    assert len(stage.log) == 1 + 2 * 8
    assert {ids for _, ids, _ in stage.log[1:]} == {("spin",)}


def test_red_line_says_how_to_see_it_again(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the commit, with the options of the run, whether pairs or the screen have decided."""
    base = stage.toy.git("rev-parse", "--short=12", "HEAD")
    stage.toy.cost(0.0053)
    assert stage.gate("--budget", "20m") == 1
    command = f"python -m benchmarks ab {base} -k spin --device cpu --scene room --budget 1200s"
    assert f"to see it again: {command}" in capsys.readouterr().out


def test_unfinished_pairs_go_on_with_the_same_options(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Device, scene and budget are part of what was asked."""
    base = stage.toy.git("rev-parse", "--short=12", "HEAD")
    stage.toy.cost(0.0053)
    assert stage.gate("--budget", "0s") == 10
    told = f"to go on: python -m benchmarks ab {base} -k bench_spin --device cpu --scene room"
    assert told in capsys.readouterr().out


def test_faults_are_told_where_the_screen_decides(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict over code that was slowed on purpose must not be taken for one over the code."""
    monkeypatch.setenv("BENCHMARK_FAULT", "slow:1@none")
    assert stage.gate() == 0
    assert "INJECTED FAULTS in the head (BENCHMARK_FAULT): slow:1@none" in capsys.readouterr().out


def test_slower_session_is_no_slower_code(stage: Stage) -> None:
    """A stored baseline screens, a pair decides: 8 % between two boards of one model is nothing."""
    stage.offset = 1.08
    assert stage.gate() == 0
    assert len(stage.log) == 1 + 2 * 8


@pytest.mark.parametrize("selection", [(), ("-k", "spin or steady"), ("-k", "core")])
def test_lost_benchmark_is_coverage(
    stage: Stage, capsys: pytest.CaptureFixture[str], selection: tuple[str, ...]
) -> None:
    """Of the baseline and of the policy; and of what -k asks for."""
    stage.benchmarks = ("spin",)
    assert stage.gate(*selection) == 12
    assert "steady: MISSING" in capsys.readouterr().out


def test_machine_without_baseline_is_environment(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is paired: the gate says that it cannot screen."""
    monkeypatch.setattr(gate, "locate", lambda *_: Path("/no/baseline.json"))
    assert stage.gate() == 11
    assert "no baseline" in capsys.readouterr().out
    assert len(stage.log) == 1


def test_head_cannot_loosen_its_own_gate(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither by its policy nor by its baseline; the report asks for an owner."""
    stage.toy.cost(0.0053)
    loose = GATED.replace(
        'owner = "toys"', 'owner = "toys"\nsmallest_effect = 9.0\ntier="advisory"'
    )
    stage.toy.write("benchmarks/policy.toml", loose)
    (path,) = (stage.toy.root / COMMITTED).rglob("room.json")
    path.write_text(path.read_text(encoding="utf-8").replace("0.005", "0.5"), encoding="utf-8")
    stage.toy.commit("loosened")
    assert stage.gate() == 1
    assert "benchmarks/policy.toml: judged by the base's" in capsys.readouterr().out


def test_new_benchmark_comes_with_its_own_entry(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the base does not name the head may add; both arms run the head's benchmarks."""
    stage.benchmarks = ("spin", "steady", "more")
    stage.toy.write("benchmarks/bench_more.py", "# more")
    assert stage.gate() == 12
    assert "NO POLICY" in capsys.readouterr().out
    entry = GATED[GATED.index("[[") :].partition('[[benchmark]]\nname = "steady"')[0]
    stage.toy.write("benchmarks/policy.toml", GATED + entry.replace("spin", "more"))
    assert stage.gate() == 0
    printed = capsys.readouterr().out
    assert "both arms run the benchmarks of the head: bench_more.py changed" in printed
    assert "AN OWNER MUST APPROVE" in printed
    assert "new here, so there is no base to compare with: more" in printed
    assert "PASS (exit code 0), once an owner has approved" in printed.splitlines()[-2]


def test_edited_goldens_do_not_judge(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The arms get the base's numbers beside the head's benchmarks, and every report says so."""
    stage.toy.write("benchmarks/goldens.json", '{"network": {"pose": [1.0]}}')
    stage.toy.write("benchmarks/frozen.py", "TOLERANCE = 0.001\n")
    base = stage.toy.commit("goldens")
    stage.toy.write("benchmarks/goldens.json", '{"network": {"pose": [2.0]}}')
    stage.toy.write("benchmarks/frozen.py", "TOLERANCE = 9.0\n")
    stage.toy.write("benchmarks/bench_toy.py", "def bench_spin(): ...\n\ndef bench_steady(): ...\n")
    assert main(["gate", "--base", base, "--device", "cpu"], stage.toy.root) == 0
    (arm,) = stage.arms
    assert arm["goldens.json"] == '{"network": {"pose": [1.0]}}'
    assert arm["frozen.py"] == "TOLERANCE = 0.001\n"
    (folder,) = (stage.toy.root / ".benchmarks" / "gate").iterdir()
    page = (folder / "result.md").read_text(encoding="utf-8")
    content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for text in (capsys.readouterr().out, page, " ".join(content["approvals"])):
        assert "golden numbers are the base's" in text
        assert "toy.py changed" in text
    assert page.splitlines()[0].startswith("### PASS")
    assert "AN OWNER MUST APPROVE" in page.splitlines()[2]


def test_change_of_the_package_needs_no_owner(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """The note would be worth nothing if every change had it."""
    stage.toy.cost(0.00499)
    assert stage.gate() == 0
    assert "OWNER" not in capsys.readouterr().out


def test_removed_benchmark_must_leave_the_policy_too(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Out of the suite alone it is lost; declared, it passes with a note."""
    stage.benchmarks = ("spin",)
    stage.toy.write("benchmarks/bench_toy.py", "def bench_spin(): ...\n")
    assert stage.gate() == 12
    printed = capsys.readouterr().out
    assert "steady: MISSING" in printed
    assert "an entry of its policy still promises it" in printed
    without = GATED[: GATED.rindex("[[benchmark]]")]
    assert 'name = "steady"' not in without
    stage.toy.write("benchmarks/policy.toml", without)
    assert stage.gate() == 0
    printed = capsys.readouterr().out
    assert "removed from the suite and from its policy: steady" in printed
    assert "AN OWNER MUST APPROVE" in printed


def test_known_benchmark_that_dies_in_the_base_arm_is_coverage(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suspect's pairs need both arms; a head that only it can run is no pass."""
    stage.toy.cost(0.0053)
    stage.dies_in_the_base = True
    assert stage.gate() == 12
    assert "spin: CRASHED. crashed in the base arm (AttributeError" in capsys.readouterr().out


def test_base_with_another_harness_judges_itself(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own gate takes over, in its own tree, with the same options."""
    stage.toy.write("benchmarks/harness/commands/gate.py", "# the base's")
    stage.toy.commit("a gate")
    stage.toy.git("tag", "base")
    stage.toy.write("benchmarks/harness/rules.py", "# the head's")
    started: list[tuple[list[str], Path]] = []

    class Process:
        """Stands in for subprocess.Popen."""

        def __init__(self, command: list[str], cwd: Path, *, start_new_session: bool) -> None:
            assert start_new_session
            started.append((command, cwd))
            assert (cwd / "benchmarks/harness/commands/gate.py").exists()
            assert not (cwd / "benchmarks/harness/rules.py").exists()

        def wait(self, _timeout: float) -> int:
            """It ended."""
            return 10

    stand_in = SimpleNamespace(Popen=Process, TimeoutExpired=subprocess.TimeoutExpired)
    monkeypatch.setattr(children, "subprocess", stand_in)
    arguments = ["gate", "--base", "base", "--device", "cpu", "-k", "spin", "--budget", "3m"]
    assert main(arguments, stage.toy.root) == 10
    ((command, cwd),) = started
    words = " ".join(command)
    assert f"--base {cwd} --head {stage.toy.root}" in words
    assert "--budget 180s -k spin --device cpu" in words


def test_time_that_calibration_found_too_noisy_need_not_tell(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its pairs may end undecided without turning the gate red; the report names it."""
    stage.noise, stage.offset = 0.25, 5.0
    assert stage.gate() == 10
    times = {"spin time_s": Calibrated(30, 0.3, "unfit", 0.9, 0.03, 0.0),
             "steady time_s": Calibrated(30, 0.3, "unfit", 0.9, 0.03, 0.0)}  # fmt: skip
    known = Calibration(MACHINE.key, "room", "abc", 2, 1000, 0.0, 0.0, times)
    (path,) = (stage.toy.root / COMMITTED).rglob("room.json")
    write_calibration(path.with_name("room.calibration.json"), known)
    stage.toy.git("add", "-A")
    stage.toy.git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "--amend", "-qm", "first")
    assert stage.gate() == 0
    assert "too noisy here" in capsys.readouterr().out


def test_evidence_and_result_are_kept(stage: Stage) -> None:
    """The screen's own numbers, and the combined verdict."""
    stage.toy.cost(0.0053)
    stage.gate()
    (result,) = (stage.toy.root / ".benchmarks").rglob("result.json")
    assert json.loads(result.read_text(encoding="utf-8"))["verdict"] == "REGRESSION"
    assert (result.parent / "screen.json").exists()
    arms = json.loads((result.parent / "arms.json").read_text(encoding="utf-8"))
    base = stage.toy.git("rev-parse", "--short=12", "HEAD")
    assert (arms["base"], arms["head"]) == (base, f"{base}+dirty")


def test_head_that_is_no_tree_is_usage(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says how to make one."""
    assert stage.gate("--head", str(tmp_path / "nowhere")) == 4
    told = capsys.readouterr().err
    assert "nowhere" in told
    assert "python -m benchmarks export" in told
    assert stage.log == []


def test_head_of_another_folder_is_judged(stage: Stage, tmp_path: Path) -> None:
    """An exported tree, from the judge's own checkout; its records lie beside it."""
    stage.toy.cost(0.0053)
    stage.toy.commit("slower")
    out = tmp_path / "head"
    assert main(["export", str(out), "HEAD"], stage.toy.root) == 0
    stage.toy.git("checkout", "-q", "HEAD~1")
    assert stage.gate("--head", str(out)) == 1
    assert [*out.rglob("result.json")]
    assert not (stage.toy.root / ".benchmarks").exists()


def test_unknown_base_is_usage(stage: Stage) -> None:
    """Before anything is measured."""
    assert main(["gate", "--base", "nowhere"], stage.toy.root) == 4
    assert main(["gate"], stage.toy.root) == 4
