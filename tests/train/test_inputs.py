"""What steps are given: a frozen trunk's features, cached or not, are those of the images."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from rap.camera import Camera
from rap.config import BatchNorm, Config, LossWeights, ViewsConfig
from rap.model.regressor import Regressor, build_regressor
from rap.scene import Scene
from rap.splat.gaussians import Gaussians
from rap.synthesis.drawing import Shots
from rap.train import banks
from rap.train import inputs as module
from rap.train.banks import Material, draw_views, prepare
from rap.train.batches import Batch, epoch_indices
from rap.train.footprint import image_counts
from rap.train.inputs import Inputs, trunk_features

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """Frozen from the second of four epochs on; views of two epochs; photographs, renderings."""
    return replace(
        tiny_config,
        model=replace(tiny_config.model, rotation_level=4, drop_connect=0.5),
        views=replace(tiny_config.views, refresh_epochs=2, per_image=2),
        weights=LossWeights(pose=1.0, rendered=1.0, view=1.0),
        train=replace(tiny_config.train, epochs=4, freeze_after=0.25),
    )


def blank(
    _: Gaussians, camera: Camera, shots: Shots, config: ViewsConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Black pictures: which ones a step takes does not depend on what they show."""
    num = len(shots.world_from_camera)
    return torch.zeros(num, 3, camera.height, camera.width, dtype=torch.uint8), torch.ones(num)


def set_train(config: Config, **changes: Any) -> Config:  # noqa: ANN401 (any field)
    """The same configuration with other training settings."""
    return replace(config, train=replace(config.train, **changes))


@pytest.fixture
def material(tiny_scene: Scene, tiny_splat: Gaussians, config: Config) -> Material:
    """Eight photographs and what is made of them, with views of the first epoch."""
    found = prepare(tiny_scene, tiny_splat, config, CPU)
    draw_views(found, config, 0)
    return found


@pytest.fixture
def regressor(config: Config) -> Regressor:
    """In training mode, with statistics of its own in BatchNorm."""
    built = build_regressor(config.model, 3).train()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        built(torch.rand(4, 3, 48, 64, generator=generator))
    return built


def given(inputs: Inputs, epoch: int) -> list[Batch]:
    """All batches of an epoch."""
    return list(inputs.of_epoch(epoch, epoch_indices(8, 4, 1, epoch)))


def test_a_trunk_that_learns_gets_images(
    regressor: Regressor, material: Material, config: Config
) -> None:
    """Before it is frozen, and in all epochs by default."""
    for epoch, settings in ((0, config), (3, set_train(config, freeze_after=1.0))):
        batches = given(Inputs(regressor, material, settings), epoch)
        assert {batch.images.shape for batch in batches} == {(16, 3, 48, 64)}
        assert not any(batch.are_features for batch in batches)


