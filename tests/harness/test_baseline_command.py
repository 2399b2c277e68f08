"""`python -m benchmarks baseline`: what is accepted, what is refused and why, what is shown."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.baseline import COMMITTED, write_baseline
from benchmarks.harness.counting import NOT_COUNTED
from benchmarks.harness.fresh import Fresh
from benchmarks.harness.lock import VARIABLE
from benchmarks.harness.machine import Machine
from benchmarks.harness.record import Record, read_session
from benchmarks.harness.sessions import combined, newest_sessions
from benchmarks.harness.subject import Subject
from benchmarks.harness.verdict import Code
from tests.harness.baseline_toys import DAY, STEP, Command, Keep, accepted, run, times

ROOT = Path(__file__).resolve().parents[2]


def test_sessions_become_a_baseline_that_knows_its_noise(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Medians, the spread of the sessions, and where the numbers come from."""
    keep(*(run(here, times(value)) for value in (1.0, 1.1, 0.9, 1.02, 0.98)))
    code, printed = command("accept")
    assert (code, "accepted 1 benchmarks of 5 sessions" in printed) == (0, True), printed
    assert f"baseline: {here.key}: WHY" in printed
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert stored.records["step"].metrics["time_s"] == 1.0
    assert stored.origins["step"].startswith("abc123, 20")
    assert stored.origins["step"].endswith("package 0123456789ab")
    assert stored.noise["step"].sessions == 5
    assert stored.noise["step"].log_sd["time_s"] == pytest.approx(0.072, abs=0.001)
    assert set(stored.noise["step"].log_sd) == {"time_s"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"commit": "abc123+dirty"}, Code.USAGE, "changes that are in no commit"),
        ({"commit": "unknown"}, Code.USAGE, "BENCHMARK_COMMIT"),
        ({"faults": "slow:30"}, Code.USAGE, "faults were injected: slow:30"),
        ({"records": (STEP, STEP)}, Code.USAGE, "share an id"),
        ({"records": ()}, Code.COVERAGE, "nothing was measured"),
        (
            {"records": (dataclasses.replace(STEP, outcome="wrong", reason="off"),)},
            Code.REGRESSION, "step: wrong answer (off)",
        ),
        (
            {"records": (dataclasses.replace(STEP, outcome="errored", reason="boom"),)},
            Code.COVERAGE, "step: errored (boom)",
        ),
        (
            {"records": (dataclasses.replace(STEP, warm_up="unsteady"),)},
            Code.ENVIRONMENT, "step: unsteady",
        ),
        (
            {"records": (dataclasses.replace(STEP, invalid=("hw_thermal",)),)},
            Code.ENVIRONMENT, "step: hw_thermal",
        ),
        ({"records": (times(float("nan")),)}, Code.REGRESSION, "not finite"),
    ],
)  # fmt: skip
def test_unfit_session_is_refused(
    tmp_path: Path, here: Machine, keep: Keep, command: Command,
    change: dict[str, Any], code: Code, said: str,
) -> None:  # fmt: skip
    """Failed, unsteady, dirty, unstamped: nothing is written, the reason is."""
    keep(dataclasses.replace(run(here, STEP), **change))
    found, printed = command("accept")
    assert (found, said in printed) == (code, True), printed
    assert accepted(tmp_path, here) is None


