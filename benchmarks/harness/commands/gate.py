"""`python -m benchmarks gate --base REF`: the stored baseline screens, pairs decide.

Policy, baselines and harness are the base's, so that a change cannot loosen its own gate: where the
base's harness is another one, that one takes over.
"""

import sys
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness.abreport import Report, lines
from benchmarks.harness.again import base_word
from benchmarks.harness.baseline import COMMITTED, LOCAL, Baseline, locate, read_baseline
from benchmarks.harness.calibration import read_calibration
from benchmarks.harness.children import run_apart, terminable
from benchmarks.harness.commands import Subparsers, UsageError
from benchmarks.harness.commands.ab import (
    add_selection,
    coloured,
    options_of,
    selection_words,
)
from benchmarks.harness.compare import Compared, Comparison
from benchmarks.harness.faults import VARIABLE
from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.judge import HARNESS, OWN_GATE, Judge, compose_judge
from benchmarks.harness.known import bare
from benchmarks.harness.lock import alone
from benchmarks.harness.origin import write_arms
from benchmarks.harness.policy import Policy
from benchmarks.harness.processes import NOTHING_SELECTED, ArmError, lost
from benchmarks.harness.record import Session
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.runs import (
    STORE,
    Options,
    Trees,
    compare_trees,
    launcher_of,
    narrowed,
    repeat_command,
    store,
)
from benchmarks.harness.screen import Screened, screen
from benchmarks.harness.subject import PACKAGE, digest_of
from benchmarks.harness.trees import (
    PREFIX,
    Arm,
    Source,
    compose,
    named_tree,
    scratch,
    working_tree,
)
from benchmarks.harness.turnover import approvals_in, with_turnover
from benchmarks.harness.verdict import Code, codes_of, gravest
from benchmarks.harness.versus import Ended, with_counts


