"""New machine code is run by another process first: that may crash, fail, hang or be stopped."""

import re
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rap.export import ExportError, export, stops, trial, write
from rap.export.stops import held, terminable
from rap.export.trial import POSES, STAGE, locate_apart
from rap.model.checkpoint import Checkpoint
from rap.model.infer import PoseNetwork
from tests.processes import runs, wait_until

CPU = torch.device("cpu")
BATCHES = [torch.zeros(num, 3, 24, 32, dtype=torch.uint8) for num in (1, 2)]

PRELUDE = """
import os, resource, signal, sys, time
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
folder = Path(sys.argv[1])
"""
LOADING = f"""
(folder / {STAGE!r}).write_text("when it was loaded")
"""
SEGFAULT = "os.kill(os.getpid(), signal.SIGSEGV)"
SLEEP = "time.sleep(3600)"

Stand = Callable[[str], None]


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Sets the code that runs in place of the machine code's process."""

    def set_code(code: str) -> None:
        def command(_path: Path, _device: torch.device, folder: Path) -> list[str]:
            # Without site-packages: it starts at once.
            return [sys.executable, "-I", "-S", "-c", PRELUDE + code, str(folder)]

        monkeypatch.setattr(trial, "_command", command)

    return set_code


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler writes an archive at once, without code."""

    def compiled(_program: object, package_path: str, **_: Any) -> None:  # noqa: ANN401 (torch's own)
        with zipfile.ZipFile(package_path, "w") as archive:
            archive.writestr("network/a.so", b"")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", compiled)
    monkeypatch.setattr(write, "_exported", lambda _network: None)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (LOADING + SEGFAULT, r"crashed when it was loaded: signal 11 \(SIGSEGV\); possible are"),
        (SEGFAULT, r"crashed before it was loaded: signal 11 \(SIGSEGV\); "),
        (LOADING + "sys.exit('first\\nno such kernel\\n')",
         r"failed when it was loaded: exit code 1 \(no such kernel\); "),
        ("sys.exit(3)", "failed before it was loaded: exit code 3; "),
        ("print('nonsense')", r"gave no poses that can be read \("),
        (f"(folder / {POSES!r}).write_bytes(b'nonsense')", r"gave no poses that can be read \("),
        (f"os.kill(os.getpid(), {signal.SIGRTMIN + 1})",
         f"crashed before it was loaded: signal {signal.SIGRTMIN + 1}; "),
    ],
    ids=["crash", "early crash", "error", "silent error", "nothing", "nonsense", "odd signal"],
)  # fmt: skip
def test_what_happened_is_one_error(
    code: str, message: str, stand: Stand, package: None, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """It names the file and what is possible; nothing new is there, an older file stays."""
    stand(code)
    path = tmp_path / "net.pt2"
    path.write_bytes(b"older")
    with pytest.raises(ExportError, match=rf"/net\.pt2: not written: its machine code {message}"):
        export(checkpoint, path, "aoti", "fp32")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.pt2"]
    assert path.read_bytes() == b"older"


def test_what_hangs_is_ended(stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After the limit, also where it does not listen; and what it has started."""
    ignoring = "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGINT)]\n"
    pids = tmp_path / "pids"
    stand(
        f"{ignoring}other = os.fork()\nopen({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n{SLEEP}"
    )
    killed = trial._kill

    def kill(process: Any) -> None:  # noqa: ANN401 (Popen)
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, process)
        killed(process)

    monkeypatch.setattr(trial, "_kill", kill)
    monkeypatch.setattr(trial, "LIMIT_S", 0.0)
    message = r"net\.pt2: its machine code did not end within 0 s: it hung before it was loaded"
    with pytest.raises(ExportError, match=message):
        locate_apart(tmp_path / "net.pt2", BATCHES, CPU)
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not runs(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_ends_it_too(number: signal.Signals, stand: Stand, tmp_path: Path) -> None:
    """The program's own handler hears of it when the process is no more."""
    noted = tmp_path / "pid"
    stand(
        f"Path({str(noted)!r}).write_text(str(os.getpid()))\n"
        f"os.kill(os.getppid(), {int(number)})\n{SLEEP}"
    )

    def stopped(_number: int, _frame: object) -> None:
        assert not runs(int(noted.read_text()))
        raise InterruptedError

    before = signal.signal(number, stopped)
    try:
        with pytest.raises(InterruptedError):
            locate_apart(tmp_path / "net.pt2", BATCHES, CPU)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    ("code", "raised"),
    [(f"os.kill(os.getppid(), signal.SIGTERM)\n{SLEEP}", SystemExit), (SEGFAULT, ExportError)],
    ids=["stopped", "crashed"],
)
def test_nothing_stays_among_temporary_files(
    code: str, raised: type[BaseException], stand: Stand, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Neither our folder where we are stopped, nor what torch has unpacked where its code fails."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    stand(f"Path(os.environ['TMPDIR'], 'unpacked').mkdir()\n{code}")
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(raised):
            locate_apart(tmp_path / "net.pt2", BATCHES, CPU)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


def test_a_stopped_export_leaves_nothing(
    stand: Stand, package: None, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Ctrl-C while the file is tried out."""
    stand(f"os.kill(os.getppid(), {int(signal.SIGINT)})\n{SLEEP}")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, tmp_path / "net.pt2", "aoti", "fp32")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


def _terminate(number: signal.Signals) -> None:
    with terminable():
        assert signal.getsignal(number) is stops._end
        try:
            signal.raise_signal(number)
        finally:
            assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_cleans_up(number: signal.Signals) -> None:
    """As an exception, once; the signal does afterwards what it did before."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit, match=str(128 + number)):
            _terminate(number)
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with terminable(), held() as came:
            signal.raise_signal(number)
        assert list(came) == []
    finally:
        signal.signal(number, before)


def _poses(folder: Path, poses: dict[str, torch.Tensor]) -> str:
    """Code that gives these poses."""
    ready = folder / "ready.safetensors"
    save_file(poses, ready)
    return f"(folder / {POSES!r}).write_bytes(Path({str(ready)!r}).read_bytes())"


def _expected(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """What the file should give for the images that it is tried out with."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8, generator=generator)
    poses = PoseNetwork(checkpoint.regressor, checkpoint.camera)(images)
    return {"000000": poses[:1].clone(), "000001": poses.clone()}


def test_a_good_file_takes_its_name(
    stand: Stand, package: None, checkpoint: Checkpoint, tmp_path: Path, out: Path
) -> None:
    """When another process has found the regressor's poses, and nothing but it is left."""
    stand(_poses(tmp_path, _expected(checkpoint)))
    export(checkpoint, out, "aoti", "fp32")
    assert zipfile.is_zipfile(out)
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]


@pytest.fixture
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A name in an empty folder."""
    return tmp_path_factory.mktemp("out") / "net.pt2"


@pytest.mark.parametrize("key", ["000000", "000001"])
@pytest.mark.parametrize("value", [0.2, float("nan"), float("inf")])
def test_other_poses_are_refused(
    key: str, value: float, stand: Stand, package: None, checkpoint: Checkpoint, tmp_path: Path,
    out: Path,
) -> None:  # fmt: skip
    """For one image and for two, also where one number is not finite."""
    poses = _expected(checkpoint)
    poses[key][0, 1, 2] += value
    stand(_poses(tmp_path, poses))
    with pytest.raises(
        ExportError, match=r"net\.pt2: not written: its poses are off the regr.* at"
    ):
        export(checkpoint, out, "aoti", "fp32")
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(
    "poses", [{}, {"000000": torch.zeros(2, 4, 4)}, {"a": torch.zeros(1, 4, 4)}]
)
def test_other_results_are_refused(
    poses: dict[str, torch.Tensor], stand: Stand, tmp_path: Path
) -> None:
    """Too few, of another shape, or of another name."""
    stand(_poses(tmp_path, poses))
    with pytest.raises(ExportError, match=f"gave {len(poses)} results that are not poses of the"):
        locate_apart(tmp_path / "net.pt2", BATCHES[:1], CPU)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_the_precision_itself_costs_is_accepted(
    precision: Any,  # noqa: ANN401 (one of a few words)
    stand: Stand, checkpoint: Checkpoint, tmp_path: Path,
) -> None:  # fmt: skip
    """The eager network's poses in the same precision, whatever their rounding."""
    network = PoseNetwork(checkpoint.regressor, checkpoint.camera, precision)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 24, 32), dtype=torch.uint8, generator=generator)
    poses = {"000000": network(images[:1]), "000001": network(images)}
    stand(_poses(tmp_path, poses))
    trial.try_out(tmp_path / "a.pt2", tmp_path / "net.pt2", checkpoint.regressor, network)


@pytest.mark.slow
def test_a_real_file_is_run_elsewhere(
    aoti_file: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder, without our own checks of shapes; its entries have a name of their own."""
    monkeypatch.chdir(tmp_path)
    images = torch.randint(0, 256, (20, 3, 24, 32), dtype=torch.uint8)
    off = trial.off_regressor_apart(aoti_file, checkpoint, images)
    assert float(off.translation_m.max()) < 1e-4
    assert {name.partition("/")[0] for name in zipfile.ZipFile(aoti_file).namelist()} == {"network"}


@pytest.mark.slow
def test_a_real_process_says_what_it_was_at(onnx_file: Path, tmp_path: Path) -> None:
    """A file that is no package, and images that it does not take."""
    path = tmp_path / "net.pt2"
    path.write_bytes(b"no archive")
    with pytest.raises(ExportError, match=r"failed when it was loaded: exit code 1 \(.*not an AOT"):
        locate_apart(path, BATCHES, CPU)
    wrong = [torch.zeros(2, 3, 12, 16, dtype=torch.uint8)]
    message = re.compile(r"failed when it was given 2 images: exit code 1 \(.*net\.onnx: images \[")
    with pytest.raises(ExportError, match=message):
        locate_apart(onnx_file, wrong, CPU)
