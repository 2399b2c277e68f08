"""Exported networks in the runtimes that programs without rap have: ONNX Runtime, AOTInductor."""

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import paths, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import ModelConfig
from rap.config.inference import ExportFormat, ExportPrecision
from rap.evaluate import Localizer, pose_errors
from rap.export import Artifact, ExportError, export, load_artifact
from rap.export.details import need
from rap.export.write import SUFFIXES, check
from rap.model.checkpoint import Checkpoint
from rap.model.regressor import Regressor
from rap.scene import Scene, centres

TOLERANCE = {"fp32": 1e-3, "bf16": 0.5, "fp16": 0.1, "int8": 1.0}
"""Median error against float64, as a share of what is usual between the poses of two images.

The weights are random, as in bench_infer.py: a trained network is less sensitive.
"""
ROUNDING_M = 1e-4
"""A network of fewer bits that differs by less is none."""
NUM_CALIBRATION = 16
NEEDS_TENSORRT = ("onnx", "bf16")
"""ONNX Runtime has no such convolution."""
NO_INT8 = ("aoti", "int8")
EAGER_STEP = "addcmul"
"""An operation of the eager network that every export makes part of others."""


def by_default(kind: str, precision: str, batch_size: int, network: str) -> bool:
    """Exporting takes seconds, compiling half a minute: one small file on either device."""
    return (kind, precision, batch_size, network) == ("onnx", "fp32", 1, "small")


def possible(kind: str, precision: str, batch_size: int, network: str) -> bool:
    """What the kinds know; the small network once only."""
    if (kind, precision) in (NEEDS_TENSORRT, NO_INT8):
        return False
    return network == "whole" or by_default(kind, precision, batch_size, network)


CASES = [case for case in combine(
    axis(["onnx", "aoti"]), axis(["fp32", "bf16", "fp16", "int8"]), axis([1, 64], full=[8, 256]),
    axis(["small", "whole"]), default=by_default,
) if possible(*case.values)]  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """A file, and the network that is in it."""

    path: Path
    regressor: Regressor
    checkpoint: Checkpoint


Exporter = Callable[[ExportFormat, ExportPrecision, str], Exported]


@pytest.fixture(scope="module")
def exporter(
    tmp_path_factory: pytest.TempPathFactory, device: torch.device, scale: Scale, scene: Scene
) -> Exporter:
    """Writes each file once, whatever the number of batch sizes."""
    photos = workloads.photographs(scene, scale.image_height).to(device)
    camera = scene.camera.with_height(scale.image_height)

    @cache
    def write(kind: ExportFormat, precision: ExportPrecision, network: str) -> Exported:
        config = scale.model if network == "whole" else smaller(scale.model)
        regressor = workloads.responsive_regressor(config, photos[:32] / 255, centres(scene.train))
        checkpoint = Checkpoint(regressor, camera, {"scene": "benchmark"})
        path = tmp_path_factory.mktemp("export") / f"network{SUFFIXES[kind]}"
        calibration = photos[:NUM_CALIBRATION] if precision == "int8" else None
        export(checkpoint, path, kind, precision, calibration)
        return Exported(path, regressor, checkpoint)

    return write


