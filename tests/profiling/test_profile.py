"""Profiles of real, tiny steps: every kind runs, and writes what it promises."""

import gzip
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rap import cli
from rap.profiling import Job, Part, profile, verdict, window
from rap.profiling.gpu import power_of, watching

TINY = """
[image]
height = 24
num_workers = 0
[model]
width = 0.1
dim = 8
heads = 2
layers = 1
feedforward = 8
head_hidden = 8
feature_dim = 4
[fit]
height = 24
iterations = 4
max_gaussians = 300
initial_points = 200
sh_degree = 0
[train]
batch_size = 3
"""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A small room on disk."""
    folder = tmp_path / "room"
    flags = ["--num-train", "6", "--num-test", "3", "--width", "32", "--height", "24"]
    assert cli.main(["data", "room", str(folder), *flags, "--num-points", "200"]) == 0
    return folder


@pytest.mark.parametrize("kind", ["train", "fit", "views", "infer"])
def test_every_kind_is_profiled(
    kind: str, scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the command line: a verdict on the terminal; trace, text and numbers in the folder."""
    settings, out = tmp_path / "tiny.toml", tmp_path / "out"
    settings.write_text(TINY)
    words = ["--config", settings, "-o", out, "--steps", "2", "--device", "cpu"]
    assert cli.main(["profile", kind, *map(str, [scene, *words])]) == 0
    shown = capfd.readouterr().err
    content = json.loads((out / "summary.json").read_text())
    assert content["verdict"]["kind"] in shown
    assert (out / "summary.txt").read_text().splitlines()[0] in shown
    assert content["num_steps"] == 2
    assert content["step_ms"] > 0
    assert content["phases"][0]["peak_bytes"] > 0
    names = {operation["name"] for operation in content["by_host"]}
    assert any(name.startswith("aten::") for name in names)
    with gzip.open(out / "trace.json.gz", "rt") as file:
        assert json.load(file)["traceEvents"]


@pytest.mark.parametrize(
    ("execution", "line"),
    [("eager", "ran eager"), ("graphed", "ran eager, asked was graphed: there are no CUDA graphs")],
)
@pytest.mark.slow
def test_profile_says_what_ran(
    execution: str, line: str, scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not what was asked for; where they differ, why."""
    settings, out = tmp_path / "tiny.toml", tmp_path / "out"
    settings.write_text(f'{TINY}execution = "{execution}"\n')
    words = ["--config", settings, "-o", out, "--steps", "1", "--device", "cpu"]
    assert cli.main(["profile", "train", *map(str, [scene, *words])]) == 0
    shown = capfd.readouterr().err
    assert line in shown
    assert ("asked was" in shown) == (execution == "graphed")
    assert json.loads((out / "summary.json").read_text())["ran"].startswith(line)


@pytest.mark.slow
def test_knee_of_training_is_found(
    scene: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line: table, numbers and picture; the words of the command are checked."""
    settings, out = tmp_path / "tiny.toml", tmp_path / "out"
    settings.write_text(TINY)
    monkeypatch.setattr(window, "_TIMED_S", 0.0)
    words = [*map(str, [scene, "--config", settings, "-o", out, "--device", "cpu"])]
    assert cli.main(["profile", "train", *words, "--batch-sizes", "3", "2"]) == 0
    content = json.loads((out / "knee.json").read_text())
    assert [point["batch_size"] for point in content["points"]] == [2, 3]
    assert f"knee: batch size {content['knee']}" in capfd.readouterr().err
    assert content["what"].endswith("fp32; ran eager")
    assert (out / "knee.png").exists()
    words += ["--weights.feature", "1"]
    for kind, size, message in (
        ("fit", "2", "--batch-sizes is for rap profile train"),
        ("train", "0", "--batch-sizes = 0 must be at least 1"),
        ("train", "1", "vicreg's variance needs at least 2 photographs"),
    ):
        assert cli.main(["profile", kind, *words, "--batch-sizes", size]) == 2
        assert message in capfd.readouterr().err


def test_slow_input_is_found(tmp_path: Path) -> None:
    """A step that waits for its input is input-bound, whatever else it does."""
    values = torch.ones(16)
    parts = (
        Part("fetch", lambda: time.sleep(0.02), is_input=True),
        Part("work", lambda: values.add_(1)),
    )
    summary = profile(Job("sleepy", torch.device("cpu"), parts, 1, "steps"), tmp_path)
    assert summary.input_ms >= 20
    # without what a busy machine adds between and in the other operations
    rest = replace(summary, profiled_ms=summary.input_ms + 1, compute_ms=1.0, copy_ms=0.0)
    assert verdict(rest).kind == "input-bound"
    assert [phase.name for phase in summary.phases] == ["fetch", "work"]


def test_no_gpu_no_samples() -> None:
    """Where there is no driver nothing is sampled, and nothing is made up."""
    with watching(torch.device("cpu")) as samples:
        pass
    assert power_of(samples) is None
    power = power_of([(50.0, 100.0, 1000.0), (100.0, 300.0, 2000.0)])
    assert power is not None
    assert (power.utilisation, power.power_w, power.max_power_w) == (0.75, 200.0, 300.0)


@pytest.mark.cuda
def test_gpu_profile_counts_kernels_and_writes_a_snapshot(tmp_path: Path) -> None:
    """On a GPU there are kernels, launches, memory by phase and a memory snapshot."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    values = torch.ones(512, 512, device=device)
    job = Job("products", device, (Part("work", lambda: (values @ values).sum()),), 1, "steps")
    summary = profile(job, tmp_path)
    assert summary.compute_ms > 0
    assert summary.launches >= 2
    assert summary.by_device
    assert summary.phases[0].peak_bytes > 2 * values.nbytes
    assert (tmp_path / "memory.pickle").stat().st_size > 0
    assert summary.power is not None
    assert summary.allocator is not None
    assert (
        summary.allocator.reserved_bytes >= summary.allocator.allocated_bytes >= 2 * values.nbytes
    )
