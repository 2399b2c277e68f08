"""Which synthesised views are worth training on: enough of the scene in them, and few artefacts.

Coverage is the mean alpha of a rendering. BRISQUE (Mittal et al. 2012) scores a picture alone: its
local statistics against those of natural photographs, 0 for clean ones and 100 for bad ones
(`brisque.py`; its trained parameters come with another package, `brisque_files.py`).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rap.config import ViewsConfig
from rap.synthesis.brisque import brisque
from rap.synthesis.brisque_files import load_brisque
from rap.synthesis.brisque_model import BrisqueModel

__all__ = ["BrisqueModel", "accept", "badness", "brisque", "load_brisque", "shortfalls"]

_BRISQUE_RANGE = 100.0


def badness(
    coverage: Float[Tensor, " b"], scores: Float[Tensor, " b"] | None, config: ViewsConfig
) -> Float[Tensor, " b"]:
    """How far each view misses the filter, 0 where it passes: the order of the views to keep.

    The sum of what `shortfalls` says.
    """
    return shortfalls(coverage, scores, config).sum(dim=0)


def shortfalls(
    coverage: Float[Tensor, " b"], scores: Float[Tensor, " b"] | None, config: ViewsConfig
) -> Float[Tensor, "2 b"]:
    """By how much each view misses either limit, 0 where it keeps it.

    Missing coverage as a share of the picture, and the BRISQUE excess as a share of its usual
    range of 100. Infinite where a measure is not a number. `scores` count where the setting asks.
    """
    missing = (config.min_coverage - coverage).clamp_min(0)
    excess = torch.zeros_like(missing)
    if scores is not None and config.max_brisque:
        excess = (scores - config.max_brisque).clamp_min(0) / _BRISQUE_RANGE
    return torch.stack([missing, excess]).nan_to_num(nan=torch.inf, posinf=torch.inf)


def accept(
    coverage: Float[Tensor, " b"], scores: Float[Tensor, " b"] | None, config: ViewsConfig
) -> Bool[Tensor, " b"]:
    """Views with at least `min_coverage` and, when scored, at most `max_brisque`."""
    return badness(coverage, scores, config) == 0
