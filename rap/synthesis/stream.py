"""Views redrawn a few at a time beside training, on a CUDA stream of their own.

Each step of training reads the bank, queues its work, and then advances the stream: what was drawn
beside the step before lands in the bank, and the next views are begun. They are drawn into one of
two staging banks; the bank itself is written on the stream that reads it, so nobody sees half a
view. On the CPU the same happens in order, with the same views at the same steps.

The host waits for what it draws beside a step, while that step keeps the GPU busy: once for each
call of gsplat, which reads back how long its lists are, and once for each attempt, to draw nothing
but the rejects again. A fixed number of attempts, in which rows that have passed are masked, would
spare the second wait at the price of `max_attempts` times the drawing, and of the first wait as
often. The rest of an epoch waits for nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Int64
from torch import Tensor

from rap.camera import Camera
from rap.config import ConfigError, ViewsConfig
from rap.data.images import ImageBank
from rap.splat.gaussians import Gaussians
from rap.synthesis.views import Anchors, RefreshStats, refresh_views, scaled_reach

_NOTHING = RefreshStats(0, 0, 0, 0)


class ViewStream:
    """Redraws `views.stream_per_step` rows of a bank per step, in turn."""

    def __init__(
        self,
        bank: ImageBank,
        gaussians: Gaussians,
        camera: Camera,
        anchors: Anchors,
        config: ViewsConfig,
        share: Callable[[int, torch.device], Int64[Tensor, "k"] | None] = lambda *_: None,
        gather: Callable[[ImageBank], None] = lambda _: None,
    ) -> None:
        """Draw every view; or this process's `share` of a step's, and `gather` those of others."""
        if not bank.resident:
            raise ConfigError(
                f"views.stream_per_step = {config.stream_per_step} needs the views on the device, "
                f"where {bank.images.nbytes / 2**30:.1f} GiB do not fit image.device_budget_gib: "
                "raise it, or redraw all views at once (views.refresh_epochs)"
            )
        self._bank, self._gaussians, self._camera = bank, gaussians, camera
        self._anchors, self._config = anchors, config
        self._num = min(config.stream_per_step, bank.num)
        device = bank.device
        self._share, self._gather = share(self._num, device), gather
        empty = torch.zeros(self._num, *bank.images.shape[1:], dtype=torch.uint8)
        self._staging = [
            ImageBank(empty, torch.zeros(self._num, 4, 4), device, empty.nbytes, pin_memory=False)
            for _ in range(2)
        ]
        self._generator = torch.Generator(device)
        self._in_flight: int | None = None
        self._stats = _NOTHING
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(device))
            self._drawn = [torch.cuda.Event() for _ in range(2)]
            self._landed = [torch.cuda.Event() for _ in range(2)]

    @property
    def num_steps(self) -> int:
        """Steps after which every view of the bank has been redrawn and has landed."""
        return -(-self._bank.num // self._num) + 1

    def advance(self, step: int, seed: int, reach: float = 1.0) -> None:
        """Land the views of the step before, and begin those of this step.

        Call once per step, after the step's own work is queued. The views follow from step, seed
        and `reach` (`scaled_reach`) alone.
        """
        self._land()
        self._launch(step, seed, scaled_reach(self._config, reach))

    def take_stats(self) -> RefreshStats:
        """What the views begun since the last call cost."""
        taken, self._stats = self._stats, _NOTHING
        return taken

    def _land(self) -> None:
        step = self._in_flight
        if step is None:
            return
        half = step % 2
        if self._side is not None:
            torch.cuda.current_stream(self._bank.device).wait_event(self._drawn[half])
        staging = self._staging[half]
        self._gather(staging)
        self._bank.write(self._rows(step), staging.images, staging.poses)
        if self._side is not None:
            self._landed[half].record(torch.cuda.current_stream(self._bank.device))

    def _launch(self, step: int, seed: int, config: ViewsConfig) -> None:
        half = step % 2
        with self._beside():
            if self._side is not None:
                # long past, unless training is two steps behind
                self._side.wait_event(self._landed[half])
            per_anchor = self._bank.num // len(self._anchors.world_from_camera)
            stats = refresh_views(
                self._staging[half], self._gaussians, self._camera,
                self._anchors.at(self._rows(step) // per_anchor), config,
                self._generator.manual_seed(seed), self._share,
            )  # fmt: skip
            if self._side is not None:
                self._drawn[half].record(self._side)
        self._in_flight = step
        self._stats = self._stats.beside(stats)

    def _rows(self, step: int) -> Int64[Tensor, "k"]:
        """Rows of a step; made anew on each stream, so that no memory changes hands."""
        first = step * self._num % self._bank.num
        rows = torch.arange(first, first + self._num, device=self._bank.device)
        return rows % self._bank.num

    def _beside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._side is None else torch.cuda.stream(self._side)
