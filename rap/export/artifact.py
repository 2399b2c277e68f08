"""An exported network read back, by the same means that a program without `rap` has."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from rap import log
from rap.evaluate import Locate, PoseErrors, pose_errors, predict
from rap.export.details import (
    INPUT,
    MAX_BATCH,
    Details,
    ExportError,
    check_size,
    need,
    read_details,
)
from rap.export.guard import checked_size
from rap.export.seal import check_seal, is_sealed
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
    ExportError for a file that is no artifact, was edited or damaged, or was compiled for another
    device; so does `locate` for images that are not of the camera's size and uint8, or too many.
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
    metadata, size = _aoti_archive(path)
    details = read_details(path, metadata)
    if size is not None:
        check_size(path, details.camera, size)
    check_seal(path)
    if details.device != device.type:
        raise ExportError(
            f"{path}: compiled for {details.device}, asked to run on {device.type}; "
            "export it again there, or name the other --device"
        )
    # A crash that follows has a name.
    log.info(f"{path}: loading its machine code for {device}")
    try:
        run = torch._inductor.aoti_load_package(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ExportError(
            f"{path}: cannot be run here ({reason}); export it again on this kind of machine"
        ) from error

    @torch.no_grad()
    def locate(images: Tensor) -> Tensor:
        _check_images(path, details, images)
        # Convolutions of the package ask torch whether TensorFloat-32 is allowed.
        with tf32_scope("fp32"):
            return run(images.to(device).contiguous())

    return Artifact(details, f"{path.name}: AOTInductor, {details.precision}", locate)


def _check_images(path: Path, details: Details, images: Tensor) -> None:
    height, width = details.camera.height, details.camera.width
    fits = images.dtype == torch.uint8 and images.shape[1:] == (3, height, width)
    if not fits or not 1 <= len(images) <= MAX_BATCH:
        raise ExportError(
            f"{path}: images {list(images.shape)} of {images.dtype}; it takes [1 to {MAX_BATCH}, "
            f"3, {height}, {width}] of torch.uint8"
        )


def _aoti_archive(path: Path) -> tuple[dict[str, str], tuple[int, int] | None]:
    """Metadata, and width and height in the code, from the archive: nothing of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            tables = [json.loads(archive.read(x)) for x in names if x.endswith("_metadata.json")]
            sources = [archive.read(name).decode() for name in names if name.endswith(".cpp")]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        if is_sealed(path):
            check_seal(path)
        raise ExportError(f"{path}: not an AOTInductor package: {error}") from error
    # Which of the package's files have a table differs between versions of torch.
    known = [table for table in tables if isinstance(table, dict) and "format" in table]
    if known and not all(isinstance(value, str) for value in known[0].values()):
        raise ExportError(f"{path}: not an AOTInductor package: metadata that are not text")
    sizes = [size for size in map(checked_size, sources) if size is not None]
    return known[0] if known else {}, sizes[0] if sizes else None


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
        if is_sealed(path):
            check_seal(path)
        reason = str(error).splitlines()[0]
        raise ExportError(f"{path}: ONNX Runtime cannot run it here: {reason}") from error
    details = read_details(path, session.get_modelmeta().custom_metadata_map)
    for entry in session.get_inputs():
        check_size(path, details.camera, entry.shape[:1:-1])
    check_seal(path)

    def locate(images: Tensor) -> Tensor:
        _check_images(path, details, images)
        return torch.from_numpy(session.run(None, {INPUT: images.cpu().contiguous().numpy()})[0])

    # It takes the next provider, with a line of its own, where the first one does not start.
    used = session.get_providers()[0].removesuffix("ExecutionProvider")
    return Artifact(details, f"{path.name}: ONNX Runtime on {used}, {details.precision}", locate)


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a file that it cannot read or run; they share no base class."""
    state = need("onnxruntime.capi.onnxruntime_pybind11_state", "an .onnx file")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    return tuple(getattr(state, name) for name in names)
