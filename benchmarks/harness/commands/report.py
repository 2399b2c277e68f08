"""`python -m benchmarks report`: the verdict again, from the evidence that a run has written.

It believes nothing but numbers: policy and baselines are those of this checkout; with `--head`
those of the base commit, and the evidence must be of the two commits. Evidence is what
`pytest benchmarks --benchmark-compare --benchmark-evidence FILE` writes, the blocks of an `ab`, or
the folder that a `gate` leaves: its screen, and the blocks of what was suspect.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.harness.abreport import between, p_value
from benchmarks.harness.again import again
from benchmarks.harness.baseline import Baseline, locate, read_baseline
from benchmarks.harness.blocks import KIND as BLOCKS
from benchmarks.harness.blocks import Block, BlockFile
from benchmarks.harness.commands import Subparsers, UsageError
from benchmarks.harness.commands.gate import coarse_times
from benchmarks.harness.compare import Compared, Comparison, judge_blocks
from benchmarks.harness.curves import CURVES, CurvesError, draw, read_curves
from benchmarks.harness.handover import read_evidence, refuse_large
from benchmarks.harness.judging import is_required
from benchmarks.harness.known import Known, known_of, read_known, suite_names
from benchmarks.harness.markdown import NO_EFFECTS, Effects, annotations, junit, page
from benchmarks.harness.origin import COMMIT, Origin, origin_of
from benchmarks.harness.policy import Policy, PolicyError, read_policy
from benchmarks.harness.record import RecordError, Session
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.screen import Screened, screen
from benchmarks.harness.suite import POLICY
from benchmarks.harness.trees import Source, TreeError, scratch
from benchmarks.harness.turnover import approvals_in, with_turnover
from benchmarks.harness.verdict import CODES, Code, codes_of, gravest, judge

SCREEN, PAIRS = "screen.json", "blocks.jsonl"
"""What a gate leaves in its folder."""


@dataclass(frozen=True)
class Judged:
    """A verdict made again, and what a page tells of it."""

    code: Code
    findings: Sequence[Finding]
    facts: list[str]
    effects: Effects = field(default_factory=dict)


@dataclass(frozen=True)
class Basis:
    """By what evidence is judged."""

    root: Path
    """The tree that holds the baselines."""
    policy: Policy
    baselines: Path | None = None
    origin: Origin | None = None

    def baseline(self, run: Session) -> tuple[Baseline | None, Path]:
        """The stored numbers of the machine of a run."""
        path = locate(self.root, run.machine.key, run.suite, self.baselines)
        return read_baseline(path, run.machine.key, run.suite), path

    def facts(self, path: Path) -> list[str]:
        """Against what, and by whose rules."""
        shown = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        judge = "this checkout" if self.origin is None else f"commit {self.origin.base.commit}"
        return [f"screened against {shown}, judged by policy and baselines of {judge}"]

    def require_head(self, path: Path, *sessions: Session) -> None:
        """RecordError where sessions are of another commit than the one that is judged."""
        if self.origin is not None:
            self.origin.require(sessions, self.origin.head, str(path))

    def require_blocks(self, path: Path, blocks: Sequence[Block]) -> None:
        """The same for both arms of every block."""
        self.require_head(path, *(block.head for block in blocks))
        if self.origin is not None:
            base = [block.base for block in blocks]
            self.origin.require(base, self.origin.base, f"{path}: the base arm")


def add(subparsers: Subparsers) -> None:
    """The command line of `report`."""
    parser = subparsers.add_parser("report", help="make a verdict again from its evidence")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE",
                        help="evidence, the blocks of an ab, or the folder of a gate")  # fmt: skip
    parser.add_argument("--head", metavar="COMMIT",
                        help="what evidence must be of; the policy is its base's")  # fmt: skip
    parser.add_argument("--base", metavar="REF",
                        help="with --head; default: what the gate names")  # fmt: skip
    parser.add_argument("--baseline-dir", type=Path, default=None, metavar="DIR")
    parser.add_argument("--annotate", action="store_true",
                        help="also GitHub's annotations, on the lines of the policy")  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, help="append the page to a file, too")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit file, too")
    parser.add_argument("--curves", type=Path, metavar="FOLDER",
                        help=f"draw the curves of {CURVES}, best of a --full run")  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Print one page for each file; the exit code is the gravest verdict."""
    if arguments.curves is not None and (len(arguments.files) > 1 or arguments.files[0].is_dir()):
        raise UsageError("--curves draws one run: give the file of its evidence alone")
    if arguments.base is not None and arguments.head is None:
        raise UsageError("--base judges a commit: name it with --head")
    codes: list[Code] = []
    everything: list[Finding] = []
    with scratch() as folder:
        for number, path in enumerate(arguments.files):
            try:
                basis = _basis(path, arguments, folder / str(number))
                judged = _judge(path, basis)
            except (RecordError, TreeError, PolicyError, UsageError) as error:
                _write(page(Code.USAGE, [], [str(error)]), arguments.output)
                raise
            findings = judged.findings
            codes.append(judged.code)
            everything += findings
            terms = None if basis.origin is None else basis.origin.terms
            asked = () if terms is None else (*terms.approvals, *approvals_in(findings))
            lines = page(judged.code, findings, judged.facts, asked, judged.effects)
            text = _write(lines, arguments.output)
            sys.stdout.write(text)
            if arguments.annotate:
                told = arguments.root if basis.origin is None else basis.origin.head.folder
                for line in annotations(findings, basis.policy, told / POLICY, asked):
                    sys.stdout.write(f"{line}\n")
    if arguments.junit is not None:
        arguments.junit.write_text(junit(everything), encoding="utf-8")
    if arguments.curves is not None:
        _draw(arguments.files[0], arguments.curves, arguments.root / CURVES)
    return gravest(codes)


