"""Which package was measured: where it lies and what is in it."""

from pathlib import Path

import rap
from benchmarks.harness.subject import digest_of, measured_subject


def write(folder: Path, **files: str) -> Path:
    """A package with these modules."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_imported_package_is_the_subject() -> None:
    """The file that Python loaded, not the one that somebody meant."""
    subject = measured_subject("rap")
    assert subject is not None
    assert subject.file == rap.__file__
    assert subject.digest == digest_of(Path(str(rap.__file__)).parent)


def test_package_that_was_not_imported_is_no_subject() -> None:
    """A suite that measures something else says nothing about it."""
    assert measured_subject("no_such_package") is None


def test_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    """Equal trees agree wherever they lie; a changed, moved or renamed line does not."""
    first = digest_of(write(tmp_path / "a", one="x = 1", two="y = 2"))
    assert digest_of(write(tmp_path / "b", one="x = 1", two="y = 2")) == first
    assert digest_of(write(tmp_path / "c", one="x = 1", two="y = 3")) != first
    assert digest_of(write(tmp_path / "d", one="x = 1", other="y = 2")) != first
    assert digest_of(write(tmp_path / "e", one="x = 1y = 2", two="")) != first


def test_digest_leaves_compiled_files_out(tmp_path: Path) -> None:
    """Running the code must not change what it is."""
    package = write(tmp_path / "a", one="x = 1")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "one.cpython-311.pyc").write_bytes(b"1")
    assert digest_of(package) == digest_of(write(tmp_path / "b", one="x = 1"))
