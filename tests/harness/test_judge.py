"""Who judges: the base's policy, harness and golden numbers, whatever the head has edited."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.harness.judge import Judge, compose_judge
from benchmarks.harness.policy import PolicyError
from benchmarks.harness.trees import Source
from tests.harness.toy_trees import POLICY, ToyTree, make_toy_tree

FROZEN = 'TOLERANCE = 0.001\n\n\ndef twin() -> float:\n    """The base\'s."""\n    return 1.0\n'
ENTRY = '\n[[benchmark]]\nname = "more"\nowner = "Ada"\nmetrics = []\n'


class Change:
    """A base with golden files, and a head that starts as its copy."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.base, self.head = (self._tree(home / name) for name in ("base", "head"))

    def _tree(self, root: Path) -> ToyTree:
        root.mkdir()
        toy = ToyTree(root)
        toy.write("benchmarks/frozen.py", FROZEN)
        toy.write("benchmarks/plain.py", "ONE = 1.0\n")
        toy.write("benchmarks/goldens.json", '{"network": {"pose": [1.0]}}\n')
        toy.write("benchmarks/bench_golden.py", "def bench_golden_network(measure): ...\n")
        toy.write("benchmarks/harness/__init__.py", "")
        toy.write("benchmarks/harness/commands/gate.py", "")
        return make_toy_tree(root, harness=False)

    def judge(self) -> Judge:
        """Who judges the head."""
        base, head = (Source(tree.root, "t", "abc") for tree in (self.base, self.head))
        return compose_judge(base, head, self.home / "judge")

    def text(self, name: str) -> str:
        """A file as both arms get it."""
        return (self.home / "judge" / "benchmarks" / name).read_text(encoding="utf-8")


@pytest.fixture
def change(tmp_path: Path) -> Change:
    """Nothing is changed yet."""
    return Change(tmp_path)


def test_change_of_the_package_alone_asks_nobody(change: Change) -> None:
    """The judge is the base's, and there is nothing to approve."""
    change.head.cost(0.1)
    assert change.judge().terms.approvals == ()


@pytest.mark.parametrize("name", ["frozen.py", "plain.py", "goldens.json"])
def test_golden_files_are_the_base_s(change: Change, name: str) -> None:
    """Though the head has moved a number, a tolerance or a twin; the report says so."""
    before = (change.base.root / "benchmarks" / name).read_text(encoding="utf-8")
    change.head.write(f"benchmarks/{name}", before.replace("1.0", "2.0").replace("0.001", "9.0"))
    (asked,) = change.judge().terms.approvals
    assert change.text(name) == before
    assert name in asked
    assert "golden numbers are the base's" in asked


def test_edited_benchmark_does_not_bring_its_goldens(change: Change) -> None:
    """The suite is the head's for both arms, the numbers that it must give are not."""
    change.head.write("benchmarks/bench_golden.py", "# edited\n")
    change.head.write("benchmarks/goldens.json", "{}")
    asked = " ".join(change.judge().terms.approvals)
    assert change.text("bench_golden.py") == "# edited\n"
    assert json.loads(change.text("goldens.json")) == {"network": {"pose": [1.0]}}
    assert "bench_golden.py" in asked
    assert "goldens.json" in asked


def test_new_golden_is_the_head_s(change: Change) -> None:
    """With its twin, beside what the base has."""
    change.head.write(
        "benchmarks/frozen.py", FROZEN + "\n\ndef depth() -> float:\n    return 3.0\n"
    )
    change.head.write("benchmarks/goldens.json", '{"network": {}, "depth": {"z": [3.0]}}')
    change.judge()
    assert "def depth" in change.text("frozen.py")
    assert json.loads(change.text("goldens.json"))["depth"] == {"z": [3.0]}


def test_edited_policy_and_harness_are_the_base_s(change: Change) -> None:
    """What the head adds to the policy holds, too."""
    change.head.write("benchmarks/policy.toml", POLICY.replace("0.25", "9.0") + ENTRY)
    change.head.write("benchmarks/harness/rules.py", "# mine")
    judge = change.judge()
    assert judge.terms.policy.metrics["time_s"].relative == 0.25
    assert judge.terms.policy.entry("more") is judge.terms.policy.entries[0]
    assert [entry.name for entry in judge.terms.policy.entries] == ["*", "more"]
    assert not (change.home / "judge/benchmarks/harness/rules.py").exists()
    assert len(judge.terms.approvals) == 2


