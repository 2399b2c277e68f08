"""The two estimates that need no photograph."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rap.evaluate.baselines import constant_mean_pose, nearest_pose_retrieval
from rap.evaluate.errors import ScoreError, pose_errors
from rap.geometry import random_rotations_within, rigid, rotation_from_vector


def _poses(num: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotations = random_rotations_within(num, 60.0, generator)
    return rigid(rotations, torch.randn(num, 3, generator=generator)).double()


@given(st.integers(0, 2**31))
def test_retrieval_finds_the_joint_minimum(seed: int) -> None:
    """No training pose has a smaller joint error than the one retrieved."""
    train, test = _poses(9, seed), _poses(4, seed + 1)
    found = nearest_pose_retrieval(train, test)
    cost = found.translation_m / 0.05 + found.rotation_deg / 5
    for pose in train:
        other = pose_errors(pose.expand(4, 4, 4), test)
        assert (cost <= other.translation_m / 0.05 + other.rotation_deg / 5 + 1e-9).all()


def test_retrieval_of_a_training_pose_is_exact() -> None:
    """A test frame that stands on a training pose is retrieved without error."""
    train = _poses(6, 0)
    errors = nearest_pose_retrieval(train, train[2:4])
    assert errors.translation_m.max() == 0.0
    assert errors.rotation_deg.max() == 0.0


def test_mean_pose_of_symmetric_poses_is_their_middle() -> None:
    """Poses turned by ±10° and shifted by ±1 m about one pose have that pose as their mean."""
    middle = _poses(1, 0)
    turns = rotation_from_vector(torch.tensor([[0.0, 0.17, 0.0], [0.0, -0.17, 0.0]]).double())
    shifts = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]).double()
    errors = constant_mean_pose(middle @ rigid(turns, shifts), middle)
    torch.testing.assert_close(errors.translation_m, torch.zeros(1).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(errors.rotation_deg, torch.zeros(1).double(), atol=1e-4, rtol=0)


def test_without_training_poses_there_is_no_baseline() -> None:
    """An empty training set is named instead of giving an empty minimum."""
    nothing = torch.empty(0, 4, 4).double()
    with pytest.raises(ScoreError, match="no training poses"):
        nearest_pose_retrieval(nothing, _poses(1, 0))
    with pytest.raises(ScoreError, match="no training poses"):
        constant_mean_pose(nothing, _poses(1, 0))
