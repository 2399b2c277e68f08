"""`python -m benchmarks ab --bisect GOOD BAD -k X`: the first commit that is slower than GOOD."""

import sys
from pathlib import Path
from typing import TextIO

from benchmarks.harness.bisect import Answer, Search, search
from benchmarks.harness.runs import Options, Trees, compare_trees
from benchmarks.harness.subject import PACKAGE
from benchmarks.harness.trees import TreeError, ask_git, named_tree
from benchmarks.harness.verdict import Code

ANSWERS = {Code.PASS: Answer.GOOD, Code.REGRESSION: Answer.BAD}


def bisect(root: Path, good: str, bad: str, options: Options, scratch: Path, out: TextIO) -> int:
    """Search GOOD..BAD; 1 for a commit found, 0 where BAD is not slower, 10 for a range."""
    commits = changed_between(root, good, bad)
    base = named_tree(root, good, scratch / "good")
    out.write(f"{len(commits)} commits of {good}..{bad} change {PACKAGE}/\n")

    def ask(commit: str) -> Answer:
        folder = scratch / commit
        folder.mkdir()
        head = named_tree(root, commit, folder / "source")
        report, kept = compare_trees(
            root, Trees(base, head, root), options, folder, f"see {commit}", sys.stderr
        )
        answer = ANSWERS.get(report.code, Answer.UNKNOWN)
        out.write(f"{subject_of(root, commit)}: {answer.value} ({report.code.name}, {kept})\n")
        out.flush()
        return answer

    return conclude(root, search(commits, ask), out)


def conclude(root: Path, found: Search, out: TextIO) -> int:
    """Say what was found; the exit code."""
    last = found.commits[-1]
    if found.answers[last] is not Answer.BAD:
        out.write(f"{last} is {found.answers[last].value} against GOOD: nothing to search\n")
        good = found.answers[last] is Answer.GOOD
        return Code.PASS if good else Code.INCONCLUSIVE
    left = found.candidates()
    if len(left) == 1:
        out.write(f"first slower commit: {subject_of(root, left[0])}\n")
        return Code.REGRESSION
    out.write("the first slower commit is one of these; the others cannot be told apart:\n")
    out.writelines(f"  {subject_of(root, commit)}\n" for commit in left)
    return Code.INCONCLUSIVE


def changed_between(root: Path, good: str, bad: str) -> tuple[str, ...]:
    """Commits after GOOD up to BAD that change the package, oldest first."""
    listed = ask_git(
        root, "rev-list", "--first-parent", "--reverse", "--abbrev-commit", f"{good}..{bad}", "--",
        PACKAGE,
    )  # fmt: skip
    if listed is None:
        raise TreeError(f"--bisect {good} {bad}: not two commits of {root}")
    commits = tuple(listed.split())
    if not commits:
        raise TreeError(f"--bisect: no commit of {good}..{bad} changes {PACKAGE}/")
    return commits


def subject_of(root: Path, commit: str) -> str:
    """A commit with the first line of its message."""
    return ask_git(root, "log", "-1", "--format=%h %s", commit) or commit
