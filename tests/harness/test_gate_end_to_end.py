"""The literal commands, in processes of their own, over a toy suite: the exit code is the verdict.

Toy work moves a virtual clock, so that a slowdown of 30 % is one on the busiest machine, too; the
margins are those of the shipped policy. Memory is real.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.harness.faults import VARIABLE
from benchmarks.harness.lock import alone
from benchmarks.harness.memory import CLEAR_REFS

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = '''
"""Loads the plugin; toy work moves the clock that the harness reads."""

import os
from benchmarks.harness import clock, faults

pytest_plugins = ["benchmarks.harness.plugin"]

class VirtualTime:
    now = 0.0
    def perf_counter(self):
        VirtualTime.now += 1e-6
        return VirtualTime.now
    process_time = perf_counter

if os.environ.get("TOY_CLOCK") != "real":
    clock.time = faults.time = VirtualTime()
'''
BENCHMARKS = """
from conftest import VirtualTime
from benchmarks.harness import axis
import pytest

@pytest.mark.parametrize("n", axis([8], cuda=[9], full=[8, 64]))
def bench_spin(measure, n):
    def step():
        VirtualTime.now += 0.005
        return sum(range(20000))
    result = measure(step, items=n, unit="samples", rounds=5)
    result.check(result.value == 199990000, "the sum is wrong")

def bench_learn(measure):
    result = measure(lambda: [0.100, 0.101, 0.102], rounds=1)
    result.accuracy("median_translation_m", result.value)
"""
HOLD = """
def bench_hold(measure):
    result = measure(lambda: len(bytearray(b"x") * (320 << 20)), rounds=2)
    result.check(result.value == 320 << 20, "the size is wrong")
