"""How many views a call may hold: predicted bytes, the limits of gsplat's integers, and halving.

The prediction is a sum over what a call without gradients keeps at its peak. V views of N Gaussians
at H×W pixels, stored at h×w:

    V·N · 64      colours 12, radii 8, means 8, depths 4, conics 12, compensation 4, opacity 4,
                  tile counts 4 and their running sum 8; with our own projection 76: records of
                  32 instead of means, conics, compensation and opacity, and middles of boxes 8;
                  packed: 12 for the colours and 108 for each visible pair, of which `VISIBLE`
                  are assumed
    V·N · 24 · p  sorted and unsorted keys and indices of (Gaussian, tile) pairs, of which p are
                  assumed: `PAIRS` for tiles of 16 pixels and for the larger ones of our own
                  projection, three times as many for gsplat's tiles of 8
    V·N · k       where plain torch evaluates colours: 8 for each harmonic and 96 besides
    V·H·W · 20    colour 12, alpha 4, last splat 4, which our own kernel does not write
    V·h·w · 64    resizing, exposure and conversion to uint8
"""

from collections.abc import Callable

import torch

from rap import log
from rap.camera import Camera
from rap.kernels import ran_out
from rap.splat.tuning import TILE, RenderTuning

VISIBLE = 0.5
PAIRS = 4
"""Two fitted splats had 1.3 and 3.0 at 640 x 480, and with tiles of 8 up to 8.5."""
MOST_VIEWS = 32
"""More views in a call are no faster on the GPUs that we measured, only larger."""
VIEWS_ON_CPU = 8
SHARE = 0.8
"""Of the free memory; the rest is for what the prediction does not know."""
_PAIR_BYTES = 24
_INT32 = 2**31 - 1
_UINT32 = 2**32 - 1


def call_bytes(
    num_views: int,
    num_gaussians: int,
    camera: Camera,
    stored: Camera | None = None,
    tuning: RenderTuning | None = None,
    plain_harmonics: int = 0,
) -> int:
    """Predicted peak of a rendering call without gradients, besides the Gaussians themselves.

    `stored` is the size at which the views are kept. `tuning` is what the machine can run: where
    our own kernels cannot, one without `fused_blend`. `plain_harmonics` counts the harmonics that
    plain torch evaluates per view; 0 where the fused kernel does, or colours are shared.
    """
    tuning = tuning or RenderTuning()
    stored = stored or camera
    each = 12 + 108 * VISIBLE if tuning.packed else 76 if tuning.own_projection else 64
    each += _PAIR_BYTES * _pairs(tuning)
    each += 8 * plain_harmonics + 96 if plain_harmonics else 0
    pictures = 20 * camera.width * camera.height + 64 * stored.width * stored.height
    return num_views * (round(each * num_gaussians) + pictures)


def views_per_call(
    num_gaussians: int,
    camera: Camera,
    free_bytes: int,
    stored: Camera | None = None,
    tuning: RenderTuning | None = None,
    plain_harmonics: int = 0,
) -> int:
    """The most views, at least one and at most `MOST_VIEWS`, that fit memory and integers."""
    one = call_bytes(1, num_gaussians, camera, stored, tuning, plain_harmonics)
    by_memory = int(free_bytes * SHARE) // one
    return max(1, min(MOST_VIEWS, by_memory, most_views(num_gaussians, camera, tuning)))


def most_views(num_gaussians: int, camera: Camera, tuning: RenderTuning | None = None) -> int:
    """The most views, at least one, of a call for which gsplat's integers suffice.

    It numbers pairs in int32, coordinates of Gaussians and of pixels in uint32, and shares 32 bits
    of a sorting key between view and tile.
    """
    tuning = tuning or RenderTuning()
    most = min(
        _INT32 // (num_gaussians * _pairs(tuning)),
        _UINT32 // (3 * max(num_gaussians, camera.width * camera.height)),
        2 ** (32 - _num_tiles(camera, tuning).bit_length()) - 1,
    )
    return max(1, most)


def free_bytes(device: torch.device) -> int:
    """What a CUDA device can still give: free memory, and what the allocator holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def in_batches(num: int, size: int, work: Callable[[slice], None]) -> int:
    """Do `work` on slices of at most `size` out of `num` items; returns the size in the end.

    When memory runs out the size is halved, and the same items are tried again: `work` must be
    repeatable. Out of memory with a single item is an error.
    """
    done = 0
    while done < num:
        try:
            work(slice(done, min(done + size, num)))
            done += size
            continue
        except RuntimeError as error:
            if size == 1 or not ran_out(error):
                raise
        # outside the handler: the exception keeps the failed call's tensors alive
        size = (size + 1) // 2
        log.warn(f"out of memory: drawing {size} views in a call from now on")
        torch.cuda.empty_cache()
    return size


def _pairs(tuning: RenderTuning) -> int:
    return PAIRS if tuning.own_projection or tuning.tile_size >= 16 else 3 * PAIRS


def _num_tiles(camera: Camera, tuning: RenderTuning) -> int:
    size = tuning.tile_size
    width, height = TILE if tuning.own_projection else (size, size)
    return -(-camera.width // width) * -(-camera.height // height)
