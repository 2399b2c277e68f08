"""Frozen inputs and what they must give: the golden numbers that no fast path has made.

Inputs are closed forms of an index: no generator, no initialisation and no data file can change
them. `python -m benchmarks.frozen` makes the numbers from the float64 twins on the CPU: the plain
rasteriser, the losses of `plain.py`, the network in double precision. It is run when a definition
changes, and never to make a red benchmark green.

The gate takes this file, `plain.py` and `goldens.json` from the base. What only the head defines
(functions and other top-level names here and there, parts there) is added to them, so that a new
golden can come with the change that needs it; what the base has cannot be changed by the change
that it judges. So an interface that these files use is renamed in two steps.
"""

import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from benchmarks import plain
from rap.camera import Camera
from rap.config import Config, LossWeights, ModelConfig, TrainConfig
from rap.geometry import invert, rigid, rotation_from_6d
from rap.model.precision import tf32_scope
from rap.model.regressor import Regressor, build_regressor
from rap.splat.gaussians import Gaussians
from rap.splat.render import Backend, render
from rap.train.batches import Batch
from rap.train.losses import PoseLoss, feature_loss
from rap.train.step import Learner, build_learner, loss_terms, optimise

GOLDENS = Path(__file__).with_name("goldens.json")
CAMERA = Camera(40.0, 42.0, 24.0, 18.0, 48, 36)
NUM_GAUSSIANS = 60
LOG_WEIGHTS = (0.7, -0.3)
NETWORK = ModelConfig(
    width=0.25, dim=32, heads=2, layers=1, feedforward=32, head_hidden=32, feature_dim=8,
    dropout=0.0, drop_connect=0.0, batch_norm="frozen",
)  # fmt: skip
WEIGHTS = LossWeights(pose=1.0, rendered=0.6, view=0.8, feature=0.3)
PARTS = {"pose": 2, "rendered": 2, "view": 2}
NUM_PROBES = 16
"""Numbers kept of each large output: sums over it, weighted by as many waves."""
Numbers = dict[str, Float64[Tensor, " n"]]
"""Quantities by name."""
FeatureTerm = Callable[[Tensor, Tensor], Tensor]
TOLERANCE = {"fp32": 1e-3, "tf32": 0.1, "bf16": 0.5, "fp16": 0.1}
"""Largest deviation over the root mean square of what it must be; fp32 on a CPU has 1e-5.

The network's frozen weights are far from trained ones, and half precisions round them: weights off
by 1 % deviate by 0.05 to 0.8.
"""
RENDER_TOLERANCE = 5e-3
"""gsplat cuts Gaussians off where the plain rasteriser does, to its own rounding."""


def spread(*shape: int, name: str) -> Float64[Tensor, "..."]:
    """Numbers from -1 to 1 that look random and are a formula of their index and a name."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    start = zlib.crc32(name.encode()) / 2**32
    turns = start + index * 0.6180339887498949 + (index * index % 1009) * 0.41421356237309503
    return (2 * (turns % 1.0) - 1).reshape(shape)


def probed(value: Tensor, name: str) -> Float64[Tensor, " n"]:
    """A large tensor as a few numbers that any error moves."""
    flat = value.detach().double().cpu().flatten()
    waves = spread(NUM_PROBES, flat.numel(), name=f"probes of {name}")
    return waves @ flat / flat.numel() ** 0.5


def network(dtype: torch.dtype, device: torch.device) -> Regressor:
    """A small regressor whose weights are formulas; its poses differ between images."""
    regressor = build_regressor(NETWORK, 0)
    with torch.no_grad():
        for name, value in regressor.named_parameters():
            if value.dim() > 1:
                gain = (6 / value[0].numel()) ** 0.5
                value.copy_(gain * spread(*value.shape, name=name))
            else:
                norm = "norm" in name and name.endswith("weight")
                value.copy_(0.1 * spread(*value.shape, name=name) + (1.0 if norm else 0.0))
    return regressor.to(device, dtype).eval()


def images(num: int = 4) -> Float64[Tensor, "n 3 h w"]:
    """Stripes and gradients, another for each image."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (48, 64)), indexing="ij")
    waves = [
        torch.sin(0.11 * (1 + n) * x + 0.07 * (3 - n) * y * (1 + c) + n + 2 * c)
        for n in range(num) for c in range(3)
    ]  # fmt: skip
    return 0.5 + 0.45 * torch.stack(waves).reshape(num, 3, 48, 64)


