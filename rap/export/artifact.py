"""An exported network read back, by the same means that a program without `rap` has."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from rap.evaluate import Locate, PoseErrors, pose_errors, predict
from rap.export.details import INPUT, Details, ExportError, need, read_details
from rap.model.checkpoint import Checkpoint
from rap.model.precision import tf32_scope

_BATCH = 16


@dataclass(frozen=True)
class Artifact:
    """What the file says of itself, and what it does."""

    details: Details
    description: str
    """For provenance: file, kind, precision and what runs it."""
    locate: Locate


def load_artifact(path: Path, device: torch.device) -> Artifact:
    """Load a .pt2 or .onnx file that `rap export` wrote, to run on `device`.

    A .pt2 holds machine code, which is run: load only files that you trust like programs. Raises
    ExportError for a file that is no artifact or was compiled for another device.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file; accepted: a .pt2 or .onnx of `rap export`")
    if path.suffix == ".pt2":
        return _load_aoti(path, device)
    if path.suffix == ".onnx":
        return _load_onnx(path, device)
    raise ExportError(f"{path}: accepted are .pt2 and .onnx files of `rap export`")


def off_regressor(
    artifact: Artifact, checkpoint: Checkpoint, images: UInt8[Tensor, "n 3 h w"]
) -> PoseErrors:
    """How far the file's poses are from those of the plain regressor in fp32."""
    device = checkpoint.regressor.image_mean.device
    found = torch.cat([artifact.locate(part).cpu() for part in images.split(_BATCH)])
    return pose_errors(found.double(), predict(checkpoint.regressor, images, device))


def _load_aoti(path: Path, device: torch.device) -> Artifact:
    details = read_details(path, _aoti_metadata(path))
    if details.device != device.type:
        raise ExportError(
            f"{path}: compiled for {details.device}, asked to run on {device.type}; "
            "export it again there, or name the other --device"
        )
    try:
        run = torch._inductor.aoti_load_package(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ExportError(
            f"{path}: cannot be run here ({reason}); export it again on this kind of machine"
        ) from error

    @torch.no_grad()
    def locate(images: UInt8[Tensor, "b 3 h w"]) -> Tensor:
        # Convolutions of the package ask torch whether TensorFloat-32 is allowed.
        with tf32_scope("fp32"):
            return run(images.to(device))

    return Artifact(details, f"{path.name}: AOTInductor, {details.precision}", locate)


def _aoti_metadata(path: Path) -> dict[str, str]:
    """Read from the archive: nothing of an unknown file is run to see what it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            tables = [
                json.loads(archive.read(name))
                for name in archive.namelist()
                if name.endswith("_metadata.json")
            ]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ExportError(f"{path}: not an AOTInductor package: {error}") from error
    # Which of the package's files have a table differs between versions of torch.
    known = [table for table in tables if isinstance(table, dict) and "format" in table]
    if known and not all(isinstance(value, str) for value in known[0].values()):
        raise ExportError(f"{path}: not an AOTInductor package: metadata that are not text")
    return known[0] if known else {}


def _load_onnx(path: Path, device: torch.device) -> Artifact:
    runtime = need("onnxruntime", "an .onnx file")
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ExportError(
                f"{path}: this ONNX Runtime has no CUDA: pip install onnxruntime-gpu, or --device "
                "cpu"
            )
        providers.insert(0, "CUDAExecutionProvider")
    options = runtime.SessionOptions()
    # Its own default is every core, whatever OMP_NUM_THREADS or torch.set_num_threads say.
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except _runtime_errors() as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"{path}: ONNX Runtime cannot run it here: {reason}") from error
    details = read_details(path, session.get_modelmeta().custom_metadata_map)

    def locate(images: UInt8[Tensor, "b 3 h w"]) -> Tensor:
        return torch.from_numpy(session.run(None, {INPUT: images.cpu().numpy()})[0])

    # It takes the next provider, with a line of its own, where the first one does not start.
    used = session.get_providers()[0].removesuffix("ExecutionProvider")
    return Artifact(details, f"{path.name}: ONNX Runtime on {used}, {details.precision}", locate)


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a file that it cannot read or run; they share no base class."""
    state = need("onnxruntime.capi.onnxruntime_pybind11_state", "an .onnx file")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    return tuple(getattr(state, name) for name in names)
