"""Of which commits evidence is: whoever judges takes both from git, and believes nothing else.

The head is the commit that an event names. The base is given, or else the one that the evidence
names, if it is a commit before the head. Evidence of other commits, or of another package than a
commit holds, is refused: a verdict over it would be set on code that nobody has measured.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.judge import Terms, terms_of
from benchmarks.harness.record import SCHEMA, RecordError, Session, read_json, write_json
from benchmarks.harness.subject import PACKAGE, digest_of
from benchmarks.harness.trees import Source, ask_git, named_tree

ARMS = "arms.json"
"""Beside a gate's evidence: the commits that it says it compared."""
COMMIT = re.compile(r"[0-9a-f]{12,40}")
KIND = "arms"


@dataclass(frozen=True)
class Origin:
    """The commits that evidence must be of, as git holds them, and the terms between them."""

    base: Source
    head: Source
    terms: Terms

    def require(self, sessions: Iterable[Session], source: Source, where: str) -> None:
        """RecordError where a session is not of this commit and its package."""
        digest = digest_of(source.folder / PACKAGE)
        for session in sessions:
            if session.commit == "unknown" and not any(
                record.outcome == "passed" for record in session.records
            ):
                continue  # a process that died could not say: what it lost is red by itself
            proof = "none" if session.subject is None else session.subject.digest
            if (session.commit, proof) != (source.commit, digest):
                raise RecordError(
                    f"{where}: is of commit {session.commit!r}, package {proof!r}; what is judged "
                    f"is commit {source.commit}, package {digest}: refused"
                )


def write_arms(folder: Path, base: str, head: str) -> None:
    """Say which commits a gate has compared."""
    write_json(folder / ARMS, {"schema": SCHEMA, "kind": KIND, "base": base, "head": head})


def origin_of(root: Path, head: str, base: str | None, evidence: Path, scratch: Path) -> Origin:
    """Both commits, extracted; RecordError or TreeError for what is no commit before the head."""
    if not COMMIT.fullmatch(head):
        raise RecordError(f"--head {head!r}: accepted is a commit's digits, 12 to 40 of them")
    if base is None:
        base = _claimed(root, head, evidence / ARMS)
    ours = named_tree(root, base, scratch / "base")
    theirs = named_tree(root, head, scratch / "head")
    return Origin(ours, theirs, terms_of(ours.folder, theirs.folder))


def _claimed(root: Path, head: str, path: Path) -> str:
    """The base that evidence names, if it lies before the head: never the head's own policy."""
    claim = read_json(path, KIND).get("base")
    if not isinstance(claim, str) or not COMMIT.fullmatch(claim):
        raise RecordError(f"{path}: base {claim!r} is no commit; accepted are 12 to 40 digits")
    if ask_git(root, "merge-base", "--is-ancestor", claim, f"{head}~1") is None:
        raise RecordError(f"{path}: base {claim} is no commit before {head[:12]}: refused")
    return claim
