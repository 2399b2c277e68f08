"""Exported networks: the same poses in a program without rap, and what a file says of itself."""

import copy
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from rap import cli
from rap.config.inference import ExportFormat
from rap.evaluate import Localizer, predict
from rap.export import Details, ExportError, export, load_artifact, off_regressor
from rap.export import details as details_module
from rap.export.quantise import quantise
from rap.model.checkpoint import Checkpoint, save
from rap.model.infer import PoseNetwork

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]

RUN_ONNX = """
import sys, json
sys.modules["rap"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])
np.save(sys.argv[3], session.run(None, {"images": images})[0])
print(json.dumps(session.get_modelmeta().custom_metadata_map))
"""
RUN_AOTI = """
import sys, json
sys.modules["rap"] = None
import numpy as np, torch
run = torch._inductor.aoti_load_package(sys.argv[1])
images = torch.from_numpy(np.load(sys.argv[2]))
np.save(sys.argv[3], run(images).numpy())
print(json.dumps(run.loader.get_metadata()))
"""


def _images(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num)
    return torch.randint(0, 256, (num, 3, 24, 32), dtype=torch.uint8, generator=generator)


def _run_without_rap(code: str, path: Path, num: int) -> tuple[torch.Tensor, dict[str, str]]:
    """Poses of `_images(num)` and the metadata, by a process that cannot import rap."""
    given, found = path.with_suffix(".in.npy"), path.with_suffix(".out.npy")
    np.save(given, _images(num).numpy())
    command = [sys.executable, "-c", code, *map(str, (path, given, found))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.load(found)), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("num", [1, 5])
def test_onnx_runs_without_rap(onnx_file: Path, checkpoint: Checkpoint, num: int) -> None:
    """uint8 in, the regressor's poses out to 1e-4, for batches of any size; the camera beside."""
    found, metadata = _run_without_rap(RUN_ONNX, onnx_file, num)
    expected = predict(checkpoint.regressor, _images(num), CPU).float()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert json.loads(metadata["camera"])["width"] == 32
    assert json.loads(metadata["normalisation"])["inside"] is True
    assert json.loads(metadata["provenance"]) == {"scene": "noise", "seed": "3"}
    assert metadata["input"].startswith("images: uint8 [batch, 3, 24, 32]")


def test_artifact_is_read_back(onnx_file: Path, checkpoint: Checkpoint) -> None:
    """With its camera, its provenance and a description."""
    artifact = load_artifact(onnx_file, CPU)
    assert artifact.details == Details(
        checkpoint.camera, "fp32", "cpu", {"scene": "noise", "seed": "3"}
    )
    assert artifact.description == "net.onnx: ONNX Runtime on CPU, fp32"
    off = off_regressor(artifact, checkpoint, _images(20))
    assert float(off.translation_m.max()) < 1e-4
    assert float(off.rotation_deg.max()) < 0.05


def test_onnx_runtime_takes_torchs_threads(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every core of the machine, whatever OMP_NUM_THREADS says."""
    runtime = pytest.importorskip("onnxruntime")
    session = Mock(wraps=runtime.InferenceSession)
    monkeypatch.setattr(runtime, "InferenceSession", session)
    load_artifact(onnx_file, CPU)
    options = session.call_args.args[1]
    assert options.intra_op_num_threads == torch.get_num_threads()


@pytest.mark.slow
def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    """And leaves no number of this machine at home: both begin where it is imported."""
    pytest.importorskip("onnxruntime")
    kept = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "from rap.export.details import need; need('onnxruntime', 'a test')"
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT,
        env=kept | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_no_norm_is_left_in_the_file(onnx_file: Path) -> None:
    """BatchNorm went into the convolutions."""
    onnx = pytest.importorskip("onnx")
    kinds = {node.op_type for node in onnx.load(str(onnx_file)).graph.node}
    assert "Conv" in kinds
    assert "BatchNormalization" not in kinds


def test_int8_is_calibrated_and_near(
    onnx_file: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Quantised: other numbers than fp32's, near them, and int8 weights in the file."""
    onnx = pytest.importorskip("onnx")
    path, images = tmp_path / "net.onnx", _images(16)
    quantise(onnx_file, path, images)
    model = onnx.load(str(path))
    int8 = onnx.TensorProto.INT8
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == int8]
    assert len(weights) > 5
    assert not any("head" in tensor.name for tensor in weights)
    artifact = load_artifact(path, CPU)
    off = off_regressor(artifact, checkpoint, images)
    assert 1e-5 < float(off.translation_m.median()) < 0.5


