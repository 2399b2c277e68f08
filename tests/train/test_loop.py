"""The loop: it learns, keeps the best by the named score, and goes on where it was killed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rap.config import Config, ConfigError
from rap.model.checkpoint import load as load_checkpoint
from rap.scene import Scene
from rap.splat.gaussians import Gaussians
from rap.train import keeping, loop
from rap.train.banks import held_out_mask
from rap.train.loop import TrainingError, train

CPU = torch.device("cpu")


def set_train(config: Config, **changes: Any) -> Config:  # noqa: ANN401 (any field)
    """The same configuration with other training settings."""
    return replace(config, train=replace(config.train, **changes))


def set_weights(config: Config, **changes: float) -> Config:
    """The same configuration with other loss weights."""
    return replace(config, weights=replace(config.weights, **changes))


def log_of(run: Path) -> list[dict[str, float]]:
    """The run's log records."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("num", "fraction"), [(10, 0.2), (64, 0.1), (350, 0.1), (7, 0.0), (5, 1.0)]
)
def test_held_out_blocks_are_contiguous_and_of_the_right_size(num: int, fraction: float) -> None:
    """The share is kept, and few blocks hold it."""
    mask = held_out_mask(num, fraction)
    assert len(mask) == num
    assert sum(mask) == round(num * fraction)
    starts = sum(b and not a for a, b in zip([False, *mask], mask, strict=False))
    assert starts <= 5


@pytest.mark.parametrize(("num", "fraction", "block", "sizes"), [
    (350, 2 / 7, 50, [50, 50]), (350, 0.2, 30, [35, 35]), (20, 0.25, 1, [1] * 5), (9, 0.4, 9, [4]),
])  # fmt: skip
def test_held_out_blocks_can_be_given_a_size(
    num: int, fraction: float, block: int, sizes: list[int]
) -> None:
    """As many blocks of about that size as the share holds."""
    mask = "".join("x" if held else "." for held in held_out_mask(num, fraction, block))
    assert [len(part) for part in mask.split(".") if part] == sizes


def test_a_run_leaves_everything_that_its_readers_need(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path
) -> None:
    """Checkpoint, state, log and settings; the log has rate, losses and validation."""
    best = train(tiny_scene, tiny_splat, tiny_config, tmp_path / "run", CPU)
    names = {path.name for path in best.parent.iterdir()}
    assert names == {
        "best.safetensors", "last.safetensors", "state.pt", "config.toml", "log.jsonl",
    }  # fmt: skip
    records = log_of(best.parent)
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert {"loss_pose", "loss_view", "validation_score", "images_per_s"} <= set(records[0])
    loaded = load_checkpoint(best, CPU)
    assert loaded.provenance["selection"].startswith("lowest validation score")
    assert loaded.camera == tiny_scene.camera.with_height(48)


def test_training_lowers_the_loss(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path
) -> None:
    """Eight epochs take a quarter off the loss on photographs."""
    config = set_train(tiny_config, epochs=8, learning_rate=3e-3)
    best = train(tiny_scene, tiny_splat, config, tmp_path / "run", CPU)
    records = log_of(best.parent)
    assert records[-1]["loss_pose"] < 0.75 * records[0]["loss_pose"]


def test_streamed_views_are_drawn_beside_the_steps(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path
) -> None:
    """All at once in the first epoch, then so many per step; the views trained on differ."""
    config = replace(tiny_config, views=replace(tiny_config.views, stream_per_step=3))
    records = log_of(train(tiny_scene, tiny_splat, config, tmp_path / "run", CPU).parent)
    assert ["views_rendered" in record for record in records] == [True, False, False]
    assert [record["streamed_acceptance"] for record in records] == [1, 1, 1]
    assert [record["views_streamed"] for record in records] == [6, 6, 6]
    once = replace(config.views, stream_per_step=0, refresh_epochs=3)
    stale = replace(tiny_config, views=once)
    others = log_of(train(tiny_scene, tiny_splat, stale, tmp_path / "stale", CPU).parent)
    assert records[0]["loss_view"] == others[0]["loss_view"]
    assert records[1]["loss_view"] != others[1]["loss_view"]


