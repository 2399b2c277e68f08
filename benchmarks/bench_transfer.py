"""Batches on their way to the device: what moving them costs, and how often the host waits."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks import paths, workloads
from benchmarks.harness import Measure, axis
from benchmarks.workloads import SEED, Scale
from rap.data.images import ImageBank
from rap.scene import Scene, poses
from rap.train.batches import Banks, Batch, batches, view_indices

NUM_STEPS = 16
BANKS = {"resident": (2**33, False), "pageable": (0, False), "pinned": (0, True)}
"""Bytes on the device that the bank may take, and whether it page-locks host memory."""


@pytest.mark.parametrize("memory", axis(["resident", "pageable"], cuda=["pinned", "non_blocking"]))
@pytest.mark.parametrize("batch_size", axis([8], full=[64]))
def bench_transfer(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    memory: str, batch_size: int,
) -> None:  # fmt: skip
    """Photographs, renderings and views of some steps, to the last pixel and pose.

    `non_blocking` is page-locked memory as training uses it, in `pinned` the host waits for each
    batch. From a resident bank nothing is copied but the order of the images.
    """
    photos = workloads.photographs(scene, scale.image_height)
    true = poses(scene.train).float()
    budget_bytes, pin_memory = BANKS["pinned" if memory == "non_blocking" else memory]
    sources = [(photos, true), (photos.flip(0), true), (photos.roll(1, 0), true.roll(1, 0))]
    banks = [ImageBank(*source, device, budget_bytes, pin_memory) for source in sources]
    generator = torch.Generator().manual_seed(SEED)
    indices = torch.randint(len(photos), (NUM_STEPS, batch_size), generator=generator)

    def drawn() -> Iterator[Batch]:
        for batch in batches(Banks(*banks), indices, 1, num_workers=0):
            if memory == "pinned":
                torch.cuda.synchronize()
            yield batch

    def step() -> Tensor:
        return torch.stack([batch.images.mean() for batch in drawn()])

    payload = len(banks) * indices.numel() * photos[0].numel()
    result = measure(step, items=payload, unit="bytes", moves_bytes=payload * (1 + 4))

    homes = {(bank.resident, bank.images.is_pinned()) for bank in banks}
    wanted = {(memory == "resident", memory in ("pinned", "non_blocking"))}
    result.check(homes == wanted, f"banks (on the device, page-locked): {homes}, not {wanted}")
    for name, (low, high) in expected_counts(memory).items():
        # There in a process that counts, see benchmarks/harness/counting.py.
        found = measure.record.counters.get(name, low)
        result.check(low <= found <= high, f"{found} {name} in {NUM_STEPS} steps")
    crossings = paths.Crossings()
    with crossings:
        step()
    result.counter("copied_bytes", crossings.num_bytes)
    # From a resident bank only the order of the images, else the images too.
    least = indices.nbytes if memory == "resident" else payload
    least *= device.type == "cuda"
    found = crossings.num_bytes
    result.check(least <= found <= least + 4 * indices.nbytes, f"{found} bytes, not {least}")
    views = view_indices(indices, 1)
    for number, batch in enumerate(drawn()):
        chosen = (indices[number], indices[number], views[number])
        for part, (images, world_from_camera) in enumerate(sources):
            rows = slice(part * batch_size, (part + 1) * batch_size)
            there = images[chosen[part]] / 255
            same = torch.allclose(batch.images[rows].cpu(), there, rtol=1e-6, atol=0)
            result.check(same, f"step {number}: other images")
            moved = world_from_camera[chosen[part]]
            result.check(batch.world_from_camera[rows].cpu().equal(moved), "other poses")
        mean = float(batch.images.mean())
        close = abs(float(result.value[number]) - mean) <= 1e-4 * mean
        result.check(close, f"step {number}: another mean")


def expected_counts(memory: str) -> dict[str, tuple[int, int]]:
    """The least and the most copies and waits of the host that `NUM_STEPS` steps may have."""
    once, each = (0, NUM_STEPS - 1), (NUM_STEPS, 100 * NUM_STEPS)
    return {
        "copies": once if memory == "resident" else each,
        "host_syncs": each if memory in ("pageable", "pinned") else once,
    }