def _basis(path: Path, arguments: Namespace, folder: Path) -> Basis:
    """The policy and baselines of this checkout, or those of the base of a named commit."""
    root: Path = arguments.root
    if arguments.head is None:
        return Basis(root, read_policy(root / POLICY), arguments.baseline_dir)
    origin = origin_of(root, arguments.head, arguments.base, path, folder)
    return Basis(origin.base.folder, origin.terms.policy, arguments.baseline_dir, origin)


def _write(lines: Sequence[str], output: Path | None) -> str:
    text = "\n".join(lines) + "\n"
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(text)
    return text


def _draw(path: Path, folder: Path, listed: Path) -> None:
    """The verdict is out by now, and pictures that cannot be drawn don't change it."""
    run = read_evidence(path).run
    try:
        told = draw(read_curves(listed), run, folder)
    except (CurvesError, OSError) as error:
        sys.stderr.write(f"--curves: {error}\n")
        return
    sys.stdout.writelines(f"{line}\n" for line in told)


def _judge(path: Path, basis: Basis) -> Judged:
    if path.is_dir():
        return _judge_gate(path, basis)
    refuse_large(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        paired = f'"kind": "{BLOCKS}"' in file.readline()
    return _judge_pairs(path, basis) if paired else _judge_run(path, basis)


def _judge_run(path: Path, basis: Basis) -> Judged:
    evidence = read_evidence(path)
    run = evidence.run
    basis.require_head(path, run, *evidence.remeasured)
    for session in evidence.remeasured:
        if session.machine.key != run.machine.key:
            raise UsageError(f"{path}: suspects were measured on another machine")
    baseline, stored = basis.baseline(run)
    # What the run says it was asked for can only add to what this checkout's baseline has.
    expected = set() if baseline is None else set(baseline.records)
    verdict = judge(
        run, baseline, basis.policy, expected=expected | set(evidence.expected),
        remeasured=evidence.remeasured, baseline_required=evidence.required or is_required(),
    )  # fmt: skip
    against = f"baseline {stored}" if baseline is not None else "no baseline"
    return Judged(verdict.code, verdict.findings, [*_facts(run), against])


def _judge_gate(folder: Path, basis: Basis) -> Judged:
    """The screen's own findings, and pairs for what it leaves open; unpaired is no pass."""
    run = read_evidence(folder / SCREEN).run
    basis.require_head(folder / SCREEN, run)
    baseline, stored = basis.baseline(run)
    found = screen(run, baseline, basis.policy)
    known = known_of(suite_names(basis.root), baseline)
    if basis.origin is not None:
        found = with_turnover(found, run, baseline, basis.origin.terms, selected=False)
    findings, facts = [*found.findings], [*_facts(run), *basis.facts(stored)]
    codes = codes_of(findings)
    measured: set[str] = set()
    effects = NO_EFFECTS
    if (folder / PAIRS).exists():
        pairs, blocks = _pairs(folder / PAIRS, basis, run, found, known)
        findings += _told(pairs, blocks, basis)
        effects = _effects(pairs)
        codes.add(pairs.code)
        facts.append(f"{len(blocks)} blocks of pairs")
        measured = {entry.finding.id for entry in pairs.entries}
    elif found.unjudged:
        facts.append(found.unjudged)
    for name in sorted({*found.ids} - measured):
        text = "is not clearly fine, and was not measured in pairs"
        findings.append(Finding(name, "", Status.UNDECIDED, detail=text))
        codes.add(CODES[Status.UNDECIDED])
    return Judged(gravest(codes), findings, facts, effects)


def _pairs(
    path: Path, basis: Basis, run: Session, found: Screened, known: Known
) -> tuple[Comparison, list[Block]]:
    """The pairs of what a screen has left open, and how many blocks there are."""
    refuse_large(path)
    _, blocks = BlockFile(path).read()
    basis.require_blocks(path, blocks)
    if {block.head.machine.key for block in blocks} - {run.machine.key}:
        raise UsageError(f"{path}: the pairs were measured on another machine")
    _, stored = basis.baseline(run)
    comparison = judge_blocks(
        blocks, basis.policy, screened=found.suspects, num_gated=found.num_gated,
        coarse=coarse_times(stored, run), known=known,
    )  # fmt: skip
    return comparison, blocks


def _judge_pairs(path: Path, basis: Basis) -> Judged:
    header, blocks = BlockFile(path).read()
    basis.require_blocks(path, blocks)
    comparison = judge_blocks(
        blocks, basis.policy, screened=header.get("screened"), num_gated=header.get("num_gated"),
        known=read_known(header.pop("known", None)),
    )  # fmt: skip
    facts = _facts(blocks[-1].head) if blocks else []
    told = ", ".join(f"{key} {value}" for key, value in sorted(header.items()))
    findings = _told(comparison, blocks, basis)
    facts.append(f"{len(blocks)} blocks of pairs; {told}")
    return Judged(comparison.code, findings, facts, _effects(comparison))


def _effects(pairs: Comparison) -> Effects:
    """The changes that the gate's own table shows."""
    return {
        (entry.finding.id, entry.finding.metric): entry.pairs.effect
        for entry in pairs.entries
        if entry.pairs is not None and entry.pairs.num_blocks > 0
    }


def _told(pairs: Comparison, blocks: Sequence[Block], basis: Basis) -> list[Finding]:
    """The findings with how much, how sure, and what measures one of them again."""
    return [replace(e.finding, detail="; ".join(_details(e, blocks, basis))) for e in pairs.entries]


def _details(entry: Compared, blocks: Sequence[Block], basis: Basis) -> Iterator[str]:
    finding, found = entry.finding, entry.pairs
    if found is not None and found.num_blocks > 0:
        sure = f"p {p_value(found.p)}, {found.num_blocks} blocks"
        yield f"{found.effect:+.1%} between {between(found)}, {sure}"
    if finding.status in CODES and entry.node:
        command = f"python -m benchmarks ab --device {blocks[0].head.machine.device}"
        base = blocks[0].base.commit if basis.origin is None else basis.origin.base.commit
        if COMMIT.fullmatch(base):
            source = Source(basis.root, base, base)
            yield f"again: {again(command, source, entry.node, finding.id)}"
    if finding.detail:
        yield finding.detail


def _facts(run: Session) -> list[str]:
    """What was measured, where, and whether on purpose with faults."""
    subject = "" if run.subject is None else f", package {run.subject.digest}"
    facts = [f"commit {run.commit}{subject}", run.machine.describe()]
    return [*facts, f"INJECTED FAULTS: {run.faults}"] if run.faults else facts
