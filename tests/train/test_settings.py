"""A setting that would have no effect is refused before any work, by its name and its value."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rap.config import Config, ConfigError, preset, preset_names
from rap.scene import Scene
from rap.train import loop
from rap.train.checks import check_settings
from rap.train.loop import train

CPU = torch.device("cpu")
FROZEN: dict[str, Any] = {"train.freeze_after": 0.5}
NO_VIEWS: dict[str, Any] = {"weights.view": 0.0}


def changed(config: Config, changes: dict[str, Any]) -> Config:
    """The same configuration with other values of SECTION.NAME."""
    for key, value in changes.items():
        section, name = key.split(".")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """Three epochs, with views, both branches on one level, two of ten photographs held out."""
    return changed(tiny_config, {"model.rotation_level": 4})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"train.cached_features": True}, r"cached_features = True .*freeze_after = 1\.0"),
        ({"train.cached_features": True, "train.freeze_after": 0.9},
         r"freeze_after = 0\.9 .*train\.epochs = 3"),
        ({"train.freeze_after": 0.9}, r"train\.freeze_after = 0\.9 .*no epoch .*epochs = 3"),
        ({"train.low_resolution_share": 0.1, "train.low_resolution_height": 24},
         r"train\.low_resolution_share = 0\.1 is no epoch of train.epochs = 3.*0\.33"),
        ({"train.low_resolution_share": 0.5, "train.low_resolution_height": 48},
         r"train\.low_resolution_height = 48 must be below image\.height = 48"),
        ({"train.validation_block": 5, "train.validation_fraction": 0.0},
         r"train\.validation_block = 5 .*validation_fraction = 0\.0 .*none of 10 photographs"),
        ({"train.validation_block": 5, "train.validation_fraction": 0.01},
         r"train\.validation_block = 5 .*validation_fraction = 0\.01"),
        ({"train.patience": 2, "train.validation_fraction": 0.01}, r"train\.patience = 2"),
        ({"train.schedule": "plateau", "train.validation_fraction": 0.01},
         r"train\.schedule = 'plateau'"),
        ({"views.stream_per_step": 3} | NO_VIEWS, r"views\.stream_per_step = 3 .*weights\.view"),
        ({"views.max_brisque": 30.0} | NO_VIEWS, r"views\.max_brisque = 30\.0 .*weights\.view"),
        ({"views.curriculum_share": 0.5} | NO_VIEWS, r"views\.curriculum_share = 0\.5 .*weights"),
        ({"views.curriculum_share": 0.5, "views.curriculum_start": 1.0},
         r"views\.curriculum_start = 1\.0 .*views\.curriculum_share = 0\.5"),
        ({"views.curriculum_share": 0.5, "views.refresh_epochs": 5, "train.epochs": 4},
         r"curriculum_share = 0\.5 ends after 2 .*epochs = 4, views\.refresh_epochs = 5.*most 2"),
        ({"views.curriculum_share": 0.1, "views.refresh_epochs": 20, "train.epochs": 40},
         r"refresh_epochs = 20 .*refresh_epochs at most 4, .*curriculum_share of at least 0\.5"),
        ({"views.curriculum_share": 1.0, "views.refresh_epochs": 4, "train.epochs": 4},
         r"accepted: views\.refresh_epochs at most 3, "),
        ({"views.curriculum_share": 0.5, "train.epochs": 1}, r"accepted: more epochs, "),
        ({"train.learn_pose_weights": True, "weights.feature": 1.0, "weights.pose": 0.0} | NO_VIEWS,
         r"train\.learn_pose_weights = True .*weights\.pose, weights\.rendered or weights\.view"),
        ({"model.backbone": "timm:resnet18", "model.width": 0.5}, r"model\.width = 0\.5 .*timm"),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_effect_is_refused(
    config: Config, changes: dict[str, Any], named: str
) -> None:
    """With what makes it so, and what is accepted."""
    with pytest.raises(ConfigError, match=named):
        check_settings(changed(config, changes), 10, CPU)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        FROZEN,
        FROZEN | {"train.cached_features": True},
        {"train.low_resolution_share": 0.17, "train.low_resolution_height": 24},
        {"train.validation_block": 1, "train.validation_fraction": 0.06},
        {"train.schedule": "plateau", "train.patience": 2},
        {"train.validation_fraction": 0.0},
        {"train.validation_fraction": 0.01},
        {"views.stream_per_step": 3, "views.max_brisque": 30.0, "views.curriculum_share": 0.1},
        {"views.curriculum_share": 0.5, "views.refresh_epochs": 2},
        {"views.curriculum_share": 0.5, "views.refresh_epochs": 9, "views.stream_per_step": 3},
        {"views.refresh_epochs": 9},
        {"train.learn_pose_weights": True} | NO_VIEWS,
    ],
    ids=str,
)
def test_one_that_has_an_effect_is_accepted(config: Config, changes: dict[str, Any]) -> None:
    """The same settings, where something follows from them."""
    check_settings(changed(config, changes), 10, CPU)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("num_photographs", [4, 1000])
def test_presets_are_accepted(name: str, num_photographs: int) -> None:
    """For scenes of any size; a GPU's arithmetic is not the question."""
    check_settings(changed(preset(name), {"train.precision": "fp32"}), num_photographs, CPU)


def test_nothing_is_read_before_the_refusal(
    tiny_scene: Scene, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photographs of the scene are counted, not decoded."""
    monkeypatch.setattr(loop, "prepare", lambda *_: pytest.fail("images were read"))
    wrong = changed(config, {"train.validation_block": 5, "train.validation_fraction": 0.01})
    with pytest.raises(ConfigError, match="none of 10 photographs"):
        train(tiny_scene, None, wrong, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()
