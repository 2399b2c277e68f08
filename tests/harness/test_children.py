"""Being stopped: by Ctrl-C, a time limit, a closed terminal; once, twice, or handed on."""

import importlib.util
import os
import py_compile
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from benchmarks.harness.children import NO_BYTECODE, with_bytecode
from tests.processes import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parents[2]

AS_AT_A_TERMINAL = """
import signal

# Whoever starts the tests in the background may have left these ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
STOPPED_TWICE = """
import os, signal, sys
from benchmarks.harness.children import terminable

first, second = (getattr(signal, name) for name in sys.argv[1:])
try:
    with terminable(), terminable():
        try:
            os.kill(os.getpid(), first)
            print("not stopped")
        finally:
            os.kill(os.getpid(), second)
            print("cleaned up")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


@pytest.mark.parametrize("writes", [True, False])
def test_bytecode_is_kept_where_python_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: bool
) -> None:
    """A torch without compiled files gets a folder for them; one that has them is left alone."""
    torch = tmp_path / "torch" / "__init__.py"
    torch.parent.mkdir()
    torch.write_text("", encoding="utf-8")
    spec = ModuleSpec("torch", None, origin=str(torch))
    monkeypatch.setattr(importlib.util, "find_spec", {"torch": spec}.__getitem__)
    if writes:
        py_compile.compile(str(torch))
    found = with_bytecode({NO_BYTECODE: "1", "HOME": "/"}, tmp_path / "kept")
    kept = {"HOME": "/", "PYTHONPYCACHEPREFIX": str(tmp_path / "kept")}
    assert found == ({NO_BYTECODE: "1", "HOME": "/"} if writes else kept)


@pytest.mark.parametrize(
    ("first", "second"),
    [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGHUP", "SIGTERM"), ("SIGINT", "SIGHUP")],
)
def test_second_signal_does_not_interrupt_the_cleaning_up(first: str, second: str) -> None:
    """Whoever presses Ctrl-C twice leaves no trees behind either."""
    command = [sys.executable, "-c", AS_AT_A_TERMINAL + STOPPED_TWICE, first, second]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "cleaned up\ninterrupted True\n"), done.stderr


def test_what_was_ignored_stays_ignored() -> None:
    """`nohup python -m benchmarks ab` outlives its terminal."""
    ignore = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    script = f"{AS_AT_A_TERMINAL}{ignore}{STOPPED_TWICE}"
    command = [sys.executable, "-c", script, "SIGHUP", "SIGHUP"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "not stopped\ncleaned up\n"), done.stderr


STOPPED_WITHIN = """
import os, shutil, signal, subprocess, sys, tempfile
from pathlib import Path
from benchmarks.harness.children import passing_folder, run_process, terminable

module, name = {"made": (tempfile, "mkdtemp"), "removed": (shutil, "rmtree"),
                "started": (subprocess, "Popen")}[sys.argv[1]]
number = getattr(signal, sys.argv[2])
started = []
real = getattr(module, name)

def stopped(*given, **named):
    if name == "rmtree":
        os.kill(os.getpid(), number)
    found = real(*given, **named)
    if name == "Popen":
        started.append(found)
    os.kill(os.getpid(), number)
    return found

setattr(module, name, stopped)
tempfile.tempdir = sys.argv[3]
try:
    with terminable(), passing_folder("ours-") as folder:
        log = Path(sys.argv[3]) / "log"
        if name == "Popen":
            run_process(["sleep", "9999"], folder, os.environ, log)
except KeyboardInterrupt:
    print(*(process.returncode for process in started), "interrupted")
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("moment", ["made", "removed", "started"])
def test_stop_while_something_is_made_waits_for_it(
    tmp_path: Path, moment: str, number: str
) -> None:
    """A folder or process that was just made has no owner yet, one half removed no longer."""
    script = AS_AT_A_TERMINAL + STOPPED_WITHIN
    command = [sys.executable, "-c", script, moment, number, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    ended = ["-9"] if moment == "started" else []
    assert (done.returncode, done.stdout.split()) == (0, [*ended, "interrupted"]), done.stderr
    assert not list(tmp_path.glob("ours-*"))


EVERY_MOMENT = """
import os, subprocess, sys, tempfile
from pathlib import Path
from benchmarks.harness.children import passing_folder, run_apart, run_process, terminable

home, kind = Path(sys.argv[1]), sys.argv[2]
tempfile.tempdir = str(home)
processes = []

class Process(subprocess.Popen):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        processes.append(self)

subprocess.Popen = Process

def work():
    with terminable():
        if kind == "folder":
            with passing_folder("ours-") as folder:
                (folder / "file").touch()
        elif kind == "process":
            run_process(["true"], home, os.environ, home / "log")
        else:
            run_apart(["true"], home)

def stop_at(wanted):
    # Python looks for signals where a function begins, and where one written in C has returned.
    def look(_frame, event, _argument):
        nonlocal wanted
        if event in ("call", "c_return"):
            wanted -= 1
            if wanted == 0:
                signal.raise_signal(signal.SIGINT)
    return look

moment = stopped = 0
while moment == stopped:
    moment += 1
    sys.setprofile(stop_at(moment))
    try:
        work()
    except KeyboardInterrupt:
        stopped += 1
    finally:
        sys.setprofile(None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert not [*home.glob("ours-*")], f"moment {moment}"
    assert all(process.returncode is not None for process in processes), f"moment {moment}"
print(stopped)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "process", "process apart"])
def test_stop_in_any_moment_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """Wherever Python looks for signals: nothing is left, and nothing waits for ever."""
    script = AS_AT_A_TERMINAL + EVERY_MOMENT
    command = [sys.executable, "-c", script, str(tmp_path), kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


BASE_S_GATE = """
import pathlib, signal, sys, time

told = pathlib.Path("signals")

def note(number, _frame):
    with told.open("a") as file:
        file.write(f"{signal.Signals(number).name}\\n")

for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, note)
told.touch()
while not pathlib.Path("stopped twice").exists():
    time.sleep(0.01)
sys.exit(2)
"""
JUDGE_BY_BASE = """
import sys
from argparse import Namespace
from pathlib import Path
from benchmarks.harness.children import terminable
from benchmarks.harness.commands.gate import _let_base_judge
from benchmarks.harness.trees import Source

base = Path(sys.argv[1])
options = Namespace(budget=1.0, keyword=None, full=False, scene="room", device="cpu")
try:
    with terminable():
        _let_base_judge(Source(base, "base", "abc"), base, options)
except KeyboardInterrupt:
    sys.exit(2)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_gate_that_judges_for_us_is_stopped_once(tmp_path: Path, number: signal.Signals) -> None:
    """A terminal's Ctrl-C goes to a whole group; a second one would stop its cleaning up."""
    (tmp_path / "benchmarks").mkdir()
    for name, text in (("__init__.py", ""), ("__main__.py", BASE_S_GATE)):
        (tmp_path / "benchmarks" / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", AS_AT_A_TERMINAL + JUDGE_BY_BASE, str(tmp_path)],
        cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told = tmp_path / "signals"
    wait_until(told.exists, process)
    os.killpg(process.pid, number)
    wait_until(lambda: told.read_text("utf-8"), process)
    os.killpg(process.pid, number)
    (tmp_path / "stopped twice").touch()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, told.read_text("utf-8")) == (2, "SIGTERM\n"), errors
