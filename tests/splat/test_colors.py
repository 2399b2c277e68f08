"""Colours per view: appearances by codes, ready-made colours, exposure, and a lower degree."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from subprocess import CalledProcessError
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from rap import geometry, kernels
from rap.camera import Camera
from rap.splat import colors
from rap.splat.appearance import Appearance, apply_affine, color_affine, identity_exposure
from rap.splat.colors import baked, view_colors
from rap.splat.gaussians import Gaussians
from rap.splat.harmonics import BASE
from rap.splat.render import render
from rap.splat.tuning import RenderTuning

CAMERA = Camera(40.0, 41.0, 23.0, 19.0, 48, 36)
CPU = torch.device("cpu")


def make_gaussians(num: int, degree: int, device: torch.device) -> Gaussians:
    """In front of the cameras of `make_poses`, with an appearance for three images."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(num, 3, generator=generator) * 4 - 2
    means[:, 2] += 4
    normal = torch.randn(num, 10 + 3 * (degree + 1) ** 2, generator=generator)
    appearance = Appearance(
        codes=torch.randn(3, 4, generator=generator),
        features=normal[:, 4:9],
        hidden=torch.randn(4, 8, generator=generator),
        output=0.1 * torch.randn(8, 5 * 6, generator=generator),
        exposure=identity_exposure(3, means),
    )
    return Gaussians(
        means=means,
        quats=normal[:, :4],
        log_scales=0.3 * normal[:, 4:7] - 2,
        opacity_logits=1 + normal[:, 9],
        sh=normal[:, 10:].unflatten(1, (-1, 3)),
        appearance=appearance,
    ).to(device)


def make_poses(num: int, device: torch.device) -> Tensor:
    """Cameras near the origin that look along z."""
    generator = torch.Generator().manual_seed(1)
    rotation = geometry.random_rotations_within(num, 10.0, generator)
    shift = 0.3 * torch.randn(num, 3, generator=generator)
    return geometry.rigid(rotation, shift).to(device)


def test_each_view_has_the_appearance_of_its_code(device: torch.device) -> None:
    """Many views in their own appearances are what each of them is alone."""
    gaussians, poses = make_gaussians(80, 2, device), make_poses(3, device)
    assert gaussians.appearance is not None
    codes = gaussians.appearance.codes
    together = render(gaussians, CAMERA, poses, codes=codes).rgb
    for view in range(3):
        one = slice(view, view + 1)
        alone = render(gaussians, CAMERA, poses[one], codes=codes[one]).rgb
        torch.testing.assert_close(together[one], alone)
    assert (together - render(gaussians, CAMERA, poses).rgb).abs().max() > 0.05


@pytest.mark.parametrize("degree", [0, 2])
def test_codes_change_the_colour_before_it_is_clamped(device: torch.device, degree: int) -> None:
    """Gain and offset act on the evaluated harmonics; only the result is kept from below 0."""
    gaussians, poses = make_gaussians(200, degree, device), make_poses(2, device)
    assert gaussians.appearance is not None
    codes = gaussians.appearance.codes[:2]
    # an offset of 1 keeps every harmonic colour from the clamp
    lifted = gaussians.sh.clone()
    lifted[:, 0] += 40.0
    raw = view_colors(replace(gaussians, sh=lifted), poses) - 40.0 * BASE
    expected = apply_affine(raw, color_affine(gaussians.appearance, codes))
    actual = view_colors(gaussians, poses, codes)
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-5)
    assert (raw < 0).any()
    assert actual.min() == 0


def test_zero_codes_show_the_own_colours(device: torch.device) -> None:
    """The mean appearance is the one of the .ply."""
    gaussians, poses = make_gaussians(50, 1, device), make_poses(2, device)
    zero = torch.zeros(2, 4, device=device)
    torch.testing.assert_close(view_colors(gaussians, poses, zero), view_colors(gaussians, poses))


def test_codes_need_gaussians_with_an_appearance(device: torch.device) -> None:
    """Codes for Gaussians that were fitted without are an error, not silence."""
    gaussians = replace(make_gaussians(5, 1, device), appearance=None)
    with pytest.raises(ValueError, match="without appearance"):
        render(gaussians, CAMERA, make_poses(1, device), codes=torch.zeros(1, 4, device=device))


def test_colours_are_drawn_as_they_are(device: torch.device) -> None:
    """Evaluated beforehand or by the call, the picture is the same; both at once are refused."""
    gaussians, poses = make_gaussians(80, 2, device), make_poses(2, device)
    assert gaussians.appearance is not None
    codes = gaussians.appearance.codes[:2]
    given = view_colors(gaussians, poses, codes)
    ready = render(gaussians, CAMERA, poses, colors=given).rgb
    torch.testing.assert_close(ready, render(gaussians, CAMERA, poses, codes=codes).rgb)
    with pytest.raises(ValueError, match="not both"):
        render(gaussians, CAMERA, poses, colors=given, codes=codes)


def test_exposure_changes_the_finished_picture(device: torch.device) -> None:
    """Background included; each view has its own."""
    gaussians, poses = make_gaussians(20, 1, device), make_poses(2, device)
    exposure = identity_exposure(2, gaussians.means)
    exposure[1, :, :3] *= 0.5
    exposure[1, :, 3] = torch.tensor([0.1, 0.2, 0.3])
    ground = torch.tensor([0.4, 0.6, 0.8])
    plain = render(gaussians, CAMERA, poses, background=ground).rgb
    changed = render(gaussians, CAMERA, poses, background=ground, exposure=exposure).rgb
    torch.testing.assert_close(changed[0], plain[0])
    torch.testing.assert_close(changed[1], 0.5 * plain[1] + exposure[1, :, 3, None, None])


