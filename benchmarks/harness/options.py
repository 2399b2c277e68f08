"""What the command line asks for, and what it must not ask for. Read before pytest-benchmark does.

A plain `pytest` runs every benchmark once, untimed. The bare `--benchmark-compare` is ours: it
means this machine's baseline and our verdict. With a value it keeps pytest-benchmark's meaning.
"""

import os
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import pytest

RECORDS_FILE = "BENCHMARK_RECORDS_FILE"
"""Set for a fresh process: it measures, writes its records there, and judges nothing."""
PARENT = "BENCHMARK_PARENT"
"""The process id of who set it: left over in a shell it must not switch judging off."""

THEIRS = (
    "--benchmark-compare", "--benchmark-only", "--benchmark-json", "--benchmark-save",
    "--benchmark-autosave", "--benchmark-enable",
)  # fmt: skip
"""Options of pytest-benchmark that measure."""
ABSENT = "benchmark_is_absent"
NEEDS_PLUGIN = (
    "timing needs pytest-benchmark: install it, leave out -p no:benchmark, and unset "
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD (or add -p pytest_benchmark.plugin); without it every "
    "benchmark runs once, untimed, and its answer is checked"
)


@dataclass(frozen=True)
class Wanted:
    """What this run is for."""

    timed: bool
    judged: bool
    """The exit code is our verdict."""
    record: bool
    """Replace the stored baseline by this run, unless it failed."""
    only: bool
    skip: bool
    full: bool
    scene: str
    device: str
    baseline_dir: Path | None
    records_file: Path | None
    evidence: Path | None = None
    """Where everything that the verdict was made from is written."""
    count: bool = False
    """Count CUDA calls instead of taking times."""
    order: int | None = None
    """Seed of the benchmarks' order; None: the order of their files."""


def add_options(parser: pytest.Parser, absent: bool = False) -> None:
    """The harness's own options, beside those of pytest-benchmark.

    Where that is `absent`, its options that measure are known here, so that they can be refused in
    words instead of as unrecognised.
    """
    group = parser.getgroup("rap benchmarks")
    if absent:
        for name in THEIRS:
            text = "needs pytest-benchmark, which is absent or switched off"
            group.addoption(name, dest=ABSENT, nargs="?", const=name, default=None, help=text)
    group.addoption("--full", action="store_true", help="all parameters of every benchmark")
    group.addoption(
        "--scene", default="room", metavar="PATH",
        help="scene that the benchmarks use; default: the built-in procedural room",
    )  # fmt: skip
    group.addoption(
        "--device", default="auto", choices=("auto", "cpu", "cuda"),
        help="where the benchmarks run; default: the GPU where there is one",
    )  # fmt: skip
    group.addoption(
        "--benchmark-record", action="store_true",
        help="store this run as the baseline of this machine, unless it failed; "
        "into benchmarks/baselines only python -m benchmarks baseline accept writes",
    )  # fmt: skip
    group.addoption(
        "--baseline-dir", metavar="DIR", type=Path, default=None,
        help="folder of baselines; default: benchmarks/baselines, else .benchmarks/rap",
    )  # fmt: skip
    group.addoption(
        "--benchmark-evidence", metavar="FILE", type=Path, default=None,
        help="write what the verdict was made from; python -m benchmarks report FILE repeats it",
    )  # fmt: skip
    group.addoption(
        "--benchmark-count", action="store_true",
        help="count launches, synchronisations and copies of each benchmark instead of timing it; "
        "every judged run on a GPU does so in a process of its own",
    )  # fmt: skip
    group.addoption(
        "--benchmark-order", metavar="SEED", type=int, default=None,
        help="run the benchmarks in the random order of this seed; default: as in their files",
    )  # fmt: skip


