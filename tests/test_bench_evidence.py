"""What benchmarks check a path by: counts that see it, and filters that reject what they say."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch._inductor import cpp_builder, exc

from benchmarks import clouds, filters, paths
from benchmarks.bench_epoch import as_filtered, draws
from benchmarks.bench_infer_artifact import CASES as ARTIFACTS
from benchmarks.bench_infer_artifact import why_not_compiled
from benchmarks.bench_train_step import CASES as STEPS
from benchmarks.bench_train_step import passes
from rap.camera import Camera
from rap.config import ViewsConfig
from rap.synthesis import views
from rap.synthesis.filter import accept, brisque

CAMERA = Camera(78.0, 78.0, 48.0, 36.0, 96, 72)


def test_bytes_between_devices_are_counted() -> None:
    """Of the source, both ways; a copy or conversion on one kind of device is none."""
    here, there = torch.ones(3, dtype=torch.uint8), torch.empty(3, device="meta")
    with paths.Crossings() as found:
        here.to("meta", torch.float32)
        there.copy_(here)
        here.to(torch.float64).clone().copy_(torch.zeros(3))
    assert found.num_bytes == 6


def test_calls_of_methods_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an exported network's runtime is called."""

    class Session:
        def run(self, value: int) -> int:
            return value + 1

    calls = paths.count_calls(monkeypatch, Session, "run")
    assert Session().run(2) == 3
    assert calls.num == 1


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is exported for it."""
    cpu = torch.device("cpu")
    assert why_not_compiled(cpu) == "" or "compiler" in why_not_compiled(cpu)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", Mock(side_effect=exc.InvalidCxxCompiler))
    assert why_not_compiled(cpu).startswith("AOTInductor finds no C++ compiler: ")


def test_passes_of_a_network_are_counted() -> None:
    """Each with its number of images: a batch in parts makes several."""
    network = nn.Linear(2, 2)
    sizes = passes(network)
    for part in torch.zeros(6, 2).chunk(3):
        network(part)
    assert sizes == [2, 2, 2]


@pytest.mark.parametrize("kind", ["coverage", "brisque"])
def test_a_filter_rejects_the_share_that_was_asked_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the poses it was made from; the stand-in is what the views are scored with."""
    device = torch.device("cpu")
    gaussians, poses = clouds.cloud(3000, 0, device), clouds.cloud_poses(8)
    filters.with_stand_in(monkeypatch)
    config = filters.filtered(ViewsConfig(), kind, gaussians, CAMERA, poses, rejected=0.5)
    images, coverage = views.draw_images(gaussians, CAMERA, views.Shots(poses), config)
    model = filters.workloads.brisque_model()
    scores = brisque(images / 255, model)
    assert int(accept(coverage, scores, config).sum()) == 4
    assert (config.max_brisque > 0) == (kind == "brisque")
    plain = filters.filtered(ViewsConfig(), "none", gaussians, CAMERA, poses)
    assert plain == replace(ViewsConfig(), min_coverage=0.0)


def test_draws_of_an_epoch_are_read_from_its_log() -> None:
    """Refreshes and streams alike; an epoch that drew nothing counts for nothing."""
    log = [
        {"views_rendered": 12.0, "views_acceptance": 0.5, "streamed_rendered": 8.0,
         "streamed_acceptance": 1.0},
        {"epoch": 1.0},
    ]  # fmt: skip
    assert list(draws(log)) == [(12.0, 0.5), (8.0, 1.0)]


@pytest.mark.parametrize(
    ("drawn", "view_filter", "message"),
    [
        ([(8.0, 1.0)] * 4, "none", ""),
        ([(9.0, 0.9)] * 4, "none", "{9.0} views were rendered at a time"),
        ([(12.0, 0.6)] * 4, "coverage", ""),
        ([(8.0, 1.0)] * 4, "brisque", "no view was drawn again: the filter decides nothing"),
        ([(80.0, 0.0)] * 4, "coverage", "0% of the views passed"),
        ([(7.0, 1.0)], "coverage", "7.0 views were rendered instead of 8"),
    ],
)
def test_a_filter_that_does_nothing_is_found(
    drawn: list[tuple[float, float]], view_filter: str, message: str
) -> None:
    """And one that passes nothing, and rejects without a filter."""
    wrong = [text for ok, text in as_filtered(drawn, 8, view_filter) if not ok]
    assert wrong[:1] == ([message] if message else [])


def test_what_costs_minutes_waits_for_full() -> None:
    """One small exported file is in the default set, and no step in parts or checkpointed."""
    default = [case for case in ARTIFACTS if "full" not in {mark.name for mark in case.marks}]
    assert [case.values for case in default] == [("onnx", "fp32", 1, "small")]
    steps = [case.values for case in STEPS if "full" not in {mark.name for mark in case.marks}]
    assert all(step[-2:] == (False, 1) for step in steps)
    assert (8, "bf16", "graphed", True, True, 4) in [case.values for case in STEPS]
