"""However the network is run, whole batches or not, the poses are those of the plain regressor."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from rap.config import ConfigError, Precision
from rap.config.inference import InferExecution
from rap.data.images import decode
from rap.evaluate import Localizer, localizer, predict, stream
from rap.model.checkpoint import Checkpoint, save
from rap.scene import DataError, Frame, Scene

CPU = torch.device("cpu")
EXECUTIONS: tuple[InferExecution, InferExecution] = ("eager", "graphed")


def _images(num: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (num, 3, 24, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("num", [0, 1, 3, 5])
def test_eager_is_the_plain_regressor(
    num: int, checkpoint: Checkpoint, device: torch.device
) -> None:
    """Also for batches that are not full."""
    images = _images(num)
    regressor = checkpoint.regressor.to(device)
    locate = Localizer(regressor, checkpoint.camera, batch_size=2)
    found = locate(images)
    assert found.device.type == device.type
    expected = predict(regressor, images, device).float()
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recorded_is_eager(precision: Precision, checkpoint: Checkpoint) -> None:
    """A replay runs the eager kernels, on other images than those that it was recorded with."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    regressor, images = checkpoint.regressor.cuda(), _images(11)
    eager, graphed = (
        Localizer(regressor, checkpoint.camera, precision, 4, execution) for execution in EXECUTIONS
    )
    tolerance = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 5e-3}[precision]
    for chunk in (images[:5], images[5:6], images[6:]):
        torch.testing.assert_close(graphed(chunk), eager(chunk), atol=tolerance, rtol=tolerance)
    assert graphed.runs == "graphed"
    assert len(graphed._recordings) == 2


