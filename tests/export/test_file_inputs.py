"""Images that an exported file was not made for are refused: by the file, and by our loader."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rap.export import ExportError, load_artifact
from rap.export.guard import checked_size, with_check
from rap.model.checkpoint import Checkpoint
from rap.model.infer import PoseNetwork

CPU = torch.device("cpu")
CALL = "    __check_inputs_outputs(input_handles, output_handles);\n"

WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "channels last": lambda x: x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "every second column": lambda x: x.repeat(2, axis=3)[..., ::2],
    "large": lambda x: x.repeat(2, axis=2).repeat(2, axis=3),
    "small": lambda x: x[..., :12, :16].copy(),
    "turned": lambda x: x.reshape(-1, 3, 32, 24),
    "float": lambda x: x.astype(np.float32),
    "int8": lambda x: x.view(np.int8),
    "too many": lambda x: x.repeat(600, axis=0),
    "none": lambda x: x[:0],
    "grey": lambda x: x[:, :1].copy(),
    "no batch": lambda x: x[0],
}
"""Made from two images of 24 x 32."""

RUN_AOTI = """
import sys, json
sys.modules["rap"] = None
import numpy as np, torch
run = torch._inductor.aoti_load_package(sys.argv[1])
said, poses = {}, {}
for name, images in np.load(sys.argv[2]).items():
    images = torch.from_numpy(images)
    if name == "channels last":
        images = images.contiguous(memory_format=torch.channels_last)
    if name == "every second column":
        images = images.repeat_interleave(2, dim=3)[..., ::2]
    try:
        poses[name], said[name] = run(images).numpy(), "ran"
    except RuntimeError as error:
        said[name] = str(error)
np.savez(sys.argv[3], **poses)
print(json.dumps(said))
"""


def _images(num: int) -> np.ndarray:
    return np.random.default_rng(num).integers(0, 256, (num, 3, 24, 32), dtype=np.uint8)


@pytest.mark.slow
def test_a_pt2_refuses_what_it_is_not_made_for(aoti_file: Path, checkpoint: Checkpoint) -> None:
    """In a program without rap: layout, size, type and number; any number to 1024 is right."""
    given, found = aoti_file.with_suffix(".in.npz"), aoti_file.with_suffix(".out.npz")
    right: dict[str, Any] = {str(num): _images(num) for num in (1, 2, 15, 16, 64)}
    wrong: dict[str, Any] = {name: made(_images(2)) for name, made in WRONG.items()}
    np.savez(given, **wrong, **right)
    command = [sys.executable, "-c", RUN_AOTI, *map(str, (aoti_file, given, found))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name in WRONG:
        assert said[name] != "ran", name
        assert "uint8, [1 to 1024, 3, 24, 32], contiguous, on cpu" in said[name] + done.stderr
    network, poses = PoseNetwork(checkpoint.regressor, checkpoint.camera), np.load(found)
    for name, images in right.items():
        expected = network(torch.from_numpy(images))
        torch.testing.assert_close(torch.from_numpy(poses[name]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.cuda
def test_a_pt2_for_the_gpu_refuses_as_well(gpu_file: Path) -> None:
    """Also images that lie on the host; any number to 1024 runs."""
    run = torch._inductor.aoti_load_package(str(gpu_file))
    images = torch.from_numpy(_images(2)).cuda()
    for wrong in (
        images.cpu(), images.float(), images[..., :16], images.repeat(600, 1, 1, 1),
        images.repeat(1, 1, 2, 2), images.contiguous(memory_format=torch.channels_last),
    ):  # fmt: skip
        with pytest.raises(RuntimeError):
            run(wrong)
    assert run(images.repeat(512, 1, 1, 1)).isfinite().all()
    assert run(images[:1]).shape == (1, 4, 4)


@pytest.mark.parametrize("name", [name for name in WRONG if name not in ("too many", "none")])
def test_onnx_runtime_looks_at_size_and_type(onnx_file: Path, name: str) -> None:
    """What lies otherwise in memory is read as what it is; all else is an error."""
    runtime = pytest.importorskip("onnxruntime")
    errors = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    session = runtime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    images = _images(2)
    if name not in ("channels last", "every second column"):
        with pytest.raises(errors.InvalidArgument, match=r"images|input data type"):
            session.run(None, {"images": WRONG[name](images)})
        return
    laid = WRONG[name](images)
    assert not laid.flags["C_CONTIGUOUS"]
    (found,) = session.run(None, {"images": laid})
    (expected,) = session.run(None, {"images": images})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", WRONG)
def test_our_loader_looks_first(onnx_file: Path, name: str) -> None:
    """One error names file, what came and what is taken; any layout is copied."""
    _assert_looked_at(onnx_file, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_our_loader_looks_first_for_a_pt2(aoti_file: Path, name: str) -> None:
    """As for ONNX."""
    _assert_looked_at(aoti_file, name)


def _assert_looked_at(path: Path, name: str) -> None:
    locate, images = load_artifact(path, CPU).locate, _images(2)
    wrong = torch.from_numpy(WRONG[name](images))
    if name not in ("channels last", "every second column"):
        message = rf"net\.{path.suffix[1:]}: images \[.*it takes \[1 to 1024, 3, 24, 32\] of torch"
        with pytest.raises(ExportError, match=message):
            locate(wrong)
        return
    assert not wrong.is_contiguous()
    torch.testing.assert_close(locate(wrong), locate(torch.from_numpy(images)))


def test_the_check_takes_the_place_of_one_that_sleeps() -> None:
    """In the generated source, which says afterwards what it takes."""
    checked = with_check(f"void run() {{\n{CALL}}}", (24, 32), "cuda", 1024)
    assert CALL not in checked
    assert "sizes[0] <= 1024" in checked
    assert "aoti_torch_device_type_cuda()" in checked
    assert checked_size(checked) == (32, 24)
    assert checked_size("void run() {}") is None


@pytest.mark.parametrize("wrapper", ["void run() {}", CALL + CALL])
def test_code_that_cannot_be_checked_is_not_written(wrapper: str) -> None:
    """A version of torch that generates other code gives an error, not an unsafe file."""
    with pytest.raises(ExportError, match=r"torch .* generates AOTInductor code whose input"):
        with_check(wrapper, (24, 32), "cpu", 1024)
