"""The command line: what it refuses and how, what its flags mean, and the way through it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from rap import cli
from rap.camera import Camera
from rap.cli import data as data_command
from rap.cli import train as train_command
from rap.config import ConfigError, from_toml
from rap.model import upstream
from rap.model.checkpoint import load
from rap.model.regressor import Regressor, build_regressor
from rap.splat import sheet
from tests.processes import PATIENCE_S, holding, wait_until

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
dropout = 0.0
drop_connect = 0.0
[fit]
iterations = 4
max_gaussians = 300
initial_points = 200
sh_degree = 0
[train]
epochs = 2
batch_size = 3
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings with which everything takes seconds."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A small room on disk, as `rap data room` writes it."""
    folder = tmp_path / "room"
    flags = ["--num-train", "6", "--num-test", "3", "--width", "32", "--height", "24"]
    assert cli.main(["data", "room", str(folder), *flags, "--num-points", "200"]) == 0
    return folder


Fails = Callable[..., str]


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must be refused; returns its one line on stderr."""

    def run(*argv: str | Path) -> str:
        capfd.readouterr()
        assert cli.main([str(word) for word in argv]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("rap: error: ")
        assert err.count("\n") == 1
        return err

    return run


def _subprocess(*argv: str | Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "rap"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *map(str, argv)],
        capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1], env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`rap` alone and `rap --help` say what there is."""
    assert cli.main([]) == cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {word} " in text for word in cli.COMMANDS)


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_every_command_has_help(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command says what it takes, in its own words, and exits with 0."""
    with pytest.raises(SystemExit) as stop:
        cli.main([word, "--help"])
    assert not stop.value.code
    assert f"usage: rap {word}" in capsys.readouterr().out


def test_mistakes_come_before_torch() -> None:
    """Help and mistakes in the arguments do not wait for torch's import."""
    code = (
        "import sys; from rap.cli import main; main(['--help']); "
        "code = main(['fit', 'room', '-o', 'x.ply', '--fit.iteration', '3']); "
        "sys.exit(code + 10 * ('torch' in sys.modules))"
    )
    done = _subprocess(code=code)
    assert done.returncode == 2, done.stderr
    assert "--fit.iterations" in done.stderr


def test_python_m_rap_is_rap() -> None:
    """`python -m rap` runs the same main and passes its code on."""
    done = _subprocess("nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("rap: error: 'nonsense' is not a command; commands: data, fit")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "'trian' is not a command; did you mean train?"),
        (["data"], "Expected one of {check, room}"),
        (["data", "check", "nowhere"], "nowhere: does not exist; give a scene's folder, or"),
        (["data", "room", "new", "--num-train", "-4"], "error: --num-train = -4 must be"),
        (["fit", "room"], "-o PATH, --out PATH The .ply file to write. (required)"),
        (["fit", "room", "-o", "splat.png"], "splat.png: the name must end in .ply"),
        (["fit", "room", "-o", "no/splat.ply"], "does not exist; make it first"),
        (["fit", "room", "-o", "a.ply", "--fit.iterations", "ten"], "--fit.iterations: invalid"),
        (["fit", "room", "-o", "a.ply", "--fit.iteratons", "9"], "Perhaps you meant: --fit.it"),
        (["fit", "room", "-o", "a.ply", "--preset", "rom"], "preset 'rom' does not exist; there"),
        (["fit", "room", "-o", "a.ply", "--config", "a.yaml"], "a.yaml: accepted are our .toml"),
        (["fit", "room", "-o", "a.ply", "--config", "a.toml"], "a.toml: cannot be read"),
        (["fit", "nowhere", "-o", "a.ply"], "nowhere: does not exist"),
        (["train", "room", "-o", "run", "--resume"], "run: holds no run to resume"),
        (["train", "room", "-o", "run", "--splat", "a.ply"], "a.ply: cannot be read"),
        (["train", "room", "-o", "run"], "need renderings: give a splat (--splat FILE)"),
        (["eval", "room"], "give either -p RUN, --artifact FILE or --estimates FILE"),
        (["eval", "room", "-p", "a", "--estimates", "b"], "give either -p RUN, --artifact"),
        (["eval", "room", "-p", "a", "--artifact", "b"], "give either -p RUN, --artifact"),
        (["eval", "room", "--artifact", "b", "--precision", "bf16"], "belong to -p RUN"),
        (["eval", "room", "-p", "a", "--reference", "b"], "b: no such file or folder of est"),
        (["eval", "room", "--artifact", "b.onnx"], "b.onnx: no such file; accepted: a .pt2 or"),
        (["export", "-p", "a", "-o", "a.onnx"], "give one of aoti, onnx first: rap export onnx"),
        (["export", "onnx", "-p", "a", "-o", "a.pt2"], "a.pt2: the name must end in .onnx"),
        (["export", "aoti", "-p", "a", "-o", "a.pt2", "--precision", "int8"], "int8 is for ONNX"),
        (["export", "aoti", "-p", "a", "-o", "a.pt2"], "a: no such file; accepted: a run dir"),
        (["profile", "room"], "give one of train, fit, views, infer first: rap profile"),
        (["profile", "fit", "--steps", "0"], "--steps = 0 must be at least 1"),
        (["eval", "room", "-p", "a.safetensors"], "a.safetensors: no such file; accepted: a run"),
        (
            ["eval", "room", "--estimates", "poses.txt"],
            "poses.txt: no such file or folder",
        ),
        (["localize", "-p", "run"], "give at least one PHOTO"),
        (["localize", "a.png", "-p", "run"], "run: no such file; accepted: a run directory"),
        (["render", "--splat", "a.ply", "--poses", "p.tum", "-o", "out"], "p.tum: no such scene"),
        (["render", "--splat", "a", "--poses", __file__, "-o", "out"], "need --camera"),
        (["convert", "a.pth", "-o", "a.pth", "--camera", "room"], "must end in .safetensors"),
        (["convert", "a.pth", "-o", "a.safetensors", "--camera", "c.json"], "c.json"),
        (["convert", "a", "-o", "b", "--camera", "c", "--height", "0"], "--height = 0 must be"),
        (["eval", "room", "-p", "a", "--batch-size", "0"], "--batch-size = 0 must be at least 1"),
        (["eval", "room", "-p", "a", "--batch-size", "-3"], "--batch-size = -3 must be at least"),
        (["eval", "room", "-p", "a", "--num-workers", "-1"], "--num-workers = -1 must be at le"),
        (["render", "--splat", "a", "--poses", "room", "-o", "b", "--height", "0"], "--height = 0"),
        (["doctor", "--fix"], "Unrecognized options: --fix; see rap doctor --help"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: list[str], message: str, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every refusal names what it refuses, and no file is written before it."""
    monkeypatch.chdir(tmp_path)
    assert message in fails(*argv)
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_not_overwritten(fails: Fails, tmp_path: Path) -> None:
    """A finished result stays unless --force is given; a run directory is never mixed."""
    splat = tmp_path / "splat.ply"
    splat.write_text("precious")
    assert "overwrite it with --force" in fails("fit", "room", "-o", splat)
    assert "is not empty; name another folder" in fails("train", "room", "-o", tmp_path)
    assert "is a file" in fails("train", "room", "-o", splat)
    assert "is not empty; name another folder" in fails("data", "room", tmp_path)
    assert splat.read_text() == "precious"


def _replace_run(monkeypatch: pytest.MonkeyPatch, module: ModuleType, error: BaseException) -> None:
    def run(argv: Sequence[str]) -> int:
        raise error

    monkeypatch.setattr(module, "run", run)


def test_errors_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain ValueError, or any other exception, is a bug of ours and is not dressed up."""
    for error in (ValueError("bug"), KeyError("bug")):
        _replace_run(monkeypatch, data_command, error)
        with pytest.raises(type(error)):
            cli.main(["data"])


def test_errors_of_users_and_files_are_one_line(
    monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    """Our own kinds of error and the operating system's end in a line, without line breaks."""
    _replace_run(monkeypatch, data_command, ConfigError("two\nlines"))
    assert fails("data") == "rap: error: two lines\n"
    _replace_run(monkeypatch, data_command, FileNotFoundError(2, "No such file", "a.png"))
    assert fails("data") == "rap: error: a.png: No such file\n"


def test_interrupt_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C exits with 130, and a training run says in one line how it is resumed."""
    monkeypatch.chdir(tmp_path)
    _replace_run(monkeypatch, train_command, KeyboardInterrupt())
    for out in (["-o", "run"], ["--out=run"], ["--outt", "run"]):
        assert cli.main(["train", "my room", *out]) == 130
        assert capfd.readouterr().err == "rap: interrupted\n"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").touch()
    assert cli.main(["train", "my room", "-o", "run"]) == 130
    expected = "rap: interrupted; the run goes on with: rap train 'my room' -o run --resume\n"
    assert capfd.readouterr().err == expected
    assert cli.main(["train", "my room", "-o", "run", "--resume"]) == 130
    assert capfd.readouterr().err == expected
    _replace_run(monkeypatch, data_command, KeyboardInterrupt())
    assert cli.main(["data"]) == 130
    assert capfd.readouterr().err == "rap: interrupted\n"


def test_one_source_of_settings(fails: Fails, settings: Path, tmp_path: Path) -> None:
    """A preset and a file at once would leave open which one counts."""
    message = fails(
        "fit", "room", "-o", tmp_path / "a.ply", "--preset", "room", "--config", settings
    )
    assert "--preset and --config: give one of them" in message


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_whole_way(
    room: Path, settings: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Check, fit, train, evaluate, localize and render, each from what the one before wrote."""
    splat, run = tmp_path / "splat.ply", tmp_path / "run"
    configured = ["--config", str(settings)]
    assert cli.main(["data", "check", str(room)]) == 0
    assert cli.main(["fit", str(room), "-o", str(splat), *configured]) == 0
    assert _size(splat.with_suffix(".png")) > (64, 24)
    err = " ".join(capfd.readouterr().err.split())
    shown = (
        r"3 test frames, medians: PSNR [\d.]+ dB, [\d.]+ dB after a colour affine per image, "
        r"SSIM [\d.]+, [\d.]+ after it"
    )
    assert re.search(shown, err)

    assert cli.main(["train", str(room), "--splat", str(splat), "-o", str(run), *configured]) == 0
    assert {file.name for file in run.iterdir()} >= {
        "config.toml", "log.jsonl", "last.safetensors", "state.pt", "best.safetensors",
    }  # fmt: skip

    small = ["--num-workers", "0", "--batch-size", "2"]
    assert cli.main(["eval", str(room), "-p", str(run), *small]) == 0
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert metrics["estimates"]["num"] == 3
    # one photograph was held out, so a score has chosen the weights
    assert metrics["selection_rule"].startswith("median_translation_m")
    again = ["eval", str(room), "--estimates", str(run / "report" / "poses.tum")]
    assert cli.main([*again, "-o", str(tmp_path / "again")]) == 0
    same = json.loads((tmp_path / "again" / "metrics.json").read_text())["estimates"]
    assert same["median_rotation_deg"] == pytest.approx(
        metrics["estimates"]["median_rotation_deg"], abs=1e-4
    )

    photos = sorted(map(str, room.glob("seq-02/*.color.png")))
    capfd.readouterr()
    assert cli.main(["localize", *photos, "-p", str(run)]) == 0
    located = json.loads(capfd.readouterr().out)
    assert [entry["name"] for entry in located] == photos
    centres = [[float(x) for x in line.split()[1:4]]
               for line in (run / "report" / "poses.tum").read_text().splitlines()]  # fmt: skip
    found = [entry["translation_m"] for entry in located]
    np.testing.assert_allclose(found, centres, atol=1e-3)
    assert cli.main(["localize", *photos, "-p", str(run), "--format", "tum"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3

    rendering = ["render", "--splat", str(splat), "--height", "12"]
    assert cli.main([*rendering, "--poses", str(room), "-o", str(tmp_path / "views")]) == 0
    names = [f"seq-02-frame-{index:06d}.png" for index in range(3)]
    assert sorted(file.name for file in (tmp_path / "views").iterdir()) == names
    assert _size(tmp_path / "views" / names[0]) == (16, 12)
    files = [str(file) for file in room.glob("seq-02/*.pose.txt")]
    camera = ["--camera", str(room / "camera.json"), "-o", str(tmp_path / "from-files")]
    assert cli.main([*rendering, "--poses", *files, *camera]) == 0
    for name in names:
        one = (tmp_path / "views" / name).read_bytes()
        assert one == (tmp_path / "from-files" / name.removeprefix("seq-02-")).read_bytes()


def test_a_failing_contact_sheet_is_a_warning(
    room: Path,
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A picture that cannot be drawn costs one line, never the splat."""

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(sheet, "contact_sheet", full_disk)
    splat = tmp_path / "splat.ply"
    assert cli.main(["fit", str(room), "-o", str(splat), "--config", str(settings)]) == 0
    assert "splat.png: no space left" in capfd.readouterr().err
    assert splat.exists()


INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from rap.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(room: Path, settings: Path, tmp_path: Path) -> None:
    """The line that an interrupted training prints, typed as it is, finishes the run."""
    run = tmp_path / "run"
    flags = ["--config", str(settings), "--weights.view", "0", "--train.epochs", "60"]
    words = ["train", str(room), "-o", str(run), *flags]
    released, log = tmp_path / "released", run / "log.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", holding(3, released) + INTERRUPTIBLE, *words],
        stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    wait_until(log.exists, process)
    process.send_signal(signal.SIGINT)
    released.touch()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert not (run / "best.safetensors.tmp").exists()
    command = shlex.split(err.strip().splitlines()[-1].split(": ", 2)[2])
    assert command[:2] == ["rap", "train"]
    done = _subprocess(*command[1:])
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line)["epoch"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert epochs == list(range(60))


def test_converted_checkpoint_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`rap convert` writes weights with the camera's size, and the settings beside them."""
    camera = {"fx": 525, "fy": 525, "cx": 320, "cy": 240, "width": 640, "height": 480}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    (tmp_path / "chess.txt").write_text("epochs = 9\n")
    converted: list[tuple[Path, Camera]] = []

    def convert(path: Path, network_camera: Camera) -> Regressor:
        converted.append((path, network_camera))
        return build_regressor(from_toml(TINY, "tiny").model, seed=0)

    monkeypatch.setattr(upstream, "convert_checkpoint", convert)
    out = tmp_path / "best.safetensors"
    words = ["convert", "a.pth", "-o", str(out), "--camera", str(tmp_path / "camera.json")]
    assert cli.main([*words, "--config", str(tmp_path / "chess.txt")]) == 0
    expected = Camera(262.5, 262.5, 160.0, 120.0, 320, 240)
    assert converted == [(Path("a.pth"), expected)]
    assert load(out, torch.device("cpu")).camera == expected
    assert from_toml(out.with_suffix(".toml").read_text(), "written").train.epochs == 9
