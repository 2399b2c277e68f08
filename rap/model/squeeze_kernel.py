"""Triton kernels that make a projection's weight of each image, and end the projection.

A program of the first has one image and some of its channels. What all channels have a part in, the
squeezed values, each program computes for itself: that is little, and spares a kernel. Sums are
fp32, in a fixed order.
"""

import importlib
from typing import Any, no_type_check

import torch
from torch import Tensor

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

_BLOCK = 8192
"""Numbers that a program reads at once, 32 for each thread of 8 warps."""
_MOST_CHANNELS = 256
"""Read at once."""
_FEW_IMAGES = 8
"""Fewer than these would leave most of a GPU idle, if a program made many channels' weights."""
_OUTPUTS = 4096
"""Weights made at once."""
_ENTRIES = 1024


def gated_weight(
    sums: Tensor, pixels: int, squeeze: Tensor, squeeze_bias: Tensor, excite: Tensor,
    excite_bias: Tensor, project: Tensor,
) -> Tensor:  # fmt: skip
    """`[n, d, c]`: `project` `[d, c]` times each image's gate, in its precision.

    `sums` are `[n, tiles, c]` fp32 of `pixels`; `squeeze` is `[s, c]`, `excite` `[c, s]`.
    """
    num, parts, channels = sums.shape
    squeezed, outs = len(squeeze), len(project)
    rows = max(16, triton.next_power_of_2(squeezed))
    chunk = min(_MOST_CHANNELS, triton.next_power_of_2(channels), max(16, 2 * _BLOCK // rows))
    own = 32 if num < _FEW_IMAGES else 128
    out = torch.empty(num, outs, channels, device=project.device, dtype=project.dtype)
    _gated_weight[(num * triton.cdiv(channels, own),)](
        sums, squeeze, squeeze_bias, excite, excite_bias, project, out, pixels, parts, channels,
        squeezed, outs, SQUEEZED=rows, CHANNELS=chunk, PARTS=_BLOCK // chunk, OWN=own,
        OUTS=_OUTPUTS // own, num_warps=8,
    )  # fmt: skip
    return out


def add_bias(out: Tensor, bias: Tensor, residual: Tensor | None) -> None:
    """Add a bias `[d]`, and a residual of the same layout, to `out` `[.., d]` in its place."""
    entries = out.numel()
    _add_bias[(triton.cdiv(entries, _ENTRIES),)](
        out, bias, out if residual is None else residual, entries, len(bias),
        RESIDUAL=residual is not None, ENTRIES=_ENTRIES,
    )  # fmt: skip


@triton.jit(do_not_specialize=["pixels", "parts", "squeezed", "outs"])
@no_type_check  # Triton compiles the source itself; a checker must not wrap it
def _gated_weight(
    sums: tl.tensor, squeeze: tl.tensor, squeeze_bias: tl.tensor, excite: tl.tensor,
    excite_bias: tl.tensor, project: tl.tensor, out: tl.tensor, pixels: tl.tensor,
    parts: tl.tensor, channels: tl.tensor, squeezed: tl.tensor, outs: tl.tensor,
    SQUEEZED: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr, OWN: tl.constexpr,
    OUTS: tl.constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(channels, OWN)
    image = tl.program_id(0) // tiles
    unit = tl.arange(0, SQUEEZED)
    is_unit = unit < squeezed
    hidden = tl.load(squeeze_bias + unit, mask=is_unit, other=0.0).to(tl.float32)
    start = 0
    while start < channels:
        channel = start + tl.arange(0, CHANNELS)
        real = channel < channels
        total = tl.zeros([CHANNELS], tl.float32)
        first = 0
        while first < parts:
            part = first + tl.arange(0, PARTS)
            at = sums + ((image * parts + part) * channels)[:, None] + channel[None, :]
            some = tl.load(at, mask=(part < parts)[:, None] & real[None, :], other=0.0)
            total += tl.sum(some, 0)
            first += PARTS
        of_unit = squeeze + (unit * channels)[:, None] + channel[None, :]
        factor = tl.load(of_unit, mask=is_unit[:, None] & real[None, :], other=0.0).to(tl.float32)
        hidden += tl.sum(factor * (total / pixels)[None, :], 1)
        start += CHANNELS
    hidden = hidden / (1.0 + tl.exp(-hidden))
    own = tl.program_id(0) % tiles * OWN + tl.arange(0, OWN)
    is_own = own < channels
    of_own = excite + (own * squeezed)[:, None] + unit[None, :]
    shares = tl.load(of_own, mask=is_own[:, None] & is_unit[None, :], other=0.0).to(tl.float32)
    gate = tl.sum(shares * hidden[None, :], 1)
    gate += tl.load(excite_bias + own, mask=is_own, other=0.0).to(tl.float32)
    gate = 1.0 / (1.0 + tl.exp(-gate))
    row = 0
    while row < outs:
        output = row + tl.arange(0, OUTS)
        there = (output < outs)[:, None] & is_own[None, :]
        of_output = project + (output * channels)[:, None] + own[None, :]
        weight = tl.load(of_output, mask=there, other=0.0).to(tl.float32) * gate[None, :]
        to = out + ((image * outs + output) * channels)[:, None] + own[None, :]
        tl.store(to, weight.to(out.dtype.element_ty), mask=there)
        row += OUTS


@triton.jit
@no_type_check
def _add_bias(
    out: tl.tensor, bias: tl.tensor, residual: tl.tensor, entries: tl.tensor, channels: tl.tensor,
    RESIDUAL: tl.constexpr, ENTRIES: tl.constexpr,
) -> None:  # fmt: skip
    at = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    real = at < entries
    total = tl.load(out + at, mask=real, other=0.0).to(tl.float32)
    total += tl.load(bias + at % channels, mask=real, other=0.0).to(tl.float32)
    if RESIDUAL:
        total += tl.load(residual + at, mask=real, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=real)
