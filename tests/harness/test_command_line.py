"""`python -m benchmarks`: what cannot be done is USAGE, in one line."""

import pytest

from benchmarks.__main__ import main


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["ab", "--nonsense"]])
def test_bad_arguments_are_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 4, not argparse's 2, which pytest uses for an interrupted run."""
    assert main(arguments) == 4
    assert "usage: python -m benchmarks" in capsys.readouterr().err


def test_help_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names the commands."""
    assert main(["--help"]) == 0
    assert "ab" in capsys.readouterr().out
