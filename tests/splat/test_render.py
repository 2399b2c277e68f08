"""Rendering: backgrounds, depth, harmonics, the choice of backend, and gsplat's agreement."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rap import geometry
from rap.camera import Camera
from rap.splat import harmonics
from rap.splat.colors import view_colors
from rap.splat.gaussians import Gaussians
from rap.splat.render import BackendError, Rendering, gsplat_available, render

CAMERA = Camera(40.0, 41.0, 23.0, 19.0, 48, 36)
FIELDS = ("means", "quats", "log_scales", "opacity_logits", "sh")


def make_gaussians(num: int, degree: int = 2, seed: int = 0) -> Gaussians:
    """Between 1.5 and 6 m in front of the cameras of `make_poses`, a few beside and behind."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(num, 3, generator=generator) * 6 - 3
    means[:, 2] = means[:, 2].abs() * 1.5 + 1.5
    means[: num // 20, 2] *= -1
    normal = torch.randn(num, 11 + 3 * (degree + 1) ** 2, generator=generator)
    return Gaussians(
        means=means,
        quats=normal[:, :4],
        log_scales=0.4 * normal[:, 4:7] - 2.3,
        opacity_logits=1.5 * normal[:, 7],
        sh=0.3 * normal[:, 11:].unflatten(1, (-1, 3)),
    )


def make_poses(num: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = geometry.random_rotations_within(num, 15.0, generator)
    return geometry.rigid(rotation, 0.3 * torch.randn(num, 3, generator=generator))


def test_background_fills_what_is_transparent(device: torch.device) -> None:
    """The picture over a colour is the picture over black plus (1 - alpha) of that colour."""
    gaussians, poses = make_gaussians(50).to(device), make_poses(2).to(device)
    background = torch.tensor([0.2, 0.5, 0.9])
    black = render(gaussians, CAMERA, poses)
    filled = render(gaussians, CAMERA, poses, background=background)
    expected = black.rgb + (1 - black.alpha)[:, None] * background.to(device).view(1, 3, 1, 1)
    torch.testing.assert_close(filled.rgb, expected)
    assert (filled.rgb - black.rgb).max() > 0.5


def test_depth_of_an_opaque_gaussian_is_its_z(device: torch.device) -> None:
    """Expected depth is accumulated depth over alpha, and 0 where nothing is seen."""
    gaussians = Gaussians(
        torch.tensor([[0.1, 0.2, 3.0]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), -1.5),
        torch.tensor([5.0]),
        torch.zeros(1, 1, 3),
    ).to(device)
    shown = render(gaussians, CAMERA, torch.eye(4, device=device)[None], with_depth=True)
    assert shown.depth is not None
    seen = shown.alpha > 0
    expected = torch.full_like(shown.depth[seen], 3.0)
    torch.testing.assert_close(shown.depth[seen], expected, rtol=0, atol=1e-4)
    assert torch.equal(shown.depth[~seen], torch.zeros_like(shown.depth[~seen]))


def test_depth_is_left_out_unless_asked_for(device: torch.device) -> None:
    """Without `with_depth` there is none."""
    assert render(make_gaussians(5).to(device), CAMERA, make_poses(1).to(device)).depth is None


def test_non_contiguous_inputs_draw_the_same(device: torch.device) -> None:
    """Views of larger tensors are as good as copies."""
    gaussians, poses = make_gaussians(40).to(device), make_poses(2).to(device)
    strided = Gaussians(
        *(getattr(gaussians, field).repeat_interleave(2, dim=0)[::2] for field in FIELDS)
    )
    transposed = poses.mT.contiguous().mT
    torch.testing.assert_close(
        render(strided, CAMERA, transposed).rgb, render(gaussians, CAMERA, poses).rgb
    )


def test_base_colour_is_the_picture_of_degree_zero(device: torch.device) -> None:
    """Higher coefficients of zero change nothing, whatever path degree 0 takes."""
    gaussians, poses = make_gaussians(40).to(device), make_poses(2).to(device)
    base = gaussians.sh[:, :1]
    padded = torch.cat([base, torch.zeros_like(gaussians.sh[:, 1:])], dim=1)
    plain, full = (
        Gaussians(gaussians.means, gaussians.quats, gaussians.log_scales,
                  gaussians.opacity_logits, sh)
        for sh in (base, padded)
    )  # fmt: skip
    torch.testing.assert_close(render(plain, CAMERA, poses).rgb, render(full, CAMERA, poses).rgb)


@pytest.mark.parametrize("antialiased", [True, False])
def test_gaussians_are_drawn_as_they_were_fitted(device: torch.device, antialiased: bool) -> None:
    """Unless told otherwise; small Gaussians look much heavier without the compensation."""
    gaussians = make_gaussians(50)
    gaussians = replace(gaussians, log_scales=gaussians.log_scales - 2, antialiased=antialiased).to(
        device
    )
    poses = make_poses(1).to(device)
    own = render(gaussians, CAMERA, poses).alpha
    assert torch.equal(own, render(gaussians, CAMERA, poses, antialiased=antialiased).alpha)
    assert not torch.equal(own, render(gaussians, CAMERA, poses, antialiased=not antialiased).alpha)


def test_no_gaussians_are_refused() -> None:
    """An empty splat is an error, not a black picture."""
    with pytest.raises(ValueError, match="no Gaussians"):
        render(make_gaussians(0), CAMERA, make_poses(1))


def test_gsplat_without_cuda_says_why() -> None:
    """Asking for gsplat by name where it cannot run gives the reason."""
    if torch.cuda.is_available():
        pytest.skip("needs a machine without an NVIDIA GPU")
    assert gsplat_available() == (False, "torch sees no CUDA device")
    with pytest.raises(BackendError, match="torch sees no CUDA device"):
        render(make_gaussians(3), CAMERA, make_poses(1), backend="gsplat")


def test_importing_leaves_gsplat_alone() -> None:
    """Its import compiles for minutes where there is an nvcc, so the CPU path does without."""
    code = (
        "import sys, torch; from rap.splat import fit, quality, render, sheet; "
        "assert not {'gsplat', 'fused_ssim', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_harmonics_are_orthonormal() -> None:
    """Integrals of products over the sphere form the identity, to quadrature error."""
    generator = torch.Generator().manual_seed(0)
    # antipodal, axis-permuted and reflected samples cancel most of the Monte Carlo error
    points = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    points = torch.cat([points.roll(shift, 1) * sign for shift in range(3) for sign in (1, -1)])
    points = torch.cat([points * torch.tensor([1.0, s, 1.0]) for s in (1, -1)])
    values = harmonics.basis(torch.nn.functional.normalize(points, dim=-1), 3)
    gram = 4 * math.pi * values.mT @ values / len(values)
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=0.03, rtol=0)


def test_harmonics_have_the_signs_and_order_of_3dgs() -> None:
    """Values at (2, 3, 6) / 7 from 3DGS's polynomials with their decimal constants."""
    direction = torch.tensor([2.0, 3.0, 6.0], dtype=torch.float64) / 7
    expected = [
        0.2820948, -0.2094011, 0.4188022, -0.1396007,
        0.1337814, -0.4013443, 0.3797572, -0.2675629, -0.0557423,
        -0.0154822, 0.3033878, -0.5236706, 0.2154196, -0.3491137, -0.1264116, 0.0791312,
    ]  # fmt: skip
    values = harmonics.basis(direction, 3)
    assert values.tolist() == pytest.approx(expected, abs=1e-6)


def test_colours_are_never_negative() -> None:
    """The colour is clamped at 0, as gsplat does."""
    colors = view_colors(make_gaussians(200, degree=3), make_poses(3))
    assert colors.shape == (3, 200, 3)
    assert colors.min() == 0


@pytest.fixture
def gsplat_device() -> torch.device:
    """The GPU, where gsplat draws."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    usable, reason = gsplat_available()
    if not usable:
        pytest.skip(reason)
    return torch.device("cuda")


def psnr(a: Tensor, b: Tensor, peak: float = 1.0) -> float:
    return 10 * math.log10(peak**2 / max(float((a - b).detach().square().mean()), 1e-20))


def draw_both(
    device: torch.device, seed: int, antialiased: bool, background: Tensor | None, degree: int = 2
) -> dict[str, tuple[Gaussians, Rendering]]:
    drawn = {}
    for backend in ("gsplat", "reference"):
        gaussians = make_gaussians(2000, degree, seed).to(device)
        for field in FIELDS:
            getattr(gaussians, field).requires_grad_()
        rendering = render(
            gaussians, CAMERA.resized(192, 144), make_poses(3, seed).to(device),
            background=background, antialiased=antialiased, with_depth=True, backend=backend,
        )  # fmt: skip
        drawn[backend] = (gaussians, rendering)
    return drawn


@pytest.mark.cuda
@pytest.mark.parametrize("background", [None, torch.tensor([0.9, 0.1, 0.4])], ids=["black", "red"])
@pytest.mark.parametrize("antialiased", [True, False], ids=["antialiased", "classic"])
@pytest.mark.parametrize("seed", [0, 1])
def test_gsplat_draws_the_picture_of_the_plain_rasteriser(
    gsplat_device: torch.device, seed: int, antialiased: bool, background: Tensor | None
) -> None:
    """Colour, alpha and accumulated depth of random scenes agree to at least 50 dB."""
    drawn = draw_both(gsplat_device, seed, antialiased, background)
    fast, plain = drawn["gsplat"][1], drawn["reference"][1]
    assert fast.depth is not None
    assert plain.depth is not None
    assert plain.alpha.mean() > 0.3
    assert psnr(fast.rgb, plain.rgb) >= 50
    assert psnr(fast.alpha, plain.alpha) >= 50
    # expected depth jumps to 0 where a faint pixel falls below alpha 1/255, accumulated does not
    depths = (fast.depth * fast.alpha, plain.depth * plain.alpha)
    assert psnr(*depths, peak=float(plain.depth.detach().max())) >= 50
    solid = (fast.alpha > 0.2) & (plain.alpha > 0.2)
    assert psnr(fast.depth[solid], plain.depth[solid], peak=float(plain.depth.detach().max())) >= 50


@pytest.mark.cuda
@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("antialiased", [True, False], ids=["antialiased", "classic"])
def test_gsplat_gives_the_gradients_of_the_plain_rasteriser(
    gsplat_device: torch.device, antialiased: bool, degree: int
) -> None:
    """Gradients of a random functional of colour, alpha and depth point the same way."""
    background = torch.tensor([0.3, 0.6, 0.1])
    drawn = draw_both(gsplat_device, 2, antialiased, background, degree)
    generator = torch.Generator(gsplat_device).manual_seed(0)
    weights = torch.randn(5, *drawn["gsplat"][1].alpha.shape, device=gsplat_device,
                          generator=generator)  # fmt: skip
    gradients = {}
    for backend, (gaussians, rendering) in drawn.items():
        assert rendering.depth is not None
        maps = [*rendering.rgb.unbind(1), rendering.alpha, rendering.depth * rendering.alpha]
        loss = (torch.stack(maps) * weights).sum()
        leaves = [getattr(gaussians, field) for field in FIELDS]
        gradients[backend] = torch.autograd.grad(loss, leaves)
    for field, fast, plain in zip(FIELDS, gradients["gsplat"], gradients["reference"], strict=True):
        cosine = torch.nn.functional.cosine_similarity(fast.flatten(), plain.flatten(), dim=0)
        assert cosine >= 0.999, field
        assert float(fast.norm() / plain.norm()) == pytest.approx(1, abs=0.01), field


@pytest.mark.cuda
def test_auto_takes_gsplat_on_the_gpu(gsplat_device: torch.device) -> None:
    """The default draws bit for bit what gsplat draws."""
    gaussians, poses = make_gaussians(500).to(gsplat_device), make_poses(2).to(gsplat_device)
    auto = render(gaussians, CAMERA, poses).rgb
    assert torch.equal(auto, render(gaussians, CAMERA, poses, backend="gsplat").rgb)
    assert not torch.equal(auto, render(gaussians, CAMERA, poses, backend="reference").rgb)
