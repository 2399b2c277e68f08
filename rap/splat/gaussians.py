"""The parameters of a Gaussian splat, and the `.ply` layout that the field agreed on.

Stored as optimised: log scales, opacity logits, quaternions wxyz of any length, spherical harmonics
with `colour = 0.5 + sum(basis * sh)`. In a file the higher harmonics are channel-major: all
coefficients of red, then green, then blue. A header comment of ours, `comment antialiased 1` or
`0`, says how the Gaussians are to be drawn; a file without it is drawn classically, as Inria's.
An appearance lies in a file beside the .ply (`appearance_file.py`); `comment appearance` names its
SHA-256, or `none`, so that neither file is ever shown with what belongs to another.
"""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from rap import log
from rap.scene import DataError
from rap.splat.appearance import Appearance
from rap.splat.appearance_file import (
    appearance_bytes,
    appearance_path,
    check_digest,
    digest_of,
    load_appearance,
)

_LFS_POINTER = b"version https://git-lfs"
_MAX_HEADER_BYTES = 1 << 16
_MAX_COUNT_DIGITS = 12
_MAX_SCALE_M = 1e6
"""Seen from a metre, fourth powers of larger ones in pixels are infinite in float32."""
_MAX_QUAT_LENGTH = 1e6
"""Longer ones, and those as short, are read as of length 1: every drawer squares them."""
_BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_BASE = ("f_dc_0", "f_dc_1", "f_dc_2")
_OPACITY = ("opacity",)
_SCALES = ("scale_0", "scale_1", "scale_2")
_QUATS = ("rot_0", "rot_1", "rot_2", "rot_3")
_ANTIALIASED = "antialiased"
_APPEARANCE = "appearance"
_NO_APPEARANCE = "none"


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A scene as n Gaussians, before activation; float64 parameters are for gradient checks."""

    means: Float[Tensor, "n 3"]
    """World coordinates, metres."""
    quats: Float[Tensor, "n 4"]
    """world_from_gaussian rotations, wxyz, of any non-zero length."""
    log_scales: Float[Tensor, "n 3"]
    """Natural logarithms of the standard deviations in metres."""
    opacity_logits: Float[Tensor, " n"]
    sh: Float[Tensor, "n k 3"]
    """Spherical-harmonics coefficients of the colour, k = (degree + 1)²."""
    antialiased: bool = field(default=True, kw_only=True)
    """Drawn with opacities compensated for the screen-space low-pass filter, as fitted."""
    appearance: Appearance | None = field(default=None, kw_only=True)
    """How the training photographs differ in light; `sh` is what they have in common."""

    @property
    def num(self) -> int:
        """Number of Gaussians."""
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the harmonics that are stored, 0 to 3."""
        return int(self.sh.shape[1] ** 0.5) - 1

    @property
    def scales(self) -> Float[Tensor, "n 3"]:
        """Standard deviations along the Gaussians' own axes, metres."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Float[Tensor, " n"]:
        """Opacities in (0, 1)."""
        return self.opacity_logits.sigmoid()

    def to(self, device: torch.device | str) -> "Gaussians":
        """The same Gaussians on another device."""
        return Gaussians(
            self.means.to(device), self.quats.to(device), self.log_scales.to(device),
            self.opacity_logits.to(device), self.sh.to(device), antialiased=self.antialiased,
            appearance=None if self.appearance is None else self.appearance.to(device),
        )  # fmt: skip


def save_ply(path: Path, gaussians: Gaussians) -> None:
    """Write the layout of Inria's trainer (float32, little endian, zero normals).

    An appearance goes into the file beside it; without one, such a file of earlier is removed.
    Both are written in full before either takes the place of an earlier one.
    """
    columns = torch.cat(
        [
            gaussians.means,
            torch.zeros_like(gaussians.means),
            gaussians.sh[:, 0],
            gaussians.sh[:, 1:].mT.flatten(1),
            gaussians.opacity_logits[:, None],
            gaussians.log_scales,
            gaussians.quats,
        ],
        dim=1,
    )
    beside, appearance = appearance_path(path), gaussians.appearance
    light = None if appearance is None else appearance_bytes(appearance)
    with log.replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(_header(gaussians, light))
            file.write(columns.detach().cpu().numpy().astype("<f4").tobytes())
        if light is not None:
            with log.replacing(beside) as temporary_light:
                temporary_light.write_bytes(light)
    if light is None:
        beside.unlink(missing_ok=True)


def _header(gaussians: Gaussians, light: bytes | None) -> bytes:
    num_rest = 3 * (gaussians.sh.shape[1] - 1)
    names = (*_MEANS, *_NORMALS, *_BASE, *_rest(num_rest), *_OPACITY, *_SCALES, *_QUATS)
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += [f"comment {_ANTIALIASED} {int(gaussians.antialiased)}"]
    lines += [f"comment {_APPEARANCE} {_NO_APPEARANCE if light is None else digest_of(light)}"]
    lines += [f"element vertex {gaussians.num}"]
    lines += [f"property float {name}" for name in names]
    return "\n".join([*lines, "end_header", ""]).encode("ascii")


def load_ply(path: Path) -> Gaussians:
    """Read what Inria's trainer, gsplat or nerfstudio wrote; properties may come in any order.

    Without our comment the Gaussians count as fitted without antialiasing; others that were fitted
    with it need the line `comment antialiased 1` in the header. The appearance is read from the
    file beside it if the header names one, or says nothing and there is one. Raises DataError,
    naming the file, for anything that is no complete, finite 3DGS model.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(path, file)
            num, layout = header.num, header.layout
            num_rest = _check_names(path, layout.names or ())
            _check_size(path, header, os.fstat(file.fileno()).st_size - file.tell())
            payload = file.read(num * layout.itemsize)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    table = np.frombuffer(payload, dtype=layout)
    rest = _columns(path, table, _rest(num_rest)).unflatten(1, (3, num_rest // 3)).mT
    return Gaussians(
        means=_columns(path, table, _MEANS),
        quats=_usable_quats(path, _columns(path, table, _QUATS)),
        log_scales=_usable_scales(path, _columns(path, table, _SCALES)),
        opacity_logits=_columns(path, table, _OPACITY).squeeze(1),
        sh=torch.cat([_columns(path, table, _BASE)[:, None], rest], dim=1),
        antialiased=header.antialiased,
        appearance=_light_beside(path, header),
    )


class _Header(NamedTuple):
    num: int
    layout: np.dtype
    """Of one Gaussian."""
    others: bool
    """Whether other elements follow the Gaussians."""
    antialiased: bool
    light: str | None
    """Digest of the appearance, or `none`; None where the file says nothing."""


def _light_beside(path: Path, header: _Header) -> Appearance | None:
    beside = appearance_path(path)
    if header.light == _NO_APPEARANCE or (header.light is None and not beside.exists()):
        return None
    if header.light is not None:
        check_digest(path, header.light)
    return load_appearance(beside, header.num)


def _rest(num: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{index}" for index in range(num))


def _read_header(path: Path, file: BinaryIO) -> _Header:
    """What the header says; leaves the file at the first Gaussian."""
    head = file.read(_MAX_HEADER_BYTES)
    if head.startswith(_LFS_POINTER):
        raise DataError(f"{path}: is a Git-LFS pointer, not the file itself; run `git lfs pull`")
    if not head.startswith(b"ply"):
        raise DataError(f"{path}: is not a PLY file (it must begin with `ply`)")
    text, mark, _ = head.partition(b"end_header\n")
    if not mark:
        raise DataError(f"{path}: PLY header without `end_header`")
    file.seek(len(text) + len(mark))
    lines = [line.split() for line in text.decode("ascii", errors="replace").splitlines()]
    antialiased = _comment(path, lines, _ANTIALIASED, r"0|1", "0 or 1") == "1"
    light = _comment(path, lines, _APPEARANCE, r"none|[0-9a-f]{64}", "none or a SHA-256")
    lines = [words for words in lines if words and words[0] in ("format", "element", "property")]
    order = _byte_order(path, lines)
    first, *others = [i for i, words in enumerate(lines) if words[0] == "element"] or [-1]
    num = _num_vertices(path, lines[first])
    properties = lines[first + 1 : others[0] if others else None]
    return _Header(num, _layout(path, properties, order), bool(others), antialiased, light)


def _comment(
    path: Path, lines: list[list[str]], name: str, pattern: str, accepted: str
) -> str | None:
    """What one of our comments says; None where there is none."""
    said = [" ".join(words[2:]) for words in lines if words[:2] == ["comment", name]]
    if len(said) > 1 or not all(re.fullmatch(pattern, value) for value in said):
        raise DataError(
            f"{path}: comment {name} is {', '.join(said)!r}; accepted: {accepted}, once"
        )
    return said[0] if said else None


def _byte_order(path: Path, lines: list[list[str]]) -> str:
    kinds = [words[1] for words in lines if words[0] == "format" and len(words) > 1]
    if len(kinds) != 1 or kinds[0] not in _BYTE_ORDERS:
        raise DataError(
            f"{path}: PLY format {' '.join(kinds) or '(none)'} is not supported;"
            f" accepted: {', '.join(_BYTE_ORDERS)}"
        )
    return _BYTE_ORDERS[kinds[0]]


def _num_vertices(path: Path, words: list[str]) -> int:
    if words[:2] != ["element", "vertex"] or len(words) != 3 or not words[2].isdecimal():
        raise DataError(
            f"{path}: the first PLY element must be `vertex` with a count, not"
            f" {' '.join(words)!r} (compressed splats are not supported)"
        )
    if len(words[2]) > _MAX_COUNT_DIGITS:
        raise DataError(
            f"{path}: the header promises a number of Gaussians of {len(words[2])} digits; accepted"
            f" are up to {_MAX_COUNT_DIGITS}"
        )
    if int(words[2]) == 0:
        raise DataError(f"{path}: holds no Gaussians")
    return int(words[2])


def _check_size(path: Path, header: _Header, num_bytes: int) -> None:
    """What follows the header is as much as it promises; asked before any of it is read."""
    promised = header.num * header.layout.itemsize
    if num_bytes < promised or (num_bytes > promised and not header.others):
        raise DataError(
            f"{path}: {'truncated' if num_bytes < promised else 'longer than its header says'}: it"
            f" promises {header.num} Gaussians of {header.layout.itemsize} bytes, {promised} in"
            f" all; the file holds {num_bytes}"
        )


def _layout(path: Path, properties: list[list[str]], order: str) -> np.dtype:
    fields = []
    for words in properties:
        if len(words) != 3 or words[1] not in _TYPES:
            raise DataError(f"{path}: PLY property {' '.join(words[1:])!r} is not a scalar number")
        fields.append((words[2], order + _TYPES[words[1]]))
    names = [name for name, _ in fields]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: a PLY property occurs twice among {', '.join(names)}")
    return np.dtype(fields)


def _check_names(path: Path, names: tuple[str, ...]) -> int:
    """Every needed property is there; returns the number of f_rest properties."""
    needed = (*_MEANS, *_BASE, *_OPACITY, *_SCALES, *_QUATS)
    missing = [name for name in needed if name not in names]
    if missing:
        hint = "; export with harmonics, not RGB colours" if "red" in names else ""
        raise DataError(f"{path}: no 3DGS model, missing {', '.join(missing)}{hint}")
    rest = {name for name in names if name.startswith("f_rest_")}
    if len(rest) not in (0, 9, 24, 45) or rest != set(_rest(len(rest))):
        raise DataError(
            f"{path}: {len(rest)} f_rest properties; degrees 0 to 3 have f_rest_0 to f_rest_k"
            " with 0, 9, 24 or 45 of them"
        )
    return len(rest)


def _columns(path: Path, table: np.ndarray, names: tuple[str, ...]) -> Float32[Tensor, "n c"]:
    columns = np.empty((len(table), len(names)), dtype=np.float32)
    for index, name in enumerate(names):
        columns[:, index] = table[name]
        bad = np.flatnonzero(~np.isfinite(columns[:, index]))
        if len(bad):
            value = columns[bad[0], index]
            raise DataError(
                f"{path}: {name} is {value} in Gaussian {bad[0]} ({len(bad)} such values)"
            )
    return torch.from_numpy(columns)


def _usable_quats(path: Path, quats: Float32[Tensor, "n 4"]) -> Float32[Tensor, "n 4"]:
    """None is zero; those whose squares float32 could not hold get length 1, as all are read."""
    lengths = torch.linalg.vector_norm(quats.double(), dim=1)
    bad = (lengths == 0).nonzero()
    if len(bad):
        raise DataError(f"{path}: rot_0 to rot_3 are all zero in Gaussian {int(bad[0])}")
    odd = (lengths < 1 / _MAX_QUAT_LENGTH) | (lengths > _MAX_QUAT_LENGTH)
    unit = (quats.double() / lengths[:, None]).float()
    return torch.where(odd[:, None], unit, quats)


def _usable_scales(path: Path, log_scales: Float32[Tensor, "n 3"]) -> Float32[Tensor, "n 3"]:
    """None is so large that its variance in pixels would overflow."""
    bad = (log_scales > math.log(_MAX_SCALE_M)).nonzero()
    if len(bad):
        index, axis = bad[0].tolist()
        raise DataError(
            f"{path}: {_SCALES[axis]} is {float(log_scales[index, axis]):g} in Gaussian {index}"
            f" ({len(bad)} such values): a natural logarithm of metres, of which up to"
            f" {math.log(_MAX_SCALE_M):.1f} are accepted"
        )
    return log_scales
