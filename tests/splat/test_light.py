"""What a fit learns about light: it is centred, dropped now and then, held back, and settles."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rap.config import FitConfig
from rap.splat.appearance import Appearance, color_affine, identity_exposure
from rap.splat.initial import adam
from rap.splat.light import (
    appearance_of,
    initial_features,
    initial_light,
    learning_rates,
    penalty,
    set_learning_rates,
    shown,
)

CONFIG = FitConfig(appearance_dim=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learnt() -> Appearance:
    """An appearance as it might stand somewhere in a fit of six photographs."""
    light = initial_light(6, CONFIG, generator())
    with torch.no_grad():
        for parameter in light.values():
            parameter += torch.randn(parameter.shape, generator=generator(1))
    return appearance_of(light, torch.rand(10, 16, generator=generator()))


def test_a_fit_starts_with_the_plain_colours() -> None:
    """Codes differ from the start, but the head does nothing yet, and exposures are none."""
    light = initial_light(6, CONFIG, generator())
    start = appearance_of(light, torch.rand(10, 16, generator=generator()))
    assert (color_affine(start, start.codes) == 0).all()
    assert torch.equal(start.exposure, identity_exposure(6, start.exposure))
    assert start.codes.std() > 0.1
    assert initial_light(6, FitConfig(), generator()) == {}


def test_codes_and_exposures_are_centred_whatever_was_learnt() -> None:
    """So the plain colours stay the mean appearance."""
    light = learnt()
    torch.testing.assert_close(light.codes.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(light.exposure.mean(0), torch.eye(3, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dropout", "own"), [(0.0, 1.0), (1.0, 0.0), (0.25, 0.75)])
def test_dropout_shows_the_mean_appearance(dropout: float, own: float) -> None:
    """Code and exposure go together, for about the share that is asked for."""
    light = learnt()
    chosen = torch.arange(6).repeat(200)
    how = shown(light, chosen, dropout, generator())
    assert how.codes is not None
    assert how.exposure is not None
    kept = (how.codes == light.codes[chosen]).all(1)
    assert abs(float(kept.float().mean()) - own) < 0.05
    assert (how.codes[~kept] == 0).all()
    assert torch.equal(how.exposure[kept], light.exposure[chosen[kept]])
    assert torch.equal(how.exposure[~kept], torch.eye(3, 4).expand(int((~kept).sum()), -1, -1))


def test_penalty_pulls_towards_doing_nothing() -> None:
    """It is zero there, and its gradient points back from elsewhere."""
    light = initial_light(6, CONFIG, generator())
    features = torch.rand(10, 16, generator=generator())
    with torch.no_grad():
        light["codes"].zero_()
    assert penalty(appearance_of(light, features)) == 0
    assert penalty(learnt()) > 0.5


def test_rates_settle_and_leave_other_groups_alone() -> None:
    """From the given rate to a fiftieth of it; the Gaussians' own groups keep theirs."""
    names = [*learning_rates(CONFIG), "quats"]
    groups = [{"name": name, "params": [nn.Parameter(torch.ones(1))]} for name in names]
    optimizer = torch.optim.Adam(groups, lr=0.5)
    set_learning_rates(optimizer, CONFIG, 0.0)
    start = {group["name"]: group["lr"] for group in optimizer.param_groups}
    set_learning_rates(optimizer, CONFIG, 1.0)
    end = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert start.pop("quats") == end.pop("quats") == 0.5
    assert start == learning_rates(CONFIG)
    assert end == pytest.approx({name: 0.02 * rate for name, rate in start.items()})


def test_rates_grow_with_the_root_of_the_images_in_a_step() -> None:
    """As the optimiser starts: the first step changes no rate of the light, for any number."""
    config = replace(CONFIG, images_per_step=4)
    light = initial_light(6, config, generator())
    optimizer = adam({"features": nn.Parameter(torch.ones(3, 16))}, light, config)
    before = {group["name"]: group["lr"] for group in optimizer.param_groups}
    set_learning_rates(optimizer, config, 0.0)
    after = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert after == pytest.approx(before)
    assert after == pytest.approx({name: 2 * r for name, r in learning_rates(CONFIG).items()})


def test_neighbours_start_with_alike_features() -> None:
    """Light falls smoothly: features a centimetre apart differ little, across the scene much."""
    place = torch.zeros(3, 3)
    place[1, 0], place[2, 0] = 0.01, 3.0
    here, near, far = initial_features(place, 1.0, generator())
    assert (here - near).norm() < 0.1 * (here - far).norm()
    assert here[0] == near[0] == far[0] == 1