def test_a_full_batch_is_made_of_a_part(checkpoint: Checkpoint) -> None:
    """Everything but eager sees two sizes only, and the filling never shows."""
    locate = Localizer(checkpoint.regressor, checkpoint.camera, batch_size=4)
    sizes: list[int] = []

    def whole(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return locate.network(images)

    locate.runs, locate._whole = "compiled", whole
    images = _images(6)
    expected = Localizer(checkpoint.regressor, checkpoint.camera)(images)
    torch.testing.assert_close(locate(images), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(locate(images[:1]), expected[:1], atol=1e-5, rtol=1e-5)
    assert sizes == [4, 4, 1]


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError])
def test_falls_back_with_a_line(
    checkpoint: Checkpoint,
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where nothing can be compiled the poses are the eager ones, and `runs` says so."""

    def broken(*_: object, **__: object) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(_: torch.Tensor) -> torch.Tensor:
            raise kind("no compiler here\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    locate = Localizer(checkpoint.regressor, checkpoint.camera, execution="compiled")
    expected = Localizer(checkpoint.regressor, checkpoint.camera)(_images(3))
    assert torch.equal(locate(_images(3)), expected)
    assert locate.runs == "eager"
    assert (
        f"'compiled' failed, so it is 'eager': {kind.__name__}: no compiler here"
        in capsys.readouterr().err
    )
    with pytest.raises(ValueError, match=r"\(3, 3, 8, 8\).* must be \[n, 3, 24, 32\]"):
        locate(torch.zeros(3, 3, 8, 8, dtype=torch.uint8))


def test_a_recording_that_breaks_off_leaves_nothing(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The generator is freed, the line names what began it, and the poses are the eager ones."""

    def broken(*_: object) -> object:
        try:
            raise RuntimeError("a host read")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    freed: list[torch.device] = []
    locate = Localizer(checkpoint.regressor, checkpoint.camera)
    locate.runs = "graphed"
    monkeypatch.setattr(locate, "_record", broken)
    monkeypatch.setattr(localizer, "free_generator", freed.append)
    expected = Localizer(checkpoint.regressor, checkpoint.camera)(_images(3))
    assert torch.equal(locate(_images(3)), expected)
    assert freed == [CPU]
    assert (
        "'graphed' failed, so it is 'eager': RuntimeError: a host read" in capsys.readouterr().err
    )


@pytest.mark.cuda
def test_after_a_broken_recording_numbers_can_be_drawn(checkpoint: Checkpoint) -> None:
    """And another network can be recorded: neither generator nor stream waits for the end."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    regressor = checkpoint.regressor.cuda()
    locate = Localizer(regressor, checkpoint.camera, execution="graphed")
    features, *_ = locate._parts

    def reading(images: torch.Tensor) -> list[torch.Tensor]:
        # Also of the zeros that are tried before the recording: the read is to break that.
        assert float(images.float().sum()) >= 0
        return features(images)

    locate._parts = (reading, *locate._parts[1:])
    found = locate(_images(1))
    assert locate.runs == "eager"
    assert "captur" in locate.why
    torch.rand(3, device="cuda")
    again = Localizer(regressor, checkpoint.camera, execution="graphed")
    torch.testing.assert_close(again(_images(1)), found, atol=1e-4, rtol=1e-4)
    assert again.runs == "graphed"


@pytest.mark.parametrize(("execution", "timed"), [("eager", False), ("compiled", True)])
def test_cudnn_times_its_kernels_where_a_compiler_is_waited_for(
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    execution: InferExecution,
    timed: bool,
) -> None:
    """Before it times two it builds all that it knows, which is a wait, too."""
    monkeypatch.setattr(localizer, "_compiled", lambda function: function)
    locate = Localizer(checkpoint.regressor, checkpoint.camera, execution=execution)
    run, seen = locate._run, []

    def watched(images: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cudnn.benchmark)
        return run(images)

    monkeypatch.setattr(locate, "_run", watched)
    locate(_images(1))
    assert seen == [timed]
    assert not torch.backends.cudnn.benchmark


def test_a_wait_for_the_compiler_is_told(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it, by size of batch, and how long it was; nothing at later calls."""
    monkeypatch.setattr(localizer, "_compiled", lambda function: function)
    locate = Localizer(checkpoint.regressor, checkpoint.camera, batch_size=4, execution="compiled")
    for num, sizes in ((7, ["4"]), (1, ["1"]), (3, [])):
        locate(_images(num))
        said = capsys.readouterr().err
        found = re.findall(r"compiles the network for batches of (\d) on cpu; the next", said)
        assert found == sizes
        assert said.count("torch.compile took") == len(sizes)


@pytest.mark.parametrize("execution", ["graphed", "compiled+graphed"])
def test_without_a_gpu_nothing_is_recorded(
    checkpoint: Checkpoint, execution: InferExecution, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so, as in a training, and the poses are the eager ones."""
    locate = Localizer(checkpoint.regressor, checkpoint.camera, execution=execution)
    expected = Localizer(checkpoint.regressor, checkpoint.camera)(_images(3))
    assert torch.equal(locate(_images(3)), expected)
    assert (locate.runs, locate.why) == ("eager", "there are no CUDA graphs on cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"execution = {execution!r}: there are no CUDA graphs on cpu, so the network" in line


def test_what_the_device_cannot_do_is_refused(checkpoint: Checkpoint) -> None:
    """Before any work, with what is accepted."""
    with pytest.raises(ConfigError, match=r"^precision = 'tf32' needs a CUDA device"):
        Localizer(checkpoint.regressor, checkpoint.camera, "tf32")


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_streaming_changes_nothing(
    scene: Scene, checkpoint: Checkpoint, batch_size: int, num_workers: int, device: torch.device
) -> None:
    """Decoded ahead by threads: the same poses to the bit, in the frames' order."""
    frames = scene.train + scene.test
    regressor = checkpoint.regressor.to(device)
    locate = Localizer(regressor, checkpoint.camera, batch_size=batch_size)
    streamed = stream(frames, checkpoint.camera, locate, device, batch_size, num_workers)
    images = decode(frames, checkpoint.camera, num_workers=0)
    assert torch.equal(streamed.poses, locate(images).cpu().double())
    assert streamed.images_per_s > 0


def test_streaming_ends_at_a_broken_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The error names the file, wherever in the stream it is."""
    frames = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.new("RGB", (32, 24)).save(path)
        frames.append(Frame(str(index), torch.eye(4, dtype=torch.float64), path))
    (tmp_path / "3.png").write_bytes(b"no image")
    locate = Localizer(checkpoint.regressor, checkpoint.camera)
    with pytest.raises(DataError, match=r"3\.png: not a readable image"):
        stream(frames, checkpoint.camera, locate, CPU, batch_size=2, num_workers=2)
    assert len(stream([], checkpoint.camera, locate, CPU).poses) == 0


COMPILE = """
import sys, torch
import subprocess
import sys
from pathlib import Path
from rap.evaluate import Localizer, load_run
checkpoint = load_run(Path(sys.argv[1]), torch.device("cpu"))
generator = torch.Generator().manual_seed(5)
images = torch.randint(0, 256, (7, 3, 24, 32), dtype=torch.uint8, generator=generator)
fast = Localizer(checkpoint.regressor, checkpoint.camera, batch_size=4, execution="compiled")
plain = Localizer(checkpoint.regressor, checkpoint.camera)
torch.testing.assert_close(fast(images), plain(images), atol=1e-4, rtol=1e-4)
stats = torch._dynamo.utils.counters
assert stats["stats"]["unique_graphs"] == 1 and not stats["graph_break"], stats
"""


@pytest.mark.slow
def test_compiled_is_eager(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """As one graph, for full batches and parts; apart, because shape checks would break it."""
    path = tmp_path / "net.safetensors"
    save(path, checkpoint.regressor, checkpoint.camera, {})
    command = [sys.executable, "-c", COMPILE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
