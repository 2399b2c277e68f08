"""Filters of views that reject a stated share, for benchmarks of what draws views."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks import workloads
from rap.camera import Camera
from rap.config import ViewsConfig
from rap.splat.gaussians import Gaussians
from rap.synthesis import views
from rap.synthesis.brisque import brisque
from rap.synthesis.drawing import Shots, draw_images
from rap.train import banks

FILTERS = ("none", "coverage", "brisque")
REJECTED = {"none": 0.0, "coverage": 0.05, "brisque": 0.3}
"""Share of the photographs' own poses whose pictures are rejected; new views cover less."""


def filtered(
    config: ViewsConfig, kind: str, gaussians: Gaussians, camera: Camera,
    world_from_camera: Float[Tensor, "n 4 4"], rejected: float | None = None,
) -> ViewsConfig:  # fmt: skip
    """Settings whose filter would reject a share of these poses' own pictures; none: as listed.

    `brisque` needs `with_stand_in`: it scores with the random model of `workloads`, on the device
    of the poses, and not by coverage.
    """
    if kind == "none":
        return replace(config, min_coverage=0.0)
    rejected = REJECTED[kind] if rejected is None else rejected
    images, coverage = draw_images(gaussians, camera, Shots(world_from_camera), config)
    if kind == "coverage":
        return replace(config, min_coverage=float(coverage.quantile(rejected)))
    scores = brisque(images / 255, workloads.brisque_model().to(images.device))
    return replace(config, min_coverage=0.0, max_brisque=float(scores.quantile(1 - rejected)))


def with_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `rap` take the random model for the rest of the benchmark: the trained one is optional.

    As many support vectors, so as much work.
    """
    model = workloads.brisque_model()

    def loaded(device: torch.device) -> object:
        return model.to(device)

    monkeypatch.setattr(banks, "load_brisque", lambda: model)
    # not the loader, whose result is kept from one benchmark to the next
    monkeypatch.setattr(views, "_brisque_model", loaded)
