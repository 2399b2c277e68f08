"""What recordings share: one stream, and errors that say what began them."""

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch

from rap.model import recording
from rap.model.recording import in_a_line, pass_on_out_of_memory, root_cause, side_stream


def ended(first: Exception) -> RuntimeError:
    """What a recording ends with after an error inside it."""
    try:
        try:
            raise first
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("first", [RuntimeError("\nhost read\nmore"), ValueError("host read")])
def test_the_first_error_is_the_cause(first: Exception) -> None:
    """Also when it was another kind, and empty lines are not what is said."""
    error = ended(first)
    assert root_cause(error) is first
    assert in_a_line(error) == f"{type(first).__name__}: host read"


def test_a_stated_cause_comes_first() -> None:
    """`raise ... from` is followed; a failed look-up before an error is none of its causes."""
    first, last = RuntimeError("unsupported"), RuntimeError("compiler")
    first.__context__, last.__cause__ = KeyError("cache"), first
    last.__context__ = RuntimeError("another")
    assert in_a_line(last) == "RuntimeError: unsupported"


def test_nothing_said_is_said() -> None:
    """An error without words has a kind at least."""
    assert in_a_line(RuntimeError()) == "RuntimeError: no message"


def test_out_of_memory_is_found_below() -> None:
    """It is raised itself, so that it gets its advice; other errors are the caller's."""
    with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
        pass_on_out_of_memory(ended(torch.OutOfMemoryError("2 GiB")))
    pass_on_out_of_memory(ended(RuntimeError("something else")))


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.device]]:
    """The devices of all streams that are made, by a stand-in where there is no GPU."""
    made: list[torch.device] = []
    real = torch.cuda.Stream

    def stream(device: torch.device) -> Mock:
        made.append(device)
        return Mock(spec=real)

    monkeypatch.setattr(torch.cuda, "Stream", stream)
    recording.side_stream.cache_clear()
    yield made
    recording.side_stream.cache_clear()


def test_one_stream_for_each_device(streams: list[torch.device]) -> None:
    """However many recordings there are."""
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    assert side_stream(first) is side_stream(torch.device("cuda", 0))
    assert side_stream(second) is not side_stream(first)
    assert streams == [first, second]