@pytest.mark.parametrize("name", ["baselines/cpu/room.json", "__main__.py"])
def test_edited_baseline_or_command_is_said(change: Change, name: str) -> None:
    """Neither is used: stored numbers are accepted on main, commands are the judge's."""
    change.head.write(f"benchmarks/{name}", "{}")
    (asked,) = change.judge().terms.approvals
    assert name.partition("/")[0] in asked
    assert "judged by the base's" in asked


HIDING = 'collect_ignore_glob = ["benchmarks/bench_golden.py"]\n'
TABLES = [
    ('    "error",\n', '    "default",\n', "tool.pytest"),
    ('addopts = ["-ra"', 'addopts = ["-k", "not golden"', "tool.pytest"),
    ('testpaths = ["tests", "benchmarks"]', 'testpaths = ["tests"]', "tool.pytest"),
    ('"torch>=2.11"', '"torch>=2.0"', "project.dependencies"),
    ('"pytest>=9.0"', '"pytest>=8.0"', "dependency-groups"),
    ('"gsplat==1.5.3"', '"gsplat==1.5.2"', "project.optional-dependencies"),
]


@pytest.mark.parametrize(("old", "new", "table"), TABLES)
def test_edited_settings_of_the_project_are_said(
    change: Change, old: str, new: str, table: str
) -> None:
    """They decide what is collected, which warning is an error, and what runs beneath."""
    text = (change.head.root / "pyproject.toml").read_text(encoding="utf-8")
    assert old in text
    change.head.write("pyproject.toml", text.replace(old, new))
    (asked,) = change.judge().terms.approvals
    assert f"pyproject.toml [{table}]" in asked


@pytest.mark.parametrize("name", ["conftest.py", "pytest.ini", ".pytest.toml"])
def test_edited_settings_of_pytest_are_said(change: Change, name: str) -> None:
    """At the root, where one may leave benchmarks out; they are not used."""
    change.head.write(name, HIDING)
    (asked,) = change.judge().terms.approvals
    assert name in asked
    assert "judged by the base's" in asked
    kept = change.home / "judge" / name
    assert not kept.exists() or HIDING not in kept.read_text(encoding="utf-8")


def test_settings_of_other_tools_ask_nobody(change: Change) -> None:
    """A linter's line length judges no benchmark."""
    text = (change.head.root / "pyproject.toml").read_text(encoding="utf-8")
    change.head.write("pyproject.toml", text.replace("line-length = 100", "line-length = 99"))
    assert change.judge().terms.approvals == ()


@pytest.mark.parametrize("name", ["extra/bench_hidden.py", "extra/conftest.py", "extra/room.json"])
def test_files_in_folders_of_the_suite_are_said_and_used(change: Change, name: str) -> None:
    """pytest collects them like any other; both arms run the head's."""
    change.head.write(f"benchmarks/{name}", "# mine\n")
    (asked,) = change.judge().terms.approvals
    assert name in asked
    assert change.text(name) == "# mine\n"


def test_linked_folder_of_the_suite_is_said(change: Change) -> None:
    """An arm's copy follows the link."""
    change.head.write("elsewhere/bench_hidden.py", "# mine\n")
    (change.head.root / "benchmarks/extra").symlink_to(change.head.root / "elsewhere")
    (asked,) = change.judge().terms.approvals
    assert "extra/bench_hidden.py" in asked


def test_name_in_a_folder_of_the_suite_is_known(change: Change) -> None:
    """Else the base's own could be passed off as new."""
    change.base.write("benchmarks/extra/bench_more.py", "def bench_more(measure): ...\n")
    assert "more" in change.judge().terms.base_names


def test_names_of_both_suites_are_known(change: Change) -> None:
    """Read, and not run."""
    change.head.write("benchmarks/bench_toy.py", "if True:\n    def bench_more(measure): ...\n")
    terms = change.judge().terms
    assert terms.base_names == {"spin", "steady", "golden_network"}
    assert terms.head_names == {"more", "golden_network"}


def test_base_without_benchmarks_is_judged_by_the_head_s(change: Change) -> None:
    """Somebody has to begin; an owner looks at it."""
    shutil.rmtree(change.base.root / "benchmarks/harness")
    (asked,) = change.judge().terms.approvals
    assert "the base has no benchmarks" in asked


def test_head_without_a_policy_is_one_error(change: Change) -> None:
    """Its benchmarks must be declared somewhere."""
    (change.head.root / "benchmarks/policy.toml").unlink()
    with pytest.raises(PolicyError, match=r"policy\.toml"):
        change.judge()
