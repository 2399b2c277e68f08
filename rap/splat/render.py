"""Pictures of Gaussians, many views in one call: gsplat on CUDA, the plain rasteriser elsewhere."""

import fcntl
import importlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.splat import reference
from rap.splat.appearance import apply_exposure
from rap.splat.blend import can_blend, draw
from rap.splat.colors import view_colors
from rap.splat.gaussians import Gaussians
from rap.splat.tuning import RenderTuning

Backend = Literal["auto", "gsplat", "reference"]
_MIN_ALPHA = 1e-10


class BackendError(ValueError):
    """The wanted rasteriser cannot be used; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Rendering:
    """What v views of a splat show."""

    rgb: Float[Tensor, "v 3 h w"]
    """Composited over the background; not clamped above 1."""
    alpha: Float[Tensor, "v h w"]
    depth: Float[Tensor, "v h w"] | None
    """Expected camera z in metres, accumulated z over alpha; 0 where nothing is seen."""


def render(
    gaussians: Gaussians,
    camera: Camera,
    camera_from_world: Float[Tensor, "v 4 4"],
    *,
    background: Float[Tensor, "3"] | None = None,
    antialiased: bool | None = None,
    with_depth: bool = False,
    backend: Backend = "auto",
    codes: Float[Tensor, "v c"] | None = None,
    exposure: Float[Tensor, "v 3 4"] | None = None,
    colors: Float[Tensor, "#v n 3"] | None = None,
    tuning: RenderTuning | None = None,
    probe: Float[Tensor, "v n 2"] | None = None,
) -> Rendering:
    """Draw all views at once, differentiably; without a background the ground is black.

    `antialiased` none is as in the fit. Each view may have an appearance of its own: `codes`
    recolour the Gaussians, `exposure` changes the finished picture. `colors` that the caller has
    ready (at least 0) are drawn as they are. The caller chooses how many views a call holds
    (`memory.views_per_call`). A `probe` of zeros gets the gradient by the projected means, in
    pixels, as its `.grad`. `auto` takes gsplat on CUDA and the plain rasteriser elsewhere. Raises
    BackendError when `gsplat` is asked for and cannot be used, and ValueError for codes that the
    Gaussians know nothing of.
    """
    if gaussians.num == 0:
        raise ValueError("there are no Gaussians to render")
    if antialiased is None:
        antialiased = gaussians.antialiased
    tuning = tuning or RenderTuning()
    camera_from_world = camera_from_world.to(gaussians.means)
    if colors is None:
        colors = view_colors(
            gaussians, camera_from_world, codes, tuning.sh_degree, tuning.fused_colors
        )
    elif codes is not None:
        raise ValueError("give colors or codes, not both: colors are drawn as they are")
    if _use_gsplat(backend, gaussians.means.device):
        picture, alpha = _draw_gsplat(
            gaussians, colors, camera, camera_from_world, antialiased, with_depth, tuning, probe
        )
    else:
        picture = reference.rasterize(
            gaussians, colors, camera, camera_from_world, antialiased, probe,
            tuning.radius_clip_px,
        )  # fmt: skip
        alpha = picture[..., 4]
    rgb = picture[..., :3].permute(0, 3, 1, 2)
    if background is not None:
        rgb = rgb + (1 - alpha)[:, None] * background.to(rgb)[:, None, None]
    if exposure is not None:
        rgb = apply_exposure(rgb, exposure.to(rgb))
    depth = picture[..., 3] / alpha.clamp(min=_MIN_ALPHA) if with_depth else None
    return Rendering(rgb, alpha, depth)


def _draw_gsplat(
    gaussians: Gaussians,
    colors: Float[Tensor, "#v n 3"],
    camera: Camera,
    camera_from_world: Float[Tensor, "v 4 4"],
    antialiased: bool,
    with_depth: bool,
    tuning: RenderTuning,
    probe: Float[Tensor, "v n 2"] | None,
) -> tuple[Float[Tensor, "v h w c"], Float[Tensor, "v h w"]]:
    """Premultiplied colour, with accumulated depth as a fourth channel if wanted, and alpha."""
    calibration = _calibration(camera, gaussians.means.device)
    plain = with_depth or probe is not None or tuning.packed or not tuning.fused_blend
    if not plain and can_blend(gaussians, colors, camera_from_world):
        rgb, alpha = draw(
            gaussians, colors, camera, camera_from_world, calibration, antialiased, tuning
        )
        return rgb.permute(0, 2, 3, 1), alpha
    rasterization = importlib.import_module("gsplat.rendering").rasterization
    num_views = len(camera_from_world)
    # one set of colours for all views is gathered as such, not once per view
    shared = len(colors) == 1
    picture, alpha, details = rasterization(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        colors[0] if shared else colors.contiguous(),
        camera_from_world.contiguous(),
        calibration.expand(num_views, -1, -1).contiguous(),
        camera.width,
        camera.height,
        near_plane=reference.NEAR_M,
        radius_clip=tuning.radius_clip_px,
        eps2d=reference.BLUR_PX2,
        packed=tuning.packed,
        tile_size=tuning.tile_size,
        render_mode="RGB+D" if with_depth else "RGB",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    if probe is not None:
        details["means2d"].register_hook(partial(setattr, probe, "grad"))
    return picture, alpha[..., 0]


@lru_cache(maxsize=64)
def _calibration(camera: Camera, device: torch.device) -> Float[Tensor, "3 3"]:
    """K on the device, copied once: each copy from the host would wait for the device."""
    with torch.inference_mode(False):
        return camera.K(device)


def _use_gsplat(backend: Backend, device: torch.device) -> bool:
    if backend == "reference" or (backend == "auto" and device.type != "cuda"):
        return False
    usable, reason = gsplat_available()
    if backend == "auto":
        if not usable:
            _warn_once(f"rendering with the plain rasteriser, 100x slower: {reason}")
        return usable
    if not usable:
        raise BackendError(f"backend 'gsplat' cannot be used: {reason}")
    if device.type != "cuda":
        raise BackendError(f"backend 'gsplat' needs Gaussians on a CUDA device, not on {device}")
    return True


@cache
def _warn_once(message: str) -> None:
    log.warn(message)


@cache
def gsplat_available() -> tuple[bool, str]:
    """Whether gsplat can draw here, and its version or the reason and the fix.

    The first call may compile its CUDA extension, for a minute or more.
    """
    if not torch.cuda.is_available():
        return False, "torch sees no CUDA device"
    if util.find_spec("gsplat") is None:
        return False, "gsplat is not installed; run `pip install 'rap[cuda]'`"
    with _extension_folder(), warnings.catch_warnings():
        # a third party's deprecations say nothing about our use of it
        warnings.simplefilter("ignore")
        prebuilt = _import_problem("gsplat.csrc")
        problem = _import_problem("gsplat.cuda._backend")
    if problem is None and importlib.import_module("gsplat.cuda._backend")._C is not None:
        kind = "prebuilt" if prebuilt is None else "compiled here"
        return True, f"gsplat {metadata.version('gsplat')}, {kind}"
    return False, (
        f"gsplat's CUDA extension is neither prebuilt for torch {torch.__version__} ({prebuilt})"
        f" nor can it be compiled ({problem or 'no nvcc found'}); install the CUDA toolkit of"
        f" version {torch.version.cuda} and set CUDA_HOME, or a wheel built for this torch"
    )


def _import_problem(name: str) -> str | None:
    """Why a module cannot be imported; a compiler's failure arrives as RuntimeError or OSError."""
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    return None


@contextmanager
def _extension_folder() -> Iterator[None]:
    """Have gsplat compile into a folder of this torch version, one process at a time.

    Its own folder is shared by all versions of torch, and two processes that start cold there
    delete each other's files.
    """
    name = f"gsplat-{metadata.version('gsplat')}-torch-{torch.__version__}"
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    lock = Path(tempfile.gettempdir()) / f"rap-{name}-{os.getuid()}.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(cache_home / "rap" / name))
        try:
            yield
        finally:
            if given is None:
                del os.environ["TORCH_EXTENSIONS_DIR"]
