"""The table of schedules: rows differ as they say, end, go on, and are read from their logs."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rap
from benchmarks import schedules, trainings
from benchmarks.schedules import ROWS
from benchmarks.trainings import (
    TARGETS,
    Pace,
    Setting,
    changed,
    outcome,
    parse_changes,
    probe,
    shard_of,
)
from benchmarks.workloads import CPU_SCALE, accuracy_config, splat
from rap.config import Config, ConfigError, preset, to_toml
from rap.data.room import RoomSpec, make
from rap.evaluate import pick_device
from rap.scene import Scene
from rap.splat.gaussians import save_ply
from rap.train.banks import held_out_mask

TINY = (
    "image.height=48,image.num_workers=0,model.width=0.25,model.dim=32,model.heads=2,"
    "model.layers=1,model.head_hidden=32,views.per_image=1,views.min_coverage=0.0,train.augment=0.0"
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Sixteen photographs; two blocks of two are held out."""
    return make(RoomSpec(num_train=16, num_test=1, width=64, height=48))


@pytest.fixture
def tiny(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What to type for rows of two short epochs on that scene."""
    monkeypatch.setattr(rap, "load", lambda _: scene)
    save_ply(tmp_path / "given.ply", splat(scene, 200, 0, pick_device("cpu")))
    return [
        "room", "--splat", str(tmp_path / "given.ply"), "--device", "cpu", "--set", TINY,
        "-o", str(tmp_path / "rows"),
    ]  # fmt: skip


def a_run(folder: Path, config: Config, records: list[dict[str, Any]]) -> Path:
    """A run directory with this log."""
    folder.mkdir(parents=True)
    config = replace(config, train=replace(config.train, epochs=len(records)))
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in records))
    (folder / "best.safetensors").touch()
    return folder


def record(seconds: float, *medians: float) -> dict[str, Any]:
    """A log line of an epoch, validated where medians are given."""
    found: dict[str, Any] = {"seconds": seconds, "images_per_s": 100.0}
    if medians:
        names = ("validation_translation_m", "validation_rotation_deg", "validation_score")
        found |= dict(zip(names, (*medians, 1.0), strict=True))
    return found


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("base", ["seven_scenes", "room"])
def test_a_row_changes_what_it_names_and_nothing_else(name: str, base: str) -> None:
    """Every key exists, every value is accepted, and the row differs from the base."""
    config = preset(base)
    row = changed(config, ROWS[name])
    back = {key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1])
            for key in ROWS[name]}  # fmt: skip
    assert changed(row, back) == config


def test_time_to_a_target_is_that_of_training_alone(tmp_path: Path) -> None:
    """Epochs without a validation count; both medians must be there; reached stays reached."""
    records = [
        record(2.0, 0.2, 4.0), record(1.0), record(1.0, 0.09, 6.0), record(1.0, 0.04, 1.9),
        record(1.0, 0.2, 9.0),
    ]  # fmt: skip
    shown = outcome(a_run(tmp_path / "run", preset("room"), records))
    assert shown is not None
    assert shown.seconds_to == (5.0, 5.0, None)
    assert (shown.translation_m, shown.rotation_deg) == (0.2, 9.0)
    assert (shown.seconds, shown.epochs) == (6.0, 5)


def test_a_row_that_has_not_ended_shows_nothing(tmp_path: Path) -> None:
    """Neither one of which epochs are missing, nor one without its weights."""
    run = a_run(tmp_path / "a" / "seed-1", preset("room"), [record(1.0, 0.1, 1.0)] * 2)
    assert set(trainings.finished(tmp_path)) == {"a"}
    (run / "best.safetensors").unlink()
    assert trainings.finished(tmp_path) == {}
    (run / "best.safetensors").touch()
    (run / "log.jsonl").write_text(json.dumps(record(1.0, 0.1, 1.0)))
    assert outcome(run) is None


def test_blocks_are_of_fifty_frames_where_there_are_enough() -> None:
    """Two blocks; of a scene with few photographs, two sevenths."""
    few = make(RoomSpec(num_train=15, num_test=1, width=16, height=12))
    for scene, size in ((few, 2), (replace(few, train=few.train * 24), 50)):
        fraction, block = trainings.blocks_of(scene).values()
        assert isinstance(fraction, float)
        assert isinstance(block, int)
        mask = "".join("x" if held else "." for held in
                       held_out_mask(len(scene.train), fraction, block))  # fmt: skip
        assert [len(part) for part in mask.split(".") if part] == [size, size]
        assert len(trainings.without_held_out(scene).train) == len(scene.train) - 2 * size


@pytest.mark.slow
def test_rows_train_once_and_are_shown(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second call trains nothing; a third with other settings is refused."""
    command = [
        *tiny,
        "--epochs",
        "2",
        "--only",
        "progressive,mine",
        "--row",
        "mine:train.augment=1",
    ]
    assert schedules.main(command) == 0
    logs = {path: path.read_bytes() for path in tmp_path.glob("rows/*/*/log.jsonl")}
    assert {path.parent.parent.name for path in logs} == {"progressive", "mine"}
    shown = capsys.readouterr().err
    assert all(f"{100 * metres:g}cm" in shown for metres, _ in TARGETS)
    assert schedules.main(command) == 0
    assert {path: path.read_bytes() for path in logs} == logs
    assert schedules.main([*command, "--preset", "seven_scenes"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_an_interrupted_row_goes_on(tiny: list[str], tmp_path: Path) -> None:
    """Only what is missing is trained."""
    command = [*tiny, "--epochs", "2", "--only", "base"]
    assert schedules.main(command) == 0
    (log,) = tmp_path.glob("rows/*/*/log.jsonl")
    whole = log.read_text(encoding="utf-8")
    (log.parent / "state.pt").unlink()
    log.write_text(whole.splitlines(keepends=True)[0], encoding="utf-8")
    assert schedules.main(command) == 0
    losses = [[json.loads(line)["loss_pose"] for line in text.splitlines()]
              for text in (whole, log.read_text(encoding="utf-8"))]  # fmt: skip
    assert losses[0] == losses[1]


def test_epochs_follow_from_the_minutes_and_the_pace(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget of time holds as many epochs as the probe's pace says, and at least one."""
    monkeypatch.setattr(trainings, "probe", lambda *_: Pace(0.5, 1.0))
    assert schedules.main([*tiny, "--only", "base", "--minutes", "0.025"]) == 0
    (log,) = tmp_path.glob("rows/base/*/log.jsonl")
    assert len(log.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "changes",
    [{}, {"train.low_resolution_share": 0.5, "train.low_resolution_height": 24},
     {"train.freeze_after": 0.5, "train.cached_features": True}],
)  # fmt: skip
def test_the_pace_is_that_of_a_real_probe(scene: Scene, changes: dict[str, object]) -> None:
    """Twelve photographs and two views of each make an epoch, in every phase."""
    config = changed(accuracy_config(CPU_SCALE, 1), parse_changes(TINY))
    fixed = {"views.per_image": 2, "views.refresh_epochs": 2}
    config = changed(config, changes | trainings.blocks_of(scene) | fixed)
    cpu = pick_device("cpu")
    pace = probe(Setting(scene, config, splat(scene, 200, 0, cpu), cpu), config)
    assert pace.seconds_per_epoch * pace.images_per_s == pytest.approx(36, rel=0.05)


def test_a_stopped_probe_leaves_nothing(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run lies among temporary files, and is as large as any other."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())

    def stopped(_setting: Setting, _config: Config, run: Path) -> None:
        run.mkdir()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(trainings, "_train", stopped)
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert schedules.main([*tiny, "--only", "base"]) == 130
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert sorted(tmp_path.iterdir()) == before


def test_the_pace_weighs_phases_by_their_shares(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the epochs small at 1 s, a fifth frozen at 2 s, the rest full at 4 s."""
    config = changed(preset("seven_scenes"), {
        "train.low_resolution_share": 0.5, "train.freeze_after": 0.8,
    })  # fmt: skip
    times = {(1.0, 1.0): 1.0, (0.0, 1 / 3): 2.0, (0.0, 1.0): 4.0}

    def paced(_: Setting, phase: Config) -> Pace:
        seconds = times[phase.train.low_resolution_share, phase.train.freeze_after]
        return Pace(seconds, 100 / seconds)

    monkeypatch.setattr(trainings, "_probe_phase", paced)
    cpu = pick_device("cpu")
    pace = probe(Setting(scene, config, splat(scene, 200, 0, cpu), cpu), config)
    assert pace.seconds_per_epoch == pytest.approx(2.1)
    assert pace.seconds_per_epoch * pace.images_per_s == pytest.approx(100)


def test_shards_share_all_rows() -> None:
    """Each row falls to exactly one."""
    assert sorted([*shard_of("1/3", 8), *shard_of("2/3", 8), *shard_of("3/3", 8)]) == [*range(8)]
    for wrong in ("0/2", "3/2", "x", "1/"):
        with pytest.raises(ConfigError, match="--shard"):
            shard_of(wrong, 8)


@pytest.mark.parametrize(
    ("option", "named"),
    [(["--only", "nothing"], "nothing"), (["--set", "train.epoch=3"], "train.epoch"),
     (["--row", "a:b"], "KEY=VALUE")],
)  # fmt: skip
def test_what_does_not_exist_is_named(
    tiny: list[str], capsys: pytest.CaptureFixture[str], option: list[str], named: str
) -> None:
    """A row or a setting that there is not is one line, before any training."""
    assert schedules.main([*tiny, *option]) == 2
    assert named in capsys.readouterr().err


def test_values_are_read_as_toml() -> None:
    """Numbers, truths and words."""
    assert parse_changes("a.b=3,a.c=0.5,a.d=true,a.e=constant") == {
        "a.b": 3, "a.c": 0.5, "a.d": True, "a.e": "constant",
    }  # fmt: skip
