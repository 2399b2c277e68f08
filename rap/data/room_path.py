"""Camera path in the procedural room: a hand-held walk around the middle, looking across it.

One turn covers all walls; heading, height, pitch and roll sway smoothly. The test frames are a
second walk over other phases, nearer to the middle and turned a little, so that no test pose is on
the training path, and none is far from it.
"""

import math

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

RADIUS_X_M, RADIUS_Y_M = 1.25, 0.95
HEIGHT_M = 1.45


def walks(
    num_train: int, num_test: int, rng: Generator
) -> tuple[Float64[np.ndarray, "n 4 4"], Float64[np.ndarray, "m 4 4"]]:
    """`world_from_camera` of the training walk and of the test walk."""
    sway = rng.uniform(0.0, 2 * math.pi, 8)
    start = rng.uniform(0.0, 2 * math.pi)
    phase = start + 2 * math.pi * np.arange(num_train) / num_train
    train = _poses(phase, sway, inward_m=0.0, turn_deg=0.0)
    # Half a training step off, whatever the two counts are.
    steps = np.floor(np.arange(num_test) * num_train / max(num_test, 1)) + 0.5
    phase = start + 2 * math.pi * steps / max(num_train, 1)
    return train, _poses(phase, sway, inward_m=0.2, turn_deg=12.0)


def _poses(
    phase: Float64[np.ndarray, "n"],
    sway: Float64[np.ndarray, "8"],
    inward_m: float,
    turn_deg: float,
) -> Float64[np.ndarray, "n 4 4"]:
    waves = [np.sin(k * phase + s) for k, s in zip((2, 3, 5, 2, 3, 4, 5, 3), sway, strict=True)]
    shrink = 1.0 + 0.06 * waves[0] - inward_m * (1.0 + 0.3 * waves[7])
    x = RADIUS_X_M * shrink * np.cos(phase)
    y = RADIUS_Y_M * shrink * np.sin(phase)
    z = HEIGHT_M + 0.18 * waves[1] + 0.05 * waves[2] + 0.4 * inward_m * waves[6]
    heading = phase + math.pi + 0.45 * waves[3] + 0.1 * waves[5]
    heading += math.radians(turn_deg) * (1.0 + 0.4 * waves[4])
    pitch = -0.2 + 0.18 * waves[4] + 0.03 * waves[2]
    roll = 0.05 * waves[5]
    return _look(np.stack([x, y, z], axis=-1), heading, pitch, roll)


def _look(
    centre: Float64[np.ndarray, "n 3"],
    heading: Float64[np.ndarray, "n"],
    pitch: Float64[np.ndarray, "n"],
    roll: Float64[np.ndarray, "n"],
) -> Float64[np.ndarray, "n 4 4"]:
    """Cameras at `centre` that look along heading (from +x towards +y) and pitch (up)."""
    forward = np.stack(
        [np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)], axis=-1
    )
    level = np.stack([np.sin(heading), -np.cos(heading), np.zeros_like(heading)], axis=-1)
    below = np.cross(forward, level)
    cos, sin = np.cos(roll)[:, None], np.sin(roll)[:, None]
    right, down = cos * level + sin * below, cos * below - sin * level
    pose = np.zeros((len(centre), 4, 4))
    pose[:, :3] = np.stack([right, down, forward, centre], axis=-1)
    pose[:, 3, 3] = 1.0
    return pose