def test_the_log_tells_what_the_filter_rejected_and_how_often_it_was_tried(
    tiny_scene: Scene,
    tiny_splat: Gaussians,
    tiny_config: Config,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where no view passes, every attempt is made, at once and beside the steps; one warning."""
    views = replace(tiny_config.views, min_coverage=0.9999, max_attempts=3, stream_per_step=3)
    config = set_train(replace(tiny_config, views=views), epochs=1)
    (record,) = log_of(train(tiny_scene, tiny_splat, config, tmp_path / "run", CPU).parent)
    assert record["views_acceptance"] == record["streamed_acceptance"] == 0
    assert record["views_attempts"] == record["streamed_attempts"] == 3
    assert record["streamed_rendered"] == 3 * record["streamed_below_filter"] > 0
    assert record["views_low_coverage"] == record["views_rendered"]
    assert record["streamed_low_coverage"] == record["streamed_rendered"]
    assert capfd.readouterr().err.count("0.0% of the ") == 1


@pytest.mark.parametrize(
    ("killed_after", "stream", "variant"),
    [(2, 0, ""), (1, 3, ""), (2, 3, "changing"), (1, 0, "changing"), (1, 3, "frozen"),
     (1, 0, "cached"),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in ((1, 0, ""), (2, 6, ""), (1, 6, "changing"), (2, 0, "cached")))],
)  # fmt: skip
def test_a_killed_run_resumes_to_the_same_bits(
    tiny_scene: Scene,
    tiny_splat: Gaussians,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_after: int,
    stream: int,
    variant: str,
) -> None:
    """Interrupted between epochs, with dropout, EMA, stale or streamed views: the same bits.

    Also where image size and reach of the views change from epoch to epoch, and where the trunk
    is frozen after the first, with features that are cached or not.
    """
    config = set_train(tiny_config, ema_decay=0.9)
    config = replace(config, model=replace(config.model, dropout=0.1, drop_connect=0.2),
                     views=replace(config.views, refresh_epochs=2,
                                   stream_per_step=stream))  # fmt: skip
    config = set_weights(config, rendered=1.0, feature=1.0, adversarial=0.7)
    if variant == "changing":
        config = set_train(config, low_resolution_share=0.6, low_resolution_height=32)
        config = replace(config, views=replace(config.views, curriculum_share=0.9))
    elif variant:
        config = replace(config, model=replace(config.model, rotation_level=4))
        config = set_train(
            config, freeze_after=0.34, augment=0.5, cached_features=variant == "cached"
        )
    whole = train(tiny_scene, tiny_splat, config, tmp_path / "whole", CPU)

    original = keeping.write_state

    def write_then_die(path: Path, state: dict[str, Any]) -> None:
        original(path, state)
        if state["progress"]["epochs_done"] == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "write_state", write_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_scene, tiny_splat, config, tmp_path / "cut", CPU)
    monkeypatch.setattr(keeping, "write_state", original)
    resumed = train(tiny_scene, tiny_splat, config, tmp_path / "cut", CPU, resume=True)

    for name in ("best.safetensors", "last.safetensors"):
        a, b = load_file(whole.parent / name), load_file(resumed.parent / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    losses = [[r["loss_pose"] for r in log_of(run.parent)] for run in (whole, resumed)]
    assert losses[0] == losses[1]


def test_resuming_with_other_settings_is_refused(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path
) -> None:
    """Settings that change the result are part of the run; workers and views per call are not."""
    run = tmp_path / "run"
    short = set_train(tiny_config, epochs=1)
    train(tiny_scene, tiny_splat, short, run, CPU)
    with pytest.raises(ConfigError, match="other settings"):
        train(tiny_scene, tiny_splat, set_train(short, learning_rate=0.5), run, CPU, resume=True)
    more_workers = replace(short, image=replace(short.image, num_workers=2))
    fewer_views = replace(more_workers, views=replace(short.views, render_batch=2))
    train(tiny_scene, tiny_splat, fewer_views, run, CPU, resume=True)


def test_a_finished_run_is_not_overwritten(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path
) -> None:
    """A second start in the same folder is an error that names the way out."""
    config = set_train(tiny_config, epochs=1)
    train(tiny_scene, tiny_splat, config, tmp_path / "run", CPU)
    with pytest.raises(ConfigError, match="--resume"):
        train(tiny_scene, tiny_splat, config, tmp_path / "run", CPU)


def test_views_without_a_splat_are_refused_before_any_work(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path
) -> None:
    """The message says what to give or what to set, and no half run is left behind."""
    with pytest.raises(ConfigError, match="--splat"):
        train(tiny_scene, None, tiny_config, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_photographs_alone_can_be_trained_on(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path
) -> None:
    """With weights.view = 0 no splat is needed."""
    config = set_weights(set_train(tiny_config, epochs=1), view=0.0)
    best = train(tiny_scene, None, config, tmp_path / "run", CPU)
    assert set(log_of(best.parent)[0]) >= {"loss_pose"}


def test_a_diverged_run_says_so_and_scores_nothing(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path
) -> None:
    """A loss that is not finite ends training with advice that can be followed."""
    config = set_weights(set_train(tiny_config, learning_rate=1e30, schedule="constant"), view=0.0)
    with pytest.raises(TrainingError, match="start a new run"):
        train(tiny_scene, None, config, tmp_path / "run", CPU)
    assert not (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("model", {"dim": 33}, "model.dim = 33"),
        ("train", {"precision": "tf32"}, "tf32"),
        ("train", {"validation_fraction": 0.0, "schedule": "plateau"}, "holds none of 10"),
        ("train", {"validation_fraction": 0.0, "patience": 3}, "holds none of 10"),
        ("model", {"batch_norm": "frozen"}, "pretrained"),
        ("train", {"low_resolution_share": 0.5}, "low_resolution_height = 120"),
        ("train", {"freeze_after": 0.5}, "both branches on one level"),
    ],
)
def test_settings_that_cannot_work_fail_before_any_image_is_read(
    tiny_scene: Scene,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    changes: dict[str, Any],
    named: str,
) -> None:
    """The folder stays free, so the corrected command can be typed again."""
    config = set_weights(tiny_config, view=0.0)
    config = replace(config, **{part: replace(getattr(config, part), **changes)})
    monkeypatch.setattr(loop, "prepare", lambda *_: pytest.fail("images were read"))
    with pytest.raises(ConfigError, match=named):
        train(tiny_scene, None, config, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


def test_an_early_stop_stays_stopped_when_resumed(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience is asked before an epoch, not after it."""
    config = set_weights(set_train(tiny_config, epochs=9, patience=2), view=0.0)
    scores = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(loop, "score", lambda _: next(scores))
    best = train(tiny_scene, None, config, tmp_path / "run", CPU)
    before = (best.parent / "last.safetensors").read_bytes()
    assert len(log_of(best.parent)) == 3
    train(tiny_scene, None, config, tmp_path / "run", CPU, resume=True)
    assert len(log_of(best.parent)) == 3
    assert (best.parent / "last.safetensors").read_bytes() == before


def test_plateau_lowers_the_rate_when_the_score_stalls(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many validations without a better score the rate falls by a factor."""
    monkeypatch.setattr(loop, "PLATEAU_PATIENCE", 1)
    monkeypatch.setattr(loop, "score", lambda _: 1.0)
    config = set_weights(set_train(tiny_config, epochs=3, schedule="plateau"), view=0.0)
    best = train(tiny_scene, None, config, tmp_path / "run", CPU)
    rates = [record["lr"] for record in log_of(best.parent)]
    assert rates == pytest.approx([1e-3, 1e-3, 0.95e-3])


def test_other_gaussians_or_images_are_another_run(
    tiny_scene: Scene, tiny_splat: Gaussians, tiny_config: Config, tmp_path: Path
) -> None:
    """Colours count, not only where the Gaussians are; and so does every pixel."""
    config = set_train(tiny_config, epochs=1)
    train(tiny_scene, tiny_splat, config, tmp_path / "run", CPU)
    recoloured = replace(tiny_splat, sh=tiny_splat.sh + 0.1)
    frame = tiny_scene.train[0]
    assert not isinstance(frame.image, Path)
    repainted = replace(
        tiny_scene, train=(replace(frame, image=255 - frame.image), *tiny_scene.train[1:])
    )
    classic = replace(tiny_splat, antialiased=False)
    for scene, splat in ((tiny_scene, recoloured), (tiny_scene, classic), (repainted, tiny_splat)):
        with pytest.raises(ConfigError, match="Gaussians"):
            train(scene, splat, config, tmp_path / "run", CPU, resume=True)


def test_a_damaged_state_is_named(tiny_scene: Scene, tiny_config: Config, tmp_path: Path) -> None:
    """A file cut short is an error that says which one and what is left."""
    config = set_weights(set_train(tiny_config, epochs=1), view=0.0)
    train(tiny_scene, None, config, tmp_path / "run", CPU)
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"state\.pt: damaged"):
        train(tiny_scene, None, config, tmp_path / "run", CPU, resume=True)


def test_the_callers_random_state_is_left_alone(
    tiny_scene: Scene, tiny_config: Config, tmp_path: Path
) -> None:
    """Training seeds dropout inside and gives the global generator back."""
    config = set_weights(set_train(tiny_config, epochs=1), view=0.0)
    before = torch.get_rng_state()
    train(tiny_scene, None, config, tmp_path / "run", CPU)
    assert torch.equal(torch.get_rng_state(), before)
