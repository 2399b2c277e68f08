"""Triton kernels of a depthwise convolution with channels last: forward, and both gradients.

Maps are `[n, h, w, c]` in memory, weights `[c, k, k]`. A program has a tile of pixels, numbered
through all images, times a tile of channels, and reads each neighbour of a pixel once; sums are
fp32. Zeros that pad a map are not read: a neighbour outside of it is masked. Where a map's pixels
are summed, too, a tile lies within one image.
"""

import importlib
from typing import Any, no_type_check

import torch
from torch import Tensor

from rap.model.depthwise import empty_map

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

_PIXELS, _CHANNELS = 64, 32
"""Of a tile; 64 bytes of half precision lie together."""
_WEIGHT_PIXELS = 32
"""Of a tile when the weights' gradient is summed, which keeps one for each column of a kernel."""
_VARYING = ["pixels", "parts", "height", "width", "out_height", "out_width", "before"]
"""Sizes for which nothing is compiled anew."""
_WEIGHT_PROGRAMS = 2048
"""About: what keeps a GPU busy; each leaves a partial sum."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, before: int) -> Tensor:
    """A map's convolution; with a bias also SiLU of the sum.

    `before` zeros are thought of above and to the left; the output has `size // stride` pixels.
    """
    num, _, height, width = x.shape
    pixels = num * (height // stride) * (width // stride)
    return _launch(x, weight, bias, None, pixels, _PIXELS, stride, before)


def convolve_summed(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, before: int, tile: int
) -> tuple[Tensor, Tensor]:
    """SiLU of convolution and bias, and its sums over each `tile` of an image's pixels.

    These are `[n, tiles, c]` in fp32, of values before they are rounded.
    """
    num, channels, height, width = x.shape
    pixels = (height // stride) * (width // stride)
    parts = triton.cdiv(pixels, tile)
    sums = torch.empty(num, parts, channels, device=x.device, dtype=torch.float32)
    return _launch(x, weight, bias, sums, pixels, tile, stride, before), sums


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, sums: Tensor | None, pixels: int, tile: int,
    stride: int, before: int,
) -> Tensor:  # fmt: skip
    """`pixels` are those that tiles are cut from: an image's, or all."""
    num, channels, height, width = x.shape
    out = empty_map(x, channels, height // stride, width // stride)
    parts = triton.cdiv(pixels, tile)
    images = 1 if sums is None else num
    _convolve[(images * parts * triton.cdiv(channels, _CHANNELS),)](
        x, weight, weight if bias is None else bias, out, out if sums is None else sums, pixels,
        parts, channels, height, width, out.shape[2], out.shape[3], before,
        KERNEL=weight.shape[-1], STRIDE=stride, ACTIVATED=bias is not None,
        SUMMED=sums is not None, PIXELS=tile, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return out


def input_gradient(
    grad: Tensor, weight: Tensor, size: tuple[int, int], stride: int, before: int
) -> Tensor:
    """Of a map of `size`, height and width, from that of its convolution."""
    num, channels, out_height, out_width = grad.shape
    out = empty_map(grad, channels, *size)
    pixels = num * size[0] * size[1]
    _input_gradient[_grid(pixels, channels)](
        grad, weight, out, pixels, channels, *size, out_height, out_width, before,
        KERNEL=weight.shape[-1], STRIDE=stride, PIXELS=_PIXELS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    return out


def weight_gradient(grad: Tensor, x: Tensor, kernel: int, stride: int, before: int) -> Tensor:
    """`[c, 1, k, k]` in the map's precision; pixels are summed in a fixed order."""
    num, channels, out_height, out_width = grad.shape
    pixels, tiles = num * out_height * out_width, triton.cdiv(channels, _CHANNELS)
    each = triton.cdiv(pixels, max(1, _WEIGHT_PROGRAMS // (tiles * kernel)))
    each = triton.cdiv(each, _WEIGHT_PIXELS) * _WEIGHT_PIXELS
    parts = triton.cdiv(pixels, each)
    sums = torch.empty(parts, kernel * kernel, channels, device=x.device, dtype=torch.float32)
    _weight_gradient[(kernel * tiles, parts)](
        grad, x, sums, pixels, each, channels, x.shape[2], x.shape[3], out_height, out_width,
        before, KERNEL=kernel, STRIDE=stride, PIXELS=_WEIGHT_PIXELS, CHANNELS=_CHANNELS,
    )  # fmt: skip
    # Not by .to(), which leaves the layout of fp32 as it is, whatever it is asked for.
    found = x.new_empty(channels, 1, kernel, kernel)
    found.view(channels, -1).copy_(sums.sum(0).t())
    return found


def _grid(pixels: int, channels: int) -> tuple[int]:
    return (triton.cdiv(pixels, _PIXELS) * triton.cdiv(channels, _CHANNELS),)


@triton.jit(do_not_specialize=_VARYING)
@no_type_check  # Triton compiles the source itself; a checker must not wrap it
def _convolve(
    x: tl.tensor, weight: tl.tensor, bias: tl.tensor, out: tl.tensor, sums: tl.tensor,
    pixels: tl.tensor, parts: tl.tensor, channels: tl.tensor, height: tl.tensor, width: tl.tensor,
    out_height: tl.tensor, out_width: tl.tensor, before: tl.tensor, KERNEL: tl.constexpr,
    STRIDE: tl.constexpr, ACTIVATED: tl.constexpr, SUMMED: tl.constexpr, PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(channels, CHANNELS)
    part = tl.program_id(0) // tiles
    channel = tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < channels
    # Of the image that is summed; where none is, all images are one.
    within = part % parts * PIXELS + tl.arange(0, PIXELS)
    pixel = part // parts * pixels + within
    inside = (within < pixels)[:, None] & real[None, :]
    column = pixel % out_width * STRIDE - before
    row = pixel // out_width % out_height * STRIDE - before
    image = pixel // (out_width * out_height) * height
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tap_row in tl.static_range(KERNEL):
        for tap_column in tl.static_range(KERNEL):
            at_row, at_column = row + tap_row, column + tap_column
            seen = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
            at = ((image + at_row) * width + at_column) * channels
            value = tl.load(
                x + at[:, None] + channel[None, :], mask=inside & seen[:, None], other=0.0
            )
            tap = weight + channel * (KERNEL * KERNEL) + (tap_row * KERNEL + tap_column)
            factor = tl.load(tap, mask=real, other=0.0).to(tl.float32)
            total += value.to(tl.float32) * factor[None, :]
    if ACTIVATED:
        total += tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)[None, :]
        total = total / (1.0 + tl.exp(-total))
    if SUMMED:
        summed = tl.sum(tl.where(inside, total, 0.0), 0)
        tl.store(sums + part * channels + channel, summed, mask=real)
    to = out + (pixel * channels)[:, None] + channel[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_VARYING)
@no_type_check
def _input_gradient(
    grad: tl.tensor, weight: tl.tensor, out: tl.tensor, pixels: tl.tensor, channels: tl.tensor,
    height: tl.tensor, width: tl.tensor, out_height: tl.tensor, out_width: tl.tensor,
    before: tl.tensor, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> None:  # fmt: skip
    tiles = tl.cdiv(channels, CHANNELS)
    pixel = tl.program_id(0) // tiles * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < channels
    inside = (pixel < pixels)[:, None] & real[None, :]
    column = pixel % width + before
    row = pixel // width % height + before
    image = pixel // (width * height) * out_height
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for tap_row in tl.static_range(KERNEL):
        for tap_column in tl.static_range(KERNEL):
            # The output pixel whose tap this one is, if there is one.
            down, right = row - tap_row, column - tap_column
            at_row, at_column = down // STRIDE, right // STRIDE
            seen = (down >= 0) & (at_row < out_height) & (right >= 0) & (at_column < out_width)
            seen &= (down % STRIDE == 0) & (right % STRIDE == 0)
            at = ((image + at_row) * out_width + at_column) * channels
            value = tl.load(
                grad + at[:, None] + channel[None, :], mask=inside & seen[:, None], other=0.0
            )
            tap = weight + channel * (KERNEL * KERNEL) + (tap_row * KERNEL + tap_column)
            factor = tl.load(tap, mask=real, other=0.0).to(tl.float32)
            total += value.to(tl.float32) * factor[None, :]
    to = out + (pixel * channels)[:, None] + channel[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _product(
    value: tl.tensor, x: tl.tensor, image_row: tl.tensor, column: tl.tensor, seen: tl.tensor,
    channel: tl.tensor, channels: tl.tensor, width: tl.tensor,
) -> tl.tensor:  # fmt: skip
    seen = seen & ((column >= 0) & (column < width))[:, None]
    at = (image_row * width + column) * channels
    other = tl.load(x + at[:, None] + channel[None, :], mask=seen, other=0.0)
    return value * other.to(tl.float32)


@triton.jit(do_not_specialize=[*_VARYING, "each"])
@no_type_check
def _weight_gradient(
    grad: tl.tensor, x: tl.tensor, sums: tl.tensor, pixels: tl.tensor, each: tl.tensor,
    channels: tl.tensor, height: tl.tensor, width: tl.tensor, out_height: tl.tensor,
    out_width: tl.tensor, before: tl.tensor, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
) -> None:  # fmt: skip
    # Rows of a kernel are neighbours, which read the same gradients.
    tap_row = tl.program_id(0) % KERNEL
    channel = tl.program_id(0) // KERNEL * CHANNELS + tl.arange(0, CHANNELS)
    real = channel < channels
    start = tl.program_id(1) * each
    end = tl.minimum(start + each, pixels)
    sum0 = tl.zeros([PIXELS, CHANNELS], tl.float32)
    sum1 = tl.zeros([PIXELS, CHANNELS], tl.float32)
    sum2 = tl.zeros([PIXELS, CHANNELS], tl.float32)
    sum3 = tl.zeros([PIXELS, CHANNELS], tl.float32)
    sum4 = tl.zeros([PIXELS, CHANNELS], tl.float32)
    while start < end:
        pixel = start + tl.arange(0, PIXELS)
        inside = (pixel < pixels)[:, None] & real[None, :]
        at = grad + (pixel * channels)[:, None] + channel[None, :]
        value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        column = pixel % out_width * STRIDE - before
        row = pixel // out_width % out_height * STRIDE - before + tap_row
        seen = inside & ((row >= 0) & (row < height))[:, None]
        image_row = pixel // (out_width * out_height) * height + row
        sum0 += _product(value, x, image_row, column, seen, channel, channels, width)
        sum1 += _product(value, x, image_row, column + 1, seen, channel, channels, width)
        sum2 += _product(value, x, image_row, column + 2, seen, channel, channels, width)
        if KERNEL > 3:
            sum3 += _product(value, x, image_row, column + 3, seen, channel, channels, width)
            sum4 += _product(value, x, image_row, column + 4, seen, channel, channels, width)
        start += PIXELS
    to = sums + (tl.program_id(1) * KERNEL + tap_row) * KERNEL * channels + channel
    tl.store(to, tl.sum(sum0, 0), mask=real)
    tl.store(to + channels, tl.sum(sum1, 0), mask=real)
    tl.store(to + 2 * channels, tl.sum(sum2, 0), mask=real)
    if KERNEL > 3:
        tl.store(to + 3 * channels, tl.sum(sum3, 0), mask=real)
        tl.store(to + 4 * channels, tl.sum(sum4, 0), mask=real)
