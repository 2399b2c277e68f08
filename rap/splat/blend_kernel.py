"""Blending of a picture's Gaussians by one Triton kernel, without gradients; see `blend.py`.

One warp draws one block of pixels: `COLUMNS` x `ROWS` *strips* of 8 x 4, a pixel of each strip in
each of its 32 lanes. From the depth-ordered list of the block's tile it takes 32 Gaussians at a
time, one in a lane, which find out whether their ellipses touch the block, and where. Only those
that do are then shown to all lanes, in turn.
"""

import importlib
import math
from typing import Any, no_type_check

import torch
from jaxtyping import Float32, Int32
from torch import Tensor

from rap.splat import reference

triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")

STRIP_WIDTH, STRIP_HEIGHT = 8, 4
_STRIPS = (1, 4)
"""Of a block, in x and in y: the fastest of those that we measured, with (2, 2)."""
_LANES = tl.constexpr(32)
_STRIP_WIDTH = tl.constexpr(STRIP_WIDTH)
_STRIP_HEIGHT = tl.constexpr(STRIP_HEIGHT)
_MAX_ALPHA = tl.constexpr(reference.MAX_ALPHA)
_MIN_TRANSMITTANCE = tl.constexpr(reference.MIN_TRANSMITTANCE)
_FAINTEST = tl.constexpr(math.log2(reference.MIN_ALPHA))
_HALF_LOG2_E = tl.constexpr(0.5 * math.log2(math.e))
_SLACK = tl.constexpr(0.02)
"""In powers of two of alpha: ellipses are found this much too large, the pixel decides."""


def blend(
    means: Float32[Tensor, "v n 2"],
    conics: Float32[Tensor, "v n 3"],
    opacities: Float32[Tensor, "v n"],
    colors: Float32[Tensor, "#v n 3"],
    starts: Int32[Tensor, "v rows columns"],
    splats: Int32[Tensor, " pairs"],
    size: tuple[int, int],
    tile: tuple[int, int],
) -> tuple[Float32[Tensor, "v 3 h w"], Float32[Tensor, "v h w"]]:
    """Premultiplied colour, and alpha, at (height, width) from gsplat's projection and lists.

    `starts` says where each tile's list begins in `splats`, whose entries are view·n + Gaussian. A
    `tile` has so many pixels in x and in y, and holds whole blocks, which have fewer strips if it
    is smaller.
    """
    arrays = tuple(part.contiguous() for part in (means, conics, opacities, colors))
    shared = len(colors) < len(means)
    return _launched(arrays, False, shared, means.shape[1], starts, splats, size, tile)


def blend_records(
    records: Int32[Tensor, "v n 8"],
    starts: Int32[Tensor, "v rows columns"],
    splats: Int32[Tensor, " pairs"],
    size: tuple[int, int],
    tile: tuple[int, int],
) -> tuple[Float32[Tensor, "v 3 h w"], Float32[Tensor, "v h w"]]:
    """The same from the records of `project_kernel.project`."""
    return _launched((records,) * 4, True, False, records.shape[1], starts, splats, size, tile)


