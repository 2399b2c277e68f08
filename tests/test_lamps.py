"""The figures of appearance: arms differ in light alone, and held-out pictures gain by it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import lamps
from benchmarks.clouds import cloud
from rap.config import ConfigError, to_toml

CPU = torch.device("cpu")
SMALL = lamps.small()


@pytest.mark.parametrize("size", [SMALL, lamps.large()], ids=["small", "large"])
def test_arms_differ_in_the_light_of_views_alone(size: lamps.Size) -> None:
    """The same seed, steps and views; without variation all views have the mean appearance."""
    off, on = (lamps.trained_with(size.training, 5, varied) for varied in (False, True))
    assert off.views.appearance_scale == 0
    assert on.views.appearance_scale > 0
    assert replace(on, views=off.views) == off
    assert off.train.seed == 5
    assert size.fit.appearance_dim > 0


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> lamps.Size:
    """Trainings of two epochs on a splat of a few steps, for the command too."""
    size = replace(
        SMALL, unseen=replace(SMALL.unseen, num_train=4, num_test=3, width=64, height=48),
        fit=replace(SMALL.fit, iterations=10, height=48, max_gaussians=200, appearance_lr=0.05),
        training=replace(
            SMALL.training, train=replace(SMALL.training.train, epochs=2),
            views=replace(SMALL.training.views, per_image=1),
        ),
    )  # fmt: skip
    monkeypatch.setattr(lamps, "small", lambda: size)
    return size


def test_trainings_in_parts_end_in_one_table(
    tiny: lamps.Size, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of six: the seed with both arms counts, errors differ by the light, what ended stays."""
    folder = tmp_path / "lamps"
    command = ["localise", "-o", str(folder)]
    assert lamps.main([*command, "--fit-only"]) == 0
    splat = (folder / "splat.ply").read_bytes()
    for part in ("1/6", "2/6"):
        assert lamps.main([*command, "--shard", part]) == 0
    assert (folder / "splat.ply").read_bytes() == splat
    off, on = (lamps.errors_in(folder / arm / "seed-1") for arm in lamps.ARMS)
    assert off is not None
    assert on is not None
    assert off != on
    assert 0 < on.translation_m < 10
    assert lamps.errors_in(folder / "new-light" / "seed-2") is None
    capsys.readouterr()
    lamps.show_localisation(folder)
    told = capsys.readouterr().err
    assert f"{1 - on.translation_m / off.translation_m:.0%}" in told
    assert "1 seeds" in told
    best = (folder / "mean-light" / "seed-1" / "best.safetensors").stat().st_mtime_ns
    assert lamps.main([*command, "--shard", "1/6"]) == 0
    assert (folder / "mean-light" / "seed-1" / "best.safetensors").stat().st_mtime_ns == best


def test_a_training_of_other_settings_is_not_taken_for_these(
    tiny: lamps.Size, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and the exit code 2, as for what cannot be done."""
    run = tmp_path / "mean-light" / "seed-1"
    run.mkdir(parents=True)
    (run / "config.toml").write_text(to_toml(tiny.training), encoding="utf-8")
    assert lamps.main(["localise", "-o", str(tmp_path), "--shard", "1/6", "--augment", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_splat_of_another_room_is_not_taken_for_this(
    tiny: lamps.Size, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted for small trainings, it would be what the large ones learn from."""
    gaussians = cloud(3, 0, CPU)
    monkeypatch.setattr(lamps, "fitted", lambda *_: gaussians)
    for _ in range(2):
        assert lamps.splat_in(tmp_path, tiny, CPU).num == 3
    other = replace(tiny, unseen=replace(tiny.unseen, width=80))
    with pytest.raises(ConfigError, match="of another room or fitted otherwise"):
        lamps.splat_in(tmp_path, other, CPU)


@pytest.mark.slow
def test_held_out_pictures_gain_by_appearance() -> None:
    """With lamps never seen: 1 dB above what exposure alone explains, 3 dB above no light."""
    without = lamps.held_out(SMALL.unseen, replace(SMALL.fit, appearance_dim=0), CPU)
    with_it = lamps.held_out(SMALL.unseen, SMALL.fit, CPU)
    assert with_it.relit.median() > without.exposed.median() + 1
    assert with_it.relit.median() > without.mean.median() + 3
