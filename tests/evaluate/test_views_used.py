"""What the filter did with the views that a network was trained on: one line beside its score."""

import json
from pathlib import Path

import pytest
import torch

from rap.evaluate.inference import load_run
from rap.evaluate.report import evaluate, metrics, show
from rap.evaluate.views_used import views_used
from rap.model.checkpoint import Checkpoint, save
from rap.scene import Scene

CPU = torch.device("cpu")

LOGGED = [
    {"epoch": 0, "views_rendered": 1000, "views_acceptance": 0.5, "views_below_filter": 100,
     "views_attempts": 7},
    {"epoch": 1},
    {"epoch": 2, "views_rendered": 1000, "views_acceptance": 0.25, "views_below_filter": 20,
     "views_attempts": 10, "streamed_rendered": 500, "streamed_acceptance": 1.0,
     "streamed_below_filter": 0, "streamed_attempts": 1},
]  # fmt: skip
LINE = "50.0% of 2,500 drawn ones passed the filter, at most 10 drawn for one; 120 kept below it"


def test_all_redraws_of_a_run_are_summed_up(tmp_path: Path) -> None:
    """Those at once and those beside the steps; torn and incomplete lines are passed over."""
    lines = [*map(json.dumps, LOGGED), '{"epoch": 3, "views_rend', "[]", "7"]
    lines += ['{"views_rendered": 9}', json.dumps({**LOGGED[0], "views_acceptance": "half"})]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert views_used(tmp_path / "log.jsonl") == LINE


@pytest.mark.parametrize("content", [None, "", '{"epoch": 0, "loss_pose": 1.0}\n'])
def test_a_run_without_views_has_no_such_line(tmp_path: Path, content: str | None) -> None:
    """Nor one whose log is gone."""
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    assert views_used(tmp_path / "log.jsonl") is None


def test_the_score_of_a_run_comes_with_it(
    tmp_path: Path, scene: Scene, checkpoint: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the terminal and in metrics.json; weights alone know nothing of their views."""
    weights = tmp_path / "best.safetensors"
    save(weights, checkpoint.regressor, checkpoint.camera, checkpoint.provenance)
    (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LOGGED))
    assert "views" not in load_run(weights, CPU).provenance
    scored = evaluate(scene, load_run(tmp_path, CPU), CPU, num_workers=0, latency_rounds=2)
    assert scored.provenance["views"] == LINE
    assert '"views": "50.0% of' in json.dumps(metrics(scored))
    show(scored)
    assert f"views trained on: {LINE}\n" in capfd.readouterr().err
