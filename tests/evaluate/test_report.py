"""A scored scene: its table, its files, and what other tools' estimates score."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rap.evaluate import plot, report
from rap.evaluate.errors import ScoreError
from rap.evaluate.estimates import read_estimates, write_pose_files
from rap.evaluate.folder import check_report_folder
from rap.evaluate.report import (
    Evaluation,
    evaluate,
    metrics,
    score_estimates,
    show,
    write_report,
)
from rap.geometry import rigid
from rap.model.checkpoint import Checkpoint
from rap.scene import DataError, Scene, poses

CPU = torch.device("cpu")


@pytest.fixture
def evaluation(scene: Scene, checkpoint: Checkpoint) -> Evaluation:
    """Untrained weights, scored."""
    return evaluate(scene, checkpoint, CPU, batch_size=2, num_workers=0, latency_rounds=2)


def _shifted(scene: Scene, by_m: float) -> torch.Tensor:
    """True test poses, each moved along x and turned a little about z."""
    turn = torch.tensor([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]).double()
    offset = rigid(turn, torch.zeros(3).double())
    moved = poses(scene.test) @ offset
    moved[:, 0, 3] += by_m
    return moved


def test_files_say_what_was_scored(evaluation: Evaluation, scene: Scene, tmp_path: Path) -> None:
    """The numbers in the report and the poses beside them lead to the same score."""
    write_report(evaluation, tmp_path / "report")
    content = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert content["estimates"]["num"] == 4
    assert content["estimates"]["median_translation_m"] == evaluation.summary.median_translation_m
    assert set(content["baselines"]) == {"nearest train pose", "mean train pose"}
    assert content["latency"]["batch_size"] == 2
    assert content["provenance"]["seed"] == "3"
    names = [frame.name for frame in scene.test]
    for written in ("poses.tum", "images.txt", "poses"):
        read = read_estimates(tmp_path / "report" / written, names)
        torch.testing.assert_close(read, evaluation.predicted, atol=1e-5, rtol=1e-5)
        again = score_estimates(scene, tmp_path / "report" / written).summary
        assert again.median_translation_m == pytest.approx(
            evaluation.summary.median_translation_m, abs=1e-5
        )


def test_selection_rule_is_that_of_the_weights(evaluation: Evaluation) -> None:
    """Weights of the last epoch, converted ones and estimates were chosen by no score."""
    assert "selection_rule" not in metrics(evaluation)
    for selection, named in (("last epoch", False), ("lowest validation score (1.5)", True)):
        provenance = evaluation.provenance | {"selection": selection}
        content = metrics(replace(evaluation, provenance=provenance))
        assert ("selection_rule" in content) == named
    assert str(content["selection_rule"]).startswith("median_translation_m / 0.05")


def test_errors_csv_lists_every_frame(evaluation: Evaluation, tmp_path: Path) -> None:
    """One line per test frame, in order, with both errors."""
    write_report(evaluation, tmp_path)
    with (tmp_path / "errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [frame.name for frame in evaluation.frames]
    written = [float(row["translation_m"]) for row in rows]
    assert written == pytest.approx(evaluation.errors.translation_m.tolist(), rel=1e-5)


def test_a_report_takes_the_place_of_an_older_one_as_a_whole(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """No pose or picture of what was scored before is left beside the new numbers."""
    folder = tmp_path / "report"
    write_report(evaluation, folder)
    other = tuple(replace(frame, name=f"other/{frame.name}") for frame in evaluation.frames)
    write_report(replace(evaluation, frames=other), folder)
    assert [entry.name for entry in (folder / "poses").iterdir()] == ["other"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_a_report_that_fails_leaves_the_older_one(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up costs the new numbers only."""
    folder = tmp_path / "report"
    write_report(evaluation, folder)
    before = (folder / "metrics.json").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_colmap", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(replace(evaluation, source="elsewhere"), folder)
    assert (folder / "metrics.json").read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_no_report_takes_the_place_of_other_files(evaluation: Evaluation, tmp_path: Path) -> None:
    """A folder with anything else in it stays as it is."""
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match=r"holds thesis\.tex, which no report does"):
        write_report(evaluation, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_working_folder_is_judged_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it holds; a relative name makes it no root of a file system."""
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match="holds run, which no report does"):
        check_report_folder(Path())
    with pytest.raises(FileExistsError, match="a file system begins there"):
        check_report_folder(Path("/"))


def test_a_link_to_a_report_stays_one(evaluation: Evaluation, tmp_path: Path) -> None:
    """What it leads to is replaced."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_report(evaluation, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("trained", "warned"),
    [
        ("random pixels", False),
        ("7-Scenes folder /data/chess", True),
        (None, False),
    ],
)
def test_another_scene_than_the_trainings_is_warned_of(
    scene: Scene, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str],
    trained: str | None, warned: bool,
) -> None:  # fmt: skip
    """One line that names both; weights of unknown origin are scored in silence."""
    known = replace(checkpoint, provenance={} if trained is None else {"scene": trained})
    evaluate(scene, known, CPU, num_workers=0, latency_rounds=1)
    err = capsys.readouterr().err
    assert err.count("was trained on") == warned
    if trained is not None and warned:
        assert trained in err
        assert scene.source in err


