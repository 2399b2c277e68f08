"""Real processes of real arms: the proof that each measured its own package, and clean ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import children
from benchmarks.harness.blocks import Block
from benchmarks.harness.children import run_process
from benchmarks.harness.compare import judge_blocks
from benchmarks.harness.processes import ArmError, Launcher
from benchmarks.harness.trees import Arm, compose, named_tree, working_tree
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import POLICY
from tests.harness.toy_trees import BENCHMARKS, CONFTEST, ToyTree, clean_environment, make_toy_tree
from tests.processes import PATIENCE_S, runs

IMPOSTOR = """
import sys
sys.path.insert(0, {folder!r})
"""


@pytest.fixture
def toy(tmp_path: Path) -> ToyTree:
    """A toy repository whose processes can be started."""
    return make_toy_tree(tmp_path / "toy")


def launcher(arm: Arm, cache: Path, *arguments: str) -> Launcher:
    """Starts processes of an arm."""
    return Launcher(arm, sys.executable, ("--device", "cpu", *arguments), cache)


def test_arm_measures_its_own_package(toy: ToyTree, tmp_path: Path) -> None:
    """The base's package under the head's benchmarks: the session proves it."""
    base = named_tree(toy.root, "HEAD", tmp_path / "out")
    toy.cost(0.009)
    arm = compose(base, toy.root, tmp_path / "base")
    ran = launcher(arm, tmp_path / "cache", "-k", "spin").measure(["spin"], 3)
    assert (ran.code, ran.session is not None) == (0, True), ran.tail
    assert ran.session is not None
    assert ran.session.records[0].metrics["time_s"] == pytest.approx(0.005, rel=0.05)
    proof = ran.session.subject
    assert proof is not None
    assert Path(proof.file) == tmp_path / "base" / "rap" / "__init__.py"
    assert (proof.digest, ran.session.commit) == (arm.digest, base.commit)
    assert [record.id for record in ran.session.records] == ["spin"]


def test_each_block_trains_seeds_of_its_own(toy: ToyTree, tmp_path: Path) -> None:
    """The same in both arms, as they follow from the block; a screen takes the stored three."""
    seeds = """
def bench_learn(measure, bench_seeds):
    result = measure(lambda: rap.COST_S, rounds=1)
    result.accuracy("error_m", bench_seeds)
