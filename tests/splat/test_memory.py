"""The memory model: sizes for real cards, its growth, integer limits, and halving."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.camera import Camera
from rap.splat import memory
from rap.splat.tuning import RenderTuning

CAMERA = Camera(525.0, 525.0, 320.0, 240.0, 640, 480)
STORED = CAMERA.with_height(240)
GIB = 2**30


@pytest.mark.parametrize(("card_gb", "num_views"), [(8, 32), (12, 32), (24, 32), (141, 32)])
def test_a_small_splat_fits_every_card(card_gb: int, num_views: int) -> None:
    """0.2 M Gaussians: full batches everywhere."""
    free = int(card_gb * 0.9e9)
    assert memory.views_per_call(200_000, CAMERA, free, STORED) == num_views


@pytest.mark.parametrize("num_gaussians", [1_000_000, 5_000_000, 30_000_000])
@pytest.mark.parametrize("card_gb", [8, 12, 24, 141])
@pytest.mark.parametrize("packed", [True, False])
def test_the_prediction_stays_below_what_is_free(
    num_gaussians: int, card_gb: int, packed: bool
) -> None:
    """As many views as fit, and one more would not, unless another limit binds."""
    tuning, free = RenderTuning(packed=packed), int(card_gb * 0.9e9)
    num = memory.views_per_call(num_gaussians, CAMERA, free, STORED, tuning)
    room = int(free * memory.SHARE)
    assert 1 <= num <= memory.MOST_VIEWS
    assert num == 1 or memory.call_bytes(num, num_gaussians, CAMERA, STORED, tuning) <= room
    others_bind = num == memory.MOST_VIEWS or num == (2**31 - 1) // (num_gaussians * memory.PAIRS)
    assert others_bind or memory.call_bytes(num + 1, num_gaussians, CAMERA, STORED, tuning) > room


def test_known_size_of_a_call() -> None:
    """32 views of a million Gaussians, term by term."""
    pixels, stored = 640 * 480, 320 * 240
    expected = 32 * (1_000_000 * (76 + 96) + 20 * pixels + 64 * stored)
    assert memory.call_bytes(32, 1_000_000, CAMERA, STORED) == expected
    by_gsplat = memory.call_bytes(32, 1_000_000, CAMERA, STORED, RenderTuning(fused_blend=False))
    assert by_gsplat == expected - 32 * 1_000_000 * 12
    plain = memory.call_bytes(32, 1_000_000, CAMERA, STORED, plain_harmonics=9)
    assert plain - expected == 32 * 1_000_000 * (8 * 9 + 96)


@pytest.mark.parametrize(
    ("num_gaussians", "tile_size", "peak_mib"),
    [(200_000, 16, 755), (1_000_000, 16, 3138),
     (200_000, 16, 923), (930_000, 16, 4158), (930_000, 8, 7930)],
)  # fmt: skip
def test_measured_peaks_are_within_the_prediction(
    num_gaussians: int, tile_size: int, peak_mib: int
) -> None:
    """32 views on an H200: two random clouds, and two splats that were fitted to photographs."""
    # Those of 8 were gsplat's: our own projection has tiles of its own.
    tuning = RenderTuning(tile_size=tile_size, fused_projection=tile_size == 16)
    predicted = memory.call_bytes(32, num_gaussians, CAMERA, STORED, tuning) / 2**20
    assert peak_mib <= predicted < 2 * peak_mib


@pytest.mark.parametrize(
    ("gsplats", "counts"),
    [({}, False), ({"fused_projection": False}, True), ({"fused_blend": False}, True),
     ({"packed": True}, True)],
)  # fmt: skip
def test_the_size_of_tiles_counts_where_gsplat_projects(
    gsplats: dict[str, bool], counts: bool
) -> None:
    """Our own projection lists its Gaussians in tiles of 32 x 16, whatever the setting."""
    small, large = (RenderTuning(tile_size=size, **gsplats) for size in (8, 16))
    of_small, of_large = (
        memory.call_bytes(32, 1_000_000, CAMERA, STORED, tuning) for tuning in (small, large)
    )
    assert of_small - of_large == counts * 32 * 1_000_000 * 2 * memory.PAIRS * 24
    num = 30_000_000
    assert memory.most_views(num, CAMERA, large) == (2**31 - 1) // (num * memory.PAIRS)
    assert (memory.most_views(num, CAMERA, small) < memory.most_views(num, CAMERA, large)) == counts


def test_packed_pairs_are_those_of_gsplat() -> None:
    """Our own kernels do not draw them: their records are not counted."""
    visible = 12 + 108 * memory.VISIBLE + 24 * memory.PAIRS
    pictures = 20 * 640 * 480 + 64 * 320 * 240
    tuning = RenderTuning(packed=True)
    assert memory.call_bytes(1, 1000, CAMERA, STORED, tuning) == round(visible * 1000) + pictures


@given(st.integers(1, 10**9), st.integers(1, 2**40), st.booleans(), st.sampled_from([8, 16]))
def test_integers_never_overflow(num: int, free: int, packed: bool, tile_size: int) -> None:
    """Pairs stay below 2³¹, coordinates below 2³², tile and view share 32 bits of a key."""
    tuning = RenderTuning(packed=packed, tile_size=tile_size)
    views = memory.views_per_call(num, CAMERA, free, STORED, tuning)
    if views > 1:
        assert views * num * memory.PAIRS < 2**31
        assert views * num * 3 < 2**32
        assert views * CAMERA.width * CAMERA.height * 3 < 2**32
        tiles = (CAMERA.width // tile_size) * (CAMERA.height // tile_size)
        assert views.bit_length() + tiles.bit_length() <= 32


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("fake"), RuntimeError("CUDA error: out of memory")]
)
def test_out_of_memory_halves_and_goes_on(
    capsys: pytest.CaptureFixture[str], error: RuntimeError
) -> None:
    """Every item is done, in order, in calls that fit; nothing is done twice in the end."""
    done: list[int] = []

    def draw(part: slice) -> None:
        if part.stop - part.start > 3:
            raise error
        done.extend(range(part.start, part.stop))

    assert memory.in_batches(20, 16, draw) == 2
    assert done == list(range(20))
    assert "8 views" in capsys.readouterr().err


def test_memory_that_does_not_hold_one_item_is_an_error() -> None:
    """There is nothing left to halve."""

    def draw(part: slice) -> None:
        raise torch.OutOfMemoryError("fake")

    with pytest.raises(torch.OutOfMemoryError):
        memory.in_batches(4, 4, draw)


def test_other_errors_pass() -> None:
    """Only memory is retried."""

    def draw(part: slice) -> None:
        raise RuntimeError("else")

    with pytest.raises(RuntimeError, match="else"):
        memory.in_batches(4, 4, draw)


@pytest.mark.cuda
def test_free_memory_counts_what_the_allocator_holds() -> None:
    """Memory that was freed into torch's cache can be had again."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    before = memory.free_bytes(torch.device("cuda"))
    block = torch.empty(64 * 2**20, device="cuda")
    held = memory.free_bytes(torch.device("cuda"))
    del block
    after = memory.free_bytes(torch.device("cuda"))
    assert before - held >= 200 * 2**20
    assert after - held >= 200 * 2**20
