"""The loss terms. All work in float32 and return a scalar.

Features are `[l, b, c, h, w]`: level, image, channel, and the map. Terms that compare images treat
every (level, image) as a sample, never a level as an image.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rap.config import FeatureLoss

Features = Float[Tensor, "l b c h w"]
Scalar = Float[Tensor, ""]


class PoseLoss(nn.Module):
    """exp(s_t)·mean‖Δt‖ + exp(s_r)·mean‖ΔR‖_F, with s constant, or learnt as an uncertainty.

    Kendall & Cipolla, "Geometric Loss Functions for Camera Pose Regression", CVPR 2017. Learnt,
    the loss gains −s_t − s_r, which keeps the weights from going to zero; then the two
    parameters need an optimiser of their own (the published code gave them none).
    """

    def __init__(
        self, translation_log_weight: float, rotation_log_weight: float, learn: bool
    ) -> None:
        super().__init__()
        start = torch.tensor([translation_log_weight, rotation_log_weight])
        self.learn = learn
        if learn:
            self.log_weights = nn.Parameter(start)
        else:
            self.register_buffer("log_weights", start)

    def forward(
        self,
        translation: Float[Tensor, "b 3"],
        rotation: Float[Tensor, "b 3 3"],
        world_from_camera: Float[Tensor, "b 4 4"],
    ) -> Scalar:
        """The loss of predicted translations (metres) and rotations against true poses."""
        return self.of_parts(translation, rotation, world_from_camera, [len(translation)])[0]

    def of_parts(
        self,
        translation: Float[Tensor, "b 3"],
        rotation: Float[Tensor, "b 3 3"],
        world_from_camera: Float[Tensor, "b 4 4"],
        sizes: list[int],
    ) -> list[Scalar]:
        """The loss of each part of a batch, from one pass over the errors of all its images."""
        true = world_from_camera.float()
        off = (translation.float() - true[:, :3, 3], rotation.float() - true[:, :3, :3])
        errors = torch.stack([torch.linalg.vector_norm(part.flatten(1), dim=1) for part in off])
        means = torch.stack([part.mean(dim=1) for part in errors.split(sizes, dim=1)])
        losses = (means * self.log_weights.exp()).sum(dim=1)
        if self.learn:
            losses = losses - self.log_weights.sum()
        return list(losses.unbind())


def feature_loss(kind: FeatureLoss, rendered: Features, real: Features) -> Scalar:
    """Distance between features of renderings and of the photographs that they imitate."""
    rendered, real = rendered.float(), real.float()
    if kind == "vicreg":
        return vicreg(rendered, real)
    if kind == "triplet":
        return triplet(rendered, real)
    if kind == "ntxent":
        return nt_xent(rendered, real)
    return F.mse_loss(rendered, real)


def vicreg(a: Features, b: Features) -> Scalar:
    """Invariance on the maps; variance and covariance on pooled features.

    Bardes et al., "VICReg", ICLR 2022, weights 25, 25, 1. Statistics are taken over the images
    within each level, then averaged over levels: levels have different statistics by nature.
    """
    if a.shape[1] < 2:
        raise ValueError("vicreg needs at least two images, since it compares across the batch")
    pooled = torch.stack([a.mean(dim=(-2, -1)), b.mean(dim=(-2, -1))])
    std = torch.sqrt(pooled.var(dim=2) + 1e-4)
    variance = F.relu(1 - std).mean(dim=(1, 2)).sum()
    centred = pooled - pooled.mean(dim=2, keepdim=True)
    matrix = centred.mT @ centred / (a.shape[1] - 1)
    off_diagonal = matrix.square().sum() - matrix.diagonal(dim1=-2, dim2=-1).square().sum()
    covariance = off_diagonal / (a.shape[2] * a.shape[0])
    return 25 * F.mse_loss(a, b) + 25 * variance + covariance


def triplet(a: Features, b: Features, margin: float = 1.0) -> Scalar:
    """An image is nearer to its rendering than to the hardest other image, by a margin.

    Distances are between pooled, normalised features per (level, image); the hardest negative is
    searched per anchor over both domains, on the device.
    """
    x, y = _pooled(a), _pooled(b)
    positive = (x - y).norm(dim=-1)
    others = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    across = torch.cdist(x, y).masked_fill(others, torch.inf)
    within = torch.cdist(x, x).masked_fill(others, torch.inf)
    negative = torch.minimum(across.amin(-1), within.amin(-1))
    return F.relu(positive - negative + margin).mean()


def nt_xent(a: Features, b: Features, temperature: float = 0.5) -> Scalar:
    """Each image must pick its rendering among all other images of both domains.

    Chen et al., "SimCLR", ICML 2020, over the batch axis, per level.
    """
    z = torch.cat([_pooled(a), _pooled(b)], dim=1)
    num = a.shape[1]
    similarity = z @ z.mT / temperature
    itself = torch.eye(2 * num, dtype=torch.bool, device=z.device)
    similarity = similarity.masked_fill(itself, -torch.inf)
    target = torch.arange(2 * num, device=z.device).roll(num).expand(z.shape[0], -1)
    return F.cross_entropy(similarity.flatten(0, 1), target.flatten())


def _pooled(features: Features) -> Float[Tensor, "l b c"]:
    return F.normalize(features.mean(dim=(-2, -1)), dim=-1)


def discriminator_loss(real: Float[Tensor, "n p"], rendered: Float[Tensor, "n p"]) -> Scalar:
    """LSGAN for the discriminator: photographs score 1, renderings 0 (Mao et al., ICCV 2017)."""
    return 0.5 * ((real.float() - 1).square().mean() + rendered.float().square().mean())


def fooling_loss(rendered: Float[Tensor, "n p"]) -> Scalar:
    """LSGAN for the network: features of renderings should score 1."""
    return (rendered.float() - 1).square().mean()
