"""BRISQUE's parameters: read as text, nothing unpickled, every fault named."""

import pickle
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from rap.scene import DataError
from rap.synthesis.brisque_files import load_brisque

HEAD = "svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\nnr_class 2\ntotal_sv 2\nrho -3.5\n"
ROWS = "SV\n-2 1:0.5 36:-1 \n1.5 2:0.25 \n"
LOW, HIGH = [0.1 * k for k in range(36)], [0.1 * k + 2 for k in range(36)]


def write(folder: Path, svm: str = HEAD + ROWS, ranges: object = None) -> Path:
    (folder / "svm.txt").write_text(svm)
    ranges = {"min_": LOW, "max_": HIGH} if ranges is None else ranges
    (folder / "normalize.pickle").write_bytes(pickle.dumps(ranges))
    return folder


def test_both_files_are_read_to_the_last_digit(tmp_path: Path) -> None:
    """Coefficients, vectors with their zeros, gamma, rho and the ranges of the features."""
    model = load_brisque(write(tmp_path))
    assert (float(model.gamma), float(model.rho)) == (0.05, -3.5)
    assert model.coefficients.tolist() == [-2, 1.5]
    assert (model.support[0, 0], model.support[0, 35], model.support[1, 1]) == (0.5, -1, 0.25)
    assert int(model.support.count_nonzero()) == 3
    assert (model.low.tolist(), model.high.tolist()) == (LOW, HIGH)


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_ranges_of_every_binary_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    """However the lists were written, the same numbers are found."""
    write(tmp_path)
    ranges = pickle.dumps({"min_": LOW, "max_": HIGH}, protocol=protocol)
    (tmp_path / "normalize.pickle").write_bytes(ranges)
    assert load_brisque(tmp_path).high.tolist() == HIGH


class Touching:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_something_is_refused_and_not_run(tmp_path: Path) -> None:
    """The bytes are listed, not executed: the file that unpickling would make is not made."""
    proof = tmp_path / "it-ran"
    write(tmp_path, ranges={"min_": LOW, "max_": HIGH, "more": Touching(proof)})
    with pytest.raises(DataError, match=r"normalize.pickle: .* at byte \d+; accepted: a dict"):
        load_brisque(tmp_path)
    assert not proof.exists()
    pickle.loads((tmp_path / "normalize.pickle").read_bytes())  # noqa: S301 (our own bytes)
    assert proof.exists(), "the trap works"


@pytest.mark.parametrize(
    "ranges",
    [
        {"min_": LOW},
        {"min_": LOW[:-1], "max_": HIGH[:-1]},
        {"min_": HIGH, "max_": LOW},
        {"min_": LOW, "max_": [float("nan")] * 36},
        {"min_": LOW, "max_": HIGH[:-1]},
        {"min_": np.array(LOW), "max_": HIGH},
        [1.0, 2.0],
    ],
)
def test_other_ranges_are_refused(tmp_path: Path, ranges: object) -> None:
    """Missing, short, reversed, not numbers, of unequal length, arrays, or no dict at all."""
    write(tmp_path, ranges=ranges)
    with pytest.raises(DataError, match=r"normalize.pickle: .*; accepted: a dict of two lists"):
        load_brisque(tmp_path)


def test_a_cut_pickle_is_refused(tmp_path: Path) -> None:
    """As after an interrupted download."""
    path = write(tmp_path) / "normalize.pickle"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"normalize\.pickle"):
        load_brisque(tmp_path)


@pytest.mark.parametrize(
    ("svm", "said"),
    [
        (HEAD.replace("rbf", "linear") + ROWS, r"\('epsilon_svr', 'linear'\); accepted: .* rbf"),
        (HEAD, "accepted: libsvm's text"),
        (HEAD + "SV\n-2 1:0.5\n", "1 support vectors instead of 2"),
        (HEAD + ROWS.replace("36:", "37:"), "feature 37 of 36"),
        (HEAD + ROWS.replace("0.25", "nan"), "not finite"),
        (HEAD + ROWS.replace("0.25", "zero"), "zero"),
        (HEAD.replace("rho -3.5\n", "") + ROWS, "rho"),
        ("", "accepted: libsvm's text"),
    ],
)
def test_other_support_vectors_are_refused(tmp_path: Path, svm: str, said: str) -> None:
    """Another kernel, a cut file, a feature too many, words for numbers, a missing setting."""
    with pytest.raises(DataError, match=f"svm.txt: .*{said}"):
        load_brisque(write(tmp_path, svm))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With what it should be."""
    with pytest.raises(DataError, match=r"normalize.pickle: No such file .*; accepted"):
        load_brisque(tmp_path)


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to type, and how to do without."""

    def files(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(DataError, match=r"pip install --no-deps brisque.*views.max_brisque = 0"):
        load_brisque()
