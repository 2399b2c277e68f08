"""`rap convert`: a published RAP checkpoint to ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rap import log
from rap.cli.arguments import CheckpointFile, Out, check_at_least, check_out, parse, read_camera
from rap.config import ImageConfig, to_toml


@dataclass(frozen=True)
class Convert:
    """Convert a published RAP checkpoint; what it predicts stays the same, to 1e-4."""

    checkpoint: CheckpointFile
    """A .pth file of the published code: best, released or full."""
    out: Out
    """The .safetensors file to write."""
    camera: str
    """The scene that it was trained on, or a camera.json, for the intrinsics."""
    config: Path | None = None
    """The published configuration (.txt), written beside the output as .toml."""
    height: int = ImageConfig().height
    """Height of the images that the network was trained on, in pixels."""
    force: bool = False
    """Overwrite the output."""


def run(argv: Sequence[str]) -> int:
    """Convert, check and save."""
    arguments: Convert = parse(Convert, "convert", argv)
    check_at_least(1, height=arguments.height)
    settings_file = arguments.out.with_suffix(".toml")
    check_out(arguments.out, force=arguments.force, suffix=".safetensors")
    if arguments.config is not None:
        check_out(settings_file, force=arguments.force)

    from rap.model.checkpoint import save
    from rap.model.upstream import convert_checkpoint, read_config

    config = None if arguments.config is None else read_config(arguments.config)
    camera = read_camera(arguments.camera).with_height(arguments.height)
    regressor = convert_checkpoint(arguments.checkpoint, camera)
    save(arguments.out, regressor, camera, {"converted_from": str(arguments.checkpoint)})
    log.info(f"{arguments.out}: for images of {camera.width}x{camera.height}")
    if config is not None:
        with log.replacing(settings_file) as temporary:
            temporary.write_text(to_toml(config), encoding="utf-8")
        log.info(f"{settings_file}: its settings")
    return 0
