"""Photographs to poses: latency at one image, throughput at many, and from files."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from benchmarks import paths, workloads
from benchmarks import workloads_network as network
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.camera import Camera
from rap.config import Precision
from rap.config.inference import InferExecution
from rap.evaluate import Localizer, pose_errors, stream
from rap.model.regressor import Regressor
from rap.scene import Scene, centres

TOLERANCE = {"fp32": 1e-3, "tf32": 0.1, "bf16": 0.5, "fp16": 0.1}
"""Largest error against float64, as a share of what is usual between the poses of two images.

The weights are random: what they make of an image is small beside what all images share, and half
precision rounds both.
"""
REQUESTS = {"cuda": {"eager": 300}, "cpu": {"eager": 20}}
"""Of one image, one after the other, by device: a p99 needs hundreds. Eager: 10 ms each."""
NUM_REQUESTS = 1000
COMPILED = {
    "eager": paths.NOT_COMPILED,
    "graphed": paths.NOT_COMPILED,
    "compiled": paths.ONE_GRAPH,
    # trunk, two branches and the pose, so that the branches can run side by side
    "compiled+graphed": paths.Compilation(graphs=4, breaks=0),
}
ROUNDING_M = 1e-4
"""A half precision that differs by less is none."""


def by_default(batch_size: int, precision: str, execution: str) -> bool:
    """Compiling takes half a minute, so only one case does."""
    if execution == "eager":
        return precision == "fp32" or (precision == "bf16" and batch_size != 8)
    if execution == "graphed":
        return precision == "bf16" and batch_size != 8
    return (execution, precision, batch_size) == ("compiled+graphed", "bf16", 1)


@pytest.mark.parametrize(
    ("batch_size", "precision", "execution"),
    combine(
        axis([1, 8, 64], full=[128, 256]), axis(["fp32"], cuda=["bf16", "tf32", "fp16"]),
        axis(["eager"], cuda=["graphed", "compiled", "compiled+graphed"]),
        default=by_default,
    ),
)  # fmt: skip
def bench_infer(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    batch_size: int, precision: Precision, execution: InferExecution,
) -> None:  # fmt: skip
    """From uint8 images on the device to poses on the host; they are those of float64."""
    photos, regressor, camera = _network(scene, scale, device)
    chosen = torch.arange(batch_size, device=device) % len(photos)
    images = photos[chosen]
    with torch.no_grad():
        flop = batch_size * network.flop_of(lambda: regressor(images[:1] / 255))
    with paths.compiler("compiled" in execution) as compilation:
        locate = Localizer(regressor, camera, precision, batch_size, execution)
        trunk = paths.first_arithmetic(locate.network.trunk) if execution == "eager" else []
        result = measure(lambda: locate(images).cpu(), items=batch_size, unit="images", flop=flop)
        result.check(locate.runs == execution, f"it ran {locate.runs}")
        expected = COMPILED[execution]
        result.check(compilation() == expected, f"{compilation()} instead of {expected}")
    if execution == "eager":
        arithmetic = replace(paths.ARITHMETIC[precision], channels_last=True)
        result.check(trunk == [arithmetic], f"the trunk computed in {trunk}")
    exact = exact_poses(scene, device)
    off = pose_errors(result.value, exact[chosen.cpu()])
    apart = pose_errors(exact.roll(1, dims=0), exact)
    result.metric("off_m", float(off.translation_m.median()))
    result.metric("off_deg", float(off.rotation_deg.median()))
    share = max(
        float(wrong.max() / usual.median())
        for wrong, usual in (
            (off.translation_m, apart.translation_m),
            (off.rotation_deg, apart.rotation_deg),
        )
    )
    result.check(share < TOLERANCE[precision], f"off the plain answer by {share:.2%} of the spread")
    if precision in ("bf16", "fp16"):
        off_m = float(off.translation_m.max())
        result.check(off_m > ROUNDING_M, f"fp32 in disguise: off by {off_m:.1e} m only")


@pytest.mark.parametrize("execution", axis(["eager"], cuda=["graphed"], full=["compiled+graphed"]))
def bench_infer_latency(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene, execution: InferExecution
) -> None:
    """One image after the other, each waited for: p50, p95 and p99 of many requests."""
    photos, regressor, camera = _network(scene, scale, device)
    precision: Precision = "bf16" if device.type == "cuda" else "fp32"
    with paths.compiler("compiled" in execution):
        locate = Localizer(regressor, camera, precision, execution=execution)
        result = measure(
            lambda: locate(photos[:1]).cpu(), items=1, unit="images",
            rounds=REQUESTS[device.type].get(execution, NUM_REQUESTS),
        )  # fmt: skip
        result.check(locate.runs == execution, f"it ran {locate.runs}")
    exact = exact_poses(scene, device)
    off, apart = pose_errors(result.value, exact[:1]), pose_errors(exact[1:2], exact[:1])
    share = float(off.translation_m / apart.translation_m)
    result.check(share < TOLERANCE[precision], f"off the plain answer by {share:.2%} of the next")


@pytest.mark.parametrize("num_workers", axis([0, 4], full=[1, 2, 8, 16]))
def bench_infer_files(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene, tmp_path: Path,
    num_workers: int,
) -> None:  # fmt: skip
    """Image files to poses, decoded while the network runs: those of images decoded before."""
    photos, regressor, camera = _network(scene, scale, device)
    frames = []
    for number, (frame, photo) in enumerate(zip(scene.train, photos.cpu(), strict=True)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(path)
        frames.append(replace(frame, image=path))
    locate = Localizer(regressor, camera, batch_size=16)
    result = measure(
        lambda: stream(frames, camera, locate, device, 16, num_workers).poses,
        items=len(frames), unit="images",
    )  # fmt: skip
    expected = locate(photos).cpu().double()
    result.check(torch.equal(result.value, expected), "not the poses of images decoded before")


@cache
def exact_poses(scene: Scene, device: torch.device) -> Float[Tensor, "n 4 4"]:
    """What float64 makes of all photographs, on the host; once in a process."""
    photos, regressor, _ = _network(scene, workloads.scale_for(device), device)
    with torch.no_grad():
        return regressor.double()(photos.double() / 255).world_from_camera.cpu()


def _network(
    scene: Scene, scale: Scale, device: torch.device
) -> tuple[UInt8[Tensor, "n 3 h w"], Regressor, Camera]:
    """Photographs on the device, a network that tells them apart, and their camera."""
    photos = workloads.photographs(scene, scale.image_height).to(device)
    regressor = workloads.responsive_regressor(scale.model, photos[:32] / 255, centres(scene.train))
    return photos, regressor, scene.camera.with_height(scale.image_height)
