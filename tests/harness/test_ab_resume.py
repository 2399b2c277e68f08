"""An `ab` that a time limit or Ctrl-C has cut, and what may go on with its blocks."""

from types import SimpleNamespace

import pytest

from benchmarks.harness import runs, settings
from benchmarks.harness.processes import Ran
from benchmarks.harness.record import Session
from benchmarks.harness.versus import Guard
from tests.harness.ab_stage import Stage


def test_budget_that_is_spent_is_inconclusive(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hint how to go on is a command that does."""
    stage.noise = 0.2
    assert stage.ab("--aa", "--budget", "0") == 10
    assert "python -m benchmarks ab --aa --device cpu --resume" in capsys.readouterr().out
    assert stage.ab("--aa", "--resume") in (0, 10)
    assert len(stage.runs()) == 1


def test_budget_that_ends_in_the_first_block_says_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a benchmark begins: inconclusive, with what to do, and a run that can be resumed."""
    monkeypatch.setattr(runs, "Guard", lambda tell, blocks, _: Guard(tell, blocks, -1.0))

    def begin(_number: int, found: Session) -> Ran:
        stage.tell("1.0 s: spin")
        return Ran(found, 0, "")

    stage.spoil = begin
    stage.noise = 0.2
    assert stage.ab("--aa", "--budget", "90s") == 10
    printed = capsys.readouterr().out
    told = "a budget of 90 s does not hold the first block: it was spent at 1.0 s: spin"
    assert f"{told}; it needs a longer --budget, or fewer benchmarks (-k)" in printed
    assert "ab --aa --device cpu --resume" in printed
    assert stage.result()["num_blocks"] == 0
    stage.spoil = None
    assert stage.ab("--aa", "--resume") in (0, 10)
    assert len(stage.runs()) == 1


def test_interrupt_keeps_records_and_resume_goes_on(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 as pytest's; trees are gone, finished blocks are not, and none is taken twice."""

    def interrupt(number: int, found: Session) -> Ran:
        if number == 3:
            raise KeyboardInterrupt
        return Ran(found, 0, "")

    stage.toy.cost(0.0055)
    stage.spoil = interrupt
    assert stage.ab() == 2
    assert not any(root.exists() for root in stage.seen)
    assert "interrupted" in capsys.readouterr().out
    assert stage.result()["num_blocks"] == 2
    stage.spoil = None
    stage.log.clear()
    assert stage.ab("--resume") == 1
    assert len(stage.runs()) == 1
    assert (stage.result()["num_blocks"], len(stage.log)) == (14, 24)


def test_resume_refuses_other_trees(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Blocks of code that has changed since are not mixed with new ones."""
    stage.toy.cost(0.0055)
    stage.ab("--budget", "0")
    stage.toy.cost(0.0056)
    assert stage.ab("--resume") == 4
    assert "has changed since" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["conftest.py", "pyproject.toml", "pytest.ini"])
def test_resume_refuses_other_settings(
    stage: Stage, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """They decide what runs and what is installed beneath; other tools' settings do not."""
    project = stage.toy.root / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    stage.toy.cost(0.0055)
    stage.ab("--budget", "0")
    stage.toy.write("pyproject.toml", text.replace("line-length = 100", "line-length = 99"))
    assert stage.ab("--resume", "--budget", "0") == 10
    old = text.replace('"torch>=2.11"', '"torch>=2.12"') if name == project.name else "# changed\n"
    stage.toy.write(name, old)
    assert stage.ab("--resume", "--budget", "0") == 4
    assert "has changed since" in capsys.readouterr().err


def test_resume_refuses_other_packages(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the blocks under another torch would be a comparison of that."""
    stage.toy.cost(0.0055)
    stage.ab("--budget", "0")
    mine = [SimpleNamespace(metadata={"Name": "torch"}, version="9.9")]
    monkeypatch.setattr(settings, "distributions", lambda: mine)
    assert stage.ab("--resume") == 4
    assert "installed packages" in capsys.readouterr().err


def test_resume_refuses_blocks_that_were_edited(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says where, and what to do; nothing more is measured."""
    stage.noise = 0.2
    assert stage.ab("--aa", "--budget", "0") == 10
    assert stage.ab("--aa", "--resume") in (0, 10)
    path = stage.runs()[0] / "blocks.jsonl"
    text = path.read_text(encoding="utf-8")
    assert '"seconds": ' in text
    path.write_text(
        text.replace('"outcome": "passed"', '"outcome": "skipped"', 1), encoding="utf-8"
    )
    stage.log.clear()
    capsys.readouterr()
    assert stage.ab("--aa", "--resume") == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "blocks.jsonl:2: this line, or the one before it, is not what was measured" in line
    assert "run the comparison again without --resume" in line
    assert stage.log == []
