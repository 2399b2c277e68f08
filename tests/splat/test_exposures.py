"""The exposures of the photographs beside a fitted splat."""

from dataclasses import replace
from pathlib import Path

import torch

from rap.camera import Camera
from rap.geometry import rigid
from rap.splat.appearance import Appearance, apply_exposure, identity_exposure
from rap.splat.exposures import centred, with_exposures
from rap.splat.gaussians import Gaussians, load_ply, save_ply
from rap.splat.objective import Targets
from rap.splat.render import render

CAMERA = Camera(20.0, 20.0, 8.0, 6.0, 16, 12)


def wall() -> Gaussians:
    """An opaque wall of many colours 2 m before the origin."""
    generator = torch.Generator().manual_seed(0)
    num = 600
    means = 4 * torch.rand(num, 3, generator=generator, dtype=torch.float64) - 2
    means[:, 2] = 2.0
    sh = 0.4 * torch.randn(num, 4, 3, generator=generator, dtype=torch.float64)
    sh[:, 0] += 1.0
    return Gaussians(
        means, torch.ones(num, 4).double(), torch.full((num, 3), -1.2).double(),
        torch.full((num,), 4.0).double(), sh,
    )  # fmt: skip


def viewpoints(num: int) -> torch.Tensor:
    shift = 0.1 * torch.randn(num, 3, generator=torch.Generator().manual_seed(1))
    return rigid(torch.eye(3).expand(num, 3, 3), shift).double()


def changes(num: int) -> torch.Tensor:
    """Exposures of photographs, bright and reddish on average."""
    noise = 0.05 * torch.randn(num, 3, 4, generator=torch.Generator().manual_seed(2))
    mean = torch.tensor([[1.3, 0, 0, 0.05], [0, 1.2, 0, 0.02], [0, 0, 1.1, 0]])
    return (mean + noise).double()


def test_pictures_stay_when_the_mean_exposure_moves_into_the_colours() -> None:
    """Each photograph's picture is the same before and after, and the mean of the rest is none."""
    gaussians, views, exposure = wall(), viewpoints(3), changes(3)
    new = centred(gaussians, exposure)
    assert new.appearance is not None
    torch.testing.assert_close(
        new.appearance.exposure.mean(0, keepdim=True), identity_exposure(1, exposure)
    )
    before = render(gaussians, CAMERA, views)
    assert before.alpha.min() > 0.99
    after = render(new, CAMERA, views, exposure=new.appearance.exposure)
    torch.testing.assert_close(after.rgb, apply_exposure(before.rgb, exposure), atol=5e-3, rtol=0)


def lit_wall(num: int) -> Gaussians:
    """The wall, with codes of photographs that change its colours well above black."""
    gaussians, generator = wall(), torch.Generator().manual_seed(3)
    shapes = {"codes": (num, 2), "features": (600, 2), "hidden": (2, 4), "output": (4, 12)}
    parts = {
        name: 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    parts["output"] *= 0.4
    light = Appearance(**parts, exposure=identity_exposure(num, parts["codes"]))
    return replace(gaussians, sh=0.3 * gaussians.sh, appearance=light)


def test_pictures_in_the_light_of_codes_stay_too() -> None:
    """The head follows its colours into the mean exposure; on average greys are left alone."""
    gaussians, views, exposure = lit_wall(3), viewpoints(3), changes(3)
    exposure[:, :, 3] += 0.1
    new = centred(gaussians, exposure)
    assert gaussians.appearance is not None
    assert new.appearance is not None
    codes = gaussians.appearance.codes
    dark = render(gaussians, CAMERA, views, codes=0 * codes).rgb
    before = render(gaussians, CAMERA, views, codes=codes)
    assert before.alpha.min() > 0.99
    assert (before.rgb - dark).abs().mean() > 0.03
    after = render(new, CAMERA, views, codes=codes, exposure=new.appearance.exposure)
    torch.testing.assert_close(after.rgb, apply_exposure(before.rgb, exposure), atol=5e-3, rtol=0)
    (gain, offset), (left, more) = (
        (mean[:, :3], mean[:, 3]) for mean in (exposure.mean(0), new.appearance.exposure.mean(0))
    )
    grey = gain.sum(1) * 0.4 + offset
    torch.testing.assert_close(left @ grey + more, grey)


def test_the_plain_splat_with_codes_is_as_bright_as_its_photographs() -> None:
    """Not as dark as the colours under the exposures were."""
    gaussians, views, exposure = lit_wall(4), viewpoints(4), changes(4)
    assert gaussians.appearance is not None
    dark = render(gaussians, CAMERA, views, codes=gaussians.appearance.codes).rgb
    photos = apply_exposure(dark, exposure).clamp(0, 1)
    new = with_exposures(gaussians, Targets((photos * 255).round().byte()), CAMERA, views)
    plain = render(new, CAMERA, views).rgb
    before, after = ((rgb.mean() - photos.mean()).abs() for rgb in (dark, plain))
    assert after < 0.5 * before


def test_exposures_of_photographs_are_found() -> None:
    """A splat that is darker than its photographs shows them, once it knows their exposures."""
    gaussians, views, exposure = wall(), viewpoints(4), changes(4)
    photos = apply_exposure(render(gaussians, CAMERA, views).rgb, exposure).clamp(0, 1)
    targets = Targets((photos * 255).round().byte())
    lit = with_exposures(gaussians, targets, CAMERA, views)
    assert lit.appearance is not None
    shown = render(lit, CAMERA, views, exposure=lit.appearance.exposure).rgb
    plain = render(gaussians, CAMERA, views).rgb
    assert (shown - photos).abs().mean() < 0.3 * (plain - photos).abs().mean()


def test_what_masks_hide_changes_no_exposure() -> None:
    """White painted over the masked part of each photograph changes neither colours nor light."""
    gaussians, views = wall(), viewpoints(3)
    photos = apply_exposure(render(gaussians, CAMERA, views).rgb, changes(3)).clamp(0, 1)
    images = (photos * 255).round().byte()
    masks = torch.ones(3, 12, 16, dtype=torch.bool)
    masks[:, 3:9, 4:12] = False
    painted = torch.where(masks[:, None], images, 255).byte()
    plain, found = (
        with_exposures(gaussians, Targets(shots, masks=masks), CAMERA, views)
        for shots in (images, painted)
    )
    assert plain.appearance is not None
    assert found.appearance is not None
    assert torch.equal(found.sh, plain.sh)
    assert torch.equal(found.appearance.exposure, plain.appearance.exposure)


def test_exposures_lie_beside_the_ply(tmp_path: Path) -> None:
    """Codes of no numbers are written and read like any others."""
    gaussians = wall()
    light = centred(gaussians, changes(3))
    save_ply(tmp_path / "wall.ply", light)
    found = load_ply(tmp_path / "wall.ply").appearance
    assert found is not None
    assert light.appearance is not None
    assert found.codes.shape == (3, 0)
    torch.testing.assert_close(found.exposure, light.appearance.exposure.float())