def _launched(
    arrays: tuple[Tensor, ...],
    records: bool,
    shared: bool,
    num: int,
    starts: Int32[Tensor, "v rows columns"],
    splats: Int32[Tensor, " pairs"],
    size: tuple[int, int],
    tile: tuple[int, int],
) -> tuple[Float32[Tensor, "v 3 h w"], Float32[Tensor, "v h w"]]:
    height, width = size
    num_views, tile_rows, tile_columns = starts.shape
    columns = min(_STRIPS[0], tile[0] // STRIP_WIDTH)
    rows = min(_STRIPS[1], tile[1] // STRIP_HEIGHT)
    rgb = torch.empty(num_views, 3, height, width, device=starts.device)
    alpha = torch.empty(num_views, height, width, device=starts.device)
    per_tile = tile[0] // (STRIP_WIDTH * columns) * (tile[1] // (STRIP_HEIGHT * rows))
    with torch.cuda.device_of(starts):
        _blend[(starts.numel() * per_tile,)](
            *arrays, starts.contiguous(), splats.contiguous(), rgb, alpha,
            starts.numel(), len(splats), tile_rows, tile_columns, num, height, width,
            RECORDS=records, SHARED=shared, TILE_WIDTH=tile[0], TILE_HEIGHT=tile[1],
            COLUMNS=columns, ROWS=rows, num_warps=1,
        )  # fmt: skip
    return rgb, alpha


@triton.jit
@no_type_check  # Triton compiles the source itself; a checker must not wrap it
def _form(a: tl.tensor, b: tl.tensor, c: tl.tensor, dx: tl.tensor, dy: tl.tensor) -> tl.tensor:
    return (a * dx + b * dy) * dx + c * dy * dy


@triton.jit
@no_type_check
def _least(
    a: tl.tensor, b: tl.tensor, c: tl.tensor, left: tl.tensor, top: tl.tensor,
    WIDTH: tl.constexpr, HEIGHT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The least of a·dx² + b·dx·dy + c·dy² over the pixel centres' rectangle, from the mean.

    It lies on one of the two edges that face the mean; both candidates are in the rectangle.
    """
    right = left + (WIDTH - 1)
    bottom = top + (HEIGHT - 1)
    dx = tl.minimum(tl.maximum(left, 0.0), right)
    dy = tl.minimum(tl.maximum(dx * (-0.5 * b / c), top), bottom)
    beside = _form(a, b, c, dx, dy)
    dy = tl.minimum(tl.maximum(top, 0.0), bottom)
    dx = tl.minimum(tl.maximum(dy * (-0.5 * b / a), left), right)
    return tl.minimum(beside, _form(a, b, c, dx, dy))


@triton.jit
@no_type_check
def _touched(
    a: tl.tensor, b: tl.tensor, c: tl.tensor, reach: tl.tensor, left: tl.tensor, top: tl.tensor,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """A bit for each strip, row by row, that the ellipse may touch."""
    found = tl.zeros([_LANES], tl.int32)
    for strip in tl.static_range(COLUMNS * ROWS):
        x = left + (strip % COLUMNS) * _STRIP_WIDTH
        y = top + (strip // COLUMNS) * _STRIP_HEIGHT
        least = _least(a, b, c, x, y, _STRIP_WIDTH, _STRIP_HEIGHT)
        found |= tl.where(least <= reach, 1 << strip, 0)
    return found


@triton.jit
@no_type_check
def _shown(value: tl.tensor, lane: tl.tensor) -> tl.tensor:
    """One lane's value in all lanes: a shuffle, as both are of one warp."""
    return tl.gather(value, tl.full([_LANES], lane, tl.int32), 0)


@triton.jit
@no_type_check
def _blended(
    state: tl.tuple, exponent: tl.tensor, red: tl.tensor, green: tl.tensor, blue: tl.tensor
) -> tl.tuple:
    """A strip after one more Gaussian.

    A transmittance that may fall no further turns negative, and changes nothing from then on.
    """
    light, r, g, b = state
    alpha = tl.minimum(tl.exp2(exponent), _MAX_ALPHA)
    alpha = tl.where(exponent >= _FAINTEST, alpha, 0.0)
    left = light - alpha * light
    alive = left > _MIN_TRANSMITTANCE
    weight = tl.where(alive, alpha * light, 0.0)
    light = tl.where(alive, left, -tl.abs(light))
    return light, r + weight * red, g + weight * green, b + weight * blue


@triton.jit
@no_type_check
def _evaluated(
    states: tl.tuple, touched: tl.tensor, x: tl.tensor, y: tl.tensor,
    xx: tl.tensor, xy: tl.tensor, yy: tl.tensor, x1: tl.tensor, y1: tl.tensor, one: tl.tensor,
    red: tl.tensor, green: tl.tensor, blue: tl.tensor,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """All strips after one more Gaussian: alpha is 2 to its quadratic form in x and y."""
    after = ()
    for strip in tl.static_range(COLUMNS * ROWS):
        u = x + (strip % COLUMNS) * _STRIP_WIDTH
        v = y + (strip // COLUMNS) * _STRIP_HEIGHT
        state = states[strip]
        if touched & (1 << strip) != 0:
            exponent = (yy * v + (xy * u + y1)) * v + ((xx * u + x1) * u + one)
            state = _blended(state, exponent, red, green, blue)
        after += (state,)
    return after


@triton.jit
@no_type_check
def _either(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    return a | b


@triton.jit
@no_type_check
def _open(states: tl.tuple, STRIPS: tl.constexpr) -> tl.tensor:
    """A bit for each strip in which light still passes a pixel."""
    found = tl.zeros([_LANES], tl.int32)
    for strip in tl.static_range(STRIPS):
        found |= tl.where(states[strip][0] > _MIN_TRANSMITTANCE, 1 << strip, 0)
    return tl.reduce(found, 0, _either)


@triton.jit
@no_type_check
def _empty(
    column: tl.tensor, row: tl.tensor, height: tl.tensor, width: tl.tensor, lane: tl.tensor,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Transmittance, red, green and blue of each strip; outside the picture nothing can change."""
    states = ()
    for strip in tl.static_range(COLUMNS * ROWS):
        seen = column + (strip % COLUMNS) * _STRIP_WIDTH + lane % _STRIP_WIDTH < width
        seen &= row + (strip // COLUMNS) * _STRIP_HEIGHT + lane // _STRIP_WIDTH < height
        zero = tl.zeros([_LANES], tl.float32)
        states += ((tl.where(seen, 1.0, zero), zero, zero, zero),)
    return states


@triton.jit
@no_type_check
def _store(
    states: tl.tuple, rgb: tl.tensor, alpha: tl.tensor, view: tl.tensor,
    column: tl.tensor, row: tl.tensor, height: tl.tensor, width: tl.tensor, lane: tl.tensor,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    plane = height.to(tl.int64) * width
    for strip in tl.static_range(COLUMNS * ROWS):
        light, red, green, blue = states[strip]
        x = column + (strip % COLUMNS) * _STRIP_WIDTH + lane % _STRIP_WIDTH
        y = row + (strip // COLUMNS) * _STRIP_HEIGHT + lane // _STRIP_WIDTH
        seen = (x < width) & (y < height)
        pixel = y.to(tl.int64) * width + x
        first = rgb + view * 3 * plane + pixel
        tl.store(first, red, mask=seen)
        tl.store(first + plane, green, mask=seen)
        tl.store(first + 2 * plane, blue, mask=seen)
        tl.store(alpha + view * plane + pixel, 1.0 - tl.abs(light), mask=seen)


@triton.jit
@no_type_check
def _loaded(
    means: tl.tensor, conics: tl.tensor, opacities: tl.tensor, color: tl.tensor, splat: tl.tensor,
    listed: tl.tensor, middle_x: tl.tensor, middle_y: tl.tensor,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """Mean, from the middle; the form that is subtracted from log2 of the opacity; that; colour."""
    x = tl.load(means + splat * 2, mask=listed, other=0.0) - middle_x
    y = tl.load(means + splat * 2 + 1, mask=listed, other=0.0) - middle_y
    a = tl.load(conics + splat * 3, mask=listed, other=1.0) * _HALF_LOG2_E
    b = tl.load(conics + splat * 3 + 1, mask=listed, other=0.0) * (2.0 * _HALF_LOG2_E)
    c = tl.load(conics + splat * 3 + 2, mask=listed, other=1.0) * _HALF_LOG2_E
    peak = tl.log2(tl.load(opacities + splat, mask=listed, other=1.0))
    red = tl.load(color, mask=listed, other=0.0)
    green = tl.load(color + 1, mask=listed, other=0.0)
    blue = tl.load(color + 2, mask=listed, other=0.0)
    return x, y, a, b, c, peak, red, green, blue


@triton.jit
@no_type_check
def _four(first: tl.tensor, splat: tl.tensor, listed: tl.tensor) -> tuple[tl.tensor, ...]:
    """Neighbours in memory, loaded as one vector."""
    column = tl.arange(0, 4)
    both = tl.load(first + splat[:, None] * 8 + column[None, :], mask=listed[:, None], other=0)
    even, odd = tl.split(tl.reshape(both, [_LANES, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
@no_type_check
def _float(bits: tl.tensor) -> tl.tensor:
    return bits.to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def _half(bits: tl.tensor) -> tl.tensor:
    return (bits & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
@no_type_check
def _unpacked(
    records: tl.tensor, splat: tl.tensor, listed: tl.tensor, middle_x: tl.tensor,
    middle_y: tl.tensor,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """The same from a record."""
    x, y, a, b = _four(records, splat, listed)
    c, peak, red, blue = _four(records + 4, splat, listed)
    return (
        _float(x) - middle_x, _float(y) - middle_y, _float(a), _float(b), _float(c), _float(peak),
        _half(red), _half(red >> 16), _half(blue),
    )  # fmt: skip


@triton.jit
@no_type_check
def _in_turn(
    states: tl.tuple, hit: tl.tensor, touched: tl.tensor, lane: tl.tensor,
    x: tl.tensor, y: tl.tensor, mean_x: tl.tensor, mean_y: tl.tensor,
    a: tl.tensor, b: tl.tensor, c: tl.tensor, peak: tl.tensor,
    red: tl.tensor, green: tl.tensor, blue: tl.tensor,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """All strips after those of 32 Gaussians that hit, each shown by its lane to all lanes."""
    x1 = 2.0 * a * mean_x + b * mean_y
    y1 = 2.0 * c * mean_y + b * mean_x
    one = peak - _form(a, b, c, mean_x, mean_y)
    waiting = tl.sum(tl.where(hit, 1 << lane, 0)).to(tl.uint32, bitcast=True)
    while waiting != 0:
        rest = waiting & (waiting - 1)
        # the exponent of a power of two is the number of its bit
        source = ((waiting ^ rest).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
        waiting = rest
        states = _evaluated(
            states, tl.sum(tl.where(lane == source, touched, 0)), x, y,
            _shown(-a, source), _shown(-b, source), _shown(-c, source),
            _shown(x1, source), _shown(y1, source), _shown(one, source),
            _shown(red, source), _shown(green, source), _shown(blue, source),
            COLUMNS, ROWS,
        )  # fmt: skip
    return states


@triton.jit(do_not_specialize=["num_pairs"])
@no_type_check
def _blend(
    means: tl.tensor, conics: tl.tensor, opacities: tl.tensor, colors: tl.tensor,
    starts: tl.tensor, splats: tl.tensor, rgb: tl.tensor, alpha: tl.tensor,
    num_tiles: tl.tensor, num_pairs: tl.tensor, tile_rows: tl.tensor, tile_columns: tl.tensor,
    num: tl.tensor, height: tl.tensor, width: tl.tensor,
    RECORDS: tl.constexpr, SHARED: tl.constexpr,
    TILE_WIDTH: tl.constexpr, TILE_HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr,
) -> None:  # fmt: skip
    BLOCK_WIDTH: tl.constexpr = COLUMNS * _STRIP_WIDTH
    BLOCK_HEIGHT: tl.constexpr = ROWS * _STRIP_HEIGHT
    ACROSS: tl.constexpr = TILE_WIDTH // BLOCK_WIDTH
    PER_TILE: tl.constexpr = ACROSS * (TILE_HEIGHT // BLOCK_HEIGHT)
    tile = tl.program_id(0) // PER_TILE
    block = tl.program_id(0) % PER_TILE
    view = (tile // (tile_rows * tile_columns)).to(tl.int64)
    column = tile % tile_columns * TILE_WIDTH + block % ACROSS * BLOCK_WIDTH
    row = tile // tile_columns % tile_rows * TILE_HEIGHT + block // ACROSS * BLOCK_HEIGHT
    lane = tl.arange(0, _LANES)
    # pixels about the block's middle, for precision
    x = lane % _STRIP_WIDTH + (0.5 - 0.5 * BLOCK_WIDTH)
    y = lane // _STRIP_WIDTH + (0.5 - 0.5 * BLOCK_HEIGHT)
    states = _empty(column, row, height, width, lane, COLUMNS, ROWS)
    start = tl.load(starts + tile)
    end = num_pairs
    if tile + 1 < num_tiles:
        end = tl.load(starts + tile + 1)
    still_open = _open(states, COLUMNS * ROWS)
    while (start < end) & (still_open != 0):
        listed = start + lane < end
        splat = tl.load(splats + start + lane, mask=listed, other=0).to(tl.int64)
        middle_x = column + 0.5 * BLOCK_WIDTH
        middle_y = row + 0.5 * BLOCK_HEIGHT
        if RECORDS:
            loaded = _unpacked(means, splat, listed, middle_x, middle_y)
        else:
            color = colors + (splat - view * num if SHARED else splat) * 3
            loaded = _loaded(means, conics, opacities, color, splat, listed, middle_x, middle_y)
        mean_x, mean_y, a, b, c, peak, red, green, blue = loaded
        touched = _touched(
            a, b, c, peak - _FAINTEST + _SLACK,
            0.5 - 0.5 * BLOCK_WIDTH - mean_x, 0.5 - 0.5 * BLOCK_HEIGHT - mean_y,
            COLUMNS, ROWS,
        )  # fmt: skip
        touched &= still_open
        hit = listed & (touched != 0)
        states = _in_turn(
            states, hit, touched, lane, x, y, mean_x, mean_y, a, b, c, peak, red, green, blue,
            COLUMNS, ROWS,
        )  # fmt: skip
        start += _LANES
        still_open = _open(states, COLUMNS * ROWS)
    _store(states, rgb, alpha, view, column, row, height, width, lane, COLUMNS, ROWS)
