"""Small scene folders in every format, written from one consistent scene, for readers to read."""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rap.camera import Camera
from rap.data.room_files import write_scene
from rap.geometry import (
    invert,
    quaternion_from_rotation,
    rigid,
    rotation_from_vector,
    transform,
)
from rap.scene import Frame, Points, Scene, poses

# Three waves per colour and axis, of lengths from a third of the box to a tenth.
_WAVES = torch.randn(3, 12, generator=torch.Generator().manual_seed(3)) * 3.0
OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@cache
def box_scene(num_train: int, num_test: int, width: int, height: int) -> Scene:
    """A walk inside a box whose walls are painted with waves: exact poses, depth and points.

    The principal point is off the centre. Frames turn by 9 degrees each, as they sway and roll.
    """
    camera = Camera(0.8 * width, 0.85 * width, 0.48 * width, 0.52 * height, width, height)
    train = [_frame(camera, f"seq-01/frame-{i:06d}", float(i)) for i in range(num_train)]
    test = [_frame(camera, f"seq-02/frame-{i:06d}", i + 0.4) for i in range(num_test)]
    rays = camera.rays(dtype=torch.float64).flatten(0, 1)
    surface = [
        transform(f.world_from_camera, rays * torch.from_numpy(f.depth).double().reshape(-1, 1))
        for f in train
        if isinstance(f.depth, np.ndarray)
    ]
    colours = [torch.from_numpy(np.asarray(f.image)).reshape(-1, 3) for f in train]
    points = Points(torch.cat(surface)[::29].float(), torch.cat(colours)[::29])
    return Scene("box", "painted box", camera, tuple(train), tuple(test), points)


def small_scene() -> Scene:
    """Six training frames, two test frames, 32x24."""
    return box_scene(6, 2, 32, 24)


def _frame(camera: Camera, name: str, step: float) -> Frame:
    turn = torch.tensor([0.25 * np.sin(step), 0.157 * step, 0.3 * np.sin(0.7 * step)])
    rotation = rotation_from_vector(torch.tensor([0.0, 1.0, 0.0]).double() * turn[1].double())
    rotation = rotation @ rotation_from_vector(turn.double() * torch.tensor([1.0, 0.0, 1.0]))
    centre = [0.6 * np.sin(0.5 * step), 0.3 * np.cos(0.4 * step), 0.05 * step - 0.4]
    pose = rigid(rotation, torch.tensor(centre, dtype=torch.float64))
    directions = camera.rays(dtype=torch.float64) @ rotation.mT
    half_size = torch.tensor([2.0, 1.5, 2.5], dtype=torch.float64)
    depth = ((half_size * directions.sign() - pose[:3, 3]) / directions).amin(-1)
    hit = pose[:3, 3] + directions * depth[..., None]
    waves = torch.sin(hit @ _WAVES.double() + torch.arange(12.0).double())
    image = 128 + 42 * waves.unflatten(-1, (3, 4)).sum(-1).clamp(-3, 3)
    return Frame(name, pose, image.to(torch.uint8).numpy(), depth.float().numpy())


@contextmanager
def folder(write: Callable[[Path], object]) -> Iterator[Path]:
    """A temporary folder that `write` has filled; Hypothesis needs a new one for each example."""
    with TemporaryDirectory() as name:
        root = Path(name) / "scene"
        write(root)
        yield root


def by_name(scene: Scene) -> dict[str, Tensor]:
    """Poses of all frames by the last part of their names: `000003` for seq-01/frame-000003."""
    frames = (*scene.train, *scene.test)
    return {"/".join(f.name.split("/")[-2:]): f.world_from_camera for f in frames}


def plain_name(frame: Frame) -> str:
    """`01_000003` for seq-01/frame-000003."""
    return frame.name.replace("seq-", "").replace("/frame-", "_")


def write_image(frame: Frame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(frame.image)).save(path)


def write_seven_scenes(root: Path) -> None:
    """Sequences, depth maps, split files, camera.json and points."""
    write_scene(small_scene(), root)


def write_images(root: Path, scene: Scene) -> None:
    """`images/01_000003.png` and so on."""
    for frame in (*scene.train, *scene.test):
        write_image(frame, root / "images" / f"{plain_name(frame)}.png")


def write_colmap(
    root: Path,
    binary: bool = False,
    cameras: Sequence[Camera] | None = None,
    model: str = "PINHOLE",
    scene: Scene | None = None,
) -> None:
    """Images and a model; frame i has camera i modulo their number. Split by train and test.txt."""
    scene = scene or small_scene()
    write_images(root, scene)
    for part, frames in (("train", scene.train), ("test", scene.test)):
        names = [f"{plain_name(frame)}.png\n" for frame in frames]
        (root / f"{part}.txt").write_text("".join(names))
    (root / "sparse" / "0").mkdir(parents=True)
    write_model(root / "sparse" / "0", scene, cameras or [scene.camera], model, binary)


def write_model(
    target: Path, scene: Scene, cameras: Sequence[Camera], model: str, binary: bool
) -> None:
    frames = (*scene.train, *scene.test)
    camera_from_world = invert(poses(frames))
    quaternions = quaternion_from_rotation(camera_from_world[:, :3, :3]).tolist()
    translations = camera_from_world[:, :3, 3].tolist()
    images = [
        (*q, *t, index % len(cameras) + 1, f"{plain_name(frame)}.png")
        for index, (frame, q, t) in enumerate(zip(frames, quaternions, translations, strict=True))
    ]
    assert scene.points is not None
    points = list(zip(scene.points.xyz.tolist(), scene.points.rgb.tolist(), strict=True))
    write = _write_binary if binary else _write_text
    write(target, list(cameras), model, images, points)


