"""Coloured surface points from which Gaussians start."""

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.data.images import decode
from rap.data.reprojection import depth_map
from rap.geometry import transform
from rap.scene import DataError, Frame, Points, Scene

_MAX_DEPTH_FRAMES = 64
_UNKNOWN = f"depth is 0 (unknown) in all training frames looked at (at most {_MAX_DEPTH_FRAMES})"


def initial_points(scene: Scene, num: int, generator: torch.Generator) -> Points:
    """At most `num` surface points: the scene's own, else back-projected from training depth.

    A surplus is drawn at random without replacement. Depth is sampled evenly from up to 64 evenly
    spread training frames. Raises DataError where the scene has neither; points are never guessed.
    """
    if num < 1:
        raise ValueError(f"num = {num} initial points; at least 1 is needed")
    if scene.points is not None and len(scene.points.xyz):
        return _subsample(scene.points, num, generator)
    if all(frame.depth is None for frame in scene.train):
        raise DataError(
            f"{scene.source}: neither surface points nor depth of a training frame; accepted are "
            "a COLMAP model with points3D, or frame-*.depth.png in 16-bit millimetres"
        )
    return depth_points(scene, num, generator)


def with_depth_points(scene: Scene, points: Points, num: int, generator: torch.Generator) -> Points:
    """The points and at most `num` more from depth; the same points where none is known.

    Triangulated points lie on texture; those from depth lie on bare walls, too.
    """
    if num == 0:
        return points
    if all(frame.depth is None for frame in scene.train):
        log.info(f"{scene.source}: no training frame has depth: fit.depth_points = {num} adds none")
        return points
    more = _sampled(scene, num, generator)
    if not len(more.xyz):
        log.warn(f"{scene.source}: {_UNKNOWN}; Gaussians start at the other points alone")
        return points
    return Points(torch.cat([points.xyz, more.xyz]), torch.cat([points.rgb, more.rgb]))


def depth_points(scene: Scene, num: int, generator: torch.Generator) -> Points:
    """At most `num` points back-projected from the training frames that have depth.

    Raises DataError where all depth is unknown.
    """
    points = _sampled(scene, num, generator)
    if not len(points.xyz):
        raise DataError(f"{scene.source}: {_UNKNOWN}; accepted is camera z in millimetres")
    return points


def _sampled(scene: Scene, num: int, generator: torch.Generator) -> Points:
    """Points of depth, none where all that was looked at is unknown."""
    frames = [frame for frame in scene.train if frame.depth is not None]
    chosen = np.unique(np.linspace(0, len(frames) - 1, _MAX_DEPTH_FRAMES).round().astype(int))
    share = -(-num // len(chosen))
    parts = [_back_project(frames[i], scene.camera, share, generator) for i in chosen]
    xyz, rgb = (torch.cat(values) for values in zip(*parts, strict=True))
    return _subsample(Points(xyz, rgb), num, generator)


def _subsample(points: Points, num: int, generator: torch.Generator) -> Points:
    if len(points.xyz) <= num:
        return points
    kept = _some(len(points.xyz), num, generator)
    return Points(points.xyz[kept], points.rgb[kept])


def _some(total: int, num: int, generator: torch.Generator) -> Int64[Tensor, "k"]:
    """At most `num` distinct numbers below `total`, in host memory."""
    return torch.randperm(total, generator=generator, device=generator.device)[:num].cpu()


def _back_project(
    frame: Frame, camera: Camera, num: int, generator: torch.Generator
) -> tuple[Float32[Tensor, "k 3"], UInt8[Tensor, "k 3"]]:
    """At most `num` points of the pixels whose depth is known, with the image's colours there."""
    depth = depth_map(frame)
    camera = camera.resized(depth.shape[1], depth.shape[0])
    known = (depth > 0).flatten().nonzero().flatten()
    pixel = known[_some(len(known), num, generator)]
    rays = camera.rays(dtype=torch.float64).flatten(0, 1)[pixel]
    xyz = transform(frame.world_from_camera, rays * depth.flatten()[pixel, None])
    image = decode([frame], camera, num_workers=0)[0]
    return xyz.float(), image.flatten(1)[:, pixel].T.contiguous()
