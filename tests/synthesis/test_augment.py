"""Photometric augmentation: range, off position, independence of images, determinism."""

import pytest
import torch

from rap.config import TrainConfig
from rap.synthesis.augment import Part, augmented, optics, photometric


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


def test_corners_darken_and_the_centre_does_not(device: torch.device) -> None:
    """Light falls with the squared distance, by another share in each image."""
    white = torch.ones(200, 3, 13, 17, device=device)
    drawn = optics(white, 0.4, 0.0, seeded(device))
    assert torch.equal(drawn[:, :, 6, 8], white[:, :, 6, 8])
    loss = 1 - drawn[:, 0, 0, 0]
    assert 0 <= loss.min() < 0.02
    assert 0.38 < loss.max() <= 0.4 + 1e-6
    torch.testing.assert_close(1 - drawn[:, 0, 12, 16], loss)
    # halfway to the right edge of a 17x13 picture
    share = 0.25 * 17**2 / (17**2 + 13**2)
    torch.testing.assert_close(1 - drawn[:, 0, 6, 12], share * loss, atol=1e-6, rtol=1e-4)


def test_blur_keeps_light_and_spreads_it_as_a_gaussian(device: torch.device) -> None:
    """A point becomes a bell of the drawn width; even grey stays even to the border."""
    point = torch.zeros(300, 3, 31, 41, device=device)
    point[:, :, 15, 20] = 1
    drawn = optics(point, 0.0, 2.0, seeded(device)).double()
    assert (drawn.sum((2, 3)) - 1).abs().max() < 1e-4
    offset = torch.arange(41, device=device) - 20
    deviation = (drawn[:, 0].sum(1) * offset.square()).sum(1).sqrt()
    assert deviation.min() < 0.3
    assert 1.9 < deviation.max() < 2.05
    assert abs(float(deviation.mean()) - 1) < 0.15
    grey = torch.full((4, 3, 9, 9), 0.3, device=device)
    torch.testing.assert_close(optics(grey, 0.0, 3.0, seeded(device)), grey)


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(augment=0.5), TrainConfig(augment_vignette=0.5),
        TrainConfig(augment_blur_px=0.5),
    ],
)  # fmt: skip
def test_every_part_has_a_switch(device: torch.device, config: TrainConfig) -> None:
    """Off, the images are the very same; on, they change, by the generator's draws alone."""
    images = pictures(device)
    assert augmented(images, TrainConfig(), seeded(device)) is images
    once = augmented(images, config, seeded(device))
    assert not torch.equal(once, images)
    assert torch.equal(once, augmented(images, config, seeded(device)))
    assert not torch.equal(once, augmented(images, config, seeded(device, 1)))


def test_without_a_lens_nothing_is_drawn_for_it(device: torch.device) -> None:
    """Runs with `augment` alone are what they were."""
    images = pictures(device)
    assert torch.equal(
        augmented(images, TrainConfig(augment=1.0), seeded(device)),
        photometric(images, 1.0, seeded(device)),
    )


def test_images_of_a_part_get_what_they_get_in_the_whole(device: torch.device) -> None:
    """Each rank of several augments its images as a single process would, to the bit."""
    config = TrainConfig(augment=1.0, augment_vignette=0.5, augment_blur_px=1.0)
    images = pictures(device)
    whole = augmented(images, config, seeded(device))
    for rows in ([0, 1, 4], [2, 3, 5]):
        part = Part(6, torch.tensor(rows, device=device))
        found = augmented(images[rows], config, seeded(device), part)
        torch.testing.assert_close(found, whole[rows], rtol=1e-6, atol=1e-6)
        if device.type == "cpu":
            assert torch.equal(found, whole[rows])


@pytest.mark.cuda
def test_host_is_not_waited_for() -> None:
    """Augmentation is queued like any kernel."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    images, generator = pictures(device), seeded(device)
    config = TrainConfig(augment=1.0, augment_vignette=0.5, augment_blur_px=2.0)
    augmented(images, config, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        augmented(images, config, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