"""
    toy.write("benchmarks/bench_toy.py", BENCHMARKS + seeds)
    arm = compose(working_tree(toy.root), toy.root, tmp_path / "head")
    start = launcher(arm, tmp_path / "cache", "-k", "learn")
    found = [start.measure(["learn"], 3, 2).session, start.screen().session]
    trained = [one.records[0].samples["error_m"] for one in found if one is not None]
    assert trained == [(13.0, 14.0, 15.0, 16.0, 17.0, 18.0), (1.0, 2.0, 3.0)]


def test_wrong_package_is_usage(
    toy: ToyTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another `rap` planted before the arm's on the path: exit code 4, and no number is kept."""
    (tmp_path / "impostor").mkdir()
    (toy.root / "rap").rename(tmp_path / "impostor" / "rap")
    toy.cost(0.009)
    toy.write("conftest.py", IMPOSTOR.format(folder=str(tmp_path / "impostor")) + CONFTEST)
    assert main(["ab", "--aa", "--device", "cpu"], toy.root) == 4
    printed = capsys.readouterr().err
    assert "its process ended with USAGE (4)" in printed
    assert "its numbers would be those of other code" in printed
    (blocks,) = (toy.root / ".benchmarks").rglob("blocks.jsonl")
    assert len(blocks.read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.slow
def test_package_that_changes_under_the_run_is_usage(toy: ToyTree, tmp_path: Path) -> None:
    """The sources must still be what was composed."""
    arm = compose(working_tree(toy.root), toy.root, tmp_path / "head")
    (arm.root / "rap" / "more.py").write_text("", encoding="utf-8")
    with pytest.raises(ArmError, match="has changed"):
        launcher(arm, tmp_path / "cache").measure(None, 3)


@pytest.mark.slow
def test_package_imported_late_is_checked_too(toy: ToyTree, tmp_path: Path) -> None:
    """Within the benchmark, after the collection was checked."""
    (tmp_path / "impostor").mkdir()
    (toy.root / "rap").rename(tmp_path / "impostor" / "rap")
    toy.cost(0.009)
    late = "    sys.path.insert(0, {folder!r})\n    import rap\n"
    text = BENCHMARKS.replace("import rap\n", "import sys\n").replace(
        "def bench_spin(measure):\n",
        f"def bench_spin(measure):\n{late.format(folder=str(tmp_path / 'impostor'))}",
    )
    toy.write("benchmarks/bench_toy.py", text)
    arm = compose(working_tree(toy.root), toy.root, tmp_path / "head")
    with pytest.raises(ArmError, match="USAGE"):
        launcher(arm, tmp_path / "cache").measure(None, 3)


@pytest.mark.slow
def test_no_import_of_the_package_is_no_measurement(toy: ToyTree, tmp_path: Path) -> None:
    """Benchmarks that never touch the code under test say nothing about it."""
    arm = compose(working_tree(toy.root), toy.root, tmp_path / "head")
    toy.write("benchmarks/bench_toy.py", "def bench_x(measure):\n    measure(lambda: 1)\n")
    arm = compose(working_tree(toy.root), toy.root, tmp_path / "other")
    with pytest.raises(ArmError, match="imported the package"):
        launcher(arm, tmp_path / "cache").measure(None, 3)


def test_timeout_stops_a_process_and_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loading worker that goes on would disturb whatever is measured next."""
    told = tmp_path / "child"
    program = (
        "import subprocess, sys, pathlib, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(9999)'])\n"
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid))\n"
        "print('started', flush=True)\n"
        "time.sleep(9999)\n"
    )
    command = [sys.executable, "-c", program]
    log = tmp_path / "kept" / "log"

    def now() -> float:
        return 1e6 if "started" in log.read_text(encoding="utf-8") else 0.0

    monkeypatch.setattr(children, "time", SimpleNamespace(monotonic=now, sleep=time.sleep))
    code, text = run_process(command, tmp_path, dict(os.environ), log)
    assert code == 11
    assert "started" in text
    assert "stopped after" in text
    assert str(log) in text
    assert log.read_text(encoding="utf-8") == "started\n"
    assert not runs(int(told.read_text(encoding="ascii")))


def command_line(*arguments: str, command: str = "ab") -> list[str]:
    """The literal command, with time for it on the slowest machine."""
    words = ["-m", "benchmarks", command, "--device", "cpu", "--budget", "9h"]
    return [sys.executable, *words, *arguments]


def run(toy: ToyTree, *arguments: str, command: str = "ab", **extra: str) -> tuple[int, str]:
    """Run it as a person would."""
    environment = {**clean_environment(), "TMPDIR": str(toy.root.parent), **extra}
    done = subprocess.run(
        command_line(*arguments, command=command), cwd=toy.root, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_slowdown_is_red_end_to_end(toy: ToyTree) -> None:
    """The literal command over real processes: 10 % of one benchmark, and only that one."""
    toy.cost(0.0055)
    code, printed = run(toy, "HEAD")
    assert code == 1, printed
    assert "spin time_s: slower by" in printed
    assert "steady time_s" not in printed.partition("slower by")[2]


@pytest.mark.slow
def test_fault_and_placebo_end_to_end(toy: ToyTree) -> None:
    """An injected slowdown is red; the same trees without it are green."""
    code, printed = run(toy, "--aa", "-k", "spin", BENCHMARK_FAULT="slow:30")
    assert (code, "INJECTED FAULTS" in printed) == (1, True), printed
    code, printed = run(toy, "--aa", "-k", "spin")
    assert (code, "placebo" in printed) == (0, True), printed


WAITING = BENCHMARKS.replace("import rap\n", "import os, time\nimport rap\n").replace(
    "def bench_spin(measure):\n",
    """def bench_spin(measure):
    began = os.environ.get("TOY_BEGAN")
    if began:
        with open(began, "a") as file:
            file.write(".")
        while os.path.getsize(began) > 4:
            time.sleep(0.01)
""",
)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_leaves_nothing_behind(
    toy: ToyTree, tmp_path: Path, number: signal.Signals
) -> None:
    """No tree, no process; the finished blocks are kept, and --resume goes on from them."""
    toy.write("benchmarks/bench_toy.py", WAITING)
    toy.commit("a third block that waits to be stopped")
    toy.cost(0.0055)
    home = tmp_path / "tmp"
    home.mkdir()
    environment = {**clean_environment(), "TMPDIR": str(home), "TOY_BEGAN": str(tmp_path / "began")}
    process = subprocess.Popen(
        command_line("-k", "spin"), cwd=toy.root, env=environment, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    told = iter(process.stderr.readline, "")  # which benchmark runs, then the block
    assert any(line.startswith("block 1 ") for line in told)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=PATIENCE_S)
    # trees and folders of ours; an interrupted child may leave a file of some library's own
    left = [path for path in home.iterdir() if path.name.startswith("benchmarks-")]
    assert (process.returncode, left) == (2, []), printed + errors
    (blocks,) = (toy.root / ".benchmarks").rglob("blocks.jsonl")
    kept = len(blocks.read_text(encoding="utf-8").splitlines()) - 1
    assert kept >= 1
    code, printed = run(toy, "-k", "spin", "--resume", TMPDIR=str(home))
    assert code == 1, printed
    assert f"block {kept + 1} " in printed
    assert f"block {kept} " not in printed
    assert len(blocks.read_text(encoding="utf-8").splitlines()) == 1 + 14


@pytest.mark.slow
def test_name_that_the_base_lacks_makes_its_benchmark_new(toy: ToyTree) -> None:
    """The same benchmarks run over both packages; a module that cannot be imported is not all."""
    toy.write("rap/__init__.py", "COST_S = 0.005\nNEW_S = 0.005\n")
    extra = BENCHMARKS.replace("import rap", "from rap import NEW_S").replace(
        "bench_", "bench_new_"
    )
    toy.write("benchmarks/bench_more.py", extra.replace("rap.COST_S", "NEW_S"))
    code, printed = run(toy)
    assert code == 0, printed
    assert printed.count("new_spin") >= 1
    assert "  new" in printed


def test_file_that_cannot_be_imported_is_coverage(toy: ToyTree, tmp_path: Path) -> None:
    """In both arms alike, or its benchmarks would be missing without a word."""
    toy.write("benchmarks/bench_broken.py", "import no_such_thing\n\ndef bench_x(measure): ...\n")
    arm = compose(working_tree(toy.root), toy.root, tmp_path / "head")
    found = launcher(arm, tmp_path / "cache").measure(None, 3).session
    assert found is not None
    broken = found.by_id()["bench_broken.py"]
    assert broken.outcome == "errored"
    assert "no_such_thing" in broken.reason
    judged = judge_blocks([Block(0, 0, "base", None, found, found, 1.0)], POLICY)
    assert "bench_broken.py" in {entry.finding.id for entry in judged.red}
    assert judged.code is Code.COVERAGE


@pytest.mark.slow
def test_nothing_selected_is_usage(toy: ToyTree) -> None:
    """A -k that matches nothing must not pass."""
    toy.cost(0.0055)
    assert run(toy, "-k", "no_such_benchmark")[0] == 4


@pytest.mark.slow
def test_gate_end_to_end(toy: ToyTree) -> None:
    """The base's own harness judges a head that edits it: the suspect is proven by real pairs."""
    record = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-record", "--device", "cpu"]
    done = subprocess.run(
        [*record, "--baseline-dir", "stored"], cwd=toy.root, env=clean_environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    (toy.root / "stored").rename(toy.root / "benchmarks" / "baselines")
    toy.commit("baseline")
    toy.cost(0.0055)
    rules = toy.root / "benchmarks" / "harness" / "rules.py"
    rules.write_text(f"{rules.read_text(encoding='utf-8')}\n# edited\n", encoding="utf-8")
    code, printed = run(toy, "--base", "HEAD", command="gate")
    assert code == 1, printed
    for said in (
        "judged by the harness of HEAD",
        "the head changes the harness or __main__.py: judged by the base's",
        "1 of 2 times went on to pairs",
        "spin time_s: slower by",
    ):
        assert said in printed
    assert [*toy.root.parent.glob("benchmarks-*")] == []


@pytest.mark.slow
def test_base_that_cannot_run_any_benchmark_is_coverage(toy: ToyTree) -> None:
    """The suite needs a name that the base lacks: everything is new, and nothing was compared."""
    toy.write("rap/__init__.py", "COST_S = 0.005\nNEW_S = 0.005\n")
    toy.write("benchmarks/conftest.py", "from rap import NEW_S\n")
    code, printed = run(toy)
    assert code == 12, printed
    assert "nothing was compared" in printed
    assert "cannot import name 'NEW_S'" in printed
