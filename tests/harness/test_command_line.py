"""`python -m benchmarks`: what cannot be done is USAGE, in one line."""

import argparse

import pytest

from benchmarks import __main__ as command_line
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


def test_a_failure_of_its_own_is_no_regression(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3 with the traceback: Python's own 1 would say that the code got slower."""

    def fail(_: argparse.Namespace) -> int:
        raise OSError("the disk is gone")

    monkeypatch.setattr(
        command_line, "table", lambda: [lambda sub: sub.add_parser("x").set_defaults(run=fail)]
    )
    assert main(["x"]) == 3
    assert "the disk is gone" in capsys.readouterr().err