def test_artifact_is_scored(
    onnx_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`rap eval --artifact`: the table and the report say which file was scored."""
    scene, report = tmp_path / "room", tmp_path / "report"
    flags = ["--num-train", "6", "--num-test", "3", "--width", "32", "--height", "24"]
    assert cli.main(["data", "room", str(scene), *flags, "--num-points", "200"]) == 0
    words = ["--artifact", str(onnx_file), "-o", str(report), "--device", "cpu"]
    assert cli.main(["eval", str(scene), *words, "--num-workers", "0"]) == 0
    assert "artifact: net.onnx: ONNX Runtime on CPU, fp32" in capfd.readouterr().err
    content = json.loads((report / "metrics.json").read_text())
    assert content["provenance"]["artifact"].startswith("net.onnx")
    assert content["streamed_per_s"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_export_command(
    precision: str, checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`rap export onnx` says what the file costs; ONNX Runtime has no bf16, which is said."""
    pytest.importorskip("onnxscript", reason="pip install 'rap[export]'")
    scene, weights, out = tmp_path / "room", tmp_path / "net.safetensors", tmp_path / "net.onnx"
    flags = ["--num-train", "6", "--num-test", "3", "--width", "32", "--height", "24"]
    assert cli.main(["data", "room", str(scene), *flags, "--num-points", "200"]) == 0
    save(weights, checkpoint.regressor, checkpoint.camera, checkpoint.provenance)
    words = ["-p", str(weights), "-o", str(out), "--scene", str(scene), "--device", "cpu"]
    assert cli.main(["export", "onnx", *words, "--precision", precision]) == 0
    said = capfd.readouterr().err
    if precision == "bf16":
        assert "not compared with the regressor" in said
    else:
        assert "on 6 training photographs off the regressor in fp32 by a median of " in said


@pytest.mark.slow
def test_aoti_runs_without_rap(aoti_file: Path, checkpoint: Checkpoint) -> None:
    """Compiled code: the regressor's poses; read back, the same."""
    found, metadata = _run_without_rap(RUN_AOTI, aoti_file, 5)
    full = predict(checkpoint.regressor, _images(5), CPU).float()
    torch.testing.assert_close(found, full, atol=1e-4, rtol=1e-4)
    assert metadata["precision"] == "fp32"
    artifact = load_artifact(aoti_file, CPU)
    torch.testing.assert_close(artifact.locate(_images(5)), found)
    assert artifact.details.camera == checkpoint.camera
    with pytest.raises(ExportError, match="compiled for cpu, asked to run on cuda"):
        load_artifact(aoti_file, torch.device("cuda"))


@pytest.mark.slow
def test_bf16_of_aoti_is_that_of_the_prepared_network(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """To a thousandth, where bf16 itself costs more than that: the same is rounded."""
    path = tmp_path / "net.pt2"
    export(checkpoint, path, "aoti", "bf16")
    found, metadata = _run_without_rap(RUN_AOTI, path, 5)
    eager = PoseNetwork(checkpoint.regressor, checkpoint.camera, "bf16")(_images(5))
    torch.testing.assert_close(found, eager, atol=1e-3, rtol=0)
    full = predict(checkpoint.regressor, _images(5), CPU).float()
    assert float((found - full).abs().max()) > 1e-2
    assert metadata["precision"] == "bf16"


@pytest.mark.slow
@pytest.mark.cuda
def test_aoti_on_the_gpu(gpu_file: Path, checkpoint: Checkpoint) -> None:
    """Compiled for the GPU, near the eager network in the same precision."""
    device = torch.device("cuda")
    found = load_artifact(gpu_file, device).locate(_images(5))
    regressor = copy.deepcopy(checkpoint.regressor).to(device)
    eager = Localizer(regressor, checkpoint.camera, "bf16")(_images(5))
    torch.testing.assert_close(found, eager, atol=0.3, rtol=0.3)


@pytest.mark.parametrize(
    ("form", "calibrated", "message"),
    [
        ("aoti", True, "int8 is for ONNX"),
        ("onnx", False, "int8 needs photographs to calibrate on: give --scene SCENE"),
    ],
)
def test_int8_is_refused_where_it_cannot_be(
    form: ExportFormat, calibrated: bool, message: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Before any work, and nothing is written."""
    if form == "onnx":
        pytest.importorskip("onnxscript", reason="pip install 'rap[export]'")
    images = _images(2) if calibrated else None
    with pytest.raises(ExportError, match=message):
        export(checkpoint, tmp_path / "net", form, "int8", images)
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error with the command that installs them."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match="needs onnx: pip install onnx onnxruntime onnxscript"):
        export(checkpoint, tmp_path / "net.onnx", "onnx", "fp32")


def test_other_files_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Each error names the file; nothing of it is run."""
    (tmp_path / "a.pt2").write_bytes(b"no archive")
    (tmp_path / "a.txt").touch()
    for name, metadata in (("b.pt2", b"\xff\xfe{"), ("c.pt2", b"3"), ("d.pt2", b'{"format": 1}')):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("x_metadata.json", metadata)
    for name, message in (
        ("b.pt2", "not an AOTInductor package"),
        ("c.pt2", "format None version None"),
        ("d.pt2", "not an AOTInductor package"),
        ("a.pt2", "not an AOTInductor package"),
        ("a.txt", "accepted are .pt2 and .onnx"),
        ("b.onnx", "no such file; accepted: a .pt2 or .onnx"),
    ):
        with pytest.raises(ExportError, match=message):
            load_artifact(tmp_path / name, CPU)
    with pytest.raises(ExportError, match="format None version None; accepted: 'rap-artifact'"):
        details_module.read_details(tmp_path / "c.onnx", {})
    strings = Details(checkpoint.camera, "fp32", "cpu", {}).strings() | {"camera": "{}"}
    with pytest.raises(ExportError, match="its metadata is damaged"):
        details_module.read_details(tmp_path / "c.onnx", strings)


def test_packages_of_others_are_refused(tmp_path: Path) -> None:
    """An archive without our metadata is named, and its code is not loaded."""
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data/aotinductor/model/a.wrapper_metadata.json", '{"AOTI": "cpu"}')
    with pytest.raises(ExportError, match=r"other\.pt2: format None version None; accepted: 'rap"):
        load_artifact(path, CPU)
