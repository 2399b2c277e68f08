"""The discriminator scores patches of any size, each sample by itself."""

import pytest
import torch

from rap.model.discriminator import Discriminator, build_discriminator


@pytest.mark.parametrize(
    ("height", "width", "patches"), [(30, 53, 15 * 27), (7, 8, 4 * 4), (1, 1, 1)]
)
def test_any_size_has_one_score_per_patch(height: int, width: int, patches: int) -> None:
    """No layer is tied to a resolution: stride 2, rounded up."""
    scores = build_discriminator(6, seed=0)(torch.randn(2, 6, height, width))
    assert scores.shape == (2, patches)


def test_samples_do_not_influence_each_other() -> None:
    """Photographs and renderings in one batch score as they do apart."""
    net = build_discriminator(6, seed=0).eval()
    features = torch.randn(3, 6, 8, 9)
    each = torch.cat([net(sample[None]) for sample in features])
    torch.testing.assert_close(net(features), each)


def test_same_seed_gives_the_same_network_and_leaves_the_global_state() -> None:
    """Initial weights depend on the seed alone, and nothing else on them."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a, b, c = (build_discriminator(6, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_it_learns_to_tell_two_domains_apart(device: torch.device) -> None:
    """A few LSGAN steps bring photographs' scores above those of renderings."""
    net: Discriminator = build_discriminator(8, seed=0).to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    torch.manual_seed(0)
    real = torch.randn(8, 8, 8, 8, device=device)
    rendered = torch.nn.functional.avg_pool2d(real, 3, stride=1, padding=1)
    for _ in range(40):
        loss = (net(real) - 1).square().mean() + net(rendered).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())
        optimiser.step()
    net.eval()
    assert net(real).mean() > net(rendered).mean() + 0.1