def poses(num: int = 4) -> Float64[Tensor, "n 4 4"]:
    """Poses near the origin, looking along z."""
    six = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64)
    turned = rotation_from_6d(six + 0.2 * spread(num, 6, name="rotations"))
    return rigid(turned, 0.3 * spread(num, 3, name="translations"))


def gaussians(dtype: torch.dtype, device: torch.device) -> Gaussians:
    """A cloud in front of the cameras; its parameters are leaves of a graph."""
    num = NUM_GAUSSIANS
    offset = torch.tensor([0.0, 0.0, 2.5], dtype=torch.float64)
    values = (
        spread(num, 3, name="means") + offset,
        spread(num, 4, name="quats") + 0.1,
        0.5 * spread(num, 3, name="scales") - 2.0,
        2.0 * spread(num, name="opacities"),
        spread(num, 4, 3, name="sh"),
    )
    leaves = [value.to(device, dtype).requires_grad_() for value in values]
    return Gaussians(*leaves)


def network_numbers(regressor: Regressor) -> Numbers:
    """Poses of the frozen images, and the gradient of their pose loss by part of the network."""
    kind = regressor.image_mean
    prediction = regressor(images().to(kind), with_features=True)
    assert prediction.features is not None
    loss = plain.pose_loss(
        torch.tensor(LOG_WEIGHTS, dtype=torch.float64),
        prediction.translation.double().cpu(), prediction.rotation.double().cpu(), poses(),
    )  # fmt: skip
    (loss + prediction.features.double().cpu().square().mean()).backward()
    found = {
        "translation": prediction.translation.detach().double().cpu().flatten(),
        "rotation": prediction.rotation.detach().double().cpu().flatten(),
        "features": probed(prediction.features, "features"),
    }
    return found | gradients(regressor)


def step_numbers(device: torch.device) -> Numbers:
    """Every term of a training step on frozen images, and the gradient of their weighted sum."""
    config = Config(
        model=NETWORK, weights=WEIGHTS,
        train=TrainConfig(
            translation_log_weight=LOG_WEIGHTS[0], rotation_log_weight=LOG_WEIGHTS[1], seed=0
        ),
    )  # fmt: skip
    regressor = network(torch.float32, device).train()
    learner = build_learner(regressor, None, config, device)
    batch = Batch(images(6).float().to(device), poses(6).float().to(device), PARTS)
    # Forward and backward, as a step has it: torch's default is TF32 for a GPU's convolutions.
    with tf32_scope("fp32"):
        terms = loss_terms(learner, batch, config)
        weighted = [getattr(WEIGHTS, name) * value for name, value in terms.items()]
        torch.stack(weighted).sum().backward()
    return {name: value.detach().double().cpu().reshape(1) for name, value in terms.items()} | (
        gradients(regressor)
    )


def plain_step() -> Numbers:
    """The same from the plain losses, in float64."""
    regressor = network(torch.float64, torch.device("cpu"))
    prediction = regressor(images(6), with_features=True, num_featured=4)
    assert prediction.features is not None
    weights = torch.tensor(LOG_WEIGHTS, dtype=torch.float64)
    terms = {
        name: plain.pose_loss(weights, translation, rotation, true)
        for name, translation, rotation, true in zip(
            PARTS, prediction.translation.split(2), prediction.rotation.split(2),
            poses(6).split(2), strict=True,
        )
    }  # fmt: skip
    real, rendered = prediction.features.chunk(2, dim=1)
    terms["feature"] = plain.FEATURE_LOSSES["vicreg"](rendered, real)
    torch.stack([getattr(WEIGHTS, name) * value for name, value in terms.items()]).sum().backward()
    return {name: value.detach().reshape(1) for name, value in terms.items()} | (
        gradients(regressor)
    )


def training_config() -> Config:
    """All that a step holds but clipping, which would hide a sum of parts in place of a mean."""
    return Config(
        model=NETWORK, weights=replace(WEIGHTS, adversarial=20.0),
        train=TrainConfig(
            translation_log_weight=LOG_WEIGHTS[0], rotation_log_weight=LOG_WEIGHTS[1], seed=0,
            micro_batches=2, batch_size=4, ema_decay=0.5, learning_rate=0.02, weight_decay=0.1,
            discriminator_lr=0.02,
        ),
    )  # fmt: skip


EPS = 1e-2
"""Of Adam: as small as usual it would make whole steps of gradients that are only rounding."""


