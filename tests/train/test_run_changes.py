"""Runs that change in the course of their epochs: size of images, reach of views, frozen trunk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rap.config import Config, ConfigError
from rap.model.regressor import Prediction, Regressor
from rap.scene import Scene
from rap.splat.gaussians import Gaussians
from rap.train.banks import draw_views, prepare, streamed
from rap.train.batches import Batch
from rap.train.loop import train

CPU = torch.device("cpu")


def set_train(config: Config, **changes: Any) -> Config:  # noqa: ANN401 (any field)
    """The same configuration with other training settings."""
    return replace(config, train=replace(config.train, **changes))


def without_views(config: Config) -> Config:
    """The same configuration for photographs alone."""
    return replace(config, weights=replace(config.weights, view=0.0))


def test_the_first_epochs_can_train_on_smaller_images(
    tiny_scene: Scene,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For its share of the run; validation always sees the full size, with its own positions."""
    trained: list[tuple[torch.Size, tuple[float, float]]] = []
    scored: list[tuple[torch.Size, tuple[float, float]]] = []
    original = Regressor.forward

    def watched(self: Regressor, images: torch.Tensor, **others: Any) -> Prediction:  # noqa: ANN401
        seen = trained if self.training else scored
        if (now := (images.shape[2:], self.positions.stretch)) not in seen:
            seen.append(now)
        return original(self, images, **others)

    monkeypatch.setattr(Regressor, "forward", watched)
    config = without_views(set_train(tiny_config, epochs=4))
    config = set_train(config, low_resolution_share=0.5, low_resolution_height=32)
    train(tiny_scene, None, config, tmp_path / "run", CPU)
    # A width of 42 2/3 pixels is 43: sides differ in how much smaller they are.
    assert trained == [((32, 43), (48 / 32, 64 / 43)), ((48, 64), (1.0, 1.0))]
    assert scored == [((48, 64), (1.0, 1.0))]


@pytest.mark.parametrize("cached", [False, True])
def test_a_frozen_trunk_changes_no_more_and_the_rest_learns_on(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path, cached: bool
) -> None:
    """Neither weights nor statistics, nor by weight decay; without the switch they all change."""
    config = replace(tiny_config, model=replace(tiny_config.model, rotation_level=4))
    config = set_train(config, epochs=2, weight_decay=0.1, schedule="constant")
    weights = []
    for name, epochs, share in (("once", 1, 1.0), ("frozen", 2, 0.5), ("free", 2, 1.0)):
        settings = set_train(
            config, epochs=epochs, freeze_after=share, cached_features=cached and share < 1
        )
        train(tiny_scene, tiny_splat, settings, tmp_path / name, CPU)
        weights.append(load_file(tmp_path / name / "last.safetensors"))
    once, frozen, free = weights
    trunk = [key for key in once if key.startswith("trunk.")]
    assert len(trunk) > 100
    assert all(torch.equal(once[key], frozen[key]) for key in trunk)
    assert not any(torch.equal(once[key], free[key]) for key in trunk if once[key].ndim > 1)
    rest = [key for key in once if key.endswith("_branch.head_out.weight")]
    assert len(rest) == 2
    assert not any(torch.equal(once[key], frozen[key]) for key in rest)


def test_views_can_start_near_their_photographs(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config
) -> None:
    """Drawn all at once or streamed, they move away as epochs go by."""
    views = replace(
        tiny_config.views, curriculum_share=1.0, curriculum_start=0.0, stream_per_step=3
    )
    config = set_train(replace(tiny_config, views=views), epochs=4)
    material = prepare(tiny_scene, tiny_splat, config, CPU)
    bank = material.banks.views
    assert bank is not None
    anchors = material.anchors.world_from_camera

    def farthest() -> float:
        return float((bank.poses - anchors)[:, :3].abs().max())

    draw_views(material, config, 0)
    assert farthest() < 1e-6
    batch = Batch(torch.zeros(0, 3, 1, 1), torch.zeros(0, 4, 4), {})
    for epoch, num_moved in ((0, 0), (3, 3)):
        # what is begun beside one step lands after the next
        assert len(list(streamed(iter([batch] * 2), material, config, epoch, 2))) == 2
        moved = (bank.poses - anchors)[:, :3].abs().amax((1, 2)) > 1e-3
        assert moved.sum() == num_moved
    draw_views(material, config, 1)
    near = farthest()
    draw_views(material, config, 3)
    assert 0 < near < farthest()


@pytest.mark.parametrize(
    ("changes", "stream", "named"),
    [({"freeze_after": 0.1}, 0, "freezes a random trunk"),
     ({"freeze_after": 0.5, "cached_features": True}, 3, "stream_per_step = 3")],
)  # fmt: skip
def test_a_trunk_that_cannot_be_frozen_is_refused(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, changes: dict[str, Any], stream: int,
    named: str,
) -> None:  # fmt: skip
    """One that has learnt nothing; and cached features of views that are redrawn all the time."""
    config = replace(
        set_train(without_views(tiny_config), **changes),
        model=replace(tiny_config.model, rotation_level=4),
        views=replace(tiny_config.views, stream_per_step=stream),
    )
    with pytest.raises(ConfigError, match=named):
        train(tiny_scene, None, config, tmp_path / "run", CPU)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("cached", [False, True])
def test_graphs_follow_the_changes(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], cached: bool,
) -> None:  # fmt: skip
    """Each phase is recorded anew: small images, full ones, features. Losses are the eager ones."""
    config = replace(tiny_config, model=replace(tiny_config.model, rotation_level=4))
    config = set_train(
        config, epochs=6, low_resolution_share=0.34, low_resolution_height=32, freeze_after=0.67,
        cached_features=cached,
    )  # fmt: skip
    losses = []
    for execution in ("eager", "graphed"):
        settings = set_train(config, execution=execution)
        train(tiny_scene, tiny_splat, settings, tmp_path / execution, torch.device("cuda"))
        lines = (tmp_path / execution / "log.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line)["loss_view"] for line in lines])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert "steps run" not in capsys.readouterr().err
