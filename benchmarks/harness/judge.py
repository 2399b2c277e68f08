"""Who judges a change: the policy, baselines, harness and golden numbers of its base.

The benchmarks are the base's, too, unless the change edits them: then both arms run the head's, and
the report asks for an owner's approval. What only the head names is added: entries of the policy,
golden numbers, their twins. So a change can grow its gate, and cannot loosen it.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.additions import GOLDENS, add_goldens
from benchmarks.harness.baseline import COMMITTED, Baseline
from benchmarks.harness.known import Known, known_of, suite_names
from benchmarks.harness.policy import Policy, read_policy
from benchmarks.harness.settings import changed_dependencies, changed_settings
from benchmarks.harness.subject import digest_of
from benchmarks.harness.suite import POLICY
from benchmarks.harness.trees import Source, copy_tree

BENCHMARKS = Path("benchmarks")
HARNESS = BENCHMARKS / "harness"
COMMANDS = ("__main__.py",)
COMPILED = ("__pycache__", ".benchmarks")
OWN_GATE = HARNESS / "commands" / "gate.py"


@dataclass(frozen=True)
class Terms:
    """What a head is judged by, and what of it an owner must look at."""

    policy: Policy
    """The base's rules, and the head's for what only the head names."""
    declared: Policy
    """The head's own: what it still promises to have."""
    base_names: frozenset[str]
    """Bare names of the benchmarks in the base's suite."""
    head_names: frozenset[str]
    approvals: tuple[str, ...] = ()
    """Why an owner must approve; empty where the change leaves its gate alone."""

    def known(self, baseline: Baseline | None) -> Known:
        """What the base knows, with its baseline of this machine."""
        return known_of(self.base_names, baseline)


@dataclass(frozen=True)
class Judge:
    """What both arms are judged by."""

    folder: Path
    """A tree with the benchmarks, settings and harness that both arms get."""
    terms: Terms


def compose_judge(base: Source, head: Source, folder: Path) -> Judge:
    """The base's judge, with the head's benchmarks where the head has changed them."""
    terms = terms_of(base.folder, head.folder)
    if not (base.folder / HARNESS).is_dir():
        copy_tree(head.folder, folder)
        return Judge(folder, terms)
    copy_tree(base.folder, folder)
    if changed_benchmarks(base.folder, head.folder):
        for old in benchmark_files(folder):
            old.unlink()
        for new in benchmark_files(head.folder):
            target = folder / new.relative_to(head.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(new, target)
    add_goldens(folder / BENCHMARKS, head.folder / BENCHMARKS)
    return Judge(folder, terms)


def terms_of(base: Path, head: Path) -> Terms:
    """The terms on which a head is judged against its base; both are read, nothing of them runs."""
    theirs = read_policy(head / POLICY)
    if not (base / HARNESS).is_dir():
        text = "the base has no benchmarks: judged by those of the head"
        return Terms(theirs, theirs, frozenset(), suite_names(head), (text,))
    ours = read_policy(base / POLICY)
    asked = [*_edits(base, head)]
    if ours != theirs:
        asked.append(
            "the head changes benchmarks/policy.toml: judged by the base's, what is new by the "
            "head's"
        )
    names = suite_names(base), suite_names(head)
    return Terms(merged(ours, theirs), theirs, *names, tuple(asked))


def _edits(base: Path, head: Path) -> list[str]:
    """What a head does to the files that it is measured and judged with."""
    found = []
    changed = changed_benchmarks(base, head)
    if changed:
        found.append(f"both arms run the benchmarks of the head: {', '.join(changed)} changed")
    moved = _changed(_contents(base, GOLDENS), _contents(head, GOLDENS))
    if moved:
        found.append(
            f"the head changes {', '.join(moved)}: the golden numbers are the base's, only what "
            "it lacks is the head's"
        )
    commands = [_contents(tree, COMMANDS) for tree in (base, head)]
    if digest_of(base / HARNESS) != digest_of(head / HARNESS) or _changed(*commands):
        names = f"harness or {', '.join(COMMANDS)}"
        found.append(f"the head changes the {names}: judged by the base's")
    if digest_of(base / COMMITTED) != digest_of(head / COMMITTED):
        found.append("the head changes stored baselines: judged by the base's")
    if settings := changed_settings(base, head):
        found.append(
            f"the head changes what is collected and how errors count ({', '.join(settings)}): "
            "judged by the base's"
        )
    if dependencies := changed_dependencies(base, head):
        found.append(f"the head changes {', '.join(dependencies)}: each arm runs with its own")
    if not (base / OWN_GATE).is_file():
        found.append("the base has no gate of its own: judged by the head's harness")
    return found


def merged(base: Policy, head: Policy) -> Policy:
    """The base's rules; the head's can only add what the base does not name. First match holds."""
    known = {entry.name for entry in base.entries}
    added = tuple(entry for entry in head.entries if entry.name not in known)
    return Policy({**head.metrics, **base.metrics}, (*base.entries, *added))


def benchmark_files(root: Path) -> list[Path]:
    """The suite without what judges, in folders, too: benchmarks, workloads, what they share."""
    judges = {root / BENCHMARKS / name for name in (*COMMANDS, POLICY.name, *GOLDENS)}
    others = {root / HARNESS, root / COMMITTED}
    found: list[Path] = []
    # An arm's copy follows links, so that a linked folder holds benchmarks like any other.
    for name, folders, files in os.walk(root / BENCHMARKS, followlinks=True):
        place = Path(name)
        folders[:] = [f for f in folders if f not in COMPILED and place / f not in others]
        found += [place / file for file in files if not file.endswith(".pyc")]
    return sorted(path for path in found if path not in judges and path.is_file())


def changed_benchmarks(base: Path, head: Path) -> list[str]:
    """Files of the suite that the head has added, removed or edited."""
    old, new = (
        {f.relative_to(root / BENCHMARKS).as_posix(): f.read_bytes() for f in benchmark_files(root)}
        for root in (base, head)
    )
    return _changed(old, new)


def changes_suite(base: Path, head: Path) -> bool:
    """Whether a head changes anything that decides which benchmarks are collected."""
    harness = digest_of(base / HARNESS) != digest_of(head / HARNESS)
    return harness or bool(changed_benchmarks(base, head) or changed_settings(base, head))


def _contents(root: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    paths = {name: root / BENCHMARKS / name for name in names}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def _changed(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
