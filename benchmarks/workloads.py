"""Seeded inputs with known answers. Appended to, never changed: stored numbers depend on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from benchmarks.rooms import room
from rap.config import (
    Config,
    Execution,
    FitConfig,
    ImageConfig,
    LossWeights,
    ModelConfig,
    Precision,
    TrainConfig,
    ViewsConfig,
)
from rap.data import load
from rap.data.images import decode
from rap.data.points import initial_points
from rap.data.room import RoomSpec
from rap.model.regressor import Regressor, build_regressor
from rap.scene import Frame, Points, Scene, poses
from rap.splat.gaussians import Gaussians
from rap.splat.harmonics import BASE
from rap.synthesis.brisque_model import BrisqueModel
from rap.train.batches import Batch
from rap.train.step import Learner, build_learner

SEED = 7
# The published defaults: all five terms at their published weights.
ALL_TERMS = LossWeights(pose=1.0, rendered=1.0, view=1.0, feature=1.0, adversarial=0.7)
MAX_FRAMES = 64
"""Of a real scene, evenly spread: no time may depend on how long somebody filmed."""
SPREAD = 0.5
"""Deviation of the heads' outputs over images, in `responsive_regressor`."""


@dataclass(frozen=True)
class Scale:
    """How large the inputs are: the published size on a GPU, a small one on a CPU."""

    image_height: int
    """Of the network's input."""
    render_height: int
    model: ModelConfig
    room: RoomSpec
    num_gaussians: dict[str, int]
    sh_degree: int


GPU_SCALE = Scale(
    image_height=240,
    render_height=480,
    model=ModelConfig(dropout=0.0, drop_connect=0.0),
    room=RoomSpec(num_train=32, num_test=8, width=320, height=240),
    num_gaussians={"small": 200_000, "medium": 500_000, "large": 1_000_000, "huge": 2_000_000},
    sh_degree=2,
)
CPU_SCALE = Scale(
    image_height=48,
    render_height=120,
    model=ModelConfig(
        width=0.25, dim=64, heads=2, layers=2, feedforward=64, head_hidden=64,
        dropout=0.0, drop_connect=0.0,
    ),
    room=RoomSpec(num_train=48, num_test=32, width=160, height=120),
    num_gaussians={"small": 3_000, "medium": 8_000, "large": 20_000, "huge": 40_000},
    sh_degree=0,
)  # fmt: skip


def scale_for(device: torch.device) -> Scale:
    """The scale that a device's benchmarks use. Dropout is off in both, so that steps repeat."""
    return GPU_SCALE if device.type == "cuda" else CPU_SCALE


@cache
def scene(path: str, spec: RoomSpec) -> Scene:
    """The procedural room for `room`, else the scene in a folder, thinned out to `MAX_FRAMES`."""
    found = room(spec) if path == "room" else load(path)
    return replace(found, train=thinned(found.train), test=thinned(found.test))


