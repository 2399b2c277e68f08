"""`rap render`: pictures of Gaussians at given poses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64, UInt8

import rap
from rap import log
from rap.cli.arguments import (
    Device,
    Out,
    UsageError,
    check_at_least,
    check_out,
    check_out_folder,
    parse,
    read_camera,
)
from rap.config import ViewsConfig


@dataclass(frozen=True)
class Render:
    """Render Gaussians at the poses of a scene, or of files, to PNG images."""

    splat: Path
    """The Gaussians (.ply)."""
    poses: tuple[str, ...]
    """A scene's folder or `room`, or pose files: NAME.pose.txt, TUM, COLMAP images.txt, visloc."""
    out: Out
    """The folder to make."""
    camera: str | None = None
    """A camera.json or a scene, for its intrinsics; none: those of the scene of the poses."""
    split: Literal["train", "test", "all"] = "test"
    """Which frames of a scene."""
    height: int | None = None
    """Height of the images in pixels; none: the camera's."""
    antialiased: bool | None = None
    """Compensate opacity for the screen-space low-pass filter; none: as the file says."""
    appearances: int = 0
    """Draw each pose in this many appearances, side by side in one image, the mean one first;
    0: in the mean appearance only."""
    seed: int = 7
    """Which appearances, and which views of the filter's sheet, are drawn."""
    device: Device = "auto"
    """`auto` is the GPU where there is one."""
    filter_sheet: Path | None = None
    """Also draw views around the poses, as training does, and show here (.png) what its filter
    accepts and rejects."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    """How those views are drawn and judged, and how far appearances go."""


def run(argv: Sequence[str]) -> int:
    """Render one by one; every image appears whole or not at all."""
    arguments: Render = parse(Render, "render", argv)
    check_at_least(1, height=arguments.height)
    check_at_least(0, appearances=arguments.appearances, seed=arguments.seed)
    check_out_folder(arguments.out)
    if arguments.filter_sheet is not None:
        check_out(arguments.filter_sheet, suffix=".png")

    import torch

    from rap.evaluate import pick_device
    from rap.geometry import invert
    from rap.splat.gaussians import load_ply
    from rap.synthesis.appearance_sheet import appearance_sheet
    from rap.synthesis.drawing import check_drawn_height

    device = pick_device(arguments.device)
    names, poses, camera = _viewpoints(arguments)
    if arguments.height is not None:
        camera = camera.with_height(arguments.height)
    check_drawn_height(arguments.views, camera.height, "the images' height")
    gaussians = load_ply(arguments.splat).to(device)
    if arguments.filter_sheet is not None:
        _show_filter(arguments, arguments.filter_sheet, gaussians, camera, poses)
    light = _light(arguments, gaussians)
    arguments.out.mkdir(exist_ok=True)
    with log.progress("render", len(names), "views") as tick, torch.no_grad():
        for name, pose in zip(names, torch.from_numpy(poses), strict=True):
            picture = appearance_sheet(
                gaussians, camera, invert(pose)[None], light, antialiased=arguments.antialiased
            )
            pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
            _save(arguments.out / f"{name.replace('/', '-')}.png", pixels.cpu().numpy())
            tick()
    log.info(f"{arguments.out}: {len(names)} images of {camera.width}x{camera.height}")
    return 0


def _light(
    arguments: Render, gaussians: "rap.splat.gaussians.Gaussians"
) -> "rap.synthesis.appearances.NewAppearances | None":
    """The appearances that each pose is to be shown in; none: the mean one alone."""
    from rap.synthesis.appearance_sheet import mean_and_new

    if arguments.appearances == 0:
        return None
    if gaussians.appearance is None or gaussians.appearance.num_codes == 0:
        raise UsageError(
            f"{arguments.splat}: has no appearance to vary; fit it with --fit.appearance-dim 8"
        )
    return mean_and_new(
        gaussians.appearance, arguments.appearances, arguments.views, arguments.seed
    )


def _show_filter(
    arguments: Render,
    path: Path,
    gaussians: "rap.splat.gaussians.Gaussians",
    camera: "rap.camera.Camera",
    world_from_camera: Float64[np.ndarray, "n 4 4"],
) -> None:
    """The sheet of accepted and rejected views, and how many pass."""
    import torch

    from rap.synthesis.gallery import filter_sheet, judged_views

    generator = torch.Generator(gaussians.means.device).manual_seed(arguments.seed)
    near = torch.from_numpy(world_from_camera).float()
    light = gaussians.appearance
    exposure = None
    # a splat's exposures are those of the photographs that it was fitted to, in their order
    if arguments.split == "train" and light is not None and light.num_images == len(near):
        exposure = light.exposure
    views = judged_views(gaussians, camera, near, arguments.views, generator, exposure=exposure)
    passed = filter_sheet(path, views, arguments.views)
    log.info(f"{path}: {int(passed.sum())} of {len(passed)} views pass the filter")


def _viewpoints(
    arguments: Render,
) -> tuple[list[str], Float64[np.ndarray, "n 4 4"], "rap.camera.Camera"]:
    """Names, world_from_camera and the camera."""
    from rap.data import FORMATS, load
    from rap.evaluate import read_poses
    from rap.scene import poses

    for path in arguments.poses:
        if path != "room" and not Path(path).exists():
            raise UsageError(f"{path}: no such scene, folder or file of poses")
    first = Path(arguments.poses[0])
    is_scene = str(first) == "room" or any(detect(first) for detect, _ in FORMATS.values())
    if len(arguments.poses) == 1 and is_scene:
        scene = load(first)
        frames = {"train": scene.train, "test": scene.test, "all": scene.train + scene.test}
        chosen = frames[arguments.split]
        camera = scene.camera if arguments.camera is None else read_camera(arguments.camera)
        return [frame.name for frame in chosen], poses(chosen).numpy(), camera
    if arguments.camera is None:
        raise UsageError("poses from files need --camera: a camera.json or a scene")
    found = [entry for path in arguments.poses for entry in read_poses(Path(path))]
    if not found:
        raise UsageError(f"{', '.join(arguments.poses)}: no poses in it")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        raise UsageError(f"{', '.join(arguments.poses)}: two poses have the same name")
    return names, np.stack([pose.numpy() for _, pose in found]), read_camera(arguments.camera)


def _save(path: Path, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
    from PIL import Image

    with log.replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
