"""Every bottleneck has its benchmark, with its axes, and the policy gates it."""

import ast
from functools import cache
from pathlib import Path

import pytest

from benchmarks import bench_losses, bench_render, bench_transfer, bench_transformer, bench_views
from benchmarks.bench_epoch import CASES as EPOCHS
from benchmarks.bench_infer_artifact import CASES as ARTIFACTS
from benchmarks.bench_train_step import CASES as STEPS
from benchmarks.harness.policy import read_policy

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
POLICY = read_policy(FOLDER / "policy.toml")
AXES = {
    "train_step": {"batch_size", "precision", "execution", "checkpointing", "micro_batches"},
    "losses": {"term", "batch_size"},
    "backbone": {"variant", "height", "precision"},
    "transformer": {"attention", "tokens", "layers"},
    "infer": {"batch_size", "precision", "execution"},
    "infer_artifact": {"kind", "precision", "batch_size"},
    "infer_latency": {"execution"},
    "infer_files": {"num_workers"},
    "data_decode": {"file_format", "num_workers", "cached"},
    "data_stream": {"num_workers", "pin_memory"},
    "data_epoch": {"file_format", "num_workers", "cache"},
    "transfer": {"memory", "batch_size"},
    "views": {"splat", "render_batch", "light", "switch"},
    "render": {"splat", "num_views", "switch"},
    "stream": {"views_per_step", "splat"},
    "fit_step": {"strategy", "images_per_step"},
    "filter": {"score", "batch_size"},
    "appearance": {"num_appearances", "splat"},
    "ssim": set(),
    "epoch": {"refresh_epochs", "per_image", "view_filter"},
    "accuracy": set(),
    "time_to_target": set(),
    "scaling": {"num_gpus", "execution"},
    "checkpoint": {"part", "operation"},
}
MEMORY = {"peak_gpu_bytes", "step_s", "to_target_s", "file_bytes"}
"""Of which a gated benchmark has at least one beside its time."""


@cache
def parameters() -> dict[str, set[str]]:
    """The arguments of every benchmark, by its name."""
    found: dict[str, set[str]] = {}
    for path in FOLDER.glob("bench_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("bench_"):
                names = {argument.arg for argument in node.args.args}
                found[node.name.removeprefix("bench_")] = names
    return found


@pytest.mark.parametrize("name", AXES)
def test_bottleneck_has_its_benchmark_and_axes(name: str) -> None:
    """Under the name by which it is asked for."""
    assert AXES[name] <= parameters()[name]


@pytest.mark.parametrize("name", AXES)
def test_bottleneck_is_gated(name: str) -> None:
    """With an owner, a time or an error, and the memory; `accuracy` has no time."""
    entry = POLICY.entry(name)
    assert entry is not None
    assert (entry.tier, bool(entry.owner)) == ("gate", True)
    families = {POLICY.metrics[metric].family for metric in entry.metrics}
    assert ("accuracy" if name == "accuracy" else "time") in families
    assert MEMORY & set(entry.metrics)


def test_latency_is_gated_to_its_last_per_cent() -> None:
    """The median alone would hide a request in a hundred that waits."""
    entry = POLICY.entry("infer_latency[execution=graphed]")
    assert entry is not None
    assert {"time_s", "p95_s", "p99_s"} <= set(entry.metrics)


def test_axes_hold_what_they_are_asked_for() -> None:
    """Every term, attention, memory, switch, refresh rate and kind of file."""
    assert {*bench_losses.FORMULAS, "mse", "pose"} >= {"vicreg", "triplet", "ntxent", "adversarial"}
    attentions = {case.values[0] for case in bench_transformer.CASES}
    assert attentions == {"sdpa", "plain", *bench_transformer.BACKENDS}
    assert {*bench_transfer.BANKS} == {"resident", "pageable", "pinned"}
    assert {"no_filter", "brisque", "one_attempt", "baked", "packed"} <= set(bench_views.SWITCHES)
    assert {"packed", "colors_given", "baked", "network_size"} <= set(bench_render.SWITCHES)
    assert {case.values[0] for case in EPOCHS} == {1, 2, 5, 20, "stream"}
    assert {case.values[2] for case in EPOCHS} == {"none", "coverage", "brisque"}
    assert {case.values[:2] for case in ARTIFACTS} == {
        ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"),
        ("aoti", "fp32"), ("aoti", "bf16"), ("aoti", "fp16"),
    }  # fmt: skip
    assert {"fp32", "tf32", "bf16", "fp16"} == {case.values[1] for case in STEPS}
    assert {"eager", "compiled", "graphed"} <= {case.values[2] for case in STEPS}