@pytest.mark.parametrize(("kind", "precision", "batch_size", "network"), CASES)
def bench_infer_artifact(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, exporter: Exporter, device: torch.device,
    scale: Scale, scene: Scene,
    kind: ExportFormat, precision: ExportPrecision, batch_size: int, network: str,
) -> None:  # fmt: skip
    """From uint8 images, where the runtime takes them, to poses on the host; those of float64.

    ONNX Runtime takes its images from the host, AOTInductor on the device. The file's size is a
    metric; the peak in host memory is the exporter's.
    """
    skip_without_runtime(kind, precision, device)
    exported = exporter(kind, precision, network)
    artifact = load_artifact(exported.path, device)
    photos = workloads.photographs(scene, scale.image_height)
    chosen = torch.arange(batch_size) % len(photos)
    images = photos[chosen].to("cpu" if kind == "onnx" else device)
    calls = runtime_calls(monkeypatch, kind)

    result = measure(lambda: artifact.locate(images).cpu(), items=batch_size, unit="images")

    result.metric("file_bytes", exported.path.stat().st_size)
    for ok, message in by_the_runtime(artifact, exported, images[:1], calls):
        result.check(ok, message)
    with torch.no_grad():
        exact = copy.deepcopy(exported.regressor).double()(photos.to(device).double() / 255)
    true = exact.world_from_camera.cpu()
    off, apart = pose_errors(result.value, true[chosen]), pose_errors(true.roll(1, dims=0), true)
    result.metric("off_m", float(off.translation_m.median()))
    result.metric("off_deg", float(off.rotation_deg.median()))
    share = max(
        float(off.translation_m.median() / apart.translation_m.median()),
        float(off.rotation_deg.median() / apart.rotation_deg.median()),
    )
    result.check(share < TOLERANCE[precision], f"off the plain answer by {share:.2%} of the spread")
    if precision != "fp32":
        off_m = float(off.translation_m.max())
        result.check(off_m > ROUNDING_M, f"fp32 in disguise: off by {off_m:.1e} m only")


def smaller(config: ModelConfig) -> ModelConfig:
    """Half the blocks and one encoder layer: a file in a few seconds."""
    return replace(config, layers=1, translation_level=3, rotation_level=3, width=0.25)


def skip_without_runtime(
    kind: ExportFormat, precision: ExportPrecision, device: torch.device
) -> None:
    """Skip, with the reason, what cannot be written or run here."""
    try:
        check(kind, precision, calibrated=True)
        if kind == "onnx":
            runtime = need("onnxruntime", "running an .onnx file")
            provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
            if provider not in runtime.get_available_providers():
                pytest.skip(f"this ONNX Runtime has no {provider}")
        elif reason := why_not_compiled(device):
            pytest.skip(reason)
    except ExportError as error:
        pytest.skip(str(error))


def why_not_compiled(device: torch.device) -> str:
    """What AOTInductor misses here; empty where it has all."""
    # Here and below, or every process that collects benchmarks would load the compiler.
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        return f"AOTInductor finds no C++ compiler: {str(error).splitlines()[0]}"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "AOTInductor compiles for a GPU with Triton, which is not installed"
    return ""


def runtime_calls(monkeypatch: pytest.MonkeyPatch, kind: ExportFormat) -> paths.Calls:
    """The calls of the runtime's own entry from now on."""
    if kind == "aoti":
        from torch._inductor.package.package import AOTICompiledModel

        return paths.count_calls(monkeypatch, AOTICompiledModel, "__call__")
    runtime = need("onnxruntime", "running an .onnx file")
    return paths.count_calls(monkeypatch, runtime.InferenceSession, "run")


def by_the_runtime(
    artifact: Artifact, exported: Exported, images: Tensor, calls: paths.Calls
) -> list[tuple[bool, str]]:
    """Whether the runtime ran each call, and no operation of the eager network did."""
    runtime = "ONNX Runtime" if exported.path.suffix == ".onnx" else "AOTInductor"
    before, eager, plain = calls.num, paths.Operations(EAGER_STEP), paths.Operations(EAGER_STEP)
    with eager:
        artifact.locate(images)
    locate = Localizer(exported.regressor, exported.checkpoint.camera)
    with plain:
        locate(images)
    return [
        (before > 0, f"{runtime} was never called"),
        (calls.num == before + 1, f"{calls.num - before} calls of {runtime} for one batch"),
        (runtime in artifact.description, f"it was run by {artifact.description}"),
        (eager.num == 0, f"{eager.num} operations of the eager network ran"),
        (plain.num == 1, f"{plain.num} of them in the eager network: the count sees nothing"),
    ]
