"""Plain twins of the network and its losses, from the papers' formulas: what a fast path must give.

They share no code with `rap`: weights come by name, in the precision of whoever calls (float64 for
a check), and every formula is spelled out.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
Features = Float[Tensor, "l b c h w"]

EFFICIENTNET = (
    (3, 1, 1, 1), (3, 2, 6, 2), (5, 2, 6, 2), (3, 2, 6, 3),
    (5, 1, 6, 3), (5, 2, 6, 4), (3, 1, 6, 1),
)  # fmt: skip
"""Tan & Le (ICML 2019), table 1, stages 2 to 8: kernel, stride, expansion, repeats of B0."""
DEPTHS = {"b0": 1.0, "b1": 1.1, "b2": 1.2, "b3": 1.4}
"""Factor of the repeats."""


def in_float64(module: torch.nn.Module) -> dict[str, Tensor]:
    """A module's weights and buffers in float64 on its device; weights are leaves of a graph."""
    trained = {name for name, _ in module.named_parameters()}
    return {
        name: value.detach().double().requires_grad_(name in trained)
        for name, value in module.state_dict().items()
    }


def error(found: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """The norm of what tensors differ by, as a share of the exact ones' norm."""
    flat = [torch.cat([x.detach().cpu().double().flatten() for x in xs]) for xs in (found, exact)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def attention(
    q: Float[Tensor, "b n t d"], k: Float[Tensor, "b n s d"], v: Float[Tensor, "b n s d"],
    dropout_p: float = 0.0,
) -> Float[Tensor, "b n t d"]:  # fmt: skip
    """softmax(QKᵀ/√d)V with the matrix of all pairs in memory (Vaswani et al., 2017, eq. 1)."""
    if dropout_p:
        raise ValueError("the plain twin has no dropout")
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def encoder(
    weights: Weights, heads: int, tokens: Float[Tensor, "b t d"], position: Float[Tensor, "t d"]
) -> Float[Tensor, "b d"]:
    """Pre-norm layers over all tokens, positions added to what makes queries and keys."""
    dim = tokens.shape[-1]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (dim,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = tokens
    for name in (f"layers.{index}" for index in count()):
        if f"{name}.out.weight" not in weights:
            break
        linear = {
            part: (weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"])
            for part in ("qkv", "out", "linear1", "linear2")
        }
        z = norm(x, f"{name}.norm1")
        inputs = (z + position, z + position, z)
        parts = zip(inputs, *(both.chunk(3) for both in linear["qkv"]), strict=True)
        q, k, v = (
            F.linear(y, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)
            for y, weight, bias in parts
        )
        x = x + F.linear(attention(q, k, v).transpose(1, 2).flatten(2), *linear["out"])
        hidden = F.gelu(F.linear(norm(x, f"{name}.norm2"), *linear["linear1"]))
        x = x + F.linear(hidden, *linear["linear2"])
    return norm(x[:, 0], "norm")


def efficientnet(
    weights: Weights, variant: str, images: Float[Tensor, "b 3 h w"], live: bool
) -> dict[int, Float[Tensor, "b _c _h _w"]]:
    """The last feature map of every level (log2 of the stride) of a trunk cut after any block.

    `live`: BatchNorm takes the batch's own statistics, else the stored ones.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        if not live:
            var, mean = weights[f"{name}.running_var"], weights[f"{name}.running_mean"]
        gain = weights[f"{name}.weight"] / (var + 1e-3).sqrt()
        shift = weights[f"{name}.bias"] - mean * gain
        return x * gain[:, None, None] + shift[:, None, None]

    def convolve(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        around = kernel.shape[-1] - stride
        sides = (around // 2, around - around // 2)
        return F.conv2d(
            F.pad(x, (*sides, *sides)), kernel, weights.get(f"{name}.bias"), stride, groups=groups
        )

    x = F.silu(norm(convolve(images, "stem", 2), "stem_norm"))
    level, maps = 1, {}
    for number, (kernel, stride, expansion) in enumerate(_blocks(DEPTHS[variant])):
        name = f"blocks.{number}"
        if f"{name}.project.weight" not in weights:
            break
        y = x
        if expansion > 1:
            y = F.silu(norm(convolve(y, f"{name}.expand"), f"{name}.expand_norm"))
        if weights[f"{name}.depthwise.weight"].shape != (y.shape[1], 1, kernel, kernel):
            raise AssertionError(f"{name} has not the kernel of the paper's table")
        y = convolve(y, f"{name}.depthwise", stride, groups=y.shape[1])
        y = F.silu(norm(y, f"{name}.depthwise_norm"))
        squeezed = F.silu(convolve(y.mean(dim=(2, 3), keepdim=True), f"{name}.squeeze"))
        y = y * torch.sigmoid(convolve(squeezed, f"{name}.excite"))
        y = norm(convolve(y, f"{name}.project"), f"{name}.project_norm")
        level += stride == 2
        x = x + y if x.shape == y.shape else y
        maps[level] = x
    return maps


def _blocks(depth: float) -> list[tuple[int, int, int]]:
    """Kernel, stride and expansion of every block; a stage's stride is its first block's."""
    return [
        (kernel, stride if repeat == 0 else 1, expansion)
        for kernel, stride, expansion, repeats in EFFICIENTNET
        for repeat in range(math.ceil(depth * repeats))
    ]


def pose_loss(
    log_weights: Float[Tensor, "2"],
    translation: Float[Tensor, "b 3"],
    rotation: Float[Tensor, "b 3 3"],
    world_from_camera: Float[Tensor, "b 4 4"],
) -> Float[Tensor, ""]:
    """Kendall & Cipolla (2017): Euclidean and Frobenius distances, each times exp(weight)."""
    shift = ((translation - world_from_camera[:, :3, 3]) ** 2).sum(1).sqrt().mean()
    turn = ((rotation - world_from_camera[:, :3, :3]) ** 2).sum((1, 2)).sqrt().mean()
    return log_weights[0].exp() * shift + log_weights[1].exp() * turn


def vicreg(a: Features, b: Features) -> Float[Tensor, ""]:
    """Bardes et al. (ICLR 2022), equations 1 to 6 with weights 25, 25, 1, level by level."""
    num, channels = a.shape[1:3]
    loss = 25 * ((a - b) ** 2).mean()
    for features in (a, b):
        for level in features:
            pooled = level.mean(dim=(2, 3))
            centred = pooled - pooled.mean(0)
            covariance = centred.T @ centred / (num - 1)
            deviation = (covariance.diagonal() + 1e-4).sqrt()
            hinge = (1 - deviation).clamp_min(0).mean()
            off = (covariance**2).sum() - (covariance.diagonal() ** 2).sum()
            loss = loss + (25 * hinge + off / channels) / len(features)
    return loss


def _directions(features: Features) -> list[list[Tensor]]:
    """Pooled features of length one, by level and image."""
    pooled = features.mean(dim=(3, 4))
    return [[image / (image**2).sum().sqrt() for image in level] for level in pooled]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum().sqrt()


def triplet(a: Features, b: Features) -> Float[Tensor, ""]:
    """Its rendering against the nearest other image of both domains, margin 1."""
    losses = []
    for x, y in zip(_directions(a), _directions(b), strict=True):
        for i, anchor in enumerate(x):
            others = [image for images in (x, y) for j, image in enumerate(images) if j != i]
            nearest = torch.stack([_distance(anchor, other) for other in others]).min()
            losses.append((_distance(anchor, y[i]) - nearest + 1).clamp_min(0))
    return torch.stack(losses).mean()


def nt_xent(a: Features, b: Features) -> Float[Tensor, ""]:
    """Chen et al. (ICML 2020), equation 1, temperature 0.5, averaged over levels."""
    losses = []
    for x, y in zip(_directions(a), _directions(b), strict=True):
        images, num = [*x, *y], len(x)
        for i, image in enumerate(images):
            scores = torch.stack([(image * other).sum() / 0.5 for other in images])
            partner = scores[(i + num) % (2 * num)]
            others = torch.cat([scores[:i], scores[i + 1 :]])
            losses.append(others.logsumexp(0) - partner)
    return torch.stack(losses).mean()


def mse(a: Features, b: Features) -> Float[Tensor, ""]:
    """Mean squared difference."""
    return ((a - b) ** 2).mean()


FEATURE_LOSSES: dict[str, Callable[[Features, Features], Tensor]] = {
    "vicreg": vicreg, "triplet": triplet, "ntxent": nt_xent, "mse": mse,
}  # fmt: skip
"""By their names in the settings."""


def discriminator(weights: Weights, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n p"]:
    """Four 3×3 convolutions (strides 1, 2, 1, 1), GroupNorm by fours but for the first, and a head.

    Without dropout. Leaky ReLU of slope 0.2.
    """
    convolutions = sorted(
        (int(name.split(".")[1]) for name, value in weights.items() if value.dim() == 4)
    )
    x = features
    for number, stride in zip(convolutions, (1, 2, 1, 1, 1), strict=True):
        bias = weights[f"layers.{number}.bias"]
        x = F.conv2d(x, weights[f"layers.{number}.weight"], bias, stride, padding=1)
        norm = f"layers.{number + 1}"
        if f"{norm}.weight" in weights:
            groups = x.unflatten(1, (-1, 4))
            var, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0, keepdim=True)
            x = ((groups - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
            gain, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
            x = x * gain[:, None, None] + shift[:, None, None]
        if number != convolutions[-1]:
            x = torch.where(x > 0, x, 0.2 * x)
    return x.flatten(1)


def first_adam_step(
    value: Tensor, gradient: Tensor, rate: float, eps: float, decay: float = 0.0
) -> Tensor:
    """Kingma & Ba (ICLR 2015): after one step the corrected moments are g and g², at any betas.

    `decay`: of the weights, apart from the gradient (Loshchilov & Hutter, ICLR 2019).
    """
    return value * (1 - rate * decay) - rate * gradient / (gradient.abs() + eps)


def moved(values: Mapping[str, Tensor], rate: float, eps: float, decay: float) -> dict[str, Tensor]:
    """Leaves after AdamW's first step; those without a gradient stay."""
    return {
        name: value.detach() if value.grad is None
        else first_adam_step(value.detach(), value.grad, rate, eps, decay)
        for name, value in values.items()
    }  # fmt: skip


class Answer(Protocol):
    """What a network says of images."""

    @property
    def translation(self) -> Tensor:
        """Of the cameras' centres."""
        ...

    @property
    def rotation(self) -> Tensor:
        """From camera to world."""
        ...

    @property
    def features(self) -> Tensor | None:
        """Of the first images."""
        ...


Predict = Callable[[Tensor, int], Answer]
"""Of images, and how many of them give features."""
Critic = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""A discriminator's weights and features `[n, c, h, w]`: scores."""


@dataclass(frozen=True)
class Game:
    """The discriminator's side of a step; its weights are leaves, which the step moves."""

    critic: Critic
    weights: Mapping[str, Tensor]
    rate: float
    eps: float


def gather_gradients(
    predict: Predict, game: Game, images: Mapping[str, Tensor], poses: Mapping[str, Tensor],
    weights: Mapping[str, float], log_weights: Float[Tensor, "2"], num: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients of a whole step in the leaves of `predict`, from its terms, which are returned.

    Images and poses by kind (photographs, their renderings, views). The batch is taken in `num`
    parts, of which everything is the mean. The discriminator learns from all of them, and steps
    in the last one before it judges that one's renderings (Mao et al., ICCV 2017: 0, 1, 1).
    """
    sums: dict[str, Tensor] = {}
    for part in range(num):
        pictures, true = (
            [value.chunk(num)[part] for value in of.values()] for of in (images, poses)
        )
        sizes = [len(value) for value in pictures]
        found = predict(torch.cat(pictures), sizes[0] + sizes[1])
        assert found.features is not None
        terms = {
            name: pose_loss(log_weights, *of)
            for name, *of in zip(
                images,
                found.translation.split(sizes),
                found.rotation.split(sizes),
                true,
                strict=True,
            )
        }
        real, rendered = found.features.chunk(2, dim=1)
        terms["feature"] = vicreg(rendered, real)
        both = torch.cat([real.flatten(0, 1), rendered.flatten(0, 1)]).detach()
        photograph, drawn = game.critic(game.weights, both).chunk(2)
        (0.5 * (((photograph - 1) ** 2).mean() + (drawn**2).mean()) / num).backward()
        if part == num - 1:
            with torch.no_grad():
                for value in game.weights.values():
                    assert value.grad is not None
                    value.copy_(first_adam_step(value, value.grad, game.rate, game.eps))
        held = {name: value.detach() for name, value in game.weights.items()}
        terms["adversarial"] = ((game.critic(held, rendered.flatten(0, 1)) - 1) ** 2).mean()
        torch.stack([weights[name] * value / num for name, value in terms.items()]).sum().backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() / num
    return sums
