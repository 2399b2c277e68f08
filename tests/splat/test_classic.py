"""The classic rules: screen gradients, clones and pieces within the bound, a reset that resets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rap.camera import Camera
from rap.splat import classic, density
from rap.splat.gaussians import Gaussians
from rap.splat.render import Backend, gsplat_available, render

CAMERA = Camera(40.0, 42.0, 23.0, 19.0, 48, 36)
SIZE_M = 1.0


def make_parameters(num: int, dtype: torch.dtype = torch.float32) -> density.Parameters:
    """Small opaque Gaussians three to five metres in front of a camera at the origin."""
    normal = torch.randn(num, 14, generator=torch.Generator().manual_seed(0), dtype=dtype)
    values = {
        "means": normal[:, :3] * 0.5 + torch.tensor([0.0, 0.0, 4.0], dtype=dtype),
        "quats": normal[:, 3:7].clone(),
        "log_scales": 0.1 * normal[:, 7:10] - 6.0,
        "opacity_logits": normal[:, 10].abs(),
        "sh": normal[:, None, 11:14].clone(),
    }
    return {name: nn.Parameter(value) for name, value in values.items()}


def make_optimizer(parameters: density.Parameters) -> torch.optim.Adam:
    """Adam after one step, so that every moment is non-zero."""
    groups = [{"name": name, "params": [p]} for name, p in parameters.items()]
    optimizer = torch.optim.Adam(groups, lr=1e-6, fused=True)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def assemble(parameters: density.Parameters, device: torch.device | str = "cpu") -> Gaussians:
    fields = ("means", "quats", "log_scales", "opacity_logits", "sh")
    return Gaussians(*(parameters[name] for name in fields)).to(device)


def probed(gaussians: Gaussians, poses: Tensor, backend: Backend = "auto") -> Tensor:
    """The screen gradient of a loss that weighs every pixel differently."""
    probe = torch.zeros(len(poses), gaussians.num, 2).to(gaussians.means).requires_grad_()
    rgb = render(gaussians, CAMERA, poses, probe=probe, backend=backend).rgb
    weights = torch.rand(rgb.shape, generator=torch.Generator().manual_seed(1)).to(rgb)
    (rgb * weights).mean().backward()
    assert probe.grad is not None
    return probe.grad


def test_probe_is_the_derivative_by_the_projected_means() -> None:
    """Moving a projected mean by a little changes the loss by gradient times the little."""
    parameters = make_parameters(12, torch.float64)
    with torch.no_grad():
        parameters["log_scales"].add_(4.0)
    gaussians, pose = assemble(parameters), torch.eye(4, dtype=torch.float64)[None]
    gradient = probed(gaussians, pose)
    weights = torch.rand(1, 3, 36, 48, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-5
    for index, axis in ((0, 0), (3, 1), (7, 0)):
        values = []
        for sign in (-1, 1):
            probe = torch.zeros(1, gaussians.num, 2, dtype=torch.float64)
            probe[0, index, axis] = sign * step
            with torch.no_grad():
                values.append((render(gaussians, CAMERA, pose, probe=probe).rgb * weights).mean())
        numeric = float(values[1] - values[0]) / (2 * step)
        assert float(gradient[0, index, axis]) == pytest.approx(numeric, rel=1e-3, abs=1e-9)


@pytest.mark.cuda
def test_gsplat_fills_the_probe_like_the_plain_rasteriser() -> None:
    """Both backends agree about the screen gradient, for several views."""
    if not gsplat_available()[0]:
        pytest.skip(gsplat_available()[1])
    parameters = make_parameters(200)
    with torch.no_grad():
        parameters["log_scales"].add_(3.0)
    gaussians = assemble(parameters, "cuda")
    poses = torch.eye(4, device="cuda").repeat(2, 1, 1)
    poses[1, 0, 3] = 0.3
    expected = probed(gaussians, poses, "reference")
    found = probed(gaussians, poses, "gsplat")
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


def refined(
    parameters: density.Parameters, gradient: Tensor, cap: int = 1000, *, huge: bool = False
) -> torch.optim.Adam:
    """One refinement after a view with the given mean gradients."""
    optimizer = make_optimizer(parameters)
    statistics = classic.Statistics(3 * gradient, torch.full_like(gradient, 3))
    generator = torch.Generator().manual_seed(0)
    fresh = classic.refine(
        parameters, optimizer, statistics, SIZE_M, cap, generator, remove_huge=huge
    )
    assert len(fresh.gradient) == len(fresh.count) == len(parameters["means"])
    assert not fresh.gradient.any()
    return optimizer


def test_gradients_are_of_screen_positions_from_minus_one_to_one() -> None:
    """A loss averaged over two views: each view's own gradient counts, in halves of the picture."""
    statistics = classic.no_statistics(make_parameters(3))
    gradient = torch.zeros(2, 3, 2)
    gradient[0, 0] = torch.tensor([3.0 / 48, 4.0 / 36])
    gradient[1, 0] = torch.tensor([0.0, 1.0 / 36])
    gradient[1, 2] = torch.tensor([1.0 / 48, 0.0])
    classic.observe(statistics, gradient, CAMERA)
    torch.testing.assert_close(statistics.gradient, torch.tensor([6.0, 0.0, 1.0]))
    assert statistics.count.tolist() == [2, 0, 1]


