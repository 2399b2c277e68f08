"""Which images make up a step: coverage, determinism, alignment of photographs and views."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.data.images import ImageBank
from rap.train.batches import Banks, batches, epoch_indices, epoch_seed, view_indices


def bank(num: int, device: str = "cpu", budget: int = 2**30) -> ImageBank:
    """Image i is filled with i, and its pose says i too."""
    images = torch.arange(num, dtype=torch.uint8)[:, None, None, None].expand(num, 3, 2, 2)
    poses = torch.eye(4).repeat(num, 1, 1)
    poses[:, 0, 3] = torch.arange(num)
    return ImageBank(images.contiguous(), poses, torch.device(device), budget, pin_memory=False)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 5))
def test_every_photograph_is_used_in_every_epoch(num: int, batch_size: int, epoch: int) -> None:
    """No remainder is dropped and no batch is short."""
    indices = epoch_indices(num, batch_size, seed=1, epoch=epoch)
    assert indices.shape[1] == batch_size
    assert set(indices.flatten().tolist()) == set(range(num))
    assert indices.numel() - num < max(batch_size, num)


def test_order_depends_on_seed_and_epoch_only() -> None:
    """The same (seed, epoch) gives the same order; another one does not."""
    first = epoch_indices(30, 8, seed=1, epoch=2)
    assert torch.equal(first, epoch_indices(30, 8, seed=1, epoch=2))
    assert not torch.equal(first, epoch_indices(30, 8, seed=1, epoch=3))
    assert not torch.equal(first, epoch_indices(30, 8, seed=2, epoch=2))
    assert epoch_seed(1, 2, "views") != epoch_seed(1, 2, "dropout")


def test_views_follow_their_photograph() -> None:
    """Views of photograph i lie at i·k … i·k + k − 1."""
    assert view_indices(torch.tensor([[2, 0]]), 3).tolist() == [[6, 7, 8, 0, 1, 2]]


def test_a_batch_holds_images_with_their_own_poses() -> None:
    """Photographs, renderings and views come in the order of the sizes, poses alongside."""
    banks = Banks(bank(5), bank(5), bank(10))
    indices = epoch_indices(5, 2, seed=0, epoch=0)
    for step, batch in enumerate(batches(banks, indices, views_per_image=2, num_workers=0)):
        assert batch.sizes == {"pose": 2, "rendered": 2, "view": 4}
        number = (batch.images[:, 0, 0, 0] * 255).round()
        assert torch.equal(number, batch.world_from_camera[:, 0, 3])
        assert number[:2].tolist() == indices[step].tolist()
        assert (number[4:] // 2).tolist() == indices[step].repeat_interleave(2).tolist()


def test_host_banks_give_the_same_batches(device: torch.device) -> None:
    """Streaming from host memory with workers changes nothing but the place."""
    indices = epoch_indices(7, 3, seed=0, epoch=0)
    resident = Banks(bank(7, str(device)))
    streamed = Banks(bank(7, str(device), budget=0))
    for a, b in zip(
        batches(resident, indices, 1, num_workers=0),
        batches(streamed, indices, 1, num_workers=2),
        strict=True,
    ):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.world_from_camera, b.world_from_camera)
