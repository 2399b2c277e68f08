"""New appearances: mixed, scaled and jittered as promised, seeded, and off in the off position."""

from dataclasses import replace

import pytest
import torch

from rap.config import ViewsConfig
from rap.splat.appearance import Appearance
from rap.synthesis.appearances import NewAppearances, draw_appearances

PLAIN = ViewsConfig(appearance_jitter=0.0)


def light(device: torch.device, num: int = 2) -> Appearance:
    """Two photographs on either side of the mean, with exposures to match."""
    sign = torch.tensor([1.0, -1.0]).repeat(num // 2)
    gain = torch.eye(3, 4) + sign[:, None, None] * 0.1 * torch.eye(3, 4)
    codes = sign[:, None] * torch.tensor([2.0, -1.0, 0.5])
    parts = (codes, torch.ones(1, 2), torch.ones(3, 4), torch.ones(4, 12), gain)
    return Appearance(*(part.to(device) for part in parts))


def seeded(device: torch.device, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def drawn(
    device: torch.device, config: ViewsConfig, num: int = 4000, seed: int = 0
) -> NewAppearances:
    return draw_appearances(light(device), num, config, seeded(device, seed))


def test_mixtures_reach_beyond_the_photographs_and_scale_about_the_mean(
    device: torch.device,
) -> None:
    """On the line through two photographs: up to 1.6 of either, doubled; and near the mean."""
    new = drawn(device, PLAIN)
    position = new.codes[:, 0] / 2
    torch.testing.assert_close(new.codes, position[:, None] * light(device).codes[0])
    assert 3.0 < position.abs().max() <= 2 * 1.6
    assert position.abs().min() < 0.01
    assert abs(float(position.mean())) < 0.05
    single = drawn(device, replace(PLAIN, appearance_scale=1.0))
    assert 1.5 < single.codes[:, 0].abs().max() / 2 <= 1.6


def test_exposure_follows_the_code(device: torch.device) -> None:
    """Both are mixed and scaled alike: a view's light is of one piece."""
    new = drawn(device, PLAIN)
    gain = new.exposure[:, 0, 0] - 1
    torch.testing.assert_close(gain, 0.1 * new.codes[:, 0] / 2, atol=1e-5, rtol=0)
    assert (new.exposure[:, :, 3] == 0).all()


def test_jitter_leaves_the_line(device: torch.device) -> None:
    """Codes move by the given share of their spread in every direction."""
    config = ViewsConfig(appearance_jitter=0.2, appearance_scale=1.0)
    jittered, plain = drawn(device, config), drawn(device, replace(config, appearance_jitter=0.0))
    shift = (jittered.codes - plain.codes) / torch.tensor([2.0, 1.0, 0.5], device=device)
    # 0.2 times the root mean square of a scale uniform in [0, 1]
    torch.testing.assert_close(
        shift.square().mean(0).sqrt().cpu(), torch.full((3,), 0.2 / 3**0.5), atol=0.01, rtol=0
    )
    assert torch.equal(jittered.exposure, plain.exposure)


def test_scale_zero_is_the_mean_appearance(device: torch.device) -> None:
    """The switch's off position, to the bit."""
    new = drawn(device, ViewsConfig(appearance_scale=0.0), num=50)
    assert (new.codes == 0).all()
    assert torch.equal(new.exposure.cpu(), torch.eye(3, 4).repeat(50, 1, 1))


def test_seed_decides(device: torch.device) -> None:
    """The same generator draws the same light."""
    a, b = drawn(device, PLAIN, seed=1), drawn(device, PLAIN, seed=1)
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.exposure, b.exposure)
    assert not torch.equal(a.codes, drawn(device, PLAIN, seed=2).codes)


def test_one_photograph_is_enough() -> None:
    """Nothing to mix, but it can be scaled."""
    one = light(torch.device("cpu"))
    one = Appearance(one.codes[:1], one.features, one.hidden, one.output, one.exposure[:1])
    new = draw_appearances(one, 5, PLAIN, seeded(torch.device("cpu")))
    assert new.codes.isfinite().all()


@pytest.mark.cuda
def test_host_is_not_waited_for() -> None:
    """Drawing light is queued like any kernel."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    appearance, generator = light(device), seeded(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        draw_appearances(appearance, 64, ViewsConfig(), generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
