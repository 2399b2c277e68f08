"""One fresh process of one arm: how it is started, watched and stopped, and what it must prove."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import assignment, faults
from benchmarks.harness.assignment import Assignment
from benchmarks.harness.children import BYTECODE, LOG, passing_folder, run_process, with_bytecode
from benchmarks.harness.fresh import QUIET
from benchmarks.harness.options import RECORDS_FILE, handed_over_to
from benchmarks.harness.progress import Tell
from benchmarks.harness.record import Session, read_session
from benchmarks.harness.trees import Arm
from benchmarks.harness.verdict import Code

TAIL_LINES = 15
OPTIONS = (*QUIET, "--continue-on-collection-errors")
UNSET = ("CI", "PYTEST_ADDOPTS", faults.VARIABLE, RECORDS_FILE, assignment.VARIABLE)
"""Of the environment, what would make an arm's process another one than it is told to be."""
NOTHING_SELECTED = 5
"""pytest's exit code."""
NO_CONFTEST = "ImportError while loading conftest"
"""pytest's USAGE, too, where the benchmarks need a name that this arm's package lacks."""


class ArmError(ValueError):
    """A process that cannot be part of a comparison, and the exit code that this means.

    USAGE where it measured something else than it was told to, e.g. the wrong package.
    """

    def __init__(self, text: str, code: Code = Code.USAGE) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Ran:
    """What became of a process: its session, or why there is none."""

    session: Session | None
    code: int
    tail: str
    """The end of what it printed."""


def lost(what: str, *ran: Ran) -> ArmError:
    """Why there is nothing to judge where processes gave no records.

    One that was stopped after its time, or killed from outside (for its memory), says something
    about the machine, ENVIRONMENT; any other has crashed, COVERAGE.
    """
    stopped = any(one.code in (Code.ENVIRONMENT, -signal.SIGKILL) for one in ran)
    ends = "\n".join(f"exit code {one.code}: {one.tail}" for one in ran)
    return ArmError(f"{what}\n{ends}", Code.ENVIRONMENT if stopped else Code.COVERAGE)


def inherited() -> dict[str, str]:
    """Our environment as a process in another tree may have it."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    if "PYTHONPATH" in kept:  # relative entries mean the folder in which they were typed
        paths = [str(Path(path).resolve()) for path in kept["PYTHONPATH"].split(os.pathsep)]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    return kept


@dataclass(frozen=True)
class Launcher:
    """Starts the processes of one arm."""

    arm: Arm
    python: str
    arguments: tuple[str, ...]
    """Which benchmarks, device, scene: the same in both arms."""
    cache: Path
    """Compiled kernels of this arm: warm after its first process, never the other arm's."""
    faults: str = ""
    tell: Tell | None = None
    """Hears which benchmark runs."""

    def measure(self, ids: Sequence[str] | None, order: int, block: int = 0) -> Ran:
        """Measure one arm of a block in a fresh process, in the order of a seed."""
        mode = ("--benchmark-only", "--benchmark-order", str(order))
        return self._run(ids, mode, seed=order, block=block)

    def screen(self) -> Ran:
        """Measure everything once, as baselines are recorded: no pair, the order of the files."""
        return self._run(None, ("--benchmark-only",), block=None)

    def count(self, ids: Sequence[str] | None) -> Ran:
        """Count instead of timing; it also fills the caches before the first time is taken.

        Where CUDA calls cannot be counted there is no session, and its tail says why.
        """
        try:
            return self._run(ids, ("--benchmark-count",))
        except ArmError as error:
            return Ran(None, Code.USAGE, str(error))

    def _run(
        self,
        ids: Sequence[str] | None,
        mode: Sequence[str],
        *,
        seed: int = 0,
        block: int | None = 0,
    ) -> Ran:
        wanted = None if ids is None else tuple(ids)
        with passing_folder("benchmarks-") as folder:
            output, told = folder / "records.json", folder / "arm.json"
            Assignment(
                str(self.arm.root), self.arm.digest, wanted, block is not None, block or 0
            ).write(told)
            variables = {**handed_over_to(output), assignment.VARIABLE: str(told)}
            command = [self.python, "-m", "pytest", "benchmarks", *mode, *OPTIONS, *self.arguments]
            code, text = run_process(
                command, self.arm.root, self._environment(seed, variables), self.cache / LOG,
                tell=self.tell,
            )  # fmt: skip
            tail = "\n".join(text.splitlines()[-TAIL_LINES:])
            if code == Code.USAGE and NO_CONFTEST not in text:
                raise ArmError(f"{self.arm.label}: its process ended with USAGE (4)\n{tail}")
            session = read_session(output) if output.exists() else None
        if session is not None:
            self._check(session)
        return Ran(session, code, tail)

    def _check(self, session: Session) -> None:
        """The proof, once more from outside: the records say whose code they measured."""
        proof = session.subject
        if proof is None:
            raise ArmError(f"{self.arm.label}: no benchmark has imported the package under test")
        if not Path(proof.file).resolve().is_relative_to(self.arm.root.resolve()):
            raise ArmError(f"{self.arm.label}: {proof.file} was measured, not {self.arm.root}")
        if proof.digest != self.arm.digest:
            raise ArmError(
                f"{self.arm.label}: the measured package has digest {proof.digest}, "
                f"the arm's is {self.arm.digest}"
            )

    def _environment(self, seed: int, variables: Mapping[str, str]) -> dict[str, str]:
        kept = inherited()
        if self.faults:
            kept[faults.VARIABLE] = self.faults
        return {
            **with_bytecode(kept, self.cache / BYTECODE), **variables,
            "PYTHONHASHSEED": str(seed),
            "BENCHMARK_COMMIT": self.arm.commit,
            "TORCHINDUCTOR_CACHE_DIR": str(self.cache / "inductor"),
            "TRITON_CACHE_DIR": str(self.cache / "triton"),
        }  # fmt: skip
