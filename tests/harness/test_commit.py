"""Of which commit a tree is: git says it, a stamp, or the caller; and what was edited since."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.commit import STAMP, StampError, commit_of, edited, write_stamp
from benchmarks.harness.subject import digest_of
from tests.harness.toy_trees import make_toy_tree

COMMIT = "0123456789ab"
FILES = ("rap/__init__.py", "benchmarks/bench_a.py", "conftest.py", "pyproject.toml",
         "benchmarks/baselines/key/room.json", "notes.txt")  # fmt: skip


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree without history, stamped."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("BENCHMARK_COMMIT", raising=False)
    for name in FILES:
        edit(tmp_path, name, "1")
    write_stamp(tmp_path, COMMIT)
    return tmp_path


def edit(root: Path, name: str, text: str) -> None:
    """Write a file, and forget what is known of it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    digest_of.cache_clear()


def test_commit_is_git_s_or_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported tree has no history: then the caller says what it is."""
    monkeypatch.delenv("BENCHMARK_COMMIT", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path) == "unknown"
    monkeypatch.setenv("BENCHMARK_COMMIT", "abc123")
    assert commit_of(tmp_path) == "abc123"


def test_history_outranks_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a leftover BENCHMARK_COMMIT would give a dirty tree a clean name."""
    toy = make_toy_tree(tmp_path, harness=False)
    monkeypatch.setenv("BENCHMARK_COMMIT", "abc123")
    commit = toy.git("rev-parse", "--short=12", "HEAD")
    assert commit_of(tmp_path) == commit
    toy.cost(0.009)
    assert commit_of(tmp_path) == f"{commit}+dirty"


@pytest.mark.parametrize("variable", ["", "abc123"])
@pytest.mark.parametrize(
    ("name", "part"),
    [("rap/__init__.py", "rap"), ("rap/more.py", "rap"), ("benchmarks/bench_a.py", "benchmarks"),
     ("benchmarks/harness/clock.py", "benchmarks"), ("conftest.py", "conftest.py"),
     ("pyproject.toml", "pyproject.toml")],
)  # fmt: skip
def test_edited_export_is_dirty(
    export: Path, monkeypatch: pytest.MonkeyPatch, variable: str, name: str, part: str
) -> None:
    """Its stamp holds what each part was, outranks the variable, and says which part is another."""
    monkeypatch.setenv("BENCHMARK_COMMIT", variable)
    assert (commit_of(export), edited(export)) == (COMMIT, ())
    edit(export, name, "2")
    assert (commit_of(export), edited(export)) == (f"{COMMIT}+dirty", (part,))
    write_stamp(export, f"{COMMIT}+dirty")
    assert (commit_of(export), edited(export)) == (f"{COMMIT}+dirty", ())


@pytest.mark.parametrize("name", ["benchmarks/baselines/key/room.json", "notes.txt", "out/a.py"])
def test_what_is_not_measured_may_change(export: Path, name: str) -> None:
    """`accept` writes baselines into an export, too: what was measured is the same."""
    edit(export, name, "2")
    assert (commit_of(export), edited(export)) == (COMMIT, ())


def test_lost_file_is_an_edit(export: Path) -> None:
    """A conftest.py that is gone collects something else."""
    (export / "conftest.py").unlink()
    assert edited(export) == ("conftest.py",)


@pytest.mark.parametrize("digest", ["", "0123456789ab", "0123456789ab benchmarks=0123"])
def test_older_stamp_says_what_to_do(
    export: Path, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the commit alone, or the package: what else was edited, nobody could tell."""
    (export / STAMP).write_text(f"{COMMIT} {digest}\n", encoding="utf-8")
    told = f"write it again with python -m benchmarks export FOLDER {COMMIT}"
    with pytest.raises(StampError, match=told):
        commit_of(export)
    assert main(["ab", str(export), "--device", "cpu"], export) == 4
    assert told in capsys.readouterr().err


def test_stamp_begins_as_older_harnesses_read_it(export: Path) -> None:
    """The commit, then the package's digest: a base's harness judges trees that we have written."""
    commit, digest, *_ = (export / STAMP).read_text(encoding="utf-8").split()
    assert (commit, digest) == (COMMIT, digest_of(export / "rap"))