def _parameters(camera: Camera, model: str) -> list[float]:
    if model == "SIMPLE_PINHOLE":
        return [camera.fx, camera.cx, camera.cy]
    extra = [0.1, 0.01, 0.0, 0.0] if model == "OPENCV" else []
    return [camera.fx, camera.fy, camera.cx, camera.cy, *extra]


def _write_text(target: Path, cameras: list, model: str, images: list, points: list) -> None:
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for index, camera in enumerate(cameras, start=1):
        numbers = " ".join(map(repr, _parameters(camera, model)))
        lines.append(f"{index} {model} {camera.width} {camera.height} {numbers}")
    (target / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D[]"]
    for index, image in enumerate(images, start=1):
        # empty tracks and full ones both occur
        lines += [" ".join(map(str, (index, *image))), "1.5 2.5 7 3.5 4.5 -1" if index % 2 else ""]
    (target / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]"]
    for index, (xyz, rgb) in enumerate(points, start=1):
        lines.append(" ".join(map(str, (index, *xyz, *rgb, 0.5, 1, 0, 2, 0))))
    (target / "points3D.txt").write_text("\n".join(lines) + "\n")


def _write_binary(target: Path, cameras: list, model: str, images: list, points: list) -> None:
    numbers = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "OPENCV": 4}
    content = struct.pack("<Q", len(cameras))
    for index, camera in enumerate(cameras, start=1):
        parameters = _parameters(camera, model)
        content += struct.pack("<iiQQ", index, numbers[model], camera.width, camera.height)
        content += struct.pack(f"<{len(parameters)}d", *parameters)
    (target / "cameras.bin").write_bytes(content)
    content = struct.pack("<Q", len(images))
    for index, (*pose, camera_id, name) in enumerate(images, start=1):
        content += struct.pack("<I7dI", index, *pose, camera_id) + name.encode() + b"\0"
        tracks = index % 3
        content += struct.pack("<Q", tracks) + struct.pack("<ddq", 1.5, 2.5, -1) * tracks
    (target / "images.bin").write_bytes(content)
    content = struct.pack("<Q", len(points))
    for index, (xyz, rgb) in enumerate(points, start=1):
        content += struct.pack("<Q3d3Bd", index, *xyz, *rgb, 0.5)
        content += struct.pack("<Q", index % 4) + struct.pack("<II", 1, 2) * (index % 4)
    (target / "points3D.bin").write_bytes(content)


def transforms(frames: Sequence[Frame], camera: Camera) -> dict:
    """The content of a transforms file, in OpenGL axes."""
    entries = [
        {
            "file_path": f"./images/{plain_name(frame)}.png",
            "transform_matrix": (frame.world_from_camera @ OPENGL).tolist(),
        }
        for frame in frames
    ]
    shape = {"w": camera.width, "h": camera.height}
    intrinsics = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
    return {**shape, **intrinsics, "k1": 0, "p1": 0.0, "aabb_scale": 4, "frames": entries}


def write_transforms(root: Path) -> None:
    """Images, and a pair of transforms files."""
    scene = small_scene()
    write_images(root, scene)
    for part, frames in (("train", scene.train), ("test", scene.test)):
        content = transforms(frames, scene.camera)
        (root / f"transforms_{part}.json").write_text(json.dumps(content))


def edit_json(path: Path, **values: object) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def write_cambridge_prepared(root: Path) -> None:
    """`{train,test}/{rgb,poses}`, without intrinsics."""
    scene = small_scene()
    for part, frames in (("train", scene.train), ("test", scene.test)):
        for frame in frames:
            write_image(frame, root / part / "rgb" / f"{plain_name(frame)}.png")
            (root / part / "poses").mkdir(exist_ok=True)
            target = root / part / "poses" / f"{plain_name(frame)}.txt"
            np.savetxt(target, frame.world_from_camera.numpy())


def write_cambridge_published(root: Path, focal: float = 42.0) -> None:
    """`dataset_*.txt` over `01/000003.png`, and a reconstruction.nvm with a focal length."""
    scene = small_scene()
    cameras = []
    for part, frames in (("train", scene.train), ("test", scene.test)):
        lines = ["Visual Landmark Dataset V1", "ImageFile, Camera Position [X Y Z W P Q R]", ""]
        for frame in frames:
            name = plain_name(frame).replace("_", "/")
            write_image(frame, root / f"{name}.png")
            rotation = frame.world_from_camera[:3, :3].mT
            quaternion = quaternion_from_rotation(rotation).tolist()
            centre = frame.world_from_camera[:3, 3].tolist()
            lines.append(" ".join(map(str, (f"{name}.png", *centre, *quaternion))))
            cameras.append(
                " ".join(map(str, (f"{name}.jpg", focal, *quaternion, *centre, 0.01, 0)))
            )
        (root / f"dataset_{part}.txt").write_text("\n".join(lines) + "\n")
    assert scene.points is not None
    points = [
        " ".join(map(str, (*xyz, *rgb, 1, 0, 5, 1.5, 2.5)))
        for xyz, rgb in zip(scene.points.xyz.tolist(), scene.points.rgb.tolist(), strict=True)
    ]
    lines = ["NVM_V3 ", "", str(len(cameras)), *cameras, "", str(len(points)), *points, "", "0"]
    (root / "reconstruction.nvm").write_text("\n".join(lines) + "\n")


def random_frames(num: int, folder: Path, size: tuple[int, int] = (20, 12)) -> list[Frame]:
    """Frames of random pixels in lossless files."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(num):
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        frames.append(Frame(str(index), torch.eye(4, dtype=torch.float64), path))
    return frames
