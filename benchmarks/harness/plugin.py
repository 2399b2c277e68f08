"""The pytest plugin: options, the fixture `measure`, and the verdict as the exit code.

It sits on pytest-benchmark without touching its classes: the harness measures with its own loop and
replays the times, so that one number is shown everywhere. Without pytest-benchmark (`-p
no:benchmark`) every benchmark still runs, untimed.
"""

import importlib.util
import os
import sys
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.harness import assignment, faults, machine, options, progress, report
from benchmarks.harness.assignment import Assignment, ForeignPackageError
from benchmarks.harness.commit import StampError
from benchmarks.harness.counting import CountingError
from benchmarks.harness.judging import judge_run, report_to_junit
from benchmarks.harness.measure import Measure
from benchmarks.harness.policy import PolicyError
from benchmarks.harness.record import Outcome, RecordError, Session, write_session
from benchmarks.harness.report import Judgement
from benchmarks.harness.suite import Suite, benchmark_id
from benchmarks.harness.verdict import Code

AUTOLOAD_OFF = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"
SUITE = pytest.StashKey[Suite]()
ASSIGNMENT = pytest.StashKey[Assignment | None]()
NUM_SEEDS, PAIRED_SEEDS = 3, 6
"""Of repeated trainings: in every run, and in each block of pairs."""
JUDGEMENT = pytest.StashKey[Judgement]()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Our options exist for `pytest` and `pytest benchmarks` alike."""
    installed = importlib.util.find_spec("pytest_benchmark") is not None
    blocked = pluginmanager.is_blocked("benchmark") or pluginmanager.is_blocked("pytest_benchmark")
    names = {getattr(plugin, "__name__", "") for plugin in pluginmanager.get_plugins()}
    # Without autoload it is here only if it was named: -p pytest_benchmark.plugin.
    unloaded = AUTOLOAD_OFF in os.environ and "pytest_benchmark.plugin" not in names
    options.add_options(parser, absent=blocked or not installed or unloaded)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options before pytest-benchmark, whose own hook runs last, acts on them."""
    config.addinivalue_line("markers", "full: a parameter that only runs with --full")
    wanted = options.read_options(config)
    if wanted.timed:
        installed = pytest.version_tuple[:2]
        options.refuse_incompatible(version("pytest-benchmark"), tuple(map(int, installed)))
    try:
        device = machine.resolve_device(wanted.device)
        injected = faults.from_environment()
        config.stash[ASSIGNMENT] = assignment.from_environment()
    except (OSError, ValueError) as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SUITE] = Suite(config.rootpath, wanted, device, injected)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Policy and baseline are read before any long work."""
    suite = session.config.stash[SUITE]
    if suite.wanted.timed:
        try:
            suite.start_timing()
        except RecordError as error:
            raise pytest.UsageError(
                f"{error}\nThe baseline cannot be used: delete it, and record a new one with "
                "pytest benchmarks --benchmark-record"
            ) from error
        except (PolicyError, CountingError, StampError) as error:
            raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What is measured where, in two lines."""
    suite = config.stash[SUITE]
    if suite.timing is None:
        return []
    name = suite.timing.machine.key
    return [f"benchmarks: timed on {suite.device}, {name}", f"baseline: {suite.timing.path}"]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A file of benchmarks that cannot be imported is one that crashed, not one that is not there.

    The processes of an A/B go on with the other files.
    """
    report = yield
    if report.failed and isinstance(collector, pytest.Module):
        last = str(report.longrepr).strip().splitlines()[-1]
        collector.config.stash[SUITE].note_uncollected(
            report.nodeid, last.removeprefix("E").strip()
        )
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `--full` runs; skip, with a reason, what needs a GPU."""
    suite, part = config.stash[SUITE], config.stash[ASSIGNMENT]
    kept = suite.adopt(items)
    if part is not None:
        kept = [item for item in kept if part.wants(benchmark_id(item))]
    dropped = [item for item in items if item not in kept]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is left after every selection is what coverage is judged over."""
    suite = session.config.stash[SUITE]
    suite.enrol(session.items)
    if suite.wanted.timed and any(item in suite for item in session.items):
        options.refuse_shape_checks()
    part = session.config.stash[ASSIGNMENT]
    if part is not None:
        try:
            part.check()
        except ForeignPackageError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """A process that was started to measure tells in its log what it begins, at once."""
    suite = item.config.stash[SUITE]
    terminal = item.config.pluginmanager.get_plugin("terminalreporter")
    if suite.wanted.records_file is not None and item in suite and terminal is not None:
        # a line of its own, also after the dot of the one before
        terminal.write(f"\n{progress.now(benchmark_id(item))}\n", flush=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start watching memory before the benchmark's fixtures take any."""
    suite = item.config.stash[SUITE]
    if item in suite:
        suite.before()


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """Measures a step: see `benchmarks.harness.measure`."""
    return request.config.stash[SUITE].measure_for(request)


