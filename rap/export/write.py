"""Regressor to file: AOTInductor compiles the prepared network, ONNX describes it."""

import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from rap.config import Precision
from rap.config.inference import ExportFormat, ExportPrecision
from rap.export.details import INPUT, MAX_BATCH, OUTPUT, Details, ExportError, need
from rap.export.guard import guarded
from rap.export.quantise import quantise
from rap.export.seal import BLANK, seal
from rap.export.stops import terminable
from rap.export.trial import try_out
from rap.log import replacing
from rap.model.checkpoint import Checkpoint
from rap.model.infer import PoseNetwork
from rap.model.regressor import Regressor

SUFFIXES = {"aoti": ".pt2", "onnx": ".onnx"}
_OPSET = 18
_BF16_OPSET = 22
"""The first in which a convolution may be bf16."""


def export(
    checkpoint: Checkpoint,
    path: Path,
    form: ExportFormat,
    precision: ExportPrecision,
    calibration: UInt8[Tensor, "n 3 h w"] | None = None,
) -> Details:
    """Write a file that runs without `rap`, for batches of 1 to 1024 images of the camera's size.

    uint8 RGB goes in, `world_from_camera` comes out; normalisation is inside, BatchNorm folded.
    `aoti` is compiled for the device that the regressor is on. `int8` (ONNX only) takes the ranges
    of its activations from `calibration`. Raises ExportError for what cannot be done, before long
    work.
    """
    check(form, precision, calibration is not None)
    device = checkpoint.regressor.image_mean.device
    kept: Precision = "fp32" if precision == "int8" else precision
    network = PoseNetwork(checkpoint.regressor, checkpoint.camera, kept)
    details = Details(checkpoint.camera, precision, device.type, checkpoint.provenance)
    if form == "aoti":
        _write_aoti(network, path, details, checkpoint.regressor)
        return details
    if calibration is None:
        _write_onnx(network, path, details)
        return details
    with terminable(), tempfile.TemporaryDirectory(prefix="rap-export-") as folder:
        full = Path(folder) / "fp32.onnx"
        _write_onnx(network.cpu(), full, details)
        quantise(full, path, calibration)
    return details


def check(form: ExportFormat, precision: ExportPrecision, calibrated: bool) -> None:
    """Raise ExportError for what cannot be exported here."""
    if form == "onnx":
        need("onnx", "ONNX export")
        need("onnxscript", "ONNX export")
    if precision != "int8":
        return
    if form == "aoti":
        raise ExportError("int8 is for ONNX: `rap export onnx --precision int8`")
    need("onnxruntime", "int8 calibration")
    if not calibrated:
        raise ExportError("int8 needs photographs to calibrate on: give --scene SCENE")


def _exported(network: PoseNetwork) -> torch.export.ExportedProgram:
    """The network as a graph for any batch size."""
    # Two images: sizes 0 and 1 are special to the exporter.
    images = torch.zeros(2, 3, *network.size, dtype=torch.uint8, device=network.scale.device)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    return torch.export.export(network, (images,), dynamic_shapes=({0: batch},))


def _write_aoti(network: PoseNetwork, path: Path, details: Details, regressor: Regressor) -> None:
    settings = {"aot_inductor.metadata": details.strings()}
    # A folder, as the archive's entries carry the name of the file that is compiled into, and the
    # compiler wants one that ends in .pt2. The end of its name is what `log.sweep` knows.
    with (
        terminable(),
        tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", suffix=f".{os.getpid()}.tmp", dir=path.parent
        ) as folder,
    ):
        package = Path(folder) / "network.pt2"
        with warnings.catch_warnings():
            # Deprecations inside torch, and its advice to allow TensorFloat-32.
            warnings.simplefilter("ignore")
            with guarded(network.size, details.device, MAX_BATCH):
                torch._inductor.aoti_compile_and_package(
                    _exported(network), package_path=str(package), inductor_configs=settings
                )
        with zipfile.ZipFile(package, "a") as archive:
            archive.comment = BLANK.encode()
        seal(package)
        try_out(package, path, regressor, network)
        package.replace(path)


def _write_onnx(network: PoseNetwork, path: Path, details: Details) -> None:
    onnx = need("onnx", "ONNX export")
    opset = _BF16_OPSET if details.precision == "bf16" else _OPSET
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        program = torch.onnx.export(
            _exported(network), dynamo=True, opset_version=opset, verbose=False,
            input_names=[INPUT], output_names=[OUTPUT],
        )  # fmt: skip
        assert program is not None
        program.save(str(temporary))
        model = onnx.load(str(temporary))
        onnx.helper.set_model_props(model, details.strings() | {"digest": BLANK})
        onnx.checker.check_model(model)
        onnx.save(model, str(temporary))
        seal(temporary)
