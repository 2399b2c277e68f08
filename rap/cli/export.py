"""`rap export`: a trained regressor as one file that runs without `rap`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import rap
from rap import log
from rap.cli.arguments import (
    Device,
    Out,
    Run,
    SceneFormat,
    UsageError,
    check_at_least,
    check_out,
    parse,
)
from rap.config.inference import ExportPrecision

FORMATS = {"aoti": ".pt2", "onnx": ".onnx"}


@dataclass(frozen=True)
class Export:
    """Write a network as one file that runs without rap: rap export {aoti,onnx} -p RUN -o FILE.

    uint8 RGB images of the network's size go in ([batch, 3, h, w], contiguous, any batch up to
    1024; a .pt2 refuses others), poses come out (world_from_camera, OpenCV axes, metres); camera,
    normalisation and provenance are in the file's metadata, a digest beside them.
    aoti: torch._inductor.aoti_load_package(FILE), for the device it was exported on; it is machine
    code, tried out in a process of its own before there is a FILE. onnx: ONNX Runtime; bf16 is for
    TensorRT only. TensorRT, not tested: trtexec --onnx=FILE --saveEngine=FILE.engine
    --minShapes=images:1x3xHxW --optShapes=images:8x3xHxW --maxShapes=images:64x3xHxW.
    """

    run: Run
    """A run directory, or a .safetensors file of weights."""
    out: Out
    """The file to write: .pt2 for aoti, .onnx for onnx."""
    precision: ExportPrecision = "fp32"
    """Arithmetic of convolutions and encoders; int8 is for onnx and needs --scene."""
    scene: str | None = None
    """Calibrate int8, and show what the file costs in accuracy, on its training photographs."""
    num_images: int = 64
    """Photographs of the scene, evenly spread."""
    format: SceneFormat | None = None
    """Read the scene's folder in this format; none: recognise it."""
    device: Device = "auto"
    """For aoti: what to compile for. `auto` is the GPU where there is one."""
    force: bool = False
    """Overwrite the output."""


def run(argv: Sequence[str]) -> int:
    """Check, export, read back, compare."""
    argv = list(argv)
    form = argv.pop(0) if argv and argv[0] in FORMATS else None
    arguments: Export = parse(Export, f"export {form or 'FORMAT'}", argv)
    if form is None:
        raise UsageError(f"give one of {', '.join(FORMATS)} first: rap export onnx -p RUN -o FILE")
    check_at_least(1, num_images=arguments.num_images)
    check_out(arguments.out, force=arguments.force, suffix=FORMATS[form])
    _export("aoti" if form == "aoti" else "onnx", arguments)
    return 0


def _export(form: Literal["aoti", "onnx"], arguments: Export) -> None:
    from rap.data.images import decode
    from rap.evaluate import load_run, pick_device
    from rap.export import ExportError, export, load_artifact, off_regressor
    from rap.export.trial import off_regressor_apart
    from rap.export.write import check

    log.sweep(arguments.out.parent, arguments.out.stem)
    check(form, arguments.precision, arguments.scene is not None)
    device = pick_device(arguments.device if form == "aoti" else "cpu")
    checkpoint = load_run(arguments.run, device)
    images = None
    if arguments.scene is not None:
        frames = rap.load(arguments.scene, arguments.format).train
        kept = min(arguments.num_images, len(frames))
        spread = [frames[index * len(frames) // kept] for index in range(kept)]
        images = decode(spread, checkpoint.camera)
    calibration = images if arguments.precision == "int8" else None
    export(checkpoint, arguments.out, form, arguments.precision, calibration)
    size = arguments.out.stat().st_size / 2**20
    camera = checkpoint.camera
    log.info(
        f"{arguments.out}: {size:.1f} MiB, {arguments.precision}, uint8 images of "
        f"{camera.width}x{camera.height}; score it with `rap eval SCENE --artifact {arguments.out}`"
    )
    if images is None:
        return
    try:
        if form == "aoti":
            off = off_regressor_apart(arguments.out, checkpoint, images)
        else:
            off = off_regressor(load_artifact(arguments.out, device), checkpoint, images)
    except ExportError as error:
        # Such as bf16, which ONNX Runtime does not know: the file is for another program.
        log.warn(f"not compared with the regressor: {error}")
        return
    log.info(
        f"on {len(images)} training photographs off the regressor in fp32 by a median of "
        f"{1e3 * float(off.translation_m.median()):.3f} mm, "
        f"{float(off.rotation_deg.median()):.4f} deg (at most "
        f"{1e3 * float(off.translation_m.max()):.3f} mm, {float(off.rotation_deg.max()):.4f} deg)"
    )