def test_small_gaussians_with_a_gradient_are_cloned() -> None:
    """A clone is equal to its source, starts without moments, and the source keeps its own."""
    parameters = make_parameters(10)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    gradient = torch.zeros(10)
    gradient[4] = 2 * classic.GROW_GRADIENT
    optimizer = refined(parameters, gradient)
    for name, parameter in parameters.items():
        assert torch.allclose(parameter[:10], before[name], atol=1e-5)
        assert torch.equal(parameter[10], parameter[4])
        moment = optimizer.state[parameter]["exp_avg_sq"]
        assert (moment[:10] > 0).all()
        assert not moment[10:].any()


def test_large_gaussians_with_a_gradient_are_split() -> None:
    """Two pieces 1.6 times smaller take its place, within its shape."""
    parameters = make_parameters(10)
    with torch.no_grad():
        parameters["log_scales"][4] = torch.tensor([-3.0, -8.0, -8.0])
        parameters["quats"][4] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    mean = parameters["means"][4].detach().clone()
    gradient = torch.zeros(10)
    gradient[4] = 2 * classic.GROW_GRADIENT
    refined(parameters, gradient)
    assert len(parameters["means"]) == 11
    pieces = parameters["log_scales"][9:]
    expected = torch.tensor([-3.0, -8.0, -8.0]) - torch.log(torch.tensor(1.6))
    torch.testing.assert_close(pieces.detach(), expected.expand(2, 3), atol=1e-4, rtol=0)
    offsets = (parameters["means"][9:] - mean).abs()
    assert (offsets[:, 0] > 1e-3).all()
    assert (offsets[:, 1:] < 5e-3).all()


@given(num=st.integers(1, 60), wanted=st.integers(0, 60), cap=st.integers(1, 80))
def test_the_bound_holds(num: int, wanted: int, cap: int) -> None:
    """Only as many are added as fit below the bound, those with the largest gradients first."""
    parameters = make_parameters(num)
    gradient = classic.GROW_GRADIENT * torch.arange(num, 0, -1) * 2
    gradient[min(wanted, num) :] = 0
    first = parameters["means"].detach().clone()
    refined(parameters, gradient, cap)
    added = max(0, min(min(wanted, num), cap - num))
    assert len(parameters["means"]) == num + added
    assert torch.allclose(parameters["means"][num:], first[:added], atol=1e-5)


def test_faint_and_huge_gaussians_are_removed() -> None:
    """Faint ones always, huge ones where it is asked for, and never all."""
    gradient = torch.zeros(10)
    for huge, left in ((False, 7), (True, 6)):
        parameters = make_parameters(10)
        with torch.no_grad():
            parameters["opacity_logits"][:3] = -8.0
            parameters["log_scales"][9, 1] = 0.0
        refined(parameters, gradient, huge=huge)
        assert len(parameters["means"]) == left
    parameters = make_parameters(4)
    with torch.no_grad():
        parameters["opacity_logits"][:] = -8.0
    refined(parameters, torch.zeros(4))
    assert len(parameters["means"]) == 4


def test_the_reset_resets() -> None:
    """All opacities end at 0.01 or below, and the optimiser has forgotten them only."""
    parameters = make_parameters(10)
    with torch.no_grad():
        parameters["opacity_logits"][0] = -7.0
    optimizer = make_optimizer(parameters)
    classic.reset_opacity(parameters, optimizer)
    opacities = parameters["opacity_logits"].detach().sigmoid()
    torch.testing.assert_close(opacities[1:], torch.full((9,), 0.01))
    assert float(opacities[0]) == pytest.approx(0.000911, rel=1e-2)
    assert not optimizer.state[parameters["opacity_logits"]]["exp_avg"].any()
    assert optimizer.state[parameters["means"]]["exp_avg"].all()


def test_resets_are_every_tenth_part_of_the_first_half() -> None:
    """3,000 to 15,000 of 30,000 as published; in a short fit there is time to recover."""
    at = [i for i in range(30_000) if classic.resets_at(i, 30_000, 100)]
    assert at == [3000, 6000, 9000, 12_000, 15_000]
    assert [i for i in range(1000) if classic.resets_at(i, 1000, 100)] == [300]
    assert [classic.was_reset(i, 1000, 100) for i in (299, 300, 301)] == [False, False, True]
