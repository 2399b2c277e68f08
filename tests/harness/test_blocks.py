"""The file of blocks: what was written is read again, what was changed since is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness.blocks import BlockFile
from benchmarks.harness.record import RecordError
from tests.harness.pairs_toys import block, reseal, toy


@pytest.fixture
def file(tmp_path: Path) -> BlockFile:
    """A header and six blocks."""
    file = BlockFile(tmp_path / "blocks.jsonl")
    file.start({"seed": 1})
    for index in range(6):
        file.append(block(index, [toy(time_s=1.0)], [toy(time_s=1.0)]))
    return BlockFile(file.path)


def test_blocks_are_added_by_whoever_goes_on(file: BlockFile) -> None:
    """Whether the file was read before or not."""
    for number in (7, 8):
        file.append(block(number, [toy(time_s=1.0)], [toy(time_s=1.1)]))
    again = BlockFile(file.path)
    assert [one.index for one in again.read()[1]] == [*range(6), 7, 8]
    assert again.header()["seed"] == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"kind": "blocks"', '"kind": "else"', "is not a file of blocks"),
        ('"schema": ', '"schema": 9', "is not a file of blocks"),
        ('"first": "base"', '"first": "third"', "first: 'third'"),
        ('"attempt": 0', '"attempts": 0', "fields missing or unknown: attempt, attempts"),
        ('"records": [', '"records": 3, "r": [', "`records` must be a list"),
    ],
)
def test_damaged_file_is_refused(file: BlockFile, old: str, new: str, said: str) -> None:
    """Stale schema, foreign kind, missing fields: nothing is guessed."""
    text = file.path.read_text(encoding="utf-8")
    assert old in text
    reseal(file.path, text.replace(old, new, 1))
    with pytest.raises(RecordError, match=said):
        file.read()


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda lines: [lines[0].replace('"seed": 1', '"seed": 2'), *lines[1:]], 1),
        (lambda lines: [lines[0], lines[1].replace("1.0", "1.1", 1), *lines[2:]], 2),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),
        (lambda lines: [*lines[:3], *lines[2:]], 4),
        (lambda lines: [*lines[:-1], lines[-1].replace('"attempt": 0', '"attempt": 1')], 7),
    ],
    ids=["header", "number", "taken out", "moved", "doubled", "last"],
)
def test_file_that_was_edited_is_refused(
    file: BlockFile, change: Callable[[list[str]], list[str]], number: int
) -> None:
    """Every line vouches for all before it; the first that does not is named."""
    text = file.path.read_text(encoding="utf-8")
    assert len(file.read()[1]) == 6
    file.path.write_text("\n".join(change(text.splitlines())) + "\n", encoding="utf-8")
    with pytest.raises(RecordError, match=rf"blocks\.jsonl:{number}: .*without --resume") as error:
        file.read()
    assert "changed afterwards" in str(error.value)


def test_file_of_an_older_harness_is_refused(file: BlockFile) -> None:
    """It has no digests: nobody can say what happened to it."""
    lines = [json.loads(line) for line in file.path.read_text(encoding="utf-8").splitlines()]
    for content in lines:
        del content["digest"]
    file.path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    with pytest.raises(RecordError, match="has no digest, as an older harness wrote it; run"):
        file.read()