def test_one_scene_may_be_named_from_elsewhere() -> None:
    """A relative and an absolute path can be of one folder; formats and other folders cannot."""
    absolute = "COLMAP model /data/office desk/sparse/0"
    assert report._one_scene(absolute, "COLMAP model office desk/sparse/0")
    assert not report._one_scene(absolute, "COLMAP model /data/hall/sparse/0")
    assert not report._one_scene(absolute, "7-Scenes folder /data/office desk/sparse/0")
    assert not report._one_scene(absolute, "COLMAP model .")


def test_picture_is_drawn(evaluation: Evaluation, tmp_path: Path) -> None:
    """The trajectory is a PNG of a sensible size."""
    write_report(evaluation, tmp_path)
    content = (tmp_path / "trajectory.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000


def test_failing_picture_is_a_warning(
    evaluation: Evaluation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A picture that cannot be drawn costs one line, never the numbers."""

    def no_fonts(*_: object) -> None:
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(plot, "_curve", no_fonts)
    write_report(evaluation, tmp_path)
    assert "no trajectory.png: no fonts here" in capsys.readouterr().err
    assert (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "trajectory.png").exists()


def test_table_has_the_baselines_beside(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody reads a score without what perfect retrieval would have scored."""
    show(evaluation)
    text = capsys.readouterr().err
    for word in ("median translation", "nearest train pose", "within 5 cm, 5 deg", "images/s"):
        assert word in text


def test_estimates_made_elsewhere(scene: Scene, tmp_path: Path) -> None:
    """Known offsets give known medians; a frame without an estimate counts as a failure."""
    names = [frame.name for frame in scene.test]
    write_pose_files(tmp_path, names[:3], _shifted(scene, 0.25)[:3])
    summary = score_estimates(scene, tmp_path).summary
    assert summary.median_translation_m == pytest.approx(0.25)
    assert summary.median_rotation_deg == pytest.approx(53.130102)
    assert (summary.num, summary.num_failures) == (4, 1)


def test_infinite_mean_is_null_in_json(scene: Scene, tmp_path: Path) -> None:
    """JSON has no infinity: a failed frame makes the mean null, not invalid."""
    names = [frame.name for frame in scene.test]
    write_pose_files(tmp_path / "in", names[:3], _shifted(scene, 0.25)[:3])
    write_report(score_estimates(scene, tmp_path / "in"), tmp_path / "out")
    text = (tmp_path / "out" / "metrics.json").read_text()
    assert json.loads(text)["estimates"]["mean_translation_m"] is None
    assert "Infinity" not in text


def test_copies_of_the_truth_are_refused(scene: Scene, tmp_path: Path) -> None:
    """Ground truth given as an estimate is no score; the digits lost in text do not hide it."""
    names = [frame.name for frame in scene.test]
    write_pose_files(tmp_path, names, poses(scene.test))
    with pytest.raises(ScoreError, match="error of all 4 frames is 0"):
        score_estimates(scene, tmp_path)


def test_empty_test_set_is_refused(scene: Scene, checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Neither a regressor nor estimates are scored on nothing."""
    empty = replace(scene, test=())
    with pytest.raises(ScoreError, match="random pixels: the test set is empty"):
        evaluate(empty, checkpoint, CPU)
    with pytest.raises(ScoreError, match="random pixels: the test set is empty"):
        score_estimates(empty, tmp_path)


def test_another_shape_is_refused_and_another_focal_length_warned_of(
    scene: Scene, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network answers for the camera that it was trained with."""
    square = replace(checkpoint, camera=replace(checkpoint.camera, width=24))
    with pytest.raises(DataError, match="40x30 pixels; the network takes 24x24"):
        evaluate(scene, square, CPU)
    wide = replace(checkpoint, camera=replace(checkpoint.camera, fx=30.0, fy=30.0))
    evaluate(scene, wide, CPU, num_workers=0, latency_rounds=1)
    assert "focal length is 22.4 px" in capsys.readouterr().err


def test_baseline_that_means_nothing_is_left_out(
    scene: Scene, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """Test poses equal to training poses make perfect retrieval exact: a warning, not a failure."""
    twin = tuple(
        replace(frame, world_from_camera=other.world_from_camera)
        for frame, other in zip(scene.test, scene.train, strict=False)
    )
    scored = evaluate(replace(scene, test=twin), checkpoint, CPU, num_workers=0, latency_rounds=1)
    assert list(scored.baselines) == ["mean train pose"]
    assert "no baseline 'nearest train pose'" in capsys.readouterr().err


def test_file_names_carry_the_image_suffix(scene: Scene) -> None:
    """COLMAP's entries name image files, so that other tools find them."""
    frame = scene.test[0]
    on_disk = replace(frame, image=Path("/data/seq-02/frame-000000.color.png"))
    assert report._file_name(on_disk) == "seq-02/frame-000000.color.png"
    assert report._file_name(frame) == "seq-02/frame-000000.png"