@pytest.fixture(scope="session")
def bench_device(request: pytest.FixtureRequest) -> str:
    """`cpu` or `cuda`, as `--device` resolved: for fixtures of a wider scope than `measure`."""
    return request.config.stash[SUITE].device


@pytest.fixture(scope="session")
def bench_scene(request: pytest.FixtureRequest) -> str:
    """The scene of `--scene`: a path, or `room` for the built-in one."""
    return request.config.stash[SUITE].wanted.scene


@pytest.fixture(scope="session")
def bench_paired(pytestconfig: pytest.Config) -> bool:
    """Whether this process is one arm of an A/B: accuracy then takes more seeds, in pairs."""
    part = pytestconfig.stash[ASSIGNMENT]
    return part is not None and part.paired


@pytest.fixture(scope="session")
def bench_seeds(pytestconfig: pytest.Config, bench_paired: bool) -> tuple[int, ...]:
    """Seeds of repeated trainings: three in every run; six, others in each block, in pairs."""
    part = pytestconfig.stash[ASSIGNMENT]
    if part is None or not bench_paired:
        return tuple(range(1, 1 + NUM_SEEDS))
    first = 1 + PAIRED_SEEDS * part.block
    return tuple(range(first, first + PAIRED_SEEDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed assertion is a wrong answer; any other exception is a crash.

    Also where it was marked as expected (xfail): a number of it would be of nothing that works.
    """
    result = yield
    suite = item.config.stash[SUITE]
    if item in suite and (call.when == "call" or not result.passed):
        suite.note(item, *_outcome(result, call))
    return result


def _outcome(result: pytest.TestReport, call: pytest.CallInfo[None]) -> tuple[Outcome, str]:
    if result.passed or call.excinfo is None:
        return "passed", ""
    expected = "expected to fail: " if hasattr(result, "wasxfail") else ""
    if result.skipped and not expected:
        return "skipped", str(call.excinfo.value)
    reason = expected + call.excinfo.exconly().splitlines()[0]
    wrong = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
    return ("wrong" if wrong and call.when == "call" else "errored"), reason


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(
    session: pytest.Session, exitstatus: int
) -> Generator[None, object, object]:
    """Judge before JUnit and the terminal write; set the exit code after everyone else."""
    suite = session.config.stash[SUITE]
    code = Code.PASS
    if suite.timing is not None and exitstatus in (0, 1):
        run = suite.session()
        if suite.wanted.records_file is not None:
            code = _hand_over(session.config, suite.wanted.records_file, run)
        elif suite.wanted.judged or suite.wanted.record:
            judgement = judge_run(session.config, suite, suite.timing, run, exitstatus != 0)
            session.config.stash[JUDGEMENT] = judgement
            report_to_junit(session.config, judgement)
            code = judgement.verdict.code
    result = yield
    if code is not Code.PASS:
        session.exitstatus = code.value
    return result


def _hand_over(config: pytest.Config, path: Path, run: Session) -> Code:
    """Write the records for the process that started this one, unless they are of other code."""
    part = config.stash[ASSIGNMENT]
    try:
        if part is not None:
            part.check()
    except ForeignPackageError as error:  # imported by a benchmark, after the collection
        sys.stderr.write(f"{error}\n")
        return Code.USAGE
    write_session(path, run)
    return Code.PASS


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Our table and the verdict, after pytest-benchmark's table."""
    suite = config.stash[SUITE]
    if suite.timing is not None and suite.wanted.count:
        terminalreporter.section("CUDA calls")
        for text in report.counts(suite.session().records):
            terminalreporter.write_line(text)
    judgement = config.stash.get(JUDGEMENT, None)
    if judgement is None:
        return
    terminalreporter.section("benchmarks")
    for line in report.lines(judgement):
        markup = {line.colour: True} if line.colour else {}
        terminalreporter.write_line(line.text, **markup)
