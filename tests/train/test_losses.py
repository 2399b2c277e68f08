"""Loss terms against hand calculation, their invariances, and the axis that they compare over."""

import math

import pytest
import torch

from rap.config import FeatureLoss
from rap.geometry import rigid, rotation_from_vector
from rap.train.losses import (
    PoseLoss,
    discriminator_loss,
    feature_loss,
    fooling_loss,
    nt_xent,
    triplet,
    vicreg,
)


def features(seed: int, batch: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, 8, 3, 4, generator=generator)


def test_pose_loss_weighs_metres_and_rotation_entries() -> None:
    """A shift of 2 m and a half turn cost e^s times their norms."""
    turn = rotation_from_vector(torch.tensor([[0.0, 0.0, math.pi]]))
    true = rigid(torch.eye(3)[None], torch.tensor([[0.0, 0.0, 2.0]]))
    loss = PoseLoss(3.0, 6.5, learn=False)(torch.zeros(1, 3), turn, true)
    expected = math.exp(3.0) * 2.0 + math.exp(6.5) * math.sqrt(8.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_constant_pose_loss_has_nothing_to_train() -> None:
    """Constants are no parameters; a perfect prediction costs nothing."""
    loss = PoseLoss(3.0, 6.5, learn=False)
    assert list(loss.parameters()) == []
    poses = torch.eye(4)[None]
    assert loss(poses[:, :3, 3], poses[:, :3, :3], poses).item() == 0.0


def test_learnt_weights_settle_at_the_inverse_errors() -> None:
    """The optimum of e^s·l − s is e^s = 1/l, for each of the two errors."""
    loss = PoseLoss(0.0, 0.0, learn=True)
    true = torch.eye(4)[None]
    translation = torch.tensor([[0.25, 0.0, 0.0]])
    rotation = rotation_from_vector(torch.tensor([[0.0, 0.1, 0.0]]))
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss(translation, rotation, true).backward()
        optimizer.step()
    error = torch.linalg.matrix_norm(rotation - torch.eye(3)).item()
    torch.testing.assert_close(
        loss.log_weights.detach().exp(), torch.tensor([4.0, 1 / error]), rtol=0.02, atol=0.0
    )


@pytest.mark.parametrize("kind", ["vicreg", "triplet", "ntxent", "mse"])
def test_matching_pairs_cost_less_than_shuffled_ones(kind: FeatureLoss) -> None:
    """Every alignment prefers an image's own rendering, so it compares over images."""
    real = features(0)
    rendered = real + 0.05 * features(1)
    shuffled = rendered.roll(1, dims=1)
    assert feature_loss(kind, rendered, real) < feature_loss(kind, shuffled, real)


@pytest.mark.parametrize("kind", ["vicreg", "triplet", "ntxent", "mse"])
def test_order_of_images_does_not_matter(kind: FeatureLoss) -> None:
    """The same pairs in another order cost the same."""
    real, rendered = features(2), features(3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    a = feature_loss(kind, rendered, real)
    b = feature_loss(kind, rendered[:, order], real[:, order])
    torch.testing.assert_close(a, b)


def test_vicreg_of_collapsed_features_pays_the_full_variance_term() -> None:
    """Constant features: 25·2·(1 − √1e-4), no invariance, no covariance."""
    same = torch.ones(2, 4, 8, 3, 3)
    assert vicreg(same, same).item() == pytest.approx(50 * 0.99, rel=1e-5)


def test_vicreg_needs_two_images() -> None:
    """A batch of one has no variance."""
    with pytest.raises(ValueError, match="two images"):
        vicreg(features(0, batch=1), features(1, batch=1))


def test_triplet_vanishes_beyond_the_margin() -> None:
    """Orthogonal images that match perfectly are √2 apart, past the margin of 1."""
    basis = torch.eye(8)[:4].reshape(1, 4, 8, 1, 1).expand(2, -1, -1, 3, 4)
    assert triplet(basis, basis).item() == 0.0
    assert triplet(basis, basis.roll(1, dims=1)).item() > 1.0


def test_nt_xent_of_orthogonal_pairs() -> None:
    """Cosine 1 to the partner and 0 to the 2(b−1) others: log(1 + 2(b−1)·e^{−1/τ})."""
    basis = torch.eye(8)[:4].reshape(1, 4, 8, 1, 1).expand(2, -1, -1, 3, 4)
    expected = math.log(1 + 6 * math.exp(-2.0))
    assert nt_xent(basis, basis).item() == pytest.approx(expected, rel=1e-5)


def test_least_squares_gan_targets() -> None:
    """The discriminator wants 1 and 0, the network wants 1."""
    ones, zeros = torch.ones(3, 2), torch.zeros(3, 2)
    assert discriminator_loss(ones, zeros).item() == 0.0
    assert discriminator_loss(zeros, ones).item() == 1.0
    assert fooling_loss(ones).item() == 0.0
