"""A run that filters by BRISQUE stops at its start where the parameters are missing."""

from dataclasses import replace
from importlib import metadata

import pytest
import torch

from rap.config import Config, LossWeights, ViewsConfig
from rap.scene import DataError, Scene
from rap.splat.gaussians import Gaussians
from rap.train import banks


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package `brisque`, and no photograph may be decoded."""

    def files(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    def decode(*arguments: object) -> None:
        raise AssertionError("photographs were decoded first")

    monkeypatch.setattr(metadata, "files", files)
    monkeypatch.setattr(banks, "decode", decode)


@pytest.mark.usefixtures("not_installed")
def test_missing_parameters_are_said_before_anything_is_decoded(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config
) -> None:
    """With the command that installs them."""
    config = replace(tiny_config, views=ViewsConfig(max_brisque=50.0))
    with pytest.raises(DataError, match="pip install --no-deps brisque"):
        banks.prepare(tiny_scene, tiny_splat, config, torch.device("cpu"))


@pytest.mark.usefixtures("not_installed")
def test_without_views_nothing_is_asked_for(tiny_scene: Scene, tiny_config: Config) -> None:
    """A training on photographs alone does not filter."""
    config = replace(
        tiny_config, views=ViewsConfig(max_brisque=50.0), weights=LossWeights(view=0.0)
    )
    with pytest.raises(AssertionError, match="decoded first"):
        banks.prepare(tiny_scene, None, config, torch.device("cpu"))
