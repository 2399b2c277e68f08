"""Who judges a change: the policy, baselines and harness of its base.

The benchmarks are the base's, too, unless the change edits them: then both arms run the head's, and
the report asks for an owner's approval.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.policy import Policy, read_policy
from benchmarks.harness.subject import digest_of
from benchmarks.harness.suite import POLICY
from benchmarks.harness.trees import Source, copy_tree

BENCHMARKS = Path("benchmarks")
HARNESS = BENCHMARKS / "harness"
OWN_GATE = HARNESS / "commands" / "gate.py"
APPROVAL = "an owner must approve"


@dataclass(frozen=True)
class Judge:
    """What both arms are judged by."""

    folder: Path
    """A tree with the benchmarks, settings and harness that both arms get."""
    policy: Policy
    notes: tuple[str, ...]


def compose_judge(base: Source, head: Source, folder: Path) -> Judge:
    """The base's judge, with the head's benchmarks where the head has changed them."""
    if not (base.folder / HARNESS).is_dir():
        copy_tree(head.folder, folder)
        text = f"the base has no benchmarks: judged by those of the head; {APPROVAL}"
        return Judge(folder, read_policy(head.folder / POLICY), (text,))
    copy_tree(base.folder, folder)
    notes = []
    changed = changed_benchmarks(base.folder, head.folder)
    if changed:
        for old in benchmark_files(folder):
            old.unlink()
        for new in benchmark_files(head.folder):
            shutil.copy2(new, folder / BENCHMARKS)
        names = ", ".join(changed)
        notes.append(f"both arms run the benchmarks of the head ({names} changed): {APPROVAL}")
    ours, theirs = read_policy(base.folder / POLICY), read_policy(head.folder / POLICY)
    if ours != theirs:
        notes.append(
            "the head changes benchmarks/policy.toml: judged by the base's, what is new by the "
            f"head's; {APPROVAL}"
        )
    if digest_of(base.folder / HARNESS) != digest_of(head.folder / HARNESS):
        notes.append(f"the head changes the harness: judged by the base's; {APPROVAL}")
    return Judge(folder, merged(ours, theirs), tuple(notes))


def merged(base: Policy, head: Policy) -> Policy:
    """The base's rules; the head's can only add what the base does not name. First match holds."""
    known = {entry.name for entry in base.entries}
    added = tuple(entry for entry in head.entries if entry.name not in known)
    return Policy({**head.metrics, **base.metrics}, (*base.entries, *added))


def benchmark_files(root: Path) -> list[Path]:
    """The suite without harness and policy: benchmarks, workloads, goldens, what they share."""
    judged = ("__main__.py", POLICY.name)
    found = [path for path in (root / BENCHMARKS).iterdir() if path.name not in judged]
    return sorted(path for path in found if path.is_file())


def changed_benchmarks(base: Path, head: Path) -> list[str]:
    """Names of the suite's files that the head has added, removed or edited."""
    before = {path.name: path.read_bytes() for path in benchmark_files(base)}
    after = {path.name: path.read_bytes() for path in benchmark_files(head)}
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
