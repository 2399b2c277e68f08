"""Halving history: the first bad commit, and the honest range where some cannot be judged."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.bisect import Answer, search

COMMITS = tuple(f"c{n}" for n in range(20))


@given(st.integers(1, 20), st.data())
def test_first_bad_commit_is_found(num: int, data: st.DataObject) -> None:
    """In as many questions as halving needs, and one for the end of the range."""
    commits = COMMITS[:num]
    first = data.draw(st.integers(0, num - 1))
    asked: list[str] = []

    def ask(commit: str) -> Answer:
        asked.append(commit)
        return Answer.BAD if commits.index(commit) >= first else Answer.GOOD

    assert search(commits, ask).candidates() == (commits[first],)
    assert len(asked) <= 1 + num.bit_length()
    assert len(set(asked)) == len(asked)


@given(st.integers(0, 19), st.sets(st.integers(0, 18)))
def test_commits_that_cannot_be_judged_stay_candidates(first: int, unknown: set[int]) -> None:
    """The first bad one is always among the candidates, and they are next to each other."""

    def ask(commit: str) -> Answer:
        number = COMMITS.index(commit)
        if number in unknown:
            return Answer.UNKNOWN
        return Answer.BAD if number >= first else Answer.GOOD

    left = search(COMMITS, ask).candidates()
    assert COMMITS[first] in left
    assert all(COMMITS.index(commit) in unknown for commit in left[:-1])


def test_range_that_ends_well_is_not_searched() -> None:
    """Where the bad end is not slower there is nothing to find, and nothing more is asked."""
    asked: list[str] = []

    def ask(commit: str) -> Answer:
        asked.append(commit)
        return Answer.GOOD

    assert search(COMMITS, ask).answers == {"c19": Answer.GOOD}
    assert asked == ["c19"]
