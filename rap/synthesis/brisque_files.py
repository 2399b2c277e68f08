"""Reads BRISQUE's parameters as text out of the two files of the PyPI package `brisque`.

The package (Apache-2.0, Rehan Guha) carries the trained numbers; they are not part of this project.
It is never imported, which would bring OpenCV and libsvm: `svm.txt` is libsvm's text format, and
the numbers of `normalize.pickle` are listed by the standard library's disassembler, which runs
nothing. A pickle that holds anything but two named lists of numbers is refused.
"""

import math
import pickletools
from importlib import metadata
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from rap.scene import DataError
from rap.synthesis.brisque_model import BrisqueModel

INSTALL = "pip install --no-deps brisque==0.2.0"
"""Two data files are read: nothing that the package depends on is needed."""
NUM_FEATURES = 36

_SVM_FILE, _RANGES_FILE = "svm.txt", "normalize.pickle"
# What a dict of two lists of numbers is written with; none of them looks up or calls anything.
_STRUCTURE = frozenset(
    ["PROTO", "FRAME", "EMPTY_DICT", "EMPTY_LIST", "MEMOIZE", "BINPUT", "MARK", "APPENDS",
     "SETITEMS", "STOP"]
)  # fmt: skip
_NAMES = frozenset(["SHORT_BINUNICODE", "BINUNICODE"])


def load_brisque(folder: Path | None = None) -> BrisqueModel:
    """The model of the installed package `brisque`, or of a folder with its two files.

    DataError where the package is missing (with the command that installs it), or where a file
    does not hold what it should.
    """
    folder = _installed() if folder is None else folder
    low, high = _read_ranges(folder / _RANGES_FILE)
    settings, rows = _read_svm(folder / _SVM_FILE)
    numbers = torch.tensor(rows, dtype=torch.float64)
    gamma, rho = torch.tensor(settings, dtype=torch.float64)
    return BrisqueModel(numbers[:, 1:].contiguous(), numbers[:, 0].clone(), gamma, rho, low, high)


def _installed() -> Path:
    """The folder of the package's models, found by its metadata, without importing it."""
    try:
        files = metadata.files("brisque") or []
    except metadata.PackageNotFoundError:
        files = []
    for entry in files:
        if entry.name == _SVM_FILE:
            return Path(str(entry.locate())).parent
    raise DataError(
        "BRISQUE needs the parameters in the PyPI package `brisque`, which is not installed here;"
        f" accepted: {INSTALL}, or views.max_brisque = 0 to filter views by coverage alone"
    )


def _read_svm(path: Path) -> tuple[tuple[float, float], list[list[float]]]:
    """(gamma, rho), and a row of coefficient and support vector each, of an epsilon-SVR with RBF.

    In libsvm's text format: settings by name, the line `SV`, then `coefficient index:value ...`.
    """
    head, marker, body = _read(path).decode("ascii", errors="replace").partition("\nSV\n")
    settings = dict(line.split(maxsplit=1) for line in head.splitlines() if " " in line)
    kind = (settings.get("svm_type"), settings.get("kernel_type"))
    if not marker or kind != ("epsilon_svr", "rbf"):
        raise DataError(
            f"{path}: {kind}; accepted: libsvm's text of an epsilon_svr with rbf kernel"
        )
    try:
        rows = [_svm_row(line) for line in body.splitlines() if line.strip()]
        if len(rows) != int(settings["total_sv"]):
            raise ValueError(f"{len(rows)} support vectors instead of {settings['total_sv']}")
        found = (float(settings["gamma"]), float(settings["rho"]))
        if not all(map(math.isfinite, chain(found, *rows))):
            raise ValueError("a number that is not finite")
        return found, rows
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: {error}; accepted: libsvm's text format, whole") from error


def _svm_row(line: str) -> list[float]:
    """The coefficient and the vector, whose zeros are left out in the file."""
    coefficient, *entries = line.split()
    row = [float(coefficient)] + [0.0] * NUM_FEATURES
    for entry in entries:
        index, value = entry.split(":")
        if not 1 <= int(index) <= NUM_FEATURES:
            raise ValueError(f"feature {index} of {NUM_FEATURES}")
        row[int(index)] = float(value)
    return row


def _read_ranges(path: Path) -> tuple[Float64[Tensor, "36"], Float64[Tensor, "36"]]:
    """The smallest and the largest of each feature, from a pickle that is not unpickled."""
    lists: dict[str, list[float]] = {}
    name = ""
    try:
        for opcode, value, position in pickletools.genops(_read(path)):
            if opcode.name in _NAMES:
                name = str(value)
                lists[name] = []
            elif isinstance(value, float):
                lists[name].append(value)
            elif opcode.name not in _STRUCTURE:
                raise ValueError(f"{opcode.name} at byte {position}")
        low, high = (torch.tensor(lists[name], dtype=torch.float64) for name in ("min_", "max_"))
        if len(low) != NUM_FEATURES or not bool((low < high).all()):
            raise ValueError("the ranges are empty or not of 36 features")
    except (KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path}: {error}; accepted: a dict of two lists, min_ and max_, of {NUM_FEATURES}"
            " numbers each"
        ) from error
    return low, high


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; accepted: a file of the package brisque"
        ) from error
