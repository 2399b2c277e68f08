"""One comparison from two sources to a report: trees, environments, blocks on disk, results."""

import hashlib
import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from benchmarks.harness.abreport import Report, content, lines, markdown, texts
from benchmarks.harness.blocks import SIDES, Block, BlockFile, Side, begin, go_on
from benchmarks.harness.compare import Comparison, judge_blocks
from benchmarks.harness.environments import interpreter, own_tree
from benchmarks.harness.evidence import counted_nowhere
from benchmarks.harness.faults import VARIABLE
from benchmarks.harness.known import Known, known_of, suite_names
from benchmarks.harness.live import Display
from benchmarks.harness.pairs import MARGIN
from benchmarks.harness.policy import MetricRule, Policy, PolicyError, read_policy
from benchmarks.harness.processes import Launcher
from benchmarks.harness.progress import Tell
from benchmarks.harness.record import write_json
from benchmarks.harness.settings import digest_of_environment, digest_of_settings
from benchmarks.harness.startup import start_notes
from benchmarks.harness.subject import digest_of
from benchmarks.harness.suite import POLICY
from benchmarks.harness.trees import Arm, Source, TreeError, compose
from benchmarks.harness.versus import Ended, Guard, OutOfTime, Processes, Versus

STORE = Path(".benchmarks")
MAX_CACHES = 8
UNITS = {
    "_per_s": MetricRule("time", "higher"),
    "_s": MetricRule("time", "lower"),
    "_bytes": MetricRule("memory", "lower", relative=0.01, absolute=16 << 20),
}
"""Rules for metrics that are asked for by name and that the policy does not rule."""


@dataclass(frozen=True)
class Options:
    """What is compared and for how long."""

    selection: tuple[str, ...] = ()
    """Arguments of pytest, the same in both arms: -k, --device, --scene, --full."""
    metrics: tuple[str, ...] = ()
    budget_s: float = 720.0
    faults: str = ""
    """Injected in the head only."""
    on_gpu: bool = False
    resume: bool = False
    ids: tuple[str, ...] | None = None
    """Benchmarks to pair; None: all that are selected."""
    screened: tuple[str, ...] = ()
    """Those of them that a stored baseline chose."""
    num_gated: int | None = None
    coarse: tuple[str, ...] = ()
    """Times that calibration found too noisy to tell."""
    effect: float | None = None
    """The smallest slowdown of interest, instead of each benchmark's own in the policy."""

    @property
    def keyword(self) -> str:
        """The expression of -k; empty without."""
        words = (*self.selection, "-k", "")
        return words[words.index("-k") + 1]


@dataclass(frozen=True)
class Trees:
    """Whose code is compared, and who judges."""

    base: Source
    head: Source
    judge: Path
    notes: tuple[str, ...] = ()
    policy: Policy | None = None
    """Another policy than the judge's own file."""
    known: Known | None = None
    """What the base has, by its baseline, too; else by its suite alone."""


def compare_trees(
    root: Path, trees: Trees, options: Options, scratch: Path, command: str, stream: TextIO
) -> tuple[Report, Path]:
    """Compare; the report, and the folder that holds its records. KeyboardInterrupt is reported."""
    policy = narrowed(trees.policy or read_policy(trees.judge / POLICY), options.metrics)
    if options.effect is not None:
        entries = tuple(replace(e, smallest_effect=options.effect) for e in policy.entries)
        policy = replace(policy, entries=entries)
    arms = {
        "base": compose(trees.base, trees.judge, scratch / "base"),
        "head": compose(trees.head, trees.judge, scratch / "head"),
    }
    known = trees.known or known_of(suite_names(trees.base.folder))
    header = {**_header(arms, trees, options), "known": known.content()}
    file, blocks, seed = _open(root, header, resume=options.resume)

    def judge(found: Sequence[Block]) -> Comparison:
        return judge_blocks(
            found, policy, screened=options.screened, num_gated=options.num_gated,
            coarse=options.coarse, known=known,
        )  # fmt: skip

    title = f"{arms['head'].label} against {arms['base'].label}"
    display = Display(stream, title, len(blocks))
    guard, late = Guard(display.tell, blocks, options.budget_s), ""
    try:
        versus = Versus(
            _launchers(root, trees, arms, options, guard.tell),
            judge, seed, options.ids, options.on_gpu,
        )  # fmt: skip
        guard.start()
        comparison, ended = versus.run(file, blocks, options.budget_s, display.show)
    except KeyboardInterrupt:
        comparison, ended = judge(blocks), Ended.INTERRUPTED
    except OutOfTime as spent:
        comparison, ended, late = judge(blocks), Ended.BUDGET, f": {spent}"
    finally:
        display.close()
    report = Report(
        comparison, arms["base"], arms["head"], policy, _machine(blocks), ended,
        sum(block.seconds for block in blocks), len(blocks), command,
        (*_notes(trees, options, blocks), *_too_short(options, ended, blocks, late)),
    )  # fmt: skip
    store(report, file.path.parent)
    return report, file.path.parent


def _launchers(
    root: Path, trees: Trees, arms: dict[str, Arm], options: Options, tell: Tell
) -> dict[Side, Processes]:
    sources = {"base": trees.base, "head": trees.head}
    return {
        side: launcher_of(
            root, sources[side], arms[side], side, options, lambda text, s=side: tell(f"{s} {text}")
        )
        for side in SIDES
    }


