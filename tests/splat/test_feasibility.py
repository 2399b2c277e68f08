"""What cannot be fitted is refused before any work, with one message that says what to change."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rap.camera import Camera
from rap.config import FitConfig
from rap.config.splats import Strategy
from rap.data import room
from rap.scene import Scene
from rap.splat import feasibility
from rap.splat.feasibility import check_memory, check_scene, fit_bytes, photograph_bytes
from rap.splat.initial import FitError

CPU = torch.device("cpu")
CAMERA = Camera(500.0, 500.0, 320.0, 240.0, 640, 480)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return room.make(room.RoomSpec(num_train=3, num_test=1, width=32, height=24, num_points=50))


def test_bytes_of_photographs_are_counted_exactly() -> None:
    """What is allocated for them is what is predicted."""
    shape = (5, CAMERA.height, CAMERA.width)
    images = torch.empty(5, 3, *shape[1:], dtype=torch.uint8)
    depths, masks = torch.empty(shape, dtype=torch.float16), torch.empty(shape, dtype=torch.bool)
    assert photograph_bytes(5, CAMERA) == images.nbytes
    assert photograph_bytes(5, CAMERA, depth=True) == images.nbytes + depths.nbytes
    assert photograph_bytes(5, CAMERA, depth=True, masks=True) == sum(
        tensor.nbytes for tensor in (images, depths, masks)
    )


def test_more_of_anything_needs_more() -> None:
    """Gaussians, harmonics, appearance and images a step each add to the prediction."""
    plain = FitConfig()
    smallest = sum(fit_bytes(3, CAMERA, plain, CPU).values())
    for larger in (
        replace(plain, max_gaussians=400_000), replace(plain, sh_degree=3),
        replace(plain, appearance_dim=8), replace(plain, images_per_step=2),
    ):  # fmt: skip
        assert sum(fit_bytes(3, CAMERA, larger, CPU).values()) > smallest


@pytest.mark.parametrize(
    ("free_gib", "num", "advice"),
    [(0.5, 100, "lower fit.max_gaussians first"), (5.0, 5000, "lower fit.height first")],
)
def test_a_scene_larger_than_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, num: int, advice: str
) -> None:
    """The message says what is needed, what is free, and what to lower."""
    monkeypatch.setattr(feasibility, "host_free_bytes", lambda: int(free_gib * 2**30))
    config = FitConfig(max_gaussians=1_000_000)
    with pytest.raises(FitError, match=rf"{free_gib} GiB are free: {num} photographs.*{advice}"):
        check_memory(num, CAMERA, config, CPU)
    monkeypatch.setattr(feasibility, "host_free_bytes", lambda: 64 * 2**30)
    check_memory(num, CAMERA, config, CPU)


def test_a_system_that_does_not_tell_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc the prediction has nothing to be compared with."""
    monkeypatch.setattr(feasibility, "host_free_bytes", lambda: None)
    check_memory(10**9, CAMERA, FitConfig(), CPU)


SMALL = FitConfig(max_gaussians=6000)


@pytest.mark.parametrize(
    ("config", "told", "advice"),
    [
        (replace(SMALL, height=100_000), "133333x100000 pixels", "fit.height"),
        (replace(SMALL, images_per_step=2000), "2,000 picture.s. drawn", "fit.images_per_step"),
        (replace(SMALL, appearance_dim=10**9), "1,000,000,000 numbers", "fit.appearance_dim"),
        (replace(SMALL, max_gaussians=10**9), "1,000,000,000 Gaussians", "fit.max_gaussians"),
    ],
)
def test_what_is_large_is_named(
    monkeypatch: pytest.MonkeyPatch, config: FitConfig, told: str, advice: str
) -> None:
    """The setting to lower is the one that asks for most."""
    monkeypatch.setattr(feasibility, "host_free_bytes", lambda: 20 * 2**30)
    camera = CAMERA.with_height(config.height or CAMERA.height)
    with pytest.raises(FitError, match=rf"{told}.*; lower {advice} first$"):
        check_memory(4, camera, config, CPU)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "strategy"), [(300, "mcmc"), (300, "classic"), (420, "mcmc")])
def test_a_fit_on_a_cpu_takes_no_more_than_predicted(height: int, strategy: Strategy) -> None:
    """The growth of a process of its own stays below the prediction, which is no wild guess."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a process")
    config = FitConfig(max_gaussians=6000, iterations=20, strategy=strategy)
    words = [sys.executable, "-c", GROWTH, str(height), strategy]
    grown = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    camera = room.make(room.RoomSpec(num_train=2, num_test=1, width=64, height=48)).camera
    predicted = sum(fit_bytes(4, camera.with_height(height), config, CPU).values())
    assert grown < predicted < 6 * grown


GROWTH = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from rap.config import FitConfig
from rap.data import room
from rap.scene import poses
from rap.splat.fit import begin, step
from rap.splat.objective import Targets

def told(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

def steps(camera, config, num):
    images = torch.zeros(4, 3, camera.height, camera.width, dtype=torch.uint8)
    course, state = begin(
        Targets(images), poses(made.train), camera, made.points, config, torch.device("cpu")
    )
    for _ in range(num):
        step(state, course)

made = room.make(room.RoomSpec(num_train=4, num_test=1, width=64, height=48, num_points=6000))
config = FitConfig(max_gaussians=6000, iterations=20, strategy=sys.argv[2])
steps(made.camera, replace(config, max_gaussians=100), 1)
before = told("VmRSS")
steps(made.camera.with_height(int(sys.argv[1])), config, 2)
print(told("VmHWM") - before)
"""


@pytest.mark.cuda
def test_a_fit_takes_no_more_than_predicted() -> None:
    """The peak on a GPU stays below the prediction, at the largest number of Gaussians."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from rap.scene import poses
    from rap.splat.fit import begin, step
    from rap.splat.objective import Targets

    device = torch.device("cuda")
    spec = room.RoomSpec(num_train=4, num_test=1, width=320, height=240, num_points=100_000)
    made = room.make(spec)
    config = FitConfig(max_gaussians=100_000, iterations=20)
    images = torch.zeros(4, 3, 240, 320, dtype=torch.uint8)
    assert made.points is not None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    course, state = begin(
        Targets(images), poses(made.train), made.camera, made.points, config, device
    )
    for _ in range(10):
        step(state, course)
    peak = torch.cuda.max_memory_allocated() - before
    predicted = sum(fit_bytes(4, made.camera, config, device).values())
    predicted += photograph_bytes(4, made.camera)
    assert peak < predicted < 4 * peak


def test_one_photograph_is_refused(scene: Scene) -> None:
    """Before anything is decoded."""
    with pytest.raises(FitError, match=r"room.*1 training photograph\(s\); a fit needs at least 2"):
        check_scene(replace(scene, train=scene.train[:1]), scene.camera, FitConfig(), CPU)


def test_depth_that_is_asked_for_must_be_there(scene: Scene) -> None:
    """A weight without a single depth map is a mistake, not a wish."""
    config = FitConfig(depth_weight=0.1, max_gaussians=1000)
    check_scene(scene, scene.camera, config, CPU)
    bare = replace(scene, train=tuple(replace(frame, depth=None) for frame in scene.train))
    with pytest.raises(FitError, match=r"depth_weight = 0\.1, but no training frame has depth"):
        check_scene(bare, scene.camera, config, CPU)
