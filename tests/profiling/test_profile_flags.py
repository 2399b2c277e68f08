"""`rap profile` follows each setting that it is given, or refuses it in one line."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from rap import cli
from rap.config import Config, ConfigError, ImageConfig, LossWeights, ViewsConfig
from rap.data.room import RoomSpec, make
from rap.profiling import jobs
from rap.scene import Scene
from rap.splat.gaussians import Gaussians

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Five small photographs."""
    return make(RoomSpec(seed=1, num_train=5, num_test=1, width=32, height=24, num_points=200))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("train --batch-size 32", "it is for rap profile infer, training's is --train.batch-size"),
        ("train --precision=bf16", "infer, training's is --train.precision"),
        ("train --run somewhere", "it is for rap profile infer"),
        ("views -p somewhere", "--run has no effect on rap profile views"),
        ("train --train.schedule constant", "only a whole run follows it"),
        ("train --batch-sizes 2 --train.batch_size 4", "--batch-sizes says what is measured"),
        ("train --splat a.ply --fit.iterations 3", "--splat gives the Gaussians"),
        ("fit --splat a.ply", "it reads no Gaussians"),
        ("fit --views.per-image 8", "it follows image.num-workers, image.cache-dir, fit"),
        ("views --views.stream-per-step 2", "only a whole run follows it"),
        ("views --train.no-cached-features", "--train.cached-features has no effect"),
        ("infer --image.num-workers 1", "it follows image.height, model, train.seed"),
        ("infer --run somewhere --model.dim 64", "--run holds its own settings"),
    ],
)
def test_a_flag_without_effect_is_refused(
    words: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """By its name, before anything is read; with what takes its place."""
    kind, *flags = words.split()
    assert cli.main(["profile", kind, "no-such-scene", *flags]) == 2
    shown = capfd.readouterr().err
    assert "has no effect on rap profile" in shown
    assert reason in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"freeze_after": 0.5}, r"train\.freeze_after = 0\.5 .*accepted: 1\.0"),
        ({"cached_features": True}, r"train\.cached_features = True .*accepted: False"),
        ({"low_resolution_share": 0.5}, r"train\.low_resolution_share = 0\.5 .*accepted: 0\.0"),
        ({"patience": 3, "validation_fraction": 0.0}, r"train\.patience = 3 has no effect"),
    ],
    ids=str,
)
def test_what_a_profiled_step_cannot_show_is_refused(
    scene: Scene, changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting of a file, too; what no training takes, no profile takes."""
    monkeypatch.setattr(jobs, "prepare", lambda *_: pytest.fail("images were read"))
    config = Config()
    with pytest.raises(ConfigError, match=named):
        jobs.train_job(scene, None, replace(config, train=replace(config.train, **changes)), CPU)


def test_as_many_views_are_refreshed_as_are_asked_for(scene: Scene) -> None:
    """Per photograph, whatever the terms of a training and its stream would be."""
    config = Config(
        image=ImageConfig(height=24, num_workers=0),
        views=ViewsConfig(per_image=3, stream_per_step=2, min_coverage=0.0),
        weights=LossWeights(view=0.0, rendered=1.0),
    )
    empty = torch.zeros(1, 3)
    splat = Gaussians(empty, torch.ones(1, 4), empty, torch.zeros(1), empty[None])
    config = replace(config, train=replace(config.train, validation_fraction=0.2))
    job = jobs.views_job(scene, splat, config, CPU)
    assert job.items == 3 * 4
    assert "refresh of 12 views" in job.what
