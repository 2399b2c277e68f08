"""Arms are composed trees: whose package, whose benchmarks, and that nothing is left behind."""

import os
from pathlib import Path

import pytest

from benchmarks.harness.commit import STAMP, write_stamp
from benchmarks.harness.subject import digest_of
from benchmarks.harness.trees import (
    PREFIX,
    TreeError,
    compose,
    named_tree,
    patched_tree,
    scratch,
    working_tree,
)
from tests.harness.toy_trees import FASTER, PACKAGE, ToyTree, make_toy_tree


@pytest.fixture
def toy(tmp_path: Path) -> ToyTree:
    """A committed toy repository without a harness."""
    return make_toy_tree(tmp_path / "toy", harness=False)


def package_of(folder: Path) -> str:
    """The toy package's source."""
    return (folder / "rap" / "__init__.py").read_text(encoding="utf-8")


def test_commit_is_extracted_whatever_the_working_tree_holds(toy: ToyTree, tmp_path: Path) -> None:
    """A dirty tree is the head; the base is the commit."""
    toy.cost(0.009)
    base = named_tree(toy.root, "HEAD", tmp_path / "out")
    assert package_of(base.folder) == PACKAGE
    head = working_tree(toy.root)
    assert (head.label, head.commit) == ("working tree (dirty)", f"{base.commit}+dirty")
    assert "0.009" in package_of(head.folder)


def test_new_module_makes_the_tree_dirty(toy: ToyTree) -> None:
    """Or a benchmark: measured, too, though git does not track it yet; others change nothing."""
    for name, dirty in (("notes.txt", False), ("benchmarks/baselines/key/room.json", False),
                        ("rap/more.py", True), ("benchmarks/bench_more.py", True)):  # fmt: skip
        toy.write(name, "")
        assert working_tree(toy.root).commit.endswith("+dirty") is dirty
        (toy.root / name).unlink()


def test_arm_has_its_own_package_and_the_judges_benchmarks(toy: ToyTree, tmp_path: Path) -> None:
    """The same benchmarks run over both packages; stored numbers stay out of the arms."""
    base = named_tree(toy.root, "HEAD", tmp_path / "out")
    toy.cost(0.009)
    toy.write("benchmarks/bench_toy.py", "# the head's")
    toy.write("benchmarks/baselines/old.json", "{}")
    arm = compose(base, toy.root, tmp_path / "arm")
    assert package_of(arm.root) == PACKAGE
    assert (arm.root / "benchmarks/bench_toy.py").read_text(encoding="utf-8") == "# the head's"
    assert not (arm.root / "benchmarks/baselines").exists()
    assert arm.digest == digest_of(tmp_path / "out" / "rap")


def test_arm_is_a_copy(toy: ToyTree, tmp_path: Path) -> None:
    """Editing the working tree while it is measured changes nothing."""
    arm = compose(working_tree(toy.root), toy.root, tmp_path / "arm")
    toy.cost(0.009)
    assert package_of(arm.root) == PACKAGE


def test_exported_folder_says_its_commit_by_a_stamp(toy: ToyTree, tmp_path: Path) -> None:
    """Not by the history of a repository that it happens to lie in."""
    export = toy.root / "export"
    export.mkdir()
    (toy.root / "rap").rename(export / "rap")
    write_stamp(export, "0123456789ab")
    source = named_tree(tmp_path, str(export), tmp_path / "out")
    assert (source.folder, source.commit) == (export, "0123456789ab")
    (export / STAMP).unlink()
    assert named_tree(tmp_path, str(export), tmp_path / "out").commit == "unknown"


@pytest.mark.parametrize("name", ["no-such-commit", "/no/such/folder", "HEAD~9"])
def test_unknown_base_is_refused(toy: ToyTree, tmp_path: Path, name: str) -> None:
    """It says what is accepted, also where there is no history."""
    with pytest.raises(TreeError, match="export"):
        named_tree(toy.root, name, tmp_path / "out")


def test_tree_without_package_is_refused(tmp_path: Path) -> None:
    """There is nothing to measure."""
    with pytest.raises(TreeError, match="nothing to measure"):
        working_tree(tmp_path)


def test_patch_is_applied_to_a_copy(toy: ToyTree, tmp_path: Path) -> None:
    """Also where that copy lies inside a repository, whose paths git would take."""
    patch = tmp_path / "faster.patch"
    patch.write_text(FASTER, encoding="utf-8")
    folder = toy.root / "inside" / "patched"
    head = patched_tree(working_tree(toy.root), patch, folder)
    assert "0.004" in package_of(folder)
    assert package_of(toy.root) == PACKAGE
    assert head.label == "working tree + faster.patch"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FASTER.replace("0.005", "0.006"), "does not apply"),
        (FASTER.replace("rap/__init__", "docs/page"), "changes neither"),
        ("", "apply|changes neither"),
    ],
)
def test_patch_that_changes_nothing_is_refused(
    toy: ToyTree, tmp_path: Path, text: str, said: str
) -> None:
    """Or one that does not fit: an A/B of the same code would be green for ever."""
    patch = tmp_path / "some.patch"
    patch.write_text(text, encoding="utf-8")
    with pytest.raises(TreeError, match=said):
        patched_tree(working_tree(toy.root), patch, tmp_path / "patched")


def test_missing_patch_is_refused(toy: ToyTree, tmp_path: Path) -> None:
    """Before anything is copied."""
    with pytest.raises(TreeError, match="no such file"):
        patched_tree(working_tree(toy.root), tmp_path / "none.patch", tmp_path / "patched")


def test_scratch_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever ended it; and what a killed run left is swept, a living one's is not."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive, dead = tmp_path / f"{PREFIX}{os.getpid()}-x", tmp_path / f"{PREFIX}999999999-x"
    for folder in (alive, dead):
        folder.mkdir()

    def interrupted() -> None:
        with scratch() as folder:
            (folder / "tree").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [*tmp_path.iterdir()] == [alive]
