"""Golden numbers of a judged change: those of the base hold, only what is new is the head's."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.additions import GOLDENS, add_goldens
from benchmarks.harness.trees import TreeError

ROOT = Path(__file__).resolve().parents[2]
BASE = '''"""Twins."""

import math
from json import dumps

TOLERANCE = 0.001


def twin() -> float:
    """The base's."""
    return math.sqrt(2.0)


def main() -> None:
    """Never changed."""


if __name__ == "__main__":
    main()
'''


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """The base's golden files, in the judge's folder, and the head's."""
    for name in ("judge", "head"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "frozen.py").write_text(BASE, encoding="utf-8")
        numbers = {"network": {"pose": [1.0]}}
        (tmp_path / name / "goldens.json").write_text(json.dumps(numbers), encoding="utf-8")
    return tmp_path / "judge", tmp_path / "head"


def module(folder: Path) -> dict[str, Any]:
    """What `frozen.py` of a folder defines."""
    return runpy.run_path(str(folder / "frozen.py"))


def test_nothing_changed_is_left_as_it_is(trees: tuple[Path, Path]) -> None:
    """To the byte."""
    add_goldens(*trees)
    assert (trees[0] / "frozen.py").read_text(encoding="utf-8") == BASE


def test_moved_numbers_and_twins_are_not_taken(trees: tuple[Path, Path]) -> None:
    """Neither a value, nor a tolerance, nor a function that makes one."""
    judge, head = trees
    loose = BASE.replace("0.001", "9.0").replace("sqrt(2.0)", "sqrt(3.0)")
    (head / "frozen.py").write_text(loose, encoding="utf-8")
    (head / "goldens.json").write_text('{"network": {"pose": [2.0]}}', encoding="utf-8")
    add_goldens(judge, head)
    found = module(judge)
    assert (found["TOLERANCE"], found["twin"]()) == (0.001, pytest.approx(2**0.5))
    numbers = json.loads((judge / "goldens.json").read_text(encoding="utf-8"))
    assert numbers == {"network": {"pose": [1.0]}}


def test_new_golden_comes_with_its_twin(trees: tuple[Path, Path]) -> None:
    """A part, a function, a constant and an import that the base lacks."""
    judge, head = trees
    more = BASE.replace("import math", "import math\nimport statistics").replace(
        "from json import dumps", "from json import dumps, loads"
    )
    more += "\nWIDTH: int = 3\n\n\ndef other() -> float:\n    return statistics.mean([WIDTH, 4])\n"
    (head / "frozen.py").write_text(more.replace("0.001", "9.0"), encoding="utf-8")
    numbers = {"network": {"pose": [2.0], "extra": [1.0]}, "depth": {"z": [3.0]}}
    (head / "goldens.json").write_text(json.dumps(numbers), encoding="utf-8")
    add_goldens(judge, head)
    found = module(judge)
    assert (found["other"](), found["TOLERANCE"], found["loads"]) == (3.5, 0.001, json.loads)
    numbers = json.loads((judge / "goldens.json").read_text(encoding="utf-8"))
    assert numbers == {"network": {"pose": [1.0]}, "depth": {"z": [3.0]}}


@pytest.mark.parametrize("name", ["abs", "sum", "later"])
def test_name_that_the_base_only_uses_is_not_new(trees: tuple[Path, Path], name: str) -> None:
    """A built-in defined anew would change what the base's functions do."""
    judge, head = trees
    used = BASE.replace("return math.sqrt(2.0)", f"return {name}([-2.0])")
    (judge / "frozen.py").write_text(used, encoding="utf-8")
    more = f"{used}\n\ndef {name}(values: list[float]) -> float:\n    return 0.0\n"
    (head / "frozen.py").write_text(more, encoding="utf-8")
    add_goldens(judge, head)
    assert name not in module(judge)


def test_removed_numbers_stay(trees: tuple[Path, Path]) -> None:
    """A golden cannot be lost by deleting it, nor the file."""
    judge, head = trees
    (head / "goldens.json").write_text("{}", encoding="utf-8")
    (head / "frozen.py").unlink()
    add_goldens(judge, head)
    assert "pose" in (judge / "goldens.json").read_text(encoding="utf-8")
    assert module(judge)["TOLERANCE"] == 0.001


def test_first_golden_files_are_the_head_s(trees: tuple[Path, Path]) -> None:
    """The base has none."""
    judge, head = trees
    (judge / "frozen.py").unlink()
    add_goldens(judge, head)
    assert (judge / "frozen.py").read_text(encoding="utf-8") == BASE


@pytest.mark.parametrize(
    ("name", "text"), [("goldens.json", "[]"), ("goldens.json", "{"), ("frozen.py", "def (")]
)
def test_unreadable_golden_file_is_one_error(
    trees: tuple[Path, Path], name: str, text: str
) -> None:
    """It names the file."""
    (trees[1] / name).write_text(text, encoding="utf-8")
    with pytest.raises(TreeError, match=name):
        add_goldens(*trees)


def test_our_own_files_are_among_them() -> None:
    """A renamed file would be the head's again."""
    assert all((ROOT / "benchmarks" / name).is_file() for name in GOLDENS)
