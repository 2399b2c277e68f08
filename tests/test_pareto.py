"""Points of the Pareto table: what they change, what is measured alone, which are on the front."""

from dataclasses import replace
from pathlib import Path

import pytest

import rap
from benchmarks import pareto
from benchmarks.pareto import POINTS, Point, Speed, config_of, front
from benchmarks.trainings import Outcome
from benchmarks.workloads import splat
from rap.config import preset
from rap.data.room import RoomSpec, make
from rap.evaluate import pick_device
from rap.splat.gaussians import save_ply

TINY = (
    "image.height=48,image.num_workers=0,model.width=0.25,model.dim=32,model.heads=2,"
    "model.head_hidden=32,views.per_image=1,views.min_coverage=0.0,train.augment=0.0"
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What to type for one point on a room of sixteen small photographs."""
    scene = make(RoomSpec(num_train=16, num_test=1, width=64, height=48))
    monkeypatch.setattr(rap, "load", lambda _: scene)
    monkeypatch.setattr(pareto, "ROUNDS", {"cpu": 1})
    monkeypatch.setattr(pareto, "BATCH_SIZE", 2)
    save_ply(tmp_path / "given.ply", splat(scene, 200, 0, pick_device("cpu")))
    return [
        "room", "--splat", str(tmp_path / "given.ply"), "--device", "cpu", "--set", TINY,
        "-o", str(tmp_path / "points"), "--only", "b0-1-small",
    ]  # fmt: skip


def point(name: str, p50_ms: float, metres: float, degrees: float) -> Point:
    """A finished point with this latency and these medians."""
    outcome = Outcome((), metres, degrees, 1.0, 1.0, 1)
    return Point(name, outcome, Speed(p50_ms, 1.0, 1.0, 1.0, "eager"))


def test_there_are_at_most_twelve_points_and_each_is_another_network() -> None:
    """A minute each; layers, backbone and height are what they name."""
    base = preset("seven_scenes")
    configs = {name: config_of(name, base) for name in POINTS}
    assert len(configs) == len({str(config) for config in configs.values()}) == 12
    assert configs["b0-6-full"] == base
    small = configs["b2-3-small"]
    assert (small.model.backbone, small.model.layers, small.image.height) == ("b2", 3, 160)
    back = replace(small, model=base.model, image=base.image)
    assert back == base


def test_the_front_holds_what_no_faster_point_beats() -> None:
    """By the score of both medians; a point that is only faster stays."""
    points = [
        point("fastest", 1.0, 0.5, 5.0), point("worse", 2.0, 0.4, 20.0),
        point("better", 3.0, 0.3, 3.0), point("no better", 4.0, 0.3, 3.0),
    ]  # fmt: skip
    assert front(points) == {"fastest", "better"}
    assert front([]) == set()


@pytest.mark.slow
def test_points_are_measured_alone_before_they_train_side_by_side(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unmeasured ones are refused; then the pace of the measurement sets the epochs."""
    assert pareto.main([*tiny, "--side-by-side"]) == 2
    assert "--measure-only" in capsys.readouterr().err
    assert pareto.main([*tiny, "--measure-only"]) == 0
    folder = tmp_path / "points" / "b0-1-small"
    speed = pareto.stored_speed(folder)
    assert speed is not None
    assert min(speed.p50_ms, speed.throughput_per_s, speed.training_images_per_s) > 0
    pareto.store_speed(folder, replace(speed, seconds_per_epoch=0.5, p50_ms=12.345))
    assert pareto.main([*tiny, "--side-by-side", "--minutes", "0.02"]) == 0
    log = (folder / f"seed-{preset('room').train.seed}" / "log.jsonl").read_text(encoding="utf-8")
    assert len(log.splitlines()) == 2
    assert "12.345" in capsys.readouterr().err
    assert (tmp_path / "points" / "pareto.png").stat().st_size > 1000


def test_a_point_that_does_not_exist_is_named(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before anything is read."""
    assert pareto.main([*tiny, "--only", "b9-1-full"]) == 2
    assert "b9-1-full" in capsys.readouterr().err
