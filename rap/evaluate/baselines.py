"""What a regressor must beat to have learnt anything: estimates that need no photograph."""

from jaxtyping import Float
from torch import Tensor

from rap.evaluate.errors import PoseErrors, ScoreError, pose_errors
from rap.geometry import nearest_pose, nearest_rotation, rigid


def nearest_pose_retrieval(
    train_poses: Float[Tensor, "m 4 4"], test_poses: Float[Tensor, "n 4 4"]
) -> PoseErrors:
    """Errors of perfect image retrieval: each test frame gets the nearest training pose.

    Nearest is meant jointly, as `rap.geometry.nearest_pose` says. Raises ScoreError when there are
    no training poses.
    """
    if len(train_poses) == 0:
        raise ScoreError("no training poses: there is nothing to retrieve from")
    train, test = train_poses.cpu().double(), test_poses.cpu().double()
    return pose_errors(train[nearest_pose(train, test)], test)


def constant_mean_pose(
    train_poses: Float[Tensor, "m 4 4"], test_poses: Float[Tensor, "n 4 4"]
) -> PoseErrors:
    """Errors of always answering the mean training pose (chordal mean of the rotations).

    Raises ScoreError when there are no training poses.
    """
    if len(train_poses) == 0:
        raise ScoreError("no training poses: they have no mean")
    mean = train_poses.cpu().double().mean(dim=0)
    constant = rigid(nearest_rotation(mean[:3, :3]), mean[:3, 3])
    return pose_errors(constant.expand(len(test_poses), 4, 4), test_poses)
