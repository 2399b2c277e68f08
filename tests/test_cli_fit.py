"""`rap fit`: what an interrupted fit leaves and how it goes on, and input that cannot be fitted."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rap
from rap import cli
from rap.splat import feasibility, relight
from rap.splat import fit as fitting
from rap.splat.gaussians import Gaussians, load_ply, save_ply
from rap.splat.objective import Terms
from rap.splat.state import FitState
from tests.processes import wait_until

TINY = """
[image]
num_workers = 0
[fit]
iterations = 6
max_gaussians = 300
initial_points = 200
sh_degree = 0
"""
Fails = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A small room on disk."""
    folder = tmp_path / "room"
    flags = ["--num-train", "4", "--num-test", "2", "--width", "32", "--height", "24"]
    assert cli.main(["data", "room", str(folder), *flags, "--num-points", "200"]) == 0
    return folder


@pytest.fixture
def fails(capfd: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must be refused; returns its last line on stderr."""

    def run(*argv: str | Path) -> str:
        capfd.readouterr()
        assert cli.main([str(word) for word in argv]) == 2
        err = capfd.readouterr().err
        assert err.count("rap: error: ") == 1
        return err.splitlines()[-1]

    return run


@pytest.mark.slow
def test_masks_of_test_frames_are_told(
    room: Path,
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """They reach the scores, which say how much is left, of right halves, too."""
    half = np.ones((24, 32), dtype=bool)
    half[:, 4:20] = False
    made = rap.load(room)
    frames = tuple(replace(frame, mask=half) for frame in made.test)
    masked = replace(made, test=frames)
    monkeypatch.setattr(rap, "load", lambda *_: masked)
    monkeypatch.setattr(relight, "NUM_STEPS", 2)
    words = ["fit", str(room), "--config", str(settings), "--fit.appearance-dim", "2", "-o"]
    seen = []
    for name, value in (("a.ply", 0), ("b.ply", 255)):
        for frame in frames:
            assert isinstance(frame.image, Path)
            picture = np.array(Image.open(frame.image))
            picture[:, 4:20] = value
            Image.fromarray(picture).save(frame.image)
        assert cli.main([*words, str(tmp_path / name)]) == 0
        said = " ".join(capfd.readouterr().err.split())
        assert "of the 50.0% that no mask leaves out" in said
        seen.append(re.findall(r"medians: .*?after it|right halves, .*?SSIM [\d., ]+", said))
    assert len(seen[0]) == 2
    assert seen[0] == seen[1]


def test_an_interrupted_fit_goes_on(
    room: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    """Its state and an early view stay, it is not started over by mistake, and it ends the same."""
    words = ["fit", str(room), "--config", str(settings), "--save-every-s", "0", "-o"]
    whole, splat = tmp_path / "whole.ply", tmp_path / "splat.ply"
    assert cli.main([*words, str(whole)]) == 0
    assert not list(tmp_path.glob("whole.state*"))
    assert not list(tmp_path.glob("whole.partial*"))
    original = fitting.step

    def interrupted(state: FitState, course: fitting.Course) -> tuple[Terms, torch.Tensor]:
        if state.iteration == 4:
            raise KeyboardInterrupt
        return original(state, course)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "step", interrupted)
        assert cli.main([*words, str(splat)]) == 130
    assert not splat.exists()
    assert load_ply(tmp_path / "splat.partial.ply").num == 200
    assert "an interrupted fit; go on with --resume" in fails(*words, splat)
    assert cli.main([*words, str(splat), "--resume"]) == 0
    assert splat.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "splat.state.safetensors").exists()
    assert not (tmp_path / "splat.partial.ply").exists()
    other = tmp_path / "other.ply"
    assert "there is no interrupted fit to resume" in fails("fit", room, "-o", other, "--resume")


def test_what_a_killed_fit_left_half_written_is_removed(tmp_path: Path, fails: Fails) -> None:
    """Before the next one to the same file; of this splat only, others may lie beside it."""
    killed = 2**30
    names = ["splat[1].ply", "splat[1].png", "splat[1].state.safetensors", "splat[1].partial.ply",
             "splat[1].appearance.safetensors"]  # fmt: skip
    for name in names:
        (tmp_path / f".{name}.{killed}.tmp").touch()
    others = [tmp_path / f".{name}.{killed}.tmp" for name in ("other.ply", "splat1.ply")]
    for other in others:
        other.touch()
    assert "nowhere" in fails("fit", tmp_path / "nowhere", "-o", tmp_path / "splat[1].ply")
    assert sorted(tmp_path.iterdir()) == others


def test_a_splat_is_not_lost_before_the_new_one_is_there(
    room: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --force the old file stays until the new one replaces it."""
    splat = tmp_path / "splat.ply"
    splat.write_bytes(b"precious")

    def diverged(*_: object) -> None:
        raise fitting.FitError("the fit diverged")

    monkeypatch.setattr(fitting, "step", diverged)
    words = ["fit", str(room), "--config", str(settings), "-o", str(splat), "--force"]
    assert cli.main(words) == 2
    assert splat.read_bytes() == b"precious"


def test_a_scene_larger_than_memory_is_refused(
    room: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails
) -> None:
    """In one line, before any image is decoded."""
    monkeypatch.setattr(feasibility, "host_free_bytes", lambda: 100_000)
    message = fails("fit", room, "--config", settings, "--device", "cpu", "-o", tmp_path / "a.ply")
    assert "the fit needs about" in message
    assert "lower fit.height first" in message


def test_neither_points_nor_depth_is_refused(
    room: Path, settings: Path, tmp_path: Path, fails: Fails
) -> None:
    """There is nothing to start from, and the message says what would do."""
    for path in (*room.glob("*/*.depth.png"), *room.glob("points*"), *room.glob("sparse/**/*.*")):
        path.unlink()
    message = fails("fit", room, "--config", settings, "-o", tmp_path / "a.ply")
    assert "neither surface points nor depth" in message


def test_one_photograph_is_refused(
    room: Path, settings: Path, tmp_path: Path, fails: Fails
) -> None:
    """Two are the least."""
    for path in sorted(room.glob("seq-01/*"))[3:]:
        path.unlink()
    message = fails("fit", room, "--config", settings, "-o", tmp_path / "a.ply")
    assert "1 training photograph(s); a fit needs at least 2" in message


def broken_ply(path: Path, case: str) -> None:
    """A .ply with a value that is no number, or without a property."""
    gaussians = Gaussians(
        torch.rand(3, 3), torch.rand(3, 4), torch.rand(3, 3), torch.rand(3), torch.rand(3, 1, 3)
    )
    if case == "nan":
        gaussians.log_scales[1, 2] = float("nan")
    save_ply(path, gaussians)
    if case == "property":
        path.write_bytes(path.read_bytes().replace(b"float opacity", b"float opacitx"))


@pytest.mark.parametrize(
    ("case", "message"),
    [("nan", "scale_2 is nan in Gaussian 1"), ("property", "missing opacity")],
)
def test_a_broken_ply_is_refused(
    room: Path, tmp_path: Path, fails: Fails, case: str, message: str
) -> None:
    """Naming the property, and the Gaussian."""
    splat = tmp_path / "broken.ply"
    broken_ply(splat, case)
    poses = list(room.glob("seq-02/*.pose.txt"))
    flags = ["--camera", room / "camera.json", "-o", tmp_path / "views"]
    found = fails("render", "--splat", splat, *flags, "--poses", *poses)
    assert message in found


@pytest.mark.parametrize("exposure", [False, True])
def test_masks_are_used(room: Path, settings: Path, exposure: bool) -> None:
    """A mask in a scene reaches the fit: what it hides changes nothing."""
    from dataclasses import replace

    import rap

    scene, config = rap.load(room), rap.config.load(settings)
    config = replace(config, fit=replace(config.fit, exposure=exposure))
    mask = np.ones((24, 32), dtype=bool)
    mask[6:18, 8:24] = False
    fitted = []
    for value in (0, 255):
        frames = []
        for frame in scene.train:
            assert isinstance(frame.image, Path)
            image = np.full((24, 32, 3), 90, dtype=np.uint8)
            image[7:17, 9:23] = value
            frames.append(replace(frame, image=image, mask=mask))
        fitted.append(rap.fit(replace(scene, train=tuple(frames)), config, "cpu"))
    assert torch.equal(fitted[0].sh, fitted[1].sh)
    assert torch.equal(fitted[0].means, fitted[1].means)


ENDLESS = """
import sys
import threading
import rap.splat.fit
from rap import cli
from rap.splat import gaussians

gaussians.save_ply = lambda *_: threading.Event().wait()
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["mcmc", "classic"])
def test_a_killed_fit_goes_on_to_the_same_bits(
    room: Path, settings: Path, tmp_path: Path, strategy: str
) -> None:
    """SIGKILL leaves a whole state, whenever it comes, and the fit ends as if it had not come."""
    flags = ["--config", settings, "--fit.strategy", strategy, "--fit.iterations", "400"]
    flags += ["--fit.refine-every", "20", "--save-every-s", "0", "--device", "cpu"]
    whole, splat = tmp_path / "whole.ply", tmp_path / "splat.ply"
    command = [sys.executable, "-m", "rap", "fit", *map(str, (room, *flags)), "-o"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, whole], check=True, capture_output=True, env=environment)
    # never to its end, however late it is killed
    endless = [sys.executable, "-c", ENDLESS, *command[3:]]
    process = subprocess.Popen([*endless, splat], stderr=subprocess.PIPE, env=environment)
    state = tmp_path / "splat.state.safetensors"
    wait_until(state.exists, process)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    assert not splat.exists()
    subprocess.run([*command, splat, "--resume"], check=True, capture_output=True, env=environment)
    assert splat.read_bytes() == whole.read_bytes()
