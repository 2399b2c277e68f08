"""The light of unseen photographs: it is read from the left half alone and helps on the right."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rap.camera import Camera
from rap.splat import relight
from rap.splat.appearance import Appearance, identity_exposure
from rap.splat.gaussians import Gaussians
from rap.splat.relight import read_light, score_relit
from rap.splat.render import Rendering, render

CAMERA = Camera(40.0, 40.0, 24.0, 18.0, 48, 36)
VIEWS = torch.eye(4)[None].repeat(2, 1, 1)


@pytest.fixture(scope="module")
def wall() -> Gaussians:
    """A wall of coloured Gaussians whose codes darken the upper or the lower part of it."""
    generator = torch.Generator().manual_seed(0)
    num = 900
    plane = torch.rand(num, 2, generator=generator) * torch.tensor([2.6, 2.0]) - torch.tensor(
        [1.3, 1.0]
    )
    upper = plane[:, 1] < 0
    light = Appearance(
        codes=torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]),
        features=torch.stack([upper, ~upper], dim=1).float(),
        hidden=0.5 * torch.eye(2),
        output=torch.eye(2).repeat_interleave(6, dim=1) * torch.tensor([0.8] * 3 + [0.0] * 3)
        .repeat(2),
        exposure=identity_exposure(4, plane),
    )  # fmt: skip
    return Gaussians(
        torch.cat([plane, torch.full((num, 1), 2.0)], dim=1),
        torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        torch.full((num, 3), 0.07).log(),
        torch.full((num,), 3.0),
        torch.randn(num, 1, 3, generator=generator) * 0.5,
        appearance=light,
    )


def photos_of(wall: Gaussians, codes: Float[Tensor, "v c"]) -> UInt8[Tensor, "v 3 h w"]:
    with torch.no_grad():
        rgb = render(wall, CAMERA, VIEWS, codes=codes).rgb
    return (rgb.clamp(0, 1) * 255).round().byte()


def test_light_of_unseen_photographs_is_found(wall: Gaussians) -> None:
    """What an exposure cannot explain, the code does, on the half that was not looked at."""
    photos = photos_of(wall, torch.tensor([[-1.2, 0.9], [0.8, -1.5]]))
    scores = score_relit(wall, photos, VIEWS, CAMERA)
    assert (scores.relit > scores.exposed + 5).all()
    assert scores.ssim.shape == (3, 2)
    assert (scores.ssim[2] > scores.ssim[1]).all()


def test_right_half_is_not_looked_at(wall: Gaussians) -> None:
    """Whatever it shows, the light is the same."""
    photos = photos_of(wall, torch.tensor([[-1.2, 0.9], [0.8, -1.5]]))
    covered = photos.clone()
    covered[..., 24:] = 255 - covered[..., 24:]
    light, again = (read_light(wall, images, VIEWS, CAMERA) for images in (photos, covered))
    assert light.codes is not None
    assert again.codes is not None
    assert torch.equal(light.codes, again.codes)
    assert torch.equal(light.exposure, again.exposure)


@pytest.mark.parametrize("with_codes", [True, False])
def test_masked_pixels_say_nothing_and_do_not_score(
    wall: Gaussians, monkeypatch: pytest.MonkeyPatch, with_codes: bool
) -> None:
    """Whatever is painted over them, light and scores stay as they are."""
    monkeypatch.setattr(relight, "NUM_STEPS", 3)
    plain = wall if with_codes else replace(wall, appearance=None)
    photos = photos_of(wall, torch.tensor([[-1.2, 0.9], [0.8, -1.5]]))
    masks = torch.ones(2, 36, 48, dtype=torch.bool)
    masks[:, 5:30, 10:40] = False
    painted = torch.where(masks[:, None], photos, 255)
    scores = [score_relit(plain, shown, VIEWS, CAMERA, masks) for shown in (photos, painted)]
    for one, other in zip(*scores, strict=True):
        assert torch.equal(one, other)
    unmasked = score_relit(replace(wall, appearance=None), painted, VIEWS, CAMERA)
    assert (unmasked.mean < scores[1].mean - 3).all()


def test_pictures_do_not_mind_their_company(wall: Gaussians) -> None:
    """A photograph's light is the same alone and in a batch."""
    photos = photos_of(wall, torch.tensor([[-1.2, 0.9], [0.8, -1.5]]))
    together = read_light(wall, photos, VIEWS, CAMERA)
    alone = read_light(wall, photos[1:], VIEWS[1:], CAMERA)
    torch.testing.assert_close(together.exposure[1:], alone.exposure, atol=1e-3, rtol=0)


def test_gaussians_without_appearance_get_an_exposure(wall: Gaussians) -> None:
    """No code, and the two fitted figures are one."""
    photos = photos_of(wall, torch.tensor([[-1.2, 0.9], [0.8, -1.5]]))
    plain = replace(wall, appearance=None)
    assert read_light(plain, photos, VIEWS, CAMERA).codes is None
    scores = score_relit(plain, photos, VIEWS, CAMERA)
    assert torch.equal(scores.exposed, scores.relit)


def test_memory_for_one_view_is_enough(wall: Gaussians, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores after a long fit are taken with fewer views at once."""
    photos = photos_of(wall, torch.tensor([[-1.2, 0.9], [0.8, -1.5]]))
    expected = score_relit(replace(wall, appearance=None), photos, VIEWS, CAMERA)

    def short(*args: Any, **options: Any) -> Rendering:  # noqa: ANN401 (passed on)
        if len(args[2]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return render(*args, **options)

    monkeypatch.setattr(relight, "render", short)
    scores = score_relit(replace(wall, appearance=None), photos, VIEWS, CAMERA)
    torch.testing.assert_close(scores.exposed, expected.exposed, atol=1e-3, rtol=0)
