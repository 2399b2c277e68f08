"""`rap train`: a scene and its Gaussians to a pose regressor."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rap
from rap import log
from rap.cli.arguments import (
    Device,
    Out,
    SceneFormat,
    SceneName,
    check_out_folder,
    parse_configured,
)
from rap.config import ImageConfig, LossWeights, ModelConfig, TrainConfig, ViewsConfig
from rap.train.folder import has_no_epoch


@dataclass(frozen=True)
class Train:
    """Train a pose regressor on photographs and on views rendered from Gaussians.

    On several GPUs of one host: torchrun --nproc-per-node 2 -m rap train ... Without dropout, N
    processes then train as one with --train.micro-batches N does, up to rounding, which grows with
    the steps; and as one with whole batches if BatchNorm is calibrated and feature_loss is mse.
    """

    scene: SceneName
    """The scene's folder, or the word `room`."""
    out: Out
    """The run directory to make."""
    splat: Path | None = None
    """The scene's Gaussians (.ply); none: no term may need renderings."""
    resume: bool = False
    """Go on with the run in the run directory."""
    preset: str | None = None
    """Settings to start from; none: `room` for the room, `seven_scenes` for a folder."""
    config: Path | None = None
    """A .toml file of settings to start from, or a .txt file of the published code."""
    format: SceneFormat | None = None
    """Read the folder in this format; none: recognise it."""
    device: Device = "auto"
    """`auto` is the GPU where there is one."""
    image: ImageConfig = field(default_factory=ImageConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    train: TrainConfig = field(default_factory=TrainConfig)


def run(argv: Sequence[str]) -> int:
    """Train into a new run directory, or go on with one; under torchrun on several GPUs."""
    arguments, config = parse_configured(Train, "train", argv)
    if not arguments.resume and not has_no_epoch(arguments.out):
        check_out_folder(arguments.out)

    from rap.data.check import warn_of_wrong_poses
    from rap.splat.gaussians import load_ply
    from rap.train.launch import joined

    with joined(arguments.device, "the run goes on with the same command and --resume") as device:
        gaussians = None if arguments.splat is None else load_ply(arguments.splat)
        scene = rap.load(arguments.scene, arguments.format)
        warn_of_wrong_poses(scene, arguments.scene)
        best = rap.train(scene, gaussians, config, arguments.out, device, resume=arguments.resume)
    log.info(f"{best}: score it with `rap eval {arguments.scene} -p {arguments.out}`")
    return 0