def read_options(config: pytest.Config) -> Wanted:
    """Understand and check the options; pytest.UsageError for what cannot work.

    Takes the bare `--benchmark-compare` and `--benchmark-only` over from pytest-benchmark, and
    disables its timing in an untimed run.
    """
    option = config.option
    if getattr(option, ABSENT, None) is not None:
        raise pytest.UsageError(NEEDS_PLUGIN)
    compare = getattr(option, "benchmark_compare", [])
    _refuse_path(config, compare)
    saved = any(getattr(option, f"benchmark_{name}", None) for name in ("json", "save", "autosave"))
    records_file = _records_file()
    only = bool(getattr(option, "benchmark_only", False))
    enable = bool(getattr(option, "benchmark_enable", False))
    count = option.benchmark_count
    ours = bool(option.benchmark_record or option.benchmark_evidence or count)
    asked = bool(compare or saved or ours or only or records_file)
    asked = asked and not option.collectonly
    disabled = bool(getattr(option, "benchmark_disable", False)) and not enable
    _refuse_contradictions(option, compare, asked=asked, disabled=disabled)
    timed = asked or (enable and not option.collectonly)
    if not timed and hasattr(option, "benchmark_disable"):
        option.benchmark_disable = True
    if compare is True:
        option.benchmark_compare = []
    if only:
        option.benchmark_only = option.benchmark_skip = False
    return Wanted(
        timed=timed,
        judged=timed and bool(compare or saved) and not records_file,
        record=timed and option.benchmark_record and not records_file,
        only=only,
        skip=bool(getattr(option, "benchmark_skip", False)),
        full=option.full,
        scene=option.scene,
        device=option.device,
        baseline_dir=option.baseline_dir,
        records_file=records_file,
        evidence=option.benchmark_evidence,
        count=timed and count,
        order=option.benchmark_order,
    )


def handed_over_to(path: Path) -> dict[str, str]:
    """The environment in which a process that we start hands its records over."""
    return {RECORDS_FILE: str(path), PARENT: str(os.getpid())}


def _records_file() -> Path | None:
    """Where the process that started this one waits for records; None where nobody does."""
    path = os.environ.get(RECORDS_FILE)
    if not path:
        return None
    if os.environ.get(PARENT) != str(os.getppid()):
        raise pytest.UsageError(
            f"{RECORDS_FILE}={path} is set, and not by the process that started this one: nothing "
            "would be judged; unset it"
        )
    return Path(path)


def _refuse_path(config: pytest.Config, compare: object) -> None:
    if not isinstance(compare, str):
        return
    path = compare.partition("::")[0]
    if (config.invocation_params.dir / path).exists():
        raise pytest.UsageError(
            f"--benchmark-compare takes {compare!r} for the number of a saved run; "
            f"write: pytest {compare} --benchmark-compare"
        )


def _refuse_contradictions(
    option: Namespace, compare: object, *, asked: bool, disabled: bool
) -> None:
    if not asked:
        return
    if not hasattr(option, "benchmark_compare"):
        raise pytest.UsageError(NEEDS_PLUGIN)
    if disabled:
        raise pytest.UsageError(
            "--benchmark-disable (here or in addopts) and an option that measures: with it nothing "
            "would be measured, and the run would pass; drop one of them"
        )
    if getattr(option, "dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ:
        raise pytest.UsageError("benchmarks cannot be timed in parallel: drop xdist's -n, or -n 0")
    if option.benchmark_count and (compare or option.benchmark_record):
        raise pytest.UsageError(
            "--benchmark-count takes no times, so there is nothing to compare or to record: a "
            "judged run counts by itself; drop one of them"
        )
    if option.benchmark_evidence and not (compare or option.benchmark_record):
        raise pytest.UsageError(
            "--benchmark-evidence writes what a verdict was made from: add --benchmark-compare"
        )
    if compare is True and getattr(option, "benchmark_compare_fail", None):
        raise pytest.UsageError(
            "--benchmark-compare-fail needs the number of a saved run (--benchmark-compare=0001); "
            "the bare --benchmark-compare judges by benchmarks/policy.toml"
        )


def refuse_incompatible(theirs: str, ours: tuple[int, ...]) -> None:
    """pytest.UsageError for a pytest-benchmark that fails under this pytest, in the first test."""
    numbers = tuple(int(part) for part in theirs.split(".")[:2] if part.isdigit())
    if numbers < (5, 3) and ours >= (9, 2):
        raise pytest.UsageError(
            f"pytest-benchmark {theirs} does not work under pytest {'.'.join(map(str, ours[:2]))}: "
            "pip install 'pytest-benchmark>=5.3'"
        )


def refuse_shape_checks() -> None:
    """pytest.UsageError while jaxtyping's import hook is active: checked calls take double."""
    if any(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path):
        raise pytest.UsageError(
            "the shape-checking import hook of tests/conftest.py is active, its times would be "
            "wrong; time the benchmarks alone: pytest benchmarks --benchmark-compare"
        )
