"""Views redrawn beside training: which, when they land, and that nobody sees half a view."""

import pytest
import torch

from rap.camera import Camera
from rap.config import ConfigError, ViewsConfig
from rap.data.images import ImageBank
from rap.splat.gaussians import Gaussians
from rap.synthesis.stream import ViewStream
from rap.synthesis.views import Anchors, anchors_of, refresh_views

CAMERA = Camera(40.0, 40.0, 16.0, 12.0, 32, 24)
NUM = 10
PER_STEP = 4
CONFIG = ViewsConfig(stream_per_step=PER_STEP, min_coverage=0.06, max_attempts=2)


def some_gaussians(device: torch.device) -> Gaussians:
    """A cloud three metres in front of the origin."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(60, 3, generator=generator) * 2 - 1
    means[:, 2] += 3
    return Gaussians(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(60, 1),
        torch.full((60, 3), -3.5),
        torch.full((60,), 3.0),
        torch.rand(60, 1, 3, generator=generator),
    ).to(device)


def some_anchors(device: torch.device) -> Anchors:
    """Five poses along x."""
    poses = torch.eye(4, device=device).repeat(NUM // 2, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.5, 0.5, NUM // 2)
    return anchors_of(poses, margin_m=0.2)


def a_bank(device: torch.device, num: int = NUM, budget_bytes: int = 1 << 30) -> ImageBank:
    """Black pictures at no pose."""
    empty = torch.zeros(num, 3, CAMERA.height, CAMERA.width, dtype=torch.uint8)
    return ImageBank(empty, torch.zeros(num, 4, 4), device, budget_bytes, pin_memory=False)


def a_stream(bank: ImageBank, config: ViewsConfig = CONFIG) -> ViewStream:
    device = bank.device
    return ViewStream(bank, some_gaussians(device), CAMERA, some_anchors(device), config)


def expected(device: torch.device, rows: list[int], seed: int) -> ImageBank:
    """What a step draws into its rows: a refresh of a bank of that size, from their anchors."""
    anchors = some_anchors(device)
    near = anchors.world_from_camera[torch.tensor(rows, device=device) // 2]
    bank = a_bank(device, len(rows))
    generator = torch.Generator(device).manual_seed(seed)
    refresh_views(
        bank, some_gaussians(device), CAMERA, Anchors(near, anchors.low, anchors.high),
        CONFIG, generator,
    )  # fmt: skip
    return bank


def test_views_land_one_step_after_they_were_begun(device: torch.device) -> None:
    """In turn, around the end of the bank, as a refresh from the same seed draws them."""
    bank = a_bank(device)
    stream = a_stream(bank)
    shown = a_bank(device)
    for step in range(4):
        stream.advance(step, seed=100 + step)
        assert torch.equal(bank.images, shown.images)
        assert torch.equal(bank.poses, shown.poses)
        rows = [(step * PER_STEP + i) % NUM for i in range(PER_STEP)]
        drawn = expected(device, rows, 100 + step)
        shown.write(torch.tensor(rows, device=device), drawn.images, drawn.poses)
    assert shown.images.float().std() > 5


def test_every_view_is_new_after_the_promised_steps(device: torch.device) -> None:
    """No fewer steps would do, and no more are needed."""
    bank = a_bank(device)
    stream = a_stream(bank)
    for step in range(stream.num_steps):
        assert (bank.poses[:, 3, 3] == 0).any()
        stream.advance(step, seed=step)
    assert (bank.poses[:, 3, 3] == 1).all()


def test_step_and_seed_alone_decide(device: torch.device) -> None:
    """A stream that starts later draws what one that ran from the start draws by then."""
    early, late = a_bank(device), a_bank(device)
    first, second = a_stream(early), a_stream(late)
    for step in range(9):
        first.advance(step, seed=step)
    for step in range(9 - second.num_steps, 9):
        second.advance(step, seed=step)
    assert torch.equal(early.images, late.images)
    assert torch.equal(early.poses, late.poses)


def test_the_cost_is_counted_once(device: torch.device) -> None:
    """Views, renders and rejects since the last call."""
    stream = a_stream(a_bank(device))
    for step in range(3):
        stream.advance(step, seed=step)
    stats = stream.take_stats()
    assert stats.num_views == 3 * PER_STEP
    assert stats.num_views < stats.num_renders <= 2 * stats.num_views
    assert stream.take_stats().num_renders == 0


def test_more_views_per_step_than_there_are_redraw_each_once(device: torch.device) -> None:
    """The bank is the limit."""
    bank = a_bank(device)
    stream = a_stream(bank, ViewsConfig(stream_per_step=99, min_coverage=0.0))
    stream.advance(0, seed=0)
    stream.advance(1, seed=1)
    assert (bank.poses[:, 3, 3] == 1).all()
    assert stream.take_stats().num_views == 2 * NUM


def test_a_bank_in_host_memory_is_refused(device: torch.device) -> None:
    """Threads gather from it while views would be written; the error says what to change."""
    with pytest.raises(ConfigError, match="device_budget_gib"):
        a_stream(a_bank(device, budget_bytes=0))


@pytest.mark.cuda
def test_a_busy_gpu_shows_whole_views_only() -> None:
    """While training keeps the reading stream busy, each step reads what it reads when idle."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    work = torch.randn(4096, 4096, device=device)

    def run(busy: bool) -> tuple[torch.Tensor, torch.Tensor]:
        bank = a_bank(device)
        stream = a_stream(bank)
        images, poses = [], []
        for step in range(12):
            images.append(bank.images.clone())
            poses.append(bank.poses.clone())
            if busy:
                for _ in range(20):
                    work @ work
            stream.advance(step, seed=step)
            if not busy:
                torch.cuda.synchronize()
        torch.cuda.synchronize()
        return torch.stack(images), torch.stack(poses)

    idle, busy = run(busy=False), run(busy=True)
    assert torch.equal(idle[0], busy[0])
    assert torch.equal(idle[1], busy[1])