def training_learner(dtype: torch.dtype, device: torch.device) -> Learner:
    """A network, its average and a discriminator without dropout, their weights formulas."""
    learner = build_learner(
        network(dtype, device).train(), network(dtype, device), training_config(), device
    )
    assert learner.discriminator is not None
    assert learner.discriminator_optimizer is not None
    with torch.no_grad():
        for name, value in learner.discriminator.named_parameters():
            wave = spread(*value.shape, name=name)
            of_norm = value.dim() == 1 and name.endswith("weight")
            gain = (6 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.1
            value.copy_(gain * wave + (1.0 if of_norm else 0.0))
    learner.discriminator.to(dtype).eval()
    for optimizer in (learner.optimizer, learner.discriminator_optimizer):
        for group in optimizer.param_groups:
            group["eps"] = EPS
    return learner


def training_numbers(device: torch.device) -> Numbers:
    """What a whole step gives and moves: five terms, network, average and discriminator."""
    learner = training_learner(torch.float32, device)
    sizes = {"pose": 4, "rendered": 4, "view": 4}
    batch = Batch(images(12).float().to(device), poses(12).float().to(device), sizes)
    terms = optimise(learner, batch, training_config(), 1.0)
    networks = (learner.regressor, learner.average, learner.discriminator)
    weights = [dict(network.named_parameters()) for network in networks if network is not None]
    return {name: value.double().cpu().reshape(1) for name, value in terms.items()} | moves(weights)


def plain_training() -> Numbers:
    """The same from the plain step, in float64."""
    config = training_config()
    train, learner = config.train, training_learner(torch.float64, torch.device("cpu"))
    assert learner.discriminator is not None
    leaves = [dict(part.named_parameters()) for part in (learner.regressor, learner.discriminator)]
    pictures, true = (
        dict(zip(("pose", "rendered", "view"), of.chunk(3), strict=True))
        for of in (images(12), poses(12))
    )
    game = plain.Game(plain.discriminator, leaves[1], train.discriminator_lr, EPS)
    terms = plain.gather_gradients(
        lambda some, num: learner.regressor(some, with_features=True, num_featured=num),
        game, pictures, true, vars(config.weights), torch.tensor(LOG_WEIGHTS, dtype=torch.float64),
        train.micro_batches,
    )  # fmt: skip
    old = {name: value.detach() for name, value in leaves[0].items()}
    new = plain.moved(leaves[0], train.learning_rate, EPS, train.weight_decay)
    # Early on the average takes what one part in ten leaves: 1 - min(decay, 1 / 10).
    averaged = {name: 0.1 * old[name] + 0.9 * new[name] for name in old}
    numbers = {name: value.reshape(1) for name, value in terms.items()}
    return numbers | moves([new, averaged, leaves[1]])


def moves(weights: Sequence[Mapping[str, Tensor]]) -> Numbers:
    """How far network, average and discriminator went, part by part, from `training_learner`."""
    learner = training_learner(torch.float64, torch.device("cpu"))
    assert learner.discriminator is not None
    start = {name: p for name, p in learner.regressor.named_parameters() if p.requires_grad}
    critic = dict(learner.discriminator.named_parameters())
    found: dict[str, list[Tensor]] = {}
    begins = {"network": start, "average": start, "game": critic}
    for (owner, before), after in zip(begins.items(), weights, strict=True):
        for name, value in before.items():
            shift = (after[name].detach().double().cpu() - value).flatten()
            found.setdefault(f"move of {owner}: {name.split('.')[0]}", []).append(shift)
    return {name: probed(torch.cat(shifts), name) for name, shifts in found.items()}


def gradients(regressor: Regressor) -> Numbers:
    """Of every part of the network that learns; nothing where a weight got none."""
    found: Numbers = {}
    for part, module in regressor.named_children():
        learning = [p for p in module.parameters() if p.requires_grad]
        if learning:
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learning]
            found[f"gradient of {part}"] = probed(torch.cat([g.flatten() for g in grads]), part)
    return found


def render_numbers(dtype: torch.dtype, device: torch.device, backend: Backend) -> Numbers:
    """Colour, alpha and depth of two views, and their gradient by every parameter."""
    cloud = gaussians(dtype, device)
    camera_from_world = invert(poses(2)).to(device, dtype)
    found = render(cloud, CAMERA, camera_from_world, with_depth=True, backend=backend)
    assert found.depth is not None
    outputs = {"rgb": found.rgb, "alpha": found.alpha, "depth": found.depth}
    weights = {name: spread(*value.shape, name=name).to(value) for name, value in outputs.items()}
    torch.stack([(weights[name] * value).sum() for name, value in outputs.items()]).sum().backward()
    parameters = ("means", "quats", "log_scales", "opacity_logits", "sh")
    numbers = {name: probed(value, name) for name, value in outputs.items()}
    return numbers | {
        f"gradient by {name}": probed(getattr(cloud, name).grad, name) for name in parameters
    }


