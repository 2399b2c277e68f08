"""`python -m benchmarks report`: the verdict again, from the evidence that a run has written.

It believes nothing but numbers: policy and baselines are those of this checkout. Evidence is what
`pytest benchmarks --benchmark-compare --benchmark-evidence FILE` writes, the blocks of an `ab`, or
the folder that a `gate` leaves: its screen, and the blocks of what was suspect.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.baseline import locate, read_baseline
from benchmarks.harness.blocks import KIND as BLOCKS
from benchmarks.harness.blocks import BlockFile
from benchmarks.harness.commands import Subparsers, UsageError
from benchmarks.harness.commands.gate import coarse_times
from benchmarks.harness.compare import judge_blocks
from benchmarks.harness.curves import CURVES, CurvesError, draw, read_curves
from benchmarks.harness.handover import read_evidence, refuse_large
from benchmarks.harness.judging import is_required
from benchmarks.harness.known import read_known
from benchmarks.harness.markdown import annotations, junit, page
from benchmarks.harness.policy import Policy, read_policy
from benchmarks.harness.record import Session
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.screen import screen
from benchmarks.harness.suite import POLICY
from benchmarks.harness.verdict import CODES, SEVERITY, Code, judge

SCREEN, PAIRS = "screen.json", "blocks.jsonl"
"""What a gate leaves in its folder."""
Judged = tuple[Code, Sequence[Finding], list[str]]


def add(subparsers: Subparsers) -> None:
    """The command line of `report`."""
    parser = subparsers.add_parser("report", help="make a verdict again from its evidence")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE",
                        help="evidence, the blocks of an ab, or the folder of a gate")  # fmt: skip
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
    policy = read_policy(arguments.root / POLICY)
    if arguments.curves is not None and (len(arguments.files) > 1 or arguments.files[0].is_dir()):
        raise UsageError("--curves draws one run: give the file of its evidence alone")
    codes: list[Code] = []
    everything: list[Finding] = []
    for path in arguments.files:
        code, findings, facts = _judge(path, arguments, policy)
        codes.append(code)
        everything += findings
        text = "\n".join(page(code, findings, facts)) + "\n"
        sys.stdout.write(text)
        if arguments.output is not None:
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(text)
        if arguments.annotate:
            for line in annotations(findings, policy, arguments.root / POLICY):
                sys.stdout.write(f"{line}\n")
    if arguments.junit is not None:
        arguments.junit.write_text(junit(everything), encoding="utf-8")
    if arguments.curves is not None:
        _draw(arguments.files[0], arguments.curves, arguments.root / CURVES)
    return _gravest(codes)


def _draw(path: Path, folder: Path, listed: Path) -> None:
    """The verdict is out by now, and pictures that cannot be drawn don't change it."""
    run = read_evidence(path).run
    try:
        told = draw(read_curves(listed), run, folder)
    except (CurvesError, OSError) as error:
        sys.stderr.write(f"--curves: {error}\n")
        return
    sys.stdout.writelines(f"{line}\n" for line in told)


def _gravest(codes: Sequence[Code]) -> Code:
    return next((code for code in SEVERITY if code in codes), Code.PASS)


def _judge(path: Path, arguments: Namespace, policy: Policy) -> Judged:
    if path.is_dir():
        return _judge_gate(path, arguments, policy)
    refuse_large(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        paired = f'"kind": "{BLOCKS}"' in file.readline()
    return _judge_pairs(path, policy) if paired else _judge_run(path, arguments, policy)


def _judge_run(path: Path, arguments: Namespace, policy: Policy) -> Judged:
    evidence = read_evidence(path)
    run = evidence.run
    for session in evidence.remeasured:
        if session.machine.key != run.machine.key:
            raise UsageError(f"{path}: suspects were measured on another machine")
    stored = locate(arguments.root, run.machine.key, run.suite, arguments.baseline_dir)
    baseline = read_baseline(stored, run.machine.key, run.suite)
    # What the run says it was asked for can only add to what this checkout's baseline has.
    expected = set() if baseline is None else set(baseline.records)
    verdict = judge(
        run, baseline, policy, expected=expected | set(evidence.expected),
        remeasured=evidence.remeasured, baseline_required=evidence.required or is_required(),
    )  # fmt: skip
    against = f"baseline {stored}" if baseline is not None else "no baseline"
    return verdict.code, verdict.findings, [*_facts(run), against]


def _judge_gate(folder: Path, arguments: Namespace, policy: Policy) -> Judged:
    """The screen's own findings, and pairs for what it leaves open; unpaired is no pass."""
    run = read_evidence(folder / SCREEN).run
    stored = locate(arguments.root, run.machine.key, run.suite, arguments.baseline_dir)
    found = screen(run, read_baseline(stored, run.machine.key, run.suite), policy, selected=False)
    findings, facts = [*found.findings], [*_facts(run), f"screened against {stored}"]
    codes = [CODES[finding.status] for finding in findings if finding.status in CODES]
    if (folder / PAIRS).exists():
        refuse_large(folder / PAIRS)
        _, blocks = BlockFile(folder / PAIRS).read()
        if {block.head.machine.key for block in blocks} - {run.machine.key}:
            raise UsageError(f"{folder}: the pairs were measured on another machine")
        pairs = judge_blocks(
            blocks, policy, screened=found.suspects, num_gated=found.num_gated,
            coarse=coarse_times(stored, run),
        )  # fmt: skip
        findings += [entry.finding for entry in pairs.entries]
        codes.append(pairs.code)
        facts.append(f"{len(blocks)} blocks of pairs")
        measured = {entry.finding.id for entry in pairs.entries}
    else:
        measured = set()
    for name in sorted({*found.ids} - measured):
        text = "is not clearly fine, and was not measured in pairs"
        findings.append(Finding(name, "", Status.UNDECIDED, detail=text))
        codes.append(CODES[Status.UNDECIDED])
    return _gravest(codes), findings, facts


def _judge_pairs(path: Path, policy: Policy) -> Judged:
    header, blocks = BlockFile(path).read()
    comparison = judge_blocks(
        blocks, policy, screened=header.get("screened"), num_gated=header.get("num_gated"),
        known=read_known(header.pop("known", None)),
    )  # fmt: skip
    facts = _facts(blocks[-1].head) if blocks else []
    told = ", ".join(f"{key} {value}" for key, value in sorted(header.items()))
    findings = [entry.finding for entry in comparison.entries]
    return comparison.code, findings, [*facts, f"{len(blocks)} blocks of pairs; {told}"]


def _facts(run: Session) -> list[str]:
    """What was measured, where, and whether on purpose with faults."""
    subject = "" if run.subject is None else f", package {run.subject.digest}"
    facts = [f"commit {run.commit}{subject}", run.machine.describe()]
    return [*facts, f"INJECTED FAULTS: {run.faults}"] if run.faults else facts