def launcher_of(
    root: Path, source: Source, arm: Arm, side: Side, options: Options, tell: Tell | None = None
) -> Launcher:
    """What starts the processes of one arm: its interpreter, its caches, its faults."""
    compiled = root / STORE / "compiled"
    cache = compiled / f"{arm.digest}-{side}"
    cache.mkdir(parents=True, exist_ok=True)
    cache.touch()
    _prune(compiled)
    injected = options.faults if side == "head" else ""
    python = interpreter_of(root, source, options)
    return Launcher(arm, python, options.selection, cache, injected, tell)


def interpreter_of(root: Path, source: Source, options: Options) -> str:
    """The interpreter with what a tree depends on: this one, unless it asks for something else."""
    environments = root / STORE / "environments"
    return interpreter(source.folder, own_tree(root), environments, on_gpu=options.on_gpu)


def _prune(folder: Path) -> None:
    """Keep the caches that were used last."""
    found = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[MAX_CACHES:]:
        shutil.rmtree(old)


def narrowed(policy: Policy, metrics: Sequence[str]) -> Policy:
    """The policy with only these metrics gated; PolicyError for what the paired rule cannot use."""
    for entry in policy.entries:
        if entry.smallest_effect <= MARGIN:
            raise PolicyError(
                f"{POLICY}: {entry.name}: smallest_effect {entry.smallest_effect} must be above "
                f"{MARGIN}, which layout effects alone can reach"
            )
    if not metrics:
        return policy
    rules = dict(policy.metrics)
    for name in metrics:
        rule = next((rule for unit, rule in UNITS.items() if name.endswith(unit)), None)
        if name not in rules and rule is None:
            known = ", ".join([*rules, *(f"*{unit}" for unit in UNITS)])
            raise PolicyError(f"--metric {name}: accepted are {known}")
        if rule is not None:
            rules.setdefault(name, rule)
    entries = tuple(replace(entry, metrics=tuple(metrics)) for entry in policy.entries)
    return Policy(rules, entries)


def _header(arms: dict[str, Arm], trees: Trees, options: Options) -> dict[str, object]:
    """What two runs must share for one to go on with the other's blocks."""
    digest_of.cache_clear()
    return {
        "base": arms["base"].digest,
        "head": arms["head"].digest,
        "benchmarks": digest_of(arms["head"].root / "benchmarks"),
        "settings": digest_of_settings(
            arms["head"].root, trees.base.folder, trees.head.folder, trees.judge
        ),
        "environment": digest_of_environment(),
        "selection": list(options.selection),
        "metrics": list(options.metrics),
        "effect": options.effect,
        "faults": options.faults,
        "ids": None if options.ids is None else list(options.ids),
        "screened": list(options.screened),
        "num_gated": options.num_gated,
    }


def _open(
    root: Path, header: dict[str, object], *, resume: bool
) -> tuple[BlockFile, list[Block], int]:
    """The file of this run's blocks, those it has already, and the seed of its orders."""
    home = root / STORE / "ab"
    key = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:8]
    if resume:
        found = sorted(home.glob(f"*-{key}/blocks.jsonl"))
        if not found:
            raise TreeError(
                f"--resume: no run of just these trees and options under {home}; what has changed "
                "since (the working tree, conftest.py, pyproject.toml, installed packages, -k, the "
                "policy) must be compared from the start"
            )
        return go_on(found[-1])
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return begin(home / f"{stamp}-{key}" / "blocks.jsonl", header)


def _machine(blocks: Sequence[Block]) -> str:
    return blocks[0].head.machine.describe() if blocks else "not known: nothing was measured"


def _notes(trees: Trees, options: Options, blocks: Sequence[Block]) -> tuple[str, ...]:
    notes = [*trees.notes]
    if options.faults:
        notes.append(f"INJECTED FAULTS in the head (BENCHMARK_FAULT): {options.faults}")
    # The first block is where counting fails, the last one where a run ended.
    for block in {b.index: b for b in (*blocks[:1], *blocks[-1:])}.values():
        notes += [f"{who}: {text.splitlines()[-1]}" for who, text in block.problems.items() if text]
    notes += [told for block in blocks[:1] if (told := counted_nowhere(block))]
    return (*notes, *start_notes(blocks))


def _too_short(
    options: Options, ended: Ended, blocks: Sequence[Block], late: str
) -> tuple[str, ...]:
    if blocks or ended is not Ended.BUDGET:
        return ()
    told = f"a budget of {max(0.0, options.budget_s):.0f} s does not hold the first block{late}"
    return (f"{told}; it needs a longer --budget, or fewer benchmarks (-k)",)


def store(report: Report, folder: Path) -> None:
    """The result beside its blocks, as JSON, Markdown and text; each replaces an older one."""
    write_json(folder / "result.json", content(report))
    for name, text in (("result.md", markdown(report)), ("result.txt", texts([*lines(report)]))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / name)


def repeat_command(words: Sequence[str], *, resume: bool, faults: str = "") -> str:
    """How a person types this comparison again."""
    extra = ["--resume"] if resume else []
    injected = f"{VARIABLE}={shlex.quote(faults)} " if faults else ""
    return injected + shlex.join(["python", "-m", "benchmarks", *words, *extra])
