"""What the steps of an epoch are given: images at their size, augmented, or features of them.

Once the trunk is frozen (`train.freeze_after`), steps train the rest of the network on its
features. They are computed for each batch, or once for all images each time that views are redrawn
(`train.cached_features`). Without augmentation both give the same values; with it, cached images
keep theirs until the next redraw. Features that do not fit `image.device_budget_gib` beside the
images are kept in host memory.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.config import Config
from rap.data.images import ImageBank
from rap.model.precision import precision_scope
from rap.model.regressor import Regressor
from rap.synthesis.augment import Part, augmented
from rap.synthesis.drawing import shrunk
from rap.train.banks import Material, drawn_in
from rap.train.batches import Batch, FeatureBank, FeatureBanks, batches, epoch_generator
from rap.train.distributed import current
from rap.train.schedule import image_height, trunk_learns
from rap.train.step import needs_photographs

CACHED_AT_ONCE = 64
"""Images that the trunk takes in one call while a cache is filled."""


class Inputs:
    """The batches of each epoch; holds the features that are cached."""

    def __init__(self, regressor: Regressor, material: Material, config: Config) -> None:
        self._regressor, self._material, self._config = regressor, material, config
        self._cached: FeatureBanks | None = None
        self._cached_for: tuple[int, int] | None = None
        self._on_device = True

    def of_epoch(self, epoch: int, indices: Int64[Tensor, "s b"]) -> Iterator[Batch]:
        """A batch for each row of photographs; follows from the epoch and the frozen trunk alone.

        Call after the epoch's views are drawn.
        """
        config, material = self._config, self._material
        per_image, num_workers = config.views.per_image, config.image.num_workers
        photographs = needs_photographs(config.weights)
        camera = material.camera.with_height(image_height(config, epoch))
        frozen = not trunk_learns(config, epoch)
        if frozen and config.train.cached_features:
            cached = self._cache(epoch, camera)
            yield from batches(cached, indices, per_image, num_workers, photographs)
            return
        device = material.banks.photographs.device
        generator = epoch_generator(config.train.seed, epoch, "augment", device)
        part: Part | None = None
        for batch in batches(material.banks, indices, per_image, num_workers, photographs):
            part = part or current().part_of(batch.sizes, device)
            images = shrunk(batch.images, camera.height, camera.width)
            images = augmented(images, config.train, generator, part)
            if frozen:
                images = trunk_features(self._regressor, images, config)
            yield replace(batch, images=images, are_features=frozen)

    def _cache(self, epoch: int, camera: Camera) -> FeatureBanks:
        """Features of all images, computed anew when views were redrawn or the size has changed."""
        drawn = drawn_in(epoch, self._config)
        if self._cached is None or self._cached_for != (drawn, camera.height):
            self._cached = None  # frees its memory first
            device = self._material.banks.photographs.device
            # Every process needs all features, and the same ones.
            generator = epoch_generator(self._config.train.seed, drawn, "cache", device)
            banks = self._material.banks
            photographs = banks.photographs if needs_photographs(self._config.weights) else None
            self._cached = FeatureBanks(*(
                None if bank is None else self._features_of(bank, camera, generator)
                for bank in (photographs, banks.rendered, banks.views)
            ))  # fmt: skip
            self._cached_for = drawn, camera.height
        return self._cached

    def _features_of(
        self, bank: ImageBank, camera: Camera, generator: torch.Generator
    ) -> FeatureBank:
        home = bank.device if bank.resident else torch.device("cpu")
        features, done = torch.empty(0, 0, 0, 0), 0
        for index in torch.arange(bank.num, device=home).split(CACHED_AT_ONCE):
            images = shrunk(bank.batch(index), camera.height, camera.width)
            images = augmented(images, self._config.train, generator)
            found = trunk_features(self._regressor, images, self._config)
            if done == 0:
                features = self._memory_for(found, bank.num)
            features[done : done + len(index)] = found
            done += len(index)
        return FeatureBank(features, bank.poses, bank.device, self._on_device)

    def _memory_for(self, like: Float[Tensor, "b c y x"], num: int) -> Float[Tensor, "n c y x"]:
        """Room for the features of so many images, on the device if those of all images fit."""
        image, banks = self._config.image, self._material.banks
        each = like[0].nbytes
        fit = banks.leave_room(each, image.device_budget_gib)
        if self._on_device and not fit:
            total = each * sum(bank.num for bank in banks.all)
            log.info(
                f"train.cached_features: {total / 2**30:.2f} GiB do not fit image.device_budget_gib"
                f" = {image.device_budget_gib:g} beside the images, so they stay in host memory"
            )
        self._on_device = fit
        shape = (num, *like.shape[1:])
        if fit:
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        pinned = image.pin_memory and like.device.type == "cuda"
        return torch.empty(shape, dtype=like.dtype, pin_memory=pinned)


@torch.no_grad()
def trunk_features(
    regressor: Regressor, images: Float[Tensor, "b 3 h w"], config: Config
) -> Float[Tensor, "b c y x"]:
    """Features of the one level that both branches read, from a trunk that no longer learns.

    Its BatchNorm takes the statistics that it has gathered, and no block is left out at random.
    """
    if config.train.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    learning = regressor.training
    regressor.trunk.eval()
    try:
        with precision_scope(config.train.precision, images.device):
            return regressor.features(images)[0]
    finally:
        # Not the trunk's own: the regressor knows which BatchNorms stay in evaluation mode.
        regressor.train(learning)
