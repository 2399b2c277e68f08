"""A small trained-like network, and the files it is exported to, once for all tests."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from rap.camera import Camera
from rap.config import ModelConfig
from rap.export import export
from rap.model.checkpoint import Checkpoint
from rap.model.regressor import build_regressor

# Tests import ONNX Runtime themselves, too: as `details.need` does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

CAMERA = Camera(28.0, 28.0, 16.0, 12.0, 32, 24)
TINY = ModelConfig(
    width=0.1, dim=8, heads=2, layers=1, feedforward=8, head_hidden=8, feature_dim=4,
    translation_level=3, rotation_level=3, batch_norm="calibrated",
)  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """Calibrated on noise; poses that differ from image to image."""
    generator = torch.Generator().manual_seed(0)
    regressor = build_regressor(TINY, seed=3)
    regressor.calibrate(
        [torch.randint(0, 256, (16, 3, 24, 32), dtype=torch.uint8, generator=generator) / 255]
    )
    for branch in (regressor.translation_branch, regressor.rotation_branch):
        nn.init.normal_(branch.head_out.weight, generator=generator)
    regressor.set_translation_stats(torch.randn(5, 3, generator=generator))
    return Checkpoint(regressor.eval(), CAMERA, {"scene": "noise", "seed": "3"})


@pytest.fixture(scope="session")
def onnx_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as ONNX in fp32."""
    pytest.importorskip("onnxscript", reason="pip install 'rap[export]'")
    pytest.importorskip("onnxruntime", reason="pip install 'rap[export]'")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export(checkpoint, path, "onnx", "fp32")
    return path


@pytest.fixture(scope="session")
def aoti_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint compiled in fp32: half a minute."""
    path = tmp_path_factory.mktemp("aoti") / "net.pt2"
    export(checkpoint, path, "aoti", "fp32")
    return path


@pytest.fixture(scope="session")
def gpu_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint compiled for the GPU in bf16: half a minute."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    path = tmp_path_factory.mktemp("gpu") / "net.pt2"
    regressor = copy.deepcopy(checkpoint.regressor).cuda()
    export(Checkpoint(regressor, CAMERA, checkpoint.provenance), path, "aoti", "bf16")
    return path
