"""Photometric augmentation: range, off position, independence of images, determinism."""

import torch

from rap.synthesis.augment import photometric


def pictures(device: torch.device, num: int = 6) -> torch.Tensor:
    """Random pictures in [0, 1]."""
    return torch.rand(num, 3, 12, 16, generator=torch.Generator().manual_seed(0)).to(device)


def seeded(device: torch.device, seed: int = 0) -> torch.Generator:
    """A generator on the device."""
    return torch.Generator(device=device).manual_seed(seed)


def test_strength_zero_changes_nothing(device: torch.device) -> None:
    """The off position is real, up to the guard against 0 to a power."""
    images = pictures(device)
    torch.testing.assert_close(photometric(images, 0.0, seeded(device)), images, atol=2e-4, rtol=0)


def test_results_stay_pictures_and_differ_between_images(device: torch.device) -> None:
    """Values stay in [0, 1]; the same picture comes out differently twice in a batch."""
    same = pictures(device, 1).expand(6, -1, -1, -1)
    drawn = photometric(same, 1.0, seeded(device))
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert drawn.shape == same.shape
    spread = drawn.mean(dim=(1, 2, 3)).std()
    assert spread > 0.02


def test_the_generator_alone_decides(device: torch.device) -> None:
    """Same seed, same pictures; another seed, others."""
    images = pictures(device)
    first = photometric(images, 1.0, seeded(device, 1))
    assert torch.equal(first, photometric(images, 1.0, seeded(device, 1)))
    assert not torch.equal(first, photometric(images, 1.0, seeded(device, 2)))


def test_content_survives(device: torch.device) -> None:
    """Full strength leaves every picture highly correlated with itself."""
    images = torch.nn.functional.interpolate(pictures(device), scale_factor=4, mode="bilinear")
    drawn = photometric(images, 1.0, seeded(device))
    for before, after in zip(images, drawn, strict=True):
        assert torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1] > 0.8