@pytest.mark.parametrize("height", [48, 24])
def test_cached_features_are_those_computed_in_each_step(
    regressor: Regressor, material: Material, config: Config, height: int
) -> None:
    """Photographs, renderings and views, in order, with their poses; small images, too."""
    config = set_train(config, low_resolution_share=0.5, low_resolution_height=height)
    plain = given(Inputs(regressor, material, config), 1)
    cached = given(Inputs(regressor, material, set_train(config, cached_features=True)), 1)
    for a, b in zip(plain, cached, strict=True):
        assert a.sizes == b.sizes == {"pose": 4, "rendered": 4, "view": 8}
        assert a.are_features
        assert b.are_features
        assert torch.equal(a.world_from_camera, b.world_from_camera)
        assert a.images.shape == (16, regressor.trunk.channels[0], height // 16, height // 12)
        torch.testing.assert_close(a.images, b.images)
    assert plain[0].images.std() > 0.01


def test_the_network_answers_features_as_it_answers_their_images(
    regressor: Regressor, material: Material, config: Config
) -> None:
    """Poses and aligned features, with BatchNorm's gathered statistics."""
    images = material.banks.photographs.batch(torch.arange(4))
    features = trunk_features(regressor, images, config)
    assert regressor.trunk.training
    regressor.eval()
    with torch.no_grad():
        whole, rest = (
            regressor(one, with_features=True, are_features=one is features)
            for one in (images, features)
        )
    torch.testing.assert_close(whole.world_from_camera, rest.world_from_camera)
    torch.testing.assert_close(whole.features, rest.features)


@pytest.mark.parametrize("batch_norm", ["live", "calibrated"])
def test_modes_are_as_before(config: Config, batch_norm: BatchNorm) -> None:
    """BatchNorm that is calibrated does not begin to learn statistics, here or on other ranks."""
    config = replace(config, model=replace(config.model, batch_norm=batch_norm))
    network = build_regressor(config.model, 3).train()
    before = [part.training for part in network.modules()]
    trunk_features(network, torch.rand(2, 3, 48, 64), config)
    assert [part.training for part in network.modules()] == before


@pytest.mark.parametrize(("cached", "expected"), [(True, [32, 0]), (False, [32, 32])])
def test_the_trunk_sees_each_image_once_for_each_redraw(
    regressor: Regressor, material: Material, config: Config, monkeypatch: pytest.MonkeyPatch,
    cached: bool, expected: list[int],
) -> None:  # fmt: skip
    """With a cache; without one, in every epoch. A redraw empties the cache."""
    seen: list[int] = []
    original = trunk_features

    def counted(*arguments: Any) -> torch.Tensor:  # noqa: ANN401
        seen[-1] += len(arguments[1])
        return original(*arguments)

    monkeypatch.setattr(module, "trunk_features", counted)
    config = set_train(config, cached_features=cached, freeze_after=0.5)
    inputs = Inputs(regressor, material, config)
    before = None
    for epoch in (2, 3):
        seen.append(0)
        if epoch == 2:
            draw_views(material, config, epoch)
        before = given(inputs, epoch)
    assert seen == expected
    draw_views(material, config, 4)
    seen.append(0)
    after = list(inputs.of_epoch(4, epoch_indices(8, 4, 1, 3)))
    assert seen[-1] == 32
    assert before is not None
    assert not torch.equal(before[0].images, after[0].images)


def test_cached_images_keep_their_augmentation_until_the_next_redraw(
    regressor: Regressor, material: Material, config: Config
) -> None:
    """Another process that begins later sees the same one."""
    config = set_train(config, cached_features=True, augment=1.0, freeze_after=0.5)
    inputs = Inputs(regressor, material, config)
    order = epoch_indices(8, 4, 1, 0)
    first, second = (list(inputs.of_epoch(epoch, order)) for epoch in (2, 3))
    late = list(Inputs(regressor, material, config).of_epoch(3, order))
    for a, b, c in zip(first, second, late, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.images, c.images)
    plain = list(Inputs(regressor, material, set_train(config, augment=0.0)).of_epoch(3, order))
    assert not torch.allclose(plain[0].images, late[0].images)


def test_features_of_small_images_are_not_those_of_full_ones(
    regressor: Regressor, material: Material, config: Config
) -> None:
    """The cache is filled anew when the size changes between two redraws."""
    config = replace(config, views=replace(config.views, refresh_epochs=4))
    config = set_train(config, cached_features=True, low_resolution_share=0.75)
    config = set_train(config, low_resolution_height=24)
    inputs = Inputs(regressor, material, config)
    sizes = [given(inputs, epoch)[0].images.shape[2:] for epoch in (1, 2, 3)]
    assert sizes == [(1, 2), (1, 2), (3, 4)]


@pytest.mark.parametrize(
    ("weights", "sizes"),
    [
        (LossWeights(pose=0.0, view=1.0), {"view": 8}),
        (LossWeights(pose=0.0, rendered=1.0), {"rendered": 4, "view": 8}),
        (LossWeights(pose=0.1, view=1.0), {"pose": 4, "view": 8}),
        (LossWeights(pose=0.0, feature=1.0), {"pose": 4, "rendered": 4, "view": 8}),
        (LossWeights(pose=0.0, view=0.0, adversarial=1.0), {"pose": 4, "rendered": 4}),
    ],
    ids=str,
)
@pytest.mark.parametrize("cached", [False, True])
def test_photographs_are_there_where_a_term_looks_at_them(
    tiny_scene: Scene, tiny_splat: Gaussians, config: Config, weights: LossWeights,
    sizes: dict[str, int], cached: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A term of weight 0 costs no image; what is predicted to be needed is what comes."""
    monkeypatch.setattr(banks, "draw_images", blank)
    config = set_train(replace(config, weights=weights), cached_features=cached)
    found = prepare(tiny_scene, tiny_splat, config, CPU)
    network = build_regressor(config.model, 3).train()
    for epoch in (0, 1):
        batch = given(Inputs(network, found, config), epoch)[0]
        assert batch.sizes == sizes == image_counts(config)
        assert len(batch.images) == len(batch.world_from_camera) == sum(sizes.values())
        assert batch.are_features == (epoch == 1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("cached", [False, True])
def test_the_host_waits_for_nothing(
    tiny_scene: Scene, tiny_splat: Gaussians, config: Config, cached: bool
) -> None:
    """Small images, augmented photographs, a cache that is filled: all is queued."""
    config = set_train(
        config, cached_features=cached, low_resolution_share=0.5, low_resolution_height=32,
        augment=1.0,
    )  # fmt: skip
    device = torch.device("cuda")
    found = prepare(tiny_scene, tiny_splat, config, device)
    draw_views(found, config, 0)
    network = build_regressor(config.model, 3).to(device).train()
    given(Inputs(network, found, config), 1)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for epoch in (0, 1, 2):
            given(Inputs(network, found, config), epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