def features(name: str) -> Float64[Tensor, "l b c h w"]:
    """Of five images on two levels."""
    return spread(2, 5, 8, 3, 4, name=name)


def loss_numbers(
    dtype: torch.dtype, device: torch.device, terms: dict[str, FeatureTerm], pose: FeatureTerm
) -> Numbers:
    """Every loss of frozen features and poses, with its gradient."""
    found: Numbers = {}
    for name, term in terms.items():
        rendered = features("rendered").to(device, dtype).requires_grad_()
        value = term(rendered, features("real").to(device, dtype))
        value.backward()
        assert rendered.grad is not None
        found[name] = value.detach().double().cpu().reshape(1)
        found[f"gradient of {name}"] = probed(rendered.grad, name)
    predicted = poses().roll(1, dims=0).to(device, dtype).requires_grad_()
    value = pose(predicted, poses().to(device, dtype))
    value.backward()
    assert predicted.grad is not None
    found["pose"] = value.detach().double().cpu().reshape(1)
    found["gradient of pose"] = predicted.grad[:, :3].detach().double().cpu().flatten()
    return found


def fast_losses(device: torch.device) -> Numbers:
    """The losses that training uses."""
    pose_loss = PoseLoss(*LOG_WEIGHTS, learn=False).to(device)
    terms: dict[str, FeatureTerm] = {
        "vicreg": lambda a, b: feature_loss("vicreg", a, b),
        "triplet": lambda a, b: feature_loss("triplet", a, b),
        "ntxent": lambda a, b: feature_loss("ntxent", a, b),
        "mse": lambda a, b: feature_loss("mse", a, b),
    }
    return loss_numbers(
        torch.float32, device, terms, lambda p, true: pose_loss(p[:, :3, 3], p[:, :3, :3], true)
    )


def twins() -> dict[str, Numbers]:
    """All golden numbers, in float64 on the CPU, by the plain paths alone."""
    double, cpu = torch.float64, torch.device("cpu")
    weights = torch.tensor(LOG_WEIGHTS, dtype=double)
    return {
        "network": network_numbers(network(double, cpu)),
        "step": plain_step(),
        "training": plain_training(),
        "render": render_numbers(double, cpu, "reference"),
        "losses": loss_numbers(
            double, cpu, plain.FEATURE_LOSSES,
            lambda p, true: plain.pose_loss(weights, p[:, :3, 3], p[:, :3, :3], true),
        ),
    }  # fmt: skip


def read_goldens(part: str) -> Numbers:
    """The stored numbers of one part."""
    content = json.loads(GOLDENS.read_text(encoding="utf-8"))[part]
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in content.items()}


def difference(found: Numbers, golden: Numbers) -> dict[str, float]:
    """For each quantity the largest deviation, over the root mean square of what it must be."""
    if found.keys() != golden.keys():
        raise AssertionError(f"quantities {sorted(found.keys() ^ golden.keys())} are not in both")
    return {
        name: float((found[name] - value).abs().max() / value.square().mean().sqrt())
        for name, value in golden.items()
    }


def beyond(
    found: Numbers, part: str, tolerance: float, *, forward: bool
) -> tuple[float, list[str]]:
    """The largest deviation from a part's golden numbers, and what is off by the tolerance or more.

    Gradients are left out with `forward`; NaN is off by any tolerance.
    """
    off = difference(found, read_goldens(part))
    looked_at = {n: v for n, v in off.items() if not (forward and n.startswith("gradient"))}
    wrong = [f"{name} by {value:.1e}" for name, value in looked_at.items() if not value < tolerance]
    return max(looked_at.values()), wrong


def main() -> int:
    """Write the golden numbers."""
    numbers = {
        part: {name: [float(f"{v:.12g}") for v in values.tolist()] for name, values in one.items()}
        for part, one in twins().items()
    }
    lines = [
        f' "{part}": {{\n'
        + ",\n".join(f"  {json.dumps(name)}: {values}" for name, values in sorted(one.items()))
        + "\n }"
        for part, one in sorted(numbers.items())
    ]
    GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