def add(subparsers: Subparsers) -> None:
    """The command line of `gate`."""
    parser = subparsers.add_parser(
        "gate", help="the working tree against its base: screened by the baseline, then in pairs"
    )
    parser.add_argument(
        "--base", required=True, metavar="REF", help="commit or exported folder to merge into"
    )
    parser.add_argument(
        "--head", type=Path, metavar="FOLDER",
        help="the tree that is judged, where this is the judge's; default: the working tree",
    )  # fmt: skip
    add_selection(parser)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Screen, pair what is suspect, judge; the exit code of the verdict."""
    options = options_of(arguments)
    home = arguments.root if arguments.head is None else arguments.head.resolve()
    if not (home / PACKAGE).is_dir():
        raise UsageError(
            f"--head {home}: holds no {PACKAGE}/; python -m benchmarks export FOLDER COMMIT writes "
            "a tree that can be judged"
        )
    with terminable(), scratch() as folder:
        base = named_tree(arguments.root, arguments.base, folder / "base-source")
        if PREFIX in base.label:  # extracted by whoever let us judge: gone when this is read
            base = replace(base, label=f"commit {base.commit}")
        if _is_judged_elsewhere(base.folder, arguments.root):
            return _let_base_judge(base, home, arguments)
        with alone():
            report, kept = _judge_here(home, base, options, folder)
    for line in lines(report):
        sys.stdout.write(f"{coloured(line)}\n")
    sys.stdout.write(f"records and results: {kept}\n")
    return report.exit_code


def _judge_here(home: Path, base: Source, options: Options, folder: Path) -> tuple[Report, Path]:
    head = working_tree(home)
    judge = compose_judge(base, head, folder / "judge")
    return Gate(home, base, head, judge, options, folder).run()


def _is_judged_elsewhere(base: Path, here: Path) -> bool:
    return (base / OWN_GATE).is_file() and digest_of(base / HARNESS) != digest_of(here / HARNESS)


def _let_base_judge(base: Source, head: Path, arguments: Namespace) -> int:
    """The same command by the base's own code, in the base's tree."""
    command = [
        sys.executable, "-m", "benchmarks", "gate", "--base", str(base.folder), "--head", str(head),
        "--budget", f"{arguments.budget:.0f}s", *selection_words(arguments),
    ]  # fmt: skip
    sys.stderr.write(f"judged by the harness of {base.label} ({base.commit})\n")
    return run_apart(command, base.folder)


@dataclass(frozen=True)
class Gate:
    """One judgement of a head against its base."""

    home: Path
    """Where records go."""
    base: Source
    head: Source
    judge: Judge
    options: Options
    folder: Path

    def run(self) -> tuple[Report, Path]:
        """The report and where it is kept."""
        start = time.monotonic()
        arm = compose(self.head, self.judge.folder, self.folder / "screen")
        policy = narrowed(self.judge.terms.policy, ())
        session = self._pass(arm)
        baseline, path = self._baseline(session)
        keyword = self.options.keyword
        found = screen(session, baseline, policy, keyword=keyword)
        found = with_turnover(found, session, baseline, self.judge.terms, selected=bool(keyword))
        committed = path.is_relative_to(self.base.folder / COMMITTED)
        name = f"{'the base' if committed else 'this machine'}'s {path.parent.name}/{path.name}"
        against = f"screened against {name}" if baseline else f"no baseline: {name} is not there"
        paired = f"{len(found.suspects)} of {found.num_gated} times went on to pairs"
        notes = (f"{against}: {paired}", *self.base.edits, *self.head.edits)
        if not found.ids or baseline is None:
            if found.unjudged and baseline is not None:
                notes = (*notes, f"{found.unjudged}; pairs do: {self._command(found.quickest)}")
            report = self._by_screen(found, arm, policy, session, notes)
            report = replace(report, seconds=time.monotonic() - start)
            kept = self.home / STORE / "gate" / self.head.commit
        else:
            coarse = coarse_times(path, session)
            if coarse:
                notes = (*notes, f"too noisy here to be red unless proven: {', '.join(coarse)}")
            known = self.judge.terms.known(baseline)
            trees = Trees(self.base, self.head, self.judge.folder, notes, policy, known)
            report, kept = self._pairs(found, trees, start, coarse, session)
        asked = approvals_in([entry.finding for entry in report.comparison.entries])
        report = replace(report, approvals=(*self.judge.terms.approvals, *asked))
        store(report, kept)
        write_arms(kept, self.base.commit, self.head.commit)
        write_evidence(kept / "screen.json", Evidence(session, (), (), required=True))
        return report, kept

    def _by_screen(
        self, found: Screened, arm: Arm, policy: Policy, session: Session, notes: tuple[str, ...]
    ) -> Report:
        """The report of a gate that needs no pairs."""
        if self.options.faults:
            notes = (*notes, f"INJECTED FAULTS in the head ({VARIABLE}): {self.options.faults}")
        return Report(
            _combined(found, Comparison(Code.PASS, (), None, found.num_gated), session),
            replace(arm, label=self.base.label, commit=self.base.commit), arm, policy,
            session.machine.describe(), Ended.DECIDED, 0.0, 0, self._command(), notes,
        )  # fmt: skip

    def _pass(self, arm: Arm) -> Session:
        """The whole suite over the head once, in the order in which baselines are recorded."""
        sys.stderr.write("screening: one pass over the suite\n")
        launcher = launcher_of(self.home, self.head, arm, "head", self.options, _tell)
        counts = launcher.count(None) if self.options.on_gpu else None
        ran = launcher.screen()
        if ran.code == NOTHING_SELECTED:
            raise ArmError("the selection (-k) holds no benchmark")
        if ran.session is None:
            raise lost("the head could not be measured:", ran)
        return ran.session if counts is None else with_counts(ran.session, counts)

    def _baseline(self, session: Session) -> tuple[Baseline | None, Path]:
        """The base's committed baseline of this machine; else what this machine keeps itself."""
        key, suite = session.machine.key, session.suite
        path = locate(self.base.folder, key, suite)
        if not path.exists():
            path = locate(self.home, key, suite, self.home / LOCAL)
        return read_baseline(path, key, suite), path

    def _pairs(
        self,
        found: Screened,
        trees: Trees,
        start: float,
        coarse: tuple[str, ...],
        session: Session,
    ) -> tuple[Report, Path]:
        spent = time.monotonic() - start
        options = replace(
            self.options, ids=found.ids, screened=found.suspects, num_gated=found.num_gated,
            budget_s=self.options.budget_s - spent, coarse=coarse,
        )  # fmt: skip
        command = self._command(*found.ids)
        report, kept = compare_trees(self.home, trees, options, self.folder, command, sys.stderr)
        whole = _combined(found, report.comparison, session)
        return replace(report, comparison=whole, seconds=report.seconds + spent), kept

    def _command(self, *ids: str) -> str:
        """What measures these (else all) in pairs, as a person types it: device, scene, budget."""
        keyword = " or ".join(dict.fromkeys(f"bench_{bare(name)}" for name in ids if name))
        rest = [*self.options.selection]
        if "-k" in rest:
            at = rest.index("-k")
            keyword = keyword or rest[at + 1]
            rest = [*rest[:at], *rest[at + 2 :]]
        words = ["ab", *filter(None, [base_word(self.base)])]
        words += ["-k", keyword] if keyword else []
        words += [*rest, "--budget", f"{self.options.budget_s:.0f}s"]
        return repeat_command(words, resume=False, faults=self.options.faults)


def _tell(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


def coarse_times(baseline: Path, session: Session) -> tuple[str, ...]:
    """Times that this machine's calibration, beside its baseline, has found too noisy to gate."""
    path = baseline.with_name(f"{session.suite}.calibration.json")
    known = read_calibration(path, session.machine.key)
    times = {} if known is None else known.times
    return tuple(sorted(name for name, one in times.items() if one.advisory))


def _combined(found: Screened, pairs: Comparison, run: Session) -> Comparison:
    """The screen's own findings and those of the pairs, under the gravest code."""
    told = {_what(finding) for finding in found.findings}
    fresh = [e for e in pairs.entries if _what(e.finding) not in told]
    nodes = {record.id: record.node for record in run.records}
    screened = (Compared(f, node=nodes.get(f.id, "")) for f in found.findings)
    entries = (*screened, *fresh)
    code = gravest(codes_of(entry.finding for entry in entries) | {pairs.code})
    return replace(pairs, code=code, entries=entries)


def _what(finding: Finding) -> tuple[str, str, Status]:
    return finding.id, finding.metric, finding.status
