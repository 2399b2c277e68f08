"""The first commit that is slower, by halving a range of history with the paired rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Answer(Enum):
    """What pairs say about one commit against the good one."""

    GOOD = "not slower"
    BAD = "slower"
    UNKNOWN = "cannot tell"


@dataclass
class Search:
    """What is known of a range, oldest first; the last commit is known to be bad."""

    commits: tuple[str, ...]
    answers: dict[str, Answer] = field(default_factory=dict)

    def candidates(self) -> tuple[str, ...]:
        """Commits of which one is the first bad one."""
        good = [n for n, c in enumerate(self.commits) if self.answers.get(c) is Answer.GOOD]
        start = max(good, default=-1) + 1
        bad = [n for n in range(start, len(self.commits))
               if self.answers.get(self.commits[n]) is Answer.BAD]  # fmt: skip
        return self.commits[start : min(bad, default=len(self.commits) - 1) + 1]

    def next(self) -> str | None:
        """The commit to ask about: the middle one of those that can still tell; None at the end."""
        left = [c for c in self.candidates()[:-1] if c not in self.answers]
        return left[(len(left) - 1) // 2] if left else None


def search(commits: Sequence[str], ask: Callable[[str], Answer]) -> Search:
    """Halve until one candidate is left, or nothing more can be told. The last one must be bad."""
    found = Search(tuple(commits))
    last = commits[-1]
    found.answers[last] = ask(last)
    if found.answers[last] is not Answer.BAD:
        return found
    while (commit := found.next()) is not None:
        found.answers[commit] = ask(commit)
    return found