def thinned(frames: Sequence[Frame], num: int = MAX_FRAMES) -> tuple[Frame, ...]:
    """At most `num` frames, evenly spread."""
    kept = min(num, len(frames))
    return tuple(frames[i * len(frames) // kept] for i in range(kept))


@cache
def photographs(scene: Scene, height: int) -> UInt8[Tensor, "n 3 h w"]:
    """The training photographs at a height."""
    return decode(scene.train, scene.camera.with_height(height), num_workers=0)


def splat(scene: Scene, num: int, sh_degree: int, device: torch.device) -> Gaussians:
    """`num` Gaussians over the scene's surface points, in their colours: a splat without a fit.

    The footprints shrink as they grow in number, so that a pixel meets about as many at any count.
    """
    generator = torch.Generator().manual_seed(SEED)
    points = initial_points(scene, num, generator)
    total = len(points.xyz)
    sample = torch.cdist(points.xyz[:1000], points.xyz)
    spacing = sample.kthvalue(2, dim=1).values.median() * (total / num) ** 0.5
    chosen = torch.arange(num) % total
    shift = torch.randn(num, 3, generator=generator) * (spacing if num > total else 0.0)
    rest = 0.02 * torch.randn(num, (sh_degree + 1) ** 2 - 1, 3, generator=generator)
    colour = (points.rgb[chosen].float() / 255 - 0.5) / BASE
    return Gaussians(
        means=points.xyz[chosen] + shift,
        quats=torch.randn(num, 4, generator=generator),
        log_scales=(0.9 * spacing).log() + 0.1 * torch.randn(num, 3, generator=generator),
        opacity_logits=torch.full((num,), 2.5),
        sh=torch.cat([colour[:, None], rest], dim=1),
    ).to(device)


def training_config(
    scale: Scale,
    precision: Precision = "fp32",
    *,
    execution: Execution = "eager",
    channels_last: bool = False,
) -> Config:
    """All five terms with the published weights."""
    return Config(
        image=ImageConfig(height=scale.image_height, num_workers=0),
        model=scale.model,
        weights=ALL_TERMS,
        train=TrainConfig(
            learning_rate=1e-4, precision=precision, execution=execution,
            channels_last=channels_last, seed=SEED,
        ),
    )  # fmt: skip


def training_batch(scene: Scene, num: int, scale: Scale, device: torch.device) -> Batch:
    """`num` photographs, as many renderings that resemble them, and as many views elsewhere."""
    generator = torch.Generator().manual_seed(SEED)
    photos = photographs(scene, scale.image_height)
    index = torch.arange(num) % len(photos)
    elsewhere = (index + len(photos) // 2) % len(photos)
    real, views = photos[index] / 255, photos[elsewhere] / 255
    rendered = (real + 0.05 * torch.randn(real.shape, generator=generator)).clamp(0, 1)
    pose = poses(scene.train).float()
    return Batch(
        torch.cat([real, rendered, views]).to(device),
        torch.cat([pose[index], pose[index], pose[elsewhere]]).to(device),
        {"pose": num, "rendered": num, "view": num},
    )


def learner(config: Config, device: torch.device) -> Learner:
    """A fresh learner: the same seed, the same weights and dropout of the discriminator."""
    regressor = build_regressor(config.model, SEED).to(device)
    fresh = build_learner(regressor, None, config, device)
    torch.manual_seed(SEED)
    return fresh


def responsive_regressor(
    config: ModelConfig, images: Float[Tensor, "n 3 h w"], centres: Float[Tensor, "n 3"]
) -> Regressor:
    """Random weights on the images' device whose poses differ from image to image, as trained ones.

    Fresh weights answer every image with almost one pose, which any mistake would reproduce. Here
    BatchNorm is calibrated on the images, and each head's output is centred and spread.
    """
    regressor = build_regressor(replace(config, batch_norm="calibrated"), SEED)
    regressor.set_translation_stats(centres.cpu())
    regressor.to(images.device).eval()
    regressor.calibrate([images])
    with torch.no_grad():
        maps = regressor.trunk((images - regressor.image_mean) / regressor.image_std)
        branches = (regressor.translation_branch, regressor.rotation_branch)
        for branch, features in zip(branches, maps, strict=True):
            std, mean = torch.std_mean(branch(features, regressor.positions), dim=0)
            usual = branch.head_out.bias.clone()
            branch.head_out.weight.mul_(SPREAD / std[:, None])
            branch.head_out.bias.copy_(usual + (usual - mean) * SPREAD / std)
    return regressor


def accuracy_config(scale: Scale, seed: int) -> Config:
    """A training of seconds that learns a room.

    Shallow trunk, clipped gradients, more weight on translation and calibrated BatchNorm were found
    by trying, for little spread between seeds.
    """
    return Config(
        image=ImageConfig(height=scale.image_height, num_workers=0),
        model=ModelConfig(
            width=0.5, dim=32, heads=2, layers=1, feedforward=64, head_hidden=128,
            dropout=0.0, drop_connect=0.0, translation_level=3, rotation_level=3,
            feature_dim=16, batch_norm="calibrated",
        ),
        views=ViewsConfig(
            per_image=2, refresh_epochs=5, min_coverage=0.0, translation_m=0.4, rotation_deg=20.0
        ),
        weights=LossWeights(pose=1.0, view=1.0),
        train=TrainConfig(
            epochs=18, batch_size=4, learning_rate=2e-3, grad_clip=100.0,
            translation_log_weight=5.5, validation_fraction=0.0, seed=seed,
        ),
    )  # fmt: skip


# Light that varies. Training frames: each lamp's power is e^N(0, 0.3), cut at e^±0.45, with a tint
# of 6 % per channel. Test frames: each lamp e^±U(0.45, 0.9), outside of all that training saw.
LAMPS_ROOM = replace(CPU_SCALE.room, unseen_lamps=True)
"""For localisation; the splat's PSNR is scored on `CPU_SCALE.room` too, with lamps drawn alike."""
LAMPS_SEEDS = (1, 2, 3)
"""Of the trainings with and without appearance; the splat has the seed of its settings."""


def alphas(num: int, height: int, width: int) -> Float[Tensor, "{num} {height} {width}"]:
    """Opacity maps whose means are spread over [0, 1]."""
    generator = torch.Generator().manual_seed(SEED)
    level = torch.linspace(0, 1, num)[torch.randperm(num, generator=generator)]
    return level[:, None, None] ** torch.rand(num, height, width, generator=generator).mul_(2)


def brisque_model() -> BrisqueModel:
    """As many support vectors as the trained model has, at random; the trained one is optional."""
    generator = torch.Generator().manual_seed(SEED)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    low = torch.tensor([0.3, 0.02] + 4 * [0.2, -0.2, 0.0, 0.0], dtype=torch.float64)
    high = torch.tensor([10.0, 0.8] + 4 * [1.5, 0.2, 0.7, 0.6], dtype=torch.float64)
    return BrisqueModel(
        support=2 * uniform(770, 36) - 1,
        coefficients=20 * (2 * uniform(770) - 1),
        gamma=torch.tensor(0.05, dtype=torch.float64),
        rho=torch.tensor(-250.0, dtype=torch.float64),
        low=low.repeat(2),
        high=high.repeat(2),
    )


FIT_STEPS = 20_000
"""Steps that a benchmarked fit is to have; it starts in the middle and takes a few of them."""


def dense_points(scene: Scene, num: int) -> Points:
    """`num` coloured points over the surfaces: where the Gaussians of `splat` are."""
    gaussians = splat(scene, num, 0, torch.device("cpu"))
    colour = (0.5 + BASE * gaussians.sh[:, 0]) * 255
    return Points(gaussians.means, colour.round().clamp(0, 255).byte())


def lamps_fit_config(appearance_dim: int) -> FitConfig:
    """A fit of half a minute on one CPU core, at 60 pixels of height; 0 fits without appearance."""
    return FitConfig(
        iterations=1500, height=60, max_gaussians=3000, initial_points=3000, sh_degree=0,
        means_lr=1e-3, scales_lr=1e-2, sh_lr=1e-2, quats_lr=3e-3, refine_every=50,
        appearance_dim=appearance_dim, seed=SEED,
    )  # fmt: skip