def test_sessions_of_different_code_or_machines_do_not_mix(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Named one by one on the command line, they are refused together."""
    other = dataclasses.replace(run(here, STEP), subject=Subject("/x", "another"))
    foreign = run(dataclasses.replace(here, cpu="Other CPU"), STEP)
    for odd, said in ((other, "2 versions of the code"), (foreign, "2 machines")):
        files = [str(path) for path in keep(run(here, STEP), odd)]
        code, printed = command("accept", *files)
        assert (code, said in printed) == (Code.USAGE, True), printed


def test_changing_counter_is_no_exact_counter(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """It would turn runs red by chance: it is left out, and said so."""
    counts = ({"launches": 3, "copies": 1}, {"launches": 4, "copies": 1}, {"launches": 3})
    keep(*(run(here, dataclasses.replace(STEP, counters=count)) for count in counts))
    code, printed = command("accept")
    assert (code, "step: launches differs between the sessions (3, 4)" in printed) == (0, True)
    assert "step: copies differs between the sessions (1, None)" in printed
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert stored.records["step"].counters == {}


def test_counting_that_was_cut_off_takes_no_counter_away(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Its process says nothing about the counts; the other sessions agree on them."""
    lost = dataclasses.replace(STEP, counters={}, notes=(f"{NOT_COUNTED}: exit code 11",))
    keep(run(here, STEP), run(here, lost), run(here, STEP), run(here, lost))
    code, printed = command("accept")
    assert (code, "left out" in printed) == (0, False), printed
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert stored.records["step"].counters == {"launches": 3}


def test_times_are_kept_where_counting_is_interrupted(
    tmp_path: Path, here: Machine, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """Minutes of measuring would be lost; the records say that they have no counts."""
    session = run(dataclasses.replace(here, device="cuda"), STEP)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fresh, "session", lambda *_: (session, 0, ""))
    monkeypatch.setattr(Fresh, "count", interrupted)
    assert command("record")[0] == 2
    (path,) = newest_sessions(tmp_path, session.machine.key, "room")
    (record,) = read_session(path).records
    assert record.metrics == STEP.metrics
    assert record.notes == (f"{NOT_COUNTED}: the session was cut off",)


def test_two_sessions_count_and_the_others_only_time(
    tmp_path: Path, here: Machine, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    """The second sees counts that differ between processes; a third would tell nothing new."""
    timed = dataclasses.replace(STEP, counters={"graphs": 1})
    session = run(dataclasses.replace(here, device="cuda", gpu="Toy", num_gpus=1), timed)
    counts: list[dict[str, Record]] = []

    def count(*_: object) -> tuple[dict[str, Record], str]:
        counts.append({"step": dataclasses.replace(STEP, counters={"launches": 3})})
        return counts[-1], ""

    monkeypatch.setattr(Fresh, "session", lambda *_: (session, 0, ""))
    monkeypatch.setattr(Fresh, "count", count)
    assert command("record", "--sessions", "4")[0] == 0
    assert len(counts) == 2
    paths = newest_sessions(tmp_path, session.machine.key, "room")
    code, printed = command("accept", *map(str, paths))
    assert (code, "counted in no session" in printed, "left out" in printed) == (0, False, False)
    stored = accepted(tmp_path, session.machine)
    assert stored is not None
    assert stored.records["step"].counters == {"launches": 3, "graphs": 1}
    assert stored.records["step"].notes == ()


def test_counts_of_a_disturbed_session_count(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """They are taken in a process of their own, and only its times are of no use."""
    hot = dataclasses.replace(STEP, invalid=("hw_thermal",))
    timed = dataclasses.replace(times(2.0), counters={}, notes=(f"{NOT_COUNTED}: in two",))
    keep(run(here, hot), run(here, timed), run(here, timed))
    assert command("accept")[0] == 0
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert stored.records["step"].counters == {"launches": 3}
    assert stored.records["step"].metrics["time_s"] == 2.0


def test_counts_of_the_compiler_are_every_session_s(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """The process that is timed counts them itself, whether CUDA calls were counted or not."""
    counted = dataclasses.replace(STEP, counters={"graphs": 1, "launches": 3})
    timed = dataclasses.replace(STEP, counters={"graphs": 2}, notes=(f"{NOT_COUNTED}: in two",))
    keep(run(here, counted), run(here, timed))
    code, printed = command("accept")
    assert (code, "step: graphs differs between the sessions (1, 2)" in printed) == (0, True)
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert stored.records["step"].counters == {"launches": 3}


@pytest.mark.parametrize(
    ("exit_code", "code", "said"),
    [
        (-11, Code.COVERAGE, "exit code -11: Segmentation fault"),
        (3, Code.COVERAGE, "exit code 3: Segmentation fault"),
        (-9, Code.ENVIRONMENT, "exit code -9: Segmentation fault"),
        (11, Code.ENVIRONMENT, "exit code 11: Segmentation fault"),
        (4, Code.USAGE, "Segmentation fault"),
        (5, Code.USAGE, "the selection (-k) holds no benchmark"),
    ],
)
def test_session_without_records_says_what_became_of_it(
    tmp_path: Path, here: Machine, monkeypatch: pytest.MonkeyPatch, command: Command,
    exit_code: int, code: Code, said: str,
) -> None:  # fmt: skip
    """A crash is a benchmark's, a time limit or a kill the machine's, bad arguments a person's."""
    ends = [(run(here, STEP), 0, ""), (None, exit_code, "it ended\nSegmentation fault")]
    monkeypatch.setattr(Fresh, "session", lambda *_: ends.pop(0))
    found, printed = command("record", "--sessions", "3")
    assert (found, said in printed) == (code, True), printed
    assert "python -m benchmarks baseline: session 2 of 3" in printed
    assert len(newest_sessions(tmp_path, here.key, "room")) == 1


def test_baseline_without_counts_says_so(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Or nobody would know that a change of launches is never seen."""
    keep(run(here, dataclasses.replace(STEP, counters={}, notes=(f"{NOT_COUNTED}: no CUPTI",))))
    code, printed = command("accept")
    assert code == 0
    assert "CUDA calls of 1 benchmarks were counted in no session" in printed
    assert "no CUPTI" in printed


def test_one_disturbed_session_of_three_is_left_out(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Two steady ones are enough, and its times do not count."""
    hot = dataclasses.replace(times(9.0), invalid=("hw_thermal",))
    keep(run(here, times(1.0)), run(here, hot), run(here, times(1.0)))
    assert command("accept")[0] == 0
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert (stored.records["step"].metrics["time_s"], stored.noise["step"].sessions) == (1.0, 2)


def test_only_the_newest_code_s_sessions_count(tmp_path: Path, here: Machine, keep: Keep) -> None:
    """Older commits stay on disk and out of the baseline."""
    keep(run(here, times(5.0), commit="old"), run(here, STEP), run(here, STEP))
    assert len(newest_sessions(tmp_path, here.key, "room")) == 2


def test_stored_benchmark_that_was_not_measured_needs_a_word(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """Kept or dropped, as said; never in silence."""
    other = dataclasses.replace(STEP, id="other")
    keep(run(here, STEP, other))
    assert command("accept")[0] == 0
    (part,) = keep(run(here, times(2.0), commit="def456"))
    code, printed = command("accept", str(part))
    assert (code, "--keep-others keeps it" in printed) == (Code.COVERAGE, True), printed
    code, printed = command("accept", str(part), "--keep-others")
    assert (code, "step time_s: 1 s -> 2 s (+100.0%)" in printed) == (0, True), printed
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert stored.origins["other"].startswith("abc123")
    assert stored.origins["step"].startswith("def456")
    assert command("accept", str(part), "--drop-others")[0] == 0
    stored = accepted(tmp_path, here)
    assert stored is not None
    assert set(stored.records) == {"step"}


def test_baseline_of_a_foreign_machine_goes_under_its_own_key(
    tmp_path: Path, here: Machine, keep: Keep, command: Command
) -> None:
    """A GPU machine without history sends its sessions here; this machine's are untouched."""
    board = dataclasses.replace(here, device="cuda", gpu="NVIDIA H200", num_gpus=1)
    (file,) = keep(run(board, STEP))
    assert command("accept", str(file))[0] == 0
    assert accepted(tmp_path, board) is not None
    assert accepted(tmp_path, here) is None


def test_local_baseline_can_be_accepted(tmp_path: Path, here: Machine, command: Command) -> None:
    """What `pytest benchmarks --benchmark-record` has written."""
    folder = tmp_path / ".benchmarks/rap" / here.key
    stored = combined([run(here, STEP)], DAY.date())
    write_baseline(folder / "room.json", stored)
    assert command("accept")[0] == 0
    found = accepted(tmp_path, here)
    assert found is not None
    assert found.records == stored.records


def test_nothing_recorded_says_what_to_do(command: Command) -> None:
    """And a file of another kind is refused."""
    code, printed = command("accept")
    assert (code, "python -m benchmarks baseline record" in printed) == (Code.USAGE, True)


def test_unreadable_session_is_usage(tmp_path: Path, command: Command) -> None:
    """An older schema, half a file, another kind of file."""
    path = tmp_path / "x.json"
    for text, said in (
        ('{"kind": "session", "schema": 1}', "schema 1, this harness reads 2"),
        ('{"kind": "ses', "cannot be read as JSON"),
        ('{"kind": "shopping"}', "not a session or baseline"),
    ):
        path.write_text(text, encoding="utf-8")
        code, printed = command("accept", str(path))
        assert (code, said in printed) == (Code.USAGE, True), printed


def test_diff_shows_what_moved(here: Machine, keep: Keep, command: Command) -> None:
    """Stored against recorded; a foreign file is refused."""
    keep(run(here, STEP))
    assert command("accept")[0] == 0
    new = dataclasses.replace(times(1.005), counters={"launches": 4})
    keep(run(here, new, dataclasses.replace(STEP, id="more"), commit="def456"))
    code, printed = command("diff")
    assert code == 0
    assert printed.splitlines() == ["more: new", "step launches: 3 -> 4"]
    assert "step time_s: 1 s -> 1.005 s (+0.5%)" in command("diff", "--all")[1]
    mine, foreign = keep(run(here, STEP), run(dataclasses.replace(here, cores=99), STEP))
    code, printed = command("diff", str(mine), str(foreign))
    assert (code, "cannot be compared" in printed) == (Code.USAGE, True)


def test_diff_shows_intervals_that_are_capped(here: Machine, keep: Keep, command: Command) -> None:
    """What the gate will use is in no file."""
    keep(run(here, STEP))
    assert command("accept")[0] == 0
    keep(run(here, dataclasses.replace(STEP, intervals={"time_s": 0.9}), commit="def456"))
    assert "step time_s: interval 0.9 counts as 0.333" in command("diff")[1]


def test_list_names_every_file(here: Machine, keep: Keep, command: Command) -> None:
    """The one of this machine is marked."""
    keep(*[run(here, STEP)] * 5)
    assert command("accept")[0] == 0
    printed = command("list")[1]
    assert f"* {here.key} room: 1 benchmarks, the noise of 1 known; from abc123" in printed
    assert f"{here.key} room: 5 recorded sessions" in printed


BENCHMARKS = """
import pytest
@pytest.mark.parametrize("n", [1, 2])
def bench_toy(measure, n):
    measure(lambda: sum(range(100)), rounds=3)
"""


@pytest.mark.slow
def test_record_and_accept_in_a_real_tree(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two sessions in processes of their own, each in its order, of a committed tree."""
    lock = tmp_path_factory.mktemp("lock")
    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir()
    for name in ("harness", "__main__.py", "__init__.py", "policy.toml"):
        (benchmarks / name).symlink_to(ROOT / "benchmarks" / name)
    (benchmarks / "bench_toy.py").write_text(BENCHMARKS, encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "conftest.py", tmp_path)
    (tmp_path / ".gitignore").write_text("__pycache__\n.benchmarks\n", encoding="utf-8")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    script = "import sys; from pathlib import Path; from benchmarks.__main__ import main;"
    for action in (["record", "--sessions", "2"], ["accept"]):
        line = f"{script} sys.exit(main({['baseline', *action, '--device', 'cpu']!r}, Path('.')))"
        done = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, capture_output=True,
                              text=True, check=False,
                              env={**os.environ, VARIABLE: str(lock)})  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    sessions = [json.loads(path.read_text(encoding="utf-8"))
                for path in (tmp_path / ".benchmarks").rglob("*.json")]  # fmt: skip
    assert len({session["order"] for session in sessions}) == 2
    (path,) = (tmp_path / COMMITTED).rglob("room.json")
    assert set(json.loads(path.read_text(encoding="utf-8"))["benchmarks"]) == {
        "toy[n=1]", "toy[n=2]",
    }  # fmt: skip
