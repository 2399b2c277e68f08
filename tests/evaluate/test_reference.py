"""Distance from a reference: what another precision of the same network gives away."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rap import cli
from rap.evaluate import inference, report
from rap.evaluate.estimates import write_pose_files
from rap.evaluate.reference import difference, read_reference
from rap.evaluate.report import against, metrics, score_estimates, show
from rap.geometry import rigid
from rap.model.checkpoint import Checkpoint, save
from rap.scene import DataError, Scene, poses

TURN_DEG = 0.04


def _estimates(scene: Scene, by_m: float) -> torch.Tensor:
    """The true poses, all but the first moved along x and turned a little about z."""
    angle = torch.deg2rad(torch.tensor(TURN_DEG).double())
    cos, sin = float(angle.cos()), float(angle.sin())
    turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).double()
    moved = poses(scene.test) @ rigid(turn, torch.zeros(3).double())
    moved[1:, 0, 3] += by_m
    return moved


def test_a_known_offset_is_told(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Median and largest distance from the reference, in the table and in metrics.json."""
    names = [frame.name for frame in scene.test]
    write_pose_files(tmp_path / "a", names, _estimates(scene, 0.25))
    write_pose_files(tmp_path / "b", names, _estimates(scene, 0.2508))
    reference = read_reference(scene, tmp_path / "a")
    scored = against(score_estimates(scene, tmp_path / "b"), reference)
    show(scored)
    assert "by a median of 0.800 mm, 0.0000 deg (at most 0.800 mm" in capsys.readouterr().err
    off = metrics(scored)["off"]
    assert isinstance(off, dict)
    assert off["reference"] == str(tmp_path / "a")
    assert off["median_translation_m"] == pytest.approx(0.0008, abs=1e-9)


def test_rotations_are_compared_as_well(scene: Scene, tmp_path: Path) -> None:
    """The angle between the two, in degrees; of a failed estimate it is infinite, null in JSON."""
    names = [frame.name for frame in scene.test]
    write_pose_files(tmp_path, names, poses(scene.test))
    turned = _estimates(scene, 0.0)
    found = difference(turned, read_reference(scene, tmp_path))
    assert found.numbers()["median_rotation_deg"] == pytest.approx(TURN_DEG, rel=1e-4)
    turned[0] = torch.nan
    again = difference(turned, read_reference(scene, tmp_path))
    assert again.numbers()["max_translation_m"] == torch.inf
    write_pose_files(tmp_path / "some", names[1:], _estimates(scene, 0.3)[1:])
    scored = against(score_estimates(scene, tmp_path / "some"), read_reference(scene, tmp_path))
    text = json.dumps(metrics(scored))
    assert json.loads(text)["off"]["max_translation_m"] is None
    assert "Infinity" not in json.dumps(metrics(scored)["off"])


def test_a_reference_without_a_frame_is_refused(scene: Scene, tmp_path: Path) -> None:
    """The missing frame is named: a median over the others would look better than it is."""
    names = [frame.name for frame in scene.test]
    write_pose_files(tmp_path, names[:2] + names[3:], poses(scene.test)[[0, 1, 3]])
    with pytest.raises(DataError, match=f"no pose for {names[2]} \\(1 of 4 test frames"):
        read_reference(scene, tmp_path)
    with pytest.raises(DataError, match="no estimate for any test frame"):
        read_reference(replace(scene, test=scene.train), tmp_path)


def test_failures_make_the_median_infinite_and_nothing_else(scene: Scene, tmp_path: Path) -> None:
    """Three of four: a mean of two infinities, which an interpolation between them is not."""
    names = [frame.name for frame in scene.test]
    write_pose_files(tmp_path, names, poses(scene.test))
    failed = _estimates(scene, 0.0)
    failed[1:] = torch.nan
    found = difference(failed, read_reference(scene, tmp_path)).numbers()
    assert found["median_translation_m"] == found["median_rotation_deg"] == torch.inf


def test_a_reference_that_is_no_pose_is_refused_when_it_is_read(
    scene: Scene, tmp_path: Path
) -> None:
    """By its frame, before anything is computed."""
    names = [frame.name for frame in scene.test]
    stretched = poses(scene.test).clone()
    stretched[1, :3, :3] *= 1.1
    write_pose_files(tmp_path, names, stretched)
    with pytest.raises(DataError, match=f"pose of {names[1]} is no rigid transform"):
        read_reference(scene, tmp_path)


@pytest.mark.parametrize("source", ["reference", "estimates"])
def test_a_report_does_not_replace_the_poses_that_it_is_about(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without -o it would take the place of fp32's, and the next precision be held against this."""
    kept = tmp_path / "report" / "poses.tum"
    kept.parent.mkdir()
    kept.write_text("0 0 0 0 0 0 0 1\n", encoding="utf-8")
    words = ["eval", "room", f"--{source}", str(kept)]
    if source == "reference":
        words += ["-p", str(tmp_path)]
    else:
        words += ["-o", str(kept.parent)]
    assert cli.main(words) == 2
    assert "which the new report replaces; name another" in capsys.readouterr().err
    assert kept.exists()


def test_half_precision_is_held_against_fp32(
    checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`rap eval --precision bf16 --reference`: off by something, fp32 itself by nothing."""
    # Latency and picture would take most of this test's time.
    monkeypatch.setattr(inference, "_MAX_TIMED_MS", 1e-9)
    monkeypatch.setattr(report, "trajectory_picture", lambda *_: None)
    room, weights = tmp_path / "room", tmp_path / "net.safetensors"
    flags = ["--num-train", "6", "--num-test", "3", "--width", "32", "--height", "24"]
    assert cli.main(["data", "room", str(room), *flags, "--num-points", "200"]) == 0
    save(weights, checkpoint.regressor, checkpoint.camera, checkpoint.provenance)
    words = ["eval", str(room), "-p", str(weights), "--device", "cpu", "--num-workers", "0"]
    words += ["--batch-size", "1"]
    full, tum = tmp_path / "full", str(tmp_path / "full" / "poses.tum")
    assert cli.main([*words, "-o", str(full)]) == 0
    assert "off" not in json.loads((full / "metrics.json").read_text())
    off = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        again = [*words, "--precision", precision, "--reference", tum, "-o", str(out)]
        assert cli.main(again) == 0
        off[precision] = json.loads((out / "metrics.json").read_text())["off"]
        assert f"off {tum} by a median of" in " ".join(capfd.readouterr().err.split())
    assert off["fp32"]["max_translation_m"] < 1e-6
    assert off["bf16"]["median_translation_m"] > 1e-5