def test_a_lower_degree_leaves_higher_harmonics_out(device: torch.device) -> None:
    """Cut at 1 is what a splat of degree 1 looks like; a cut above the stored degree is none."""
    gaussians, poses = make_gaussians(80, 3, device), make_poses(2, device)
    cut = render(gaussians, CAMERA, poses, tuning=RenderTuning(sh_degree=1)).rgb
    small = replace(gaussians, sh=gaussians.sh[:, :4])
    torch.testing.assert_close(cut, render(small, CAMERA, poses).rgb)
    same = render(small, CAMERA, poses, tuning=RenderTuning(sh_degree=3)).rgb
    torch.testing.assert_close(cut, same)
    assert (cut - render(gaussians, CAMERA, poses).rgb).abs().max() > 0.01


def test_baked_colours_are_exact_at_their_point(device: torch.device) -> None:
    """A camera at the point sees what it would see; codes recolour baked Gaussians, too."""
    gaussians, poses = make_gaussians(80, 3, device), make_poses(2, device)
    assert gaussians.appearance is not None
    flat = baked(gaussians, geometry.invert(poses)[0, :3, 3])
    assert flat.sh_degree == 0
    codes = gaussians.appearance.codes[:2]
    for code in (None, codes):
        exact = view_colors(gaussians, poses, code)
        shown = view_colors(flat, poses, code).expand_as(exact)
        torch.testing.assert_close(shown[0], exact[0], atol=1e-5, rtol=1e-5)
        assert (shown[1] - exact[1]).abs().max() > 0.01


class TritonError(Exception):
    """Stands for Triton's own base of errors, which is no RuntimeError either."""


@pytest.fixture
def failing_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Exception], None]]:
    """Have the colour kernel fail with an error, once it is tried at its largest."""

    def with_error(error: Exception) -> None:
        def fails(one: Gaussians, _: Tensor, codes: Tensor | None, degree: int) -> None:
            assert degree == one.sh_degree == 3
            assert codes is not None
            raise error

        kernel = ModuleType("kernel")
        vars(kernel).update(fused_colors=fails, triton=SimpleNamespace(TritonError=TritonError))
        monkeypatch.setattr(kernels.util, "find_spec", lambda _: object())
        monkeypatch.setattr(kernels.importlib, "import_module", lambda _: kernel)
        colors.kernel_problem.cache_clear()

    yield with_error
    colors.kernel_problem.cache_clear()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CalledProcessError(1, "gcc"), "gcc"),
        (TritonError("out of resource: registers"), "out of resource: registers"),
        (RuntimeError("no kernel image\nfor this device"), "no kernel image"),
    ],
)
def test_a_kernel_that_cannot_run_is_named_once(
    failing_kernel: Callable[[Exception], None],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    said: str,
) -> None:
    """Without what Triton compiles with, or on a GPU it fails on, plain torch takes over."""
    failing_kernel(error)
    for _ in range(2):
        problem = colors.kernel_problem(CPU)
        assert problem is not None
        assert said in problem
        assert "\n" not in problem
    assert capsys.readouterr().err.count("plain torch") == 1


def test_a_missing_triton_is_named(
    monkeypatch: pytest.MonkeyPatch, failing_kernel: Callable[[Exception], None]
) -> None:
    """Nothing is tried where it is not installed."""
    failing_kernel(AssertionError())
    monkeypatch.setattr(kernels.util, "find_spec", lambda _: None)
    assert colors.kernel_problem(CPU) == "no triton installed"


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_memory_that_runs_out_says_nothing_about_the_kernel(
    failing_kernel: Callable[[Exception], None], kind: type[Exception]
) -> None:
    """Whoever draws may draw fewer views; the next try asks again."""
    failing_kernel(kind("Triton Error [CUDA]: out of memory"))
    for _ in range(2):
        with pytest.raises(kind, match="out of memory"):
            colors.kernel_problem(CPU)


@pytest.mark.cuda
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize("num", [1, 700])
def test_the_kernel_gives_the_colours_of_plain_torch(
    monkeypatch: pytest.MonkeyPatch, degree: int, cut: int | None, coded: bool, num: int
) -> None:
    """More views than a program handles, Gaussians that fill no block: equal to 1e-5."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    kernel = pytest.importorskip("rap.splat.color_kernel")
    calls = []
    real = kernel.fused_colors
    monkeypatch.setattr(kernel, "fused_colors", lambda *a: calls.append(a) or real(*a))
    gaussians = make_gaussians(num, degree, torch.device("cuda"))
    poses = make_poses(11, gaussians.means.device)
    codes = torch.randn(11, 4, generator=torch.Generator().manual_seed(2)).cuda()
    arguments = (gaussians, poses, codes if coded else None, cut)
    plain = view_colors(*arguments, fused=False)
    assert not calls
    torch.testing.assert_close(view_colors(*arguments), plain, atol=1e-5, rtol=1e-5)
    assert bool(calls) == (coded or degree > 0)


@pytest.mark.cuda
def test_gradients_are_left_to_plain_torch() -> None:
    """The kernel has no backward pass, so colours that need gradients never meet it."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    gaussians = make_gaussians(20, 2, torch.device("cuda"))
    gaussians.sh.requires_grad_()
    view_colors(gaussians, make_poses(2, gaussians.means.device)).sum().backward()
    assert gaussians.sh.grad is not None
