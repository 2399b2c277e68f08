"""An in-memory scene written in 7-Scenes layout, with a COLMAP text model of its points beside."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rap.camera import Camera
from rap.geometry import invert, quaternion_from_rotation
from rap.scene import Frame, Points, Scene, poses

CAMERA_NOTES = {
    "pixel_centre": "half-integer (COLMAP: centre of top-left pixel is 0.5,0.5). "
    "With OpenCV integer centres subtract 0.5 from cx and cy",
    "distortion": "none",
    "depth_unit": "millimetre, 16 bit, 0 = invalid, same camera as colour",
    "pose": "camera-to-world, OpenCV axes (x right, y down, z forward), metres",
}


def write_scene(scene: Scene, folder: Path) -> None:
    """Write a scene held in memory; its frames must be named `seq-NN/frame-NNNNNN`."""
    folder.mkdir(parents=True)
    for split, frames in (("TrainSplit.txt", scene.train), ("TestSplit.txt", scene.test)):
        sequences = sorted({frame.name.partition("/")[0] for frame in frames})
        lines = [f"sequence{int(name.removeprefix('seq-'))}\n" for name in sequences]
        (folder / split).write_text("".join(lines), encoding="utf-8")
        for name in sequences:
            (folder / name).mkdir()
        for frame in frames:
            _write_frame(frame, folder)
    camera = {"model": "PINHOLE", **asdict(scene.camera), **CAMERA_NOTES}
    (folder / "camera.json").write_text(json.dumps(camera, indent=1), encoding="utf-8")
    if scene.points is not None:
        sparse = folder / "sparse" / "0"
        sparse.mkdir(parents=True)
        _write_model(scene.camera, scene.train + scene.test, scene.points, sparse)


def _write_frame(frame: Frame, folder: Path) -> None:
    Image.fromarray(np.asarray(frame.image)).save(folder / f"{frame.name}.color.png")
    if frame.depth is not None:
        millimetres = np.rint(np.asarray(frame.depth) * 1000.0).astype(np.uint16)
        Image.fromarray(millimetres).save(folder / f"{frame.name}.depth.png")
    np.savetxt(folder / f"{frame.name}.pose.txt", frame.world_from_camera.numpy(), fmt="%.12e")


def _write_model(camera: Camera, frames: tuple[Frame, ...], points: Points, folder: Path) -> None:
    """cameras.txt, images.txt (without 2D points) and points3D.txt (without tracks)."""
    c = camera
    (folder / "cameras.txt").write_text(
        "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n"
        f"1 PINHOLE {c.width} {c.height} {c.fx!r} {c.fy!r} {c.cx!r} {c.cy!r}\n",
        encoding="utf-8",
    )
    camera_from_world = invert(poses(frames))
    quats = quaternion_from_rotation(camera_from_world[:, :3, :3])
    rows = torch.cat([quats, camera_from_world[:, :3, 3]], dim=-1).tolist()
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME; an empty line of POINTS2D\n"]
    for index, (frame, row) in enumerate(zip(frames, rows, strict=True), start=1):
        numbers = " ".join(f"{value:.12f}" for value in row)
        lines.append(f"{index} {numbers} 1 {frame.name}.color.png\n\n")
    (folder / "images.txt").write_text("".join(lines), encoding="utf-8")
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR (0: exact); no TRACK[]\n"]
    pairs = zip(points.xyz.tolist(), points.rgb.tolist(), strict=True)
    for index, ((x, y, z), (r, g, b)) in enumerate(pairs, start=1):
        lines.append(f"{index} {x:.6f} {y:.6f} {z:.6f} {r} {g} {b} 0\n")
    (folder / "points3D.txt").write_text("".join(lines), encoding="utf-8")