"""
ENTRIES = """
[[benchmark]]
name = "spin"
owner = "toys"
metrics = ["time_s"]
[[benchmark]]
name = "learn"
owner = "toys"
metrics = ["median_translation_m"]
[[benchmark]]
name = "hold"
owner = "toys"
metrics = ["peak_cpu_bytes"]
"""


@dataclass
class Toy:
    """A small repository with our settings, our harness and toy benchmarks."""

    root: Path

    def run(self, *arguments: str, fault: str = "", **extra: str) -> tuple[int, str]:
        """Run pytest as a person would; its exit code and what it printed."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTEST_ADDOPTS", VARIABLE)}
        environment |= {VARIABLE: fault, "PYTHONDONTWRITEBYTECODE": "1", **extra}
        command = [sys.executable, "-m", "pytest", *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True,
                              text=True, check=False)  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def compare(self, *, fault: str = "", **extra: str) -> tuple[int, str]:
        """The literal command."""
        return self.run("benchmarks", "--benchmark-compare", fault=fault, **extra)

    def stored(self) -> dict[Path, str]:
        """Every baseline file with its content."""
        files = (self.root / ".benchmarks").rglob("*.json")
        return {path: path.read_text(encoding="utf-8") for path in files}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A toy repository without any baseline."""
    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir()
    (benchmarks / "harness").symlink_to(ROOT / "benchmarks" / "harness")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shipped = (ROOT / "benchmarks" / "policy.toml").read_text(encoding="utf-8")
    rules = shipped.partition("\n[[benchmark]]")[0]
    (benchmarks / "policy.toml").write_text(rules + ENTRIES, encoding="utf-8")
    (benchmarks / "__init__.py").touch()
    (benchmarks / "bench_toy.py").write_text(BENCHMARKS, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    return Toy(tmp_path)


def test_first_run_records_same_run_passes_slow_run_fails(toy: Toy) -> None:
    """Three literal runs on an empty store: 0, 0, and 1 for a deliberate slowdown of 30 %."""
    code, printed = toy.compare()
    assert (code, "recorded 2 benchmarks" in printed) == (0, True), printed
    recorded = toy.stored()
    assert len(recorded) == 1

    code, printed = toy.compare()
    assert (code, "none proven worse" in printed) == (0, True), printed

    code, printed = toy.compare(fault="slow:30")
    assert code == 1, printed
    assert re.search(r"spin\[n=8\]: WORSE.*\(\+30\.\d%\)", printed.replace(" time_s", "")), printed
    assert printed.count("measuring again, in a fresh process") == 3
    assert "learn median_translation_m: WORSE" not in printed
    assert toy.stored() == recorded


def test_run_beside_another_comparison_is_no_pass(toy: Toy) -> None:
    """ENVIRONMENT, before anything is measured; its own fresh processes are part of it."""
    with alone():
        code, printed = toy.compare()
        assert (code, "another comparison is running" in printed) == (11, True), printed
        assert "Traceback" not in printed
        assert toy.run("benchmarks")[0] == 0  # untimed
    assert toy.stored() == {}
    assert toy.compare(fault="slow:30")[0] == 0


def test_missing_and_wrong_benchmarks_fail(toy: Toy) -> None:
    """A benchmark that is gone is COVERAGE, a wrong answer REGRESSION; neither is stored."""
    assert toy.compare()[0] == 0
    recorded = toy.stored()
    code, printed = toy.compare(fault="missing:learn")
    assert (code, "learn: MISSING" in printed) == (12, True), printed
    code, printed = toy.compare(fault="answer@spin")
    assert (code, "the sum is wrong" in printed) == (1, True), printed
    assert toy.stored() == recorded


def test_wrong_first_run_records_nothing(toy: Toy) -> None:
    """A failing run never becomes a baseline."""
    code, printed = toy.compare(fault="answer@spin")
    assert (code, toy.stored()) == (1, {}), printed


def test_swallowed_path_is_refused(toy: Toy) -> None:
    """`pytest --benchmark-compare benchmarks`: USAGE, with the right order."""
    code, printed = toy.run("--benchmark-compare", "benchmarks")
    assert (code, "pytest benchmarks --benchmark-compare" in printed) == (4, True), printed


def test_plain_pytest_works_without_pytest_benchmark(toy: Toy) -> None:
    """Each benchmark runs once, untimed; GPU cases skip with a reason."""
    code, printed = toy.run("benchmarks", "-p", "no:benchmark", "--device", "cpu")
    assert code == 0, printed
    assert "needs an NVIDIA GPU" in printed
    assert "2 passed, 1 skipped, 1 deselected" in printed


def test_timing_without_loaded_plugins_is_refused_in_words(toy: Toy) -> None:
    """pytest's own words would be `unrecognized arguments`; named by -p, the plugin is there."""
    off = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    code, printed = toy.run("benchmarks", "--benchmark-compare", **off)
    assert (code, "unset PYTEST_DISABLE_PLUGIN_AUTOLOAD" in printed) == (4, True), printed
    assert toy.run("benchmarks", "--device", "cpu", **off)[0] == 0
    named = ("-p", "pytest_benchmark.plugin")
    assert toy.run("benchmarks", "--benchmark-compare", *named, **off)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--benchmark-compare", "-p", "no:benchmark"), "timing needs pytest-benchmark"),
        (("--benchmark-compare", "--benchmark-disable"), "nothing would be measured"),
        (("--benchmark-count", "--device", "cpu"), "needs an NVIDIA GPU"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(
    toy: Toy, arguments: tuple[str, ...], said: str
) -> None:
    """USAGE, one line, no traceback."""
    code, printed = toy.run("benchmarks", *arguments)
    assert (code, said in printed, "Traceback" in printed) == (4, True, False), printed


@pytest.mark.slow
def test_more_memory_is_a_regression(toy: Toy) -> None:
    """20 % more of 320 MiB, seen in this run and in three fresh processes."""
    if not os.access(CLEAR_REFS, os.W_OK):
        pytest.skip("this kernel does not reset VmHWM: there is no peak to compare")
    (toy.root / "benchmarks" / "bench_hold.py").write_text(HOLD, encoding="utf-8")
    assert toy.compare()[0] == 0
    code, printed = toy.compare(fault="memory:20@hold")
    assert code == 1, printed
    assert re.search(r"hold peak_cpu_bytes: WORSE.*\(\+(19\.[5-9]|20\.\d)%\)", printed), printed
    assert "spin" not in printed.partition("hold peak_cpu_bytes: WORSE")[2]


@pytest.mark.slow
def test_large_slowdown_is_red_on_the_real_clock(toy: Toy) -> None:
    """Processor time, which neighbours stretch and excuse by far less than twenty times."""
    policy = toy.root / "benchmarks" / "policy.toml"
    text = policy.read_text(encoding="utf-8").replace('["time_s"]', '["cpu_s"]')
    rule = text[text.index("[metric.time_s]") : text.index("# Compilation")]
    policy.write_text(text + rule.replace("time_s", "cpu_s"), encoding="utf-8")
    assert toy.compare(TOY_CLOCK="real")[0] == 0
    code, printed = toy.compare(fault="slow:2000@spin", TOY_CLOCK="real")
    assert (code, "spin[n=8] cpu_s: WORSE" in printed) == (1, True), printed


@pytest.mark.slow
def test_damaged_baseline_is_usage(toy: Toy) -> None:
    """Half a file, another machine's file: refused before anything is measured."""
    assert toy.compare()[0] == 0
    ((path, content),) = toy.stored().items()
    path.write_text(content[:-20], encoding="utf-8")
    code, printed = toy.compare()
    assert (code, "--benchmark-record" in printed) == (4, True), printed
    path.write_text(content.replace('"key": "', '"key": "foreign-'), encoding="utf-8")
    code, printed = toy.compare()
    assert (code, "is the baseline of foreign-" in printed) == (4, True), printed


@pytest.mark.slow
def test_new_benchmark_without_an_entry_is_coverage(toy: Toy) -> None:
    """And so is one that never calls measure(), or crashes."""
    extra = toy.root / "benchmarks" / "bench_extra.py"
    for body, said in (
        ("measure(lambda: 1, rounds=1)", "NO POLICY"),
        ("pass", "never called measure()"),
        ("measure(lambda: 1 / 0)", "ZeroDivisionError"),
    ):
        extra.write_text(f"def bench_extra(measure):\n    {body}\n", encoding="utf-8")
        code, printed = toy.compare()
        assert (code, said in printed) == (12, True), printed
    assert toy.stored() == {}


@pytest.mark.slow
def test_selection_is_judged_over_itself(toy: Toy) -> None:
    """With -k what was deselected is not missed; with --full the rest of the axis is recorded."""
    assert toy.compare()[0] == 0
    assert toy.run("benchmarks", "--benchmark-compare", "-k", "learn")[0] == 0
    code, printed = toy.run("benchmarks", "--benchmark-compare", "--full")
    assert (code, "recorded 3 benchmarks" in printed) == (0, True), printed
    assert {path.name for path in toy.stored()} == {"room.json", "room-full.json"}


@pytest.mark.slow
def test_record_replaces_the_baseline_unless_the_run_failed(toy: Toy) -> None:
    """A slower run may be recorded on purpose, a wrong one never."""
    folder = toy.root / "stored"
    record = ("benchmarks", "--benchmark-record", "--baseline-dir", str(folder))
    assert toy.run(*record)[0] == 0
    (path,) = folder.rglob("room.json")
    before = path.read_text(encoding="utf-8")
    assert toy.run(*record, fault="answer@spin")[0] == 1
    assert path.read_text(encoding="utf-8") == before
    slower = BENCHMARKS.replace("+= 0.005", "+= 0.010")
    (toy.root / "benchmarks" / "bench_toy.py").write_text(slower, encoding="utf-8")
    assert toy.run(*record)[0] == 0
    assert path.read_text(encoding="utf-8") != before


def test_record_refuses_the_committed_store(toy: Toy) -> None:
    """Only `accept`, which objects to failed, unsteady and unnamed runs, writes there."""
    committed = toy.root / "benchmarks" / "baselines"
    for folder in ("benchmarks/baselines", str(committed), "rap/../benchmarks/baselines/mine"):
        code, printed = toy.run("benchmarks", "--benchmark-record", "--baseline-dir", folder)
        assert (code, "baseline record, then accept" in printed) == (4, True), printed
    assert not committed.exists()


@pytest.mark.slow
def test_first_comparison_does_not_write_the_committed_store(toy: Toy) -> None:
    """What is recorded unasked is this machine's own."""
    folder = toy.root / "benchmarks" / "baselines"
    code, printed = toy.run("benchmarks", "--benchmark-compare", "--baseline-dir", str(folder))
    assert (code, folder.exists()) == (0, False), printed


@pytest.mark.slow
def test_record_refuses_where_a_committed_baseline_would_be_renewed(toy: Toy) -> None:
    """Without --baseline-dir the committed one is this machine's."""
    assert toy.run("benchmarks", "--benchmark-record", "--baseline-dir", "stored")[0] == 0
    (toy.root / "stored").rename(toy.root / "benchmarks" / "baselines")
    code, printed = toy.run("benchmarks", "--benchmark-record")
    assert (code, "baseline record, then accept" in printed) == (4, True), printed


@pytest.mark.slow
def test_unknown_machine_in_ci_is_environment(toy: Toy) -> None:
    """Where a verdict is required, a first run proves nothing and records nothing."""
    assert toy.compare(CI="true")[0] == 11
    assert toy.stored() == {}


@pytest.mark.slow
def test_nothing_is_timed_under_the_shape_checks(toy: Toy) -> None:
    """The import hook of tests/conftest.py doubles a call's time: USAGE."""
    hook = "from jaxtyping import install_import_hook\ninstall_import_hook('rap', None)\n"
    (toy.root / "conftest.py").write_text(hook + CONFTEST, encoding="utf-8")
    code, printed = toy.compare()
    assert (code, "shape-checking" in printed) == (4, True), printed
    assert toy.run("benchmarks")[0] == 0


@pytest.mark.slow
def test_one_number_everywhere(toy: Toy) -> None:
    """pytest-benchmark's JSON and our payload in it agree; JUnit counts what is red."""
    assert toy.compare()[0] == 0
    code, printed = toy.run("benchmarks", "--benchmark-compare", "--benchmark-json=found.json",
                            "--junitxml=found.xml", fault="slow:200")  # fmt: skip
    assert code == 1, printed
    found = (toy.root / "found.json").read_text(encoding="utf-8")
    medians = re.findall(r'"median": ([\d.]+)', found)
    times = re.findall(r'"time_s": ([\d.]+)', found)
    assert sorted(f"{float(m):.6f}" for m in medians) == sorted(f"{float(t):.6f}" for t in times)
    junit = (toy.root / "found.xml").read_text(encoding="utf-8")
    assert 'failures="1"' in junit
    assert 'name="time_s of spin[n=8]"' in junit
