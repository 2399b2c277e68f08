"""MCMC densification: pictures stay, counts stay below the cap, moments follow their Gaussians."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rap import geometry
from rap.camera import Camera
from rap.splat import density
from rap.splat.gaussians import Gaussians
from rap.splat.render import render

CAMERA = Camera(40.0, 40.0, 24.0, 18.0, 48, 36)


def make_parameters(num: int, seed: int = 0, device: str = "cpu") -> density.Parameters:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(num, 14, generator=generator).to(device)
    return {
        "means": nn.Parameter(normal[:, :3] + torch.tensor([0.0, 0.0, 4.0], device=device)),
        "quats": nn.Parameter(normal[:, 3:7].clone()),
        "log_scales": nn.Parameter(0.3 * normal[:, 7:10] - 1.5),
        "opacity_logits": nn.Parameter(normal[:, 10].clone()),
        "sh": nn.Parameter(normal[:, None, 11:14].clone()),
    }


def make_optimizer(parameters: density.Parameters) -> torch.optim.Adam:
    """Adam after one step, so that every moment is non-zero."""
    groups = [{"name": name, "params": [p]} for name, p in parameters.items()]
    optimizer = torch.optim.Adam(groups, lr=1e-3, fused=True)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def picture(parameters: density.Parameters) -> torch.Tensor:
    with torch.no_grad():
        pose = torch.eye(4, device=parameters["means"].device)[None]
        fields = ("means", "quats", "log_scales", "opacity_logits", "sh")
        gaussians = Gaussians(*(parameters[name] for name in fields))
        return render(gaussians, CAMERA, pose).rgb


@given(opacity=st.floats(0.01, 0.999), copies=st.integers(1, 51))
def test_split_keeps_the_light_along_the_centre(opacity: float, copies: int) -> None:
    """N copies let as much light through the common centre as the one they replace."""
    new, _ = density.split_evenly(
        torch.tensor([opacity], dtype=torch.float64),
        torch.ones(1, 3, dtype=torch.float64),
        torch.tensor([copies]),
    )
    # faint copies are held at the smallest opacity that is not dead
    expected = max(1 - (1 - opacity) ** (1 / copies), density.MIN_OPACITY)
    assert float(new) == pytest.approx(expected, rel=1e-9)


@given(opacity=st.floats(0.3, 0.999), copies=st.integers(1, 51))
def test_split_keeps_the_absorbed_light(opacity: float, copies: int) -> None:
    """Along a line through the centre, the integral of the blended alpha stays what it was.

    This is what equation 9 solves for; here the integral is taken numerically.
    """
    new, scales = density.split_evenly(
        torch.tensor([opacity], dtype=torch.float64),
        torch.ones(1, 3, dtype=torch.float64),
        torch.tensor([copies]),
    )
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    before = opacity * torch.exp(-0.5 * x**2)
    each = float(new) * torch.exp(-0.5 * (x / float(scales[0, 0])) ** 2)
    after = 1 - (1 - each) ** copies
    assert float(after.sum() / before.sum()) == pytest.approx(1, abs=1e-6)


def test_one_copy_changes_nothing() -> None:
    """N = 1 is the identity."""
    opacities, scales = torch.rand(9) * 0.9 + 0.05, torch.rand(9, 3)
    new, new_scales = density.split_evenly(opacities, scales, torch.ones(9, dtype=torch.int64))
    torch.testing.assert_close((new, new_scales), (opacities, scales))


@given(seed=st.integers(0, 100))
def test_relocation_moves_the_dead_and_keeps_the_picture(seed: int) -> None:
    """Dead Gaussians end on live ones, whose look they share from then on."""
    parameters = make_parameters(60, seed)
    with torch.no_grad():
        parameters["opacity_logits"][:20] = -8.0
    before = picture(parameters)
    optimizer = make_optimizer(parameters)
    generator = torch.Generator().manual_seed(seed)
    assert density.relocate(parameters, optimizer, generator) == 20
    assert parameters["opacity_logits"].sigmoid().min() >= 0.99 * density.MIN_OPACITY
    places = parameters["means"][20:]
    assert all((places == mean).all(1).any() for mean in parameters["means"][:20])
    assert (picture(parameters) - before).square().mean() < 1e-3


def test_relocation_forgets_the_moments_of_what_moved(device: torch.device) -> None:
    """Adam starts afresh for dead and copied Gaussians, and remembers the others."""
    parameters = make_parameters(60, device=str(device))
    optimizer = make_optimizer(parameters)
    with torch.no_grad():
        parameters["opacity_logits"][:5] = -8.0
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    density.relocate(parameters, optimizer, torch.Generator(device).manual_seed(0))
    changed = parameters["opacity_logits"] != kept["opacity_logits"]
    assert 6 <= int(changed.sum()) <= 10
    for parameter in parameters.values():
        moment = optimizer.state[parameter]["exp_avg_sq"]
        assert torch.equal(
            (moment == 0).flatten(1).all(1) if moment.ndim > 1 else moment == 0, changed
        )


@pytest.mark.parametrize("dead", [0, 60])
def test_relocation_without_dead_or_without_live_does_nothing(dead: int) -> None:
    """There is nothing to move, or nowhere to move it."""
    parameters = make_parameters(60)
    with torch.no_grad():
        parameters["opacity_logits"][:dead] = -8.0
    optimizer = make_optimizer(parameters)
    assert density.relocate(parameters, optimizer, torch.Generator()) == 0


@given(num=st.integers(1, 200), cap=st.integers(1, 220), seed=st.integers(0, 100))
def test_growth_ends_at_the_cap(num: int, cap: int, seed: int) -> None:
    """Never more than 5 % at once, never above the cap, and never fewer than before."""
    parameters = make_parameters(num, seed)
    optimizer = make_optimizer(parameters)
    generator = torch.Generator().manual_seed(seed)
    added = density.grow(parameters, optimizer, cap, generator)
    assert added == max(0, min(cap, math.floor(1.05 * num)) - num)
    assert {len(p) for p in parameters.values()} == {num + added}


def test_growth_keeps_the_picture_and_training_goes_on(device: torch.device) -> None:
    """New Gaussians look like what they were split from, and the optimiser moves all of them."""
    parameters = make_parameters(100, device=str(device))
    optimizer = make_optimizer(parameters)
    before = picture(parameters)
    generator = torch.Generator(device).manual_seed(0)
    assert density.grow(parameters, optimizer, 1000, generator) == 5
    assert (picture(parameters) - before).square().mean() < 5e-5
    kept = parameters["means"].detach().clone()
    parameters["means"].grad = torch.ones_like(kept)
    optimizer.step()
    assert (parameters["means"] != kept).all()


def test_noise_moves_faint_gaussians_inside_their_shape(device: torch.device) -> None:
    """A faint flat disc moves within its plane, an opaque one hardly at all."""
    parameters = make_parameters(2000, device=str(device))
    with torch.no_grad():
        parameters["log_scales"][:] = torch.tensor([0.0, 0.0, -9.0])
        parameters["quats"][:] = torch.tensor([1.0, 0.0, 0.0, 0.0])
        parameters["opacity_logits"][:1000] = -7.0
        parameters["opacity_logits"][1000:] = 3.0
    before = parameters["means"].detach().clone()
    density.explore(parameters, 0.1, torch.Generator(device).manual_seed(0))
    step = (parameters["means"].detach() - before).abs()
    assert 0.02 < float(step[:1000, :2].mean()) < 0.1
    assert float(step[:1000, 2].max()) < 1e-6
    assert float(step[1000:].max()) < 1e-6


def test_same_seed_same_result() -> None:
    """Every draw comes from the generator that is passed in."""
    results = []
    for _ in range(2):
        parameters = make_parameters(50)
        with torch.no_grad():
            parameters["opacity_logits"][:20] = -8.0
        optimizer, generator = make_optimizer(parameters), torch.Generator().manual_seed(3)
        density.relocate(parameters, optimizer, generator)
        density.grow(parameters, optimizer, 60, generator)
        density.explore(parameters, 1.0, generator)
        results.append(torch.cat([p.detach().flatten() for p in parameters.values()]))
    assert torch.equal(*results)


def test_noise_is_that_of_the_covariance(device: torch.device) -> None:
    """Equation 8 written out: covariance times a normal draw, gate and strength."""
    parameters = make_parameters(50, device=str(device))
    with torch.no_grad():
        parameters["opacity_logits"][:] = torch.linspace(-9, -4, 50)
    before = parameters["means"].detach().clone()
    density.explore(parameters, 0.7, torch.Generator(device).manual_seed(5))
    generator = torch.Generator(device).manual_seed(5)
    noise = torch.randn(50, 3, generator=generator, device=device)
    rotation = geometry.rotation_from_quaternion(parameters["quats"].detach())
    factor = rotation * parameters["log_scales"].detach().exp()[:, None]
    opacities = parameters["opacity_logits"].detach().sigmoid()
    gate = torch.sigmoid(100 * (0.005 - opacities))
    expected = 0.7 * gate[:, None] * (factor @ factor.mT @ noise[:, :, None]).squeeze(2)
    torch.testing.assert_close(
        parameters["means"].detach() - before, expected, rtol=1e-3, atol=1e-6
    )
