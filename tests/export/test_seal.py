"""Exported files that were edited or damaged are refused, in one line that says so."""

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rap import cli
from rap.camera import Camera
from rap.export import Details, ExportError, load_artifact
from rap.export.guard import with_check
from rap.export.seal import BLANK, check_seal, seal

CPU = torch.device("cpu")
CAMERA = Camera(28.0, 28.0, 16.0, 12.0, 32, 24)
EDITED = "edited or damaged since `rap export` wrote it"
CALL = "__check_inputs_outputs(input_handles, output_handles);"


def _sealed(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    seal(path)
    return path


@given(before=st.binary(max_size=99), after=st.binary(max_size=99), data=st.data())
def test_any_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, before: bytes, after: bytes, data: st.DataObject
) -> None:
    """Of the content, of the digest, and of the word before it."""
    blank = before + BLANK.encode() + after
    assume(blank.count(b"rap-sha256:") == 1)  # as `BLANK` says; Hypothesis knows the word, too
    path = _sealed(tmp_path_factory.getbasetemp() / "sealed.bin", blank)
    check_seal(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(ExportError, match=EDITED):
        check_seal(path)


@pytest.mark.parametrize("content", [b"", b"no digest", 2 * BLANK.encode()])
def test_a_file_without_its_one_digest_is_refused(content: bytes, tmp_path: Path) -> None:
    """Nothing else vouches for it."""
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=rf"net\.onnx: {EDITED}"):
        check_seal(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 0.999])
def test_a_flipped_byte_of_an_onnx_file(onnx_file: Path, share: float, tmp_path: Path) -> None:
    """Anywhere, whether ONNX Runtime minds or not."""
    content = bytearray(onnx_file.read_bytes())
    content[int(share * len(content))] ^= 0x40
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=rf"net\.onnx: {EDITED}"):
        load_artifact(path, CPU)


def _zero_heads(model: Any) -> None:  # noqa: ANN401 (a class of an optional package)
    onnx = pytest.importorskip("onnx")
    heads = [tensor for tensor in model.graph.initializer if "head_out" in tensor.name]
    assert heads
    for tensor in heads:
        zeros = np.zeros_like(onnx.numpy_helper.to_array(tensor))
        tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))


def _edited(onnx_file: Path, path: Path, key: str, value: str) -> Path:
    """A copy with other metadata, or with pose heads of zeros, as the onnx package writes it."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(onnx_file))
    if key == "heads":
        _zero_heads(model)
    for entry in model.metadata_props:
        if entry.key == key:
            assert entry.value != value
            entry.value = value
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("precision", "int8"), ("provenance", '{"selection": "test"}'), ("heads", ""),
        ("camera", json.dumps(dataclasses.asdict(dataclasses.replace(CAMERA, fx=30.0)))),
    ],
)  # fmt: skip
def test_an_edited_onnx_file(onnx_file: Path, key: str, value: str, tmp_path: Path) -> None:
    """Weights and all that it says of itself belong to what is scored."""
    path = _edited(onnx_file, tmp_path / "net.onnx", key, value)
    with pytest.raises(ExportError, match=rf"net\.onnx: {EDITED}"):
        load_artifact(path, CPU)


def test_an_edited_size_is_one_line(
    onnx_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`rap eval --artifact` names the file, the camera's size and the graph's."""
    camera = json.dumps(dataclasses.asdict(dataclasses.replace(CAMERA, width=160, height=120)))
    path = _edited(onnx_file, tmp_path / "net.onnx", "camera", camera)
    assert cli.main(["eval", "room", "--artifact", str(path), "--device", "cpu"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"rap: error: {path}: its metadata name a camera of 160x120, but its")
    assert "graph takes images of 32x24" in line


def _package(path: Path, camera: Camera, sealed: bool = True) -> Path:
    """An archive as `rap export aoti` writes it, whose source takes 32x24; no code to run."""
    with zipfile.ZipFile(path, "w") as archive:
        folder = "net/data/aotinductor/model"
        strings = Details(camera, "fp32", "cpu", {}).strings()
        archive.writestr(f"{folder}/a.wrapper_metadata.json", json.dumps(strings))
        archive.writestr(f"{folder}/a.wrapper.cpp", with_check(CALL, (24, 32), "cpu", 1024))
        archive.comment = BLANK.encode()
    if sealed:
        seal(path)
    return path


@pytest.mark.parametrize("offset", [0, 60, 150, -120])
def test_a_flipped_byte_of_a_package(offset: int, tmp_path: Path) -> None:
    """Whether the archive can still be read or not."""
    path = _package(tmp_path / "net.pt2", CAMERA)
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ExportError, match=rf"net\.pt2: {EDITED}"):
        load_artifact(path, CPU)


def test_an_edited_size_of_a_package(tmp_path: Path) -> None:
    """Its own source says what it takes; it is read, not run."""
    camera = dataclasses.replace(CAMERA, width=160, height=120)
    path = _package(tmp_path / "net.pt2", camera)
    with pytest.raises(ExportError, match=r"net\.pt2: .* camera of 160x120, .* images of 32x24"):
        load_artifact(path, CPU)


def test_a_package_is_not_loaded_before_its_digest_fits(tmp_path: Path) -> None:
    """Whatever code it holds is not run."""
    path = _package(tmp_path / "net.pt2", CAMERA, sealed=False)
    with pytest.raises(ExportError, match=rf"net\.pt2: {EDITED}"):
        load_artifact(path, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 0.999])
def test_a_flipped_byte_of_a_pt2(aoti_file: Path, share: float, tmp_path: Path) -> None:
    """Anywhere: in metadata, source, weights or machine code, which then is not run."""
    path, content = tmp_path / "net.pt2", bytearray(aoti_file.read_bytes())
    content[int(share * len(content))] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ExportError, match=rf"net\.pt2: {EDITED}"):
        load_artifact(path, CPU)


@pytest.mark.slow
def test_an_edited_pt2(aoti_file: Path, tmp_path: Path) -> None:
    """Another precision, written by a tool that keeps the archive's comment."""
    path = tmp_path / "net.pt2"
    with zipfile.ZipFile(aoti_file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"precision": "fp32"', b'"precision": "x"'))
        new.comment = old.comment
    with pytest.raises(ExportError, match=rf"net\.pt2: {EDITED}"):
        load_artifact(path, CPU)
