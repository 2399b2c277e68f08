"""A run's files, written aside while training goes on.

At the end of an epoch the state is copied to host memory, in page-locked memory and without waiting
where it lies on a GPU; a thread then writes it. At most one write is under way: the next one waits
for it, and raises its error. A process killed at any moment leaves whole files.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from rap import log
from rap.camera import Camera
from rap.config import Config
from rap.model import checkpoint
from rap.train.state import Progress, state_of, write_state
from rap.train.step import Learner


class Writer:
    """One thread that writes one thing at a time; a context, which ends when all is written."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "files")
        self._pending: Future[None] | None = None

    def start(self, job: Callable[[], None]) -> None:
        """Run a job aside, once the one before has ended; raises that one's error."""
        self.wait()
        self._pending = self._executor.submit(job)

    def wait(self) -> None:
        """Return when nothing is under way; raises the error of what was."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._executor.shutdown(wait=True)
        if error is None:
            self.wait()
        elif self._pending is not None and (hidden := self._pending.exception()):
            log.warn(f"the run's files could not be written either: {hidden}")


class Keeper:
    """Keeps a run's checkpoints, state and log in its directory."""

    def __init__(
        self, writer: Writer, out: Path, learner: Learner, config: Config, camera: Camera,
        source: str, mark: str,
    ) -> None:  # fmt: skip
        self._writer, self._out, self._learner = writer, out, learner
        self._config, self._camera, self._source, self._mark = config, camera, source, mark
        self._unsaved = False

    def keep(
        self, epoch: int, progress: Progress, record: dict[str, object], selection: str | None
    ) -> None:
        """Write an epoch's state if it is due, its weights as best for a `selection`, then log it.

        What is logged is therefore not lost where every epoch's state is due. A process killed
        between the two has the line in its state, from which a resumed run logs it.
        """
        due = (epoch + 1) % self._config.train.save_every == 0
        due |= epoch + 1 == self._config.train.epochs
        self._unsaved = True
        progress.line = json.dumps(record)
        files = self._files(epoch, progress, selection, with_state=due)

        def write() -> None:
            if files is not None:
                files()
            log.append_json(self._out / "log.jsonl", record)

        self._writer.start(write)

    def finish(self, progress: Progress) -> None:
        """Write what is not yet written; the last weights are the best where nothing was scored."""
        epoch = progress.epochs_done - 1
        selection = "last epoch" if progress.best_epoch < 0 else None
        files = self._files(epoch, progress, selection, with_state=self._unsaved)
        if files is not None:
            self._writer.start(files)

    def _files(
        self, epoch: int, progress: Progress, selection: str | None, *, with_state: bool
    ) -> Callable[[], None] | None:
        """What writes the files, from copies that training does not change; none: nothing to do."""
        if not with_state and selection is None:
            return None
        name = "regressor" if self._learner.average is None else "average"
        if with_state:
            kept, ready = on_host(state_of(self._learner, progress, self._mark))
            weights = kept[name]
            self._unsaved = False
        else:
            weights, ready = on_host(self._learner.scored.state_dict())

        def write() -> None:
            ready()
            if selection is not None:
                self._write_weights("best.safetensors", weights, epoch, selection)
            if with_state:
                self._write_weights("last.safetensors", weights, epoch, "last epoch")
                write_state(self._out / "state.pt", kept)

        return write

    def _write_weights(
        self, name: str, weights: dict[str, Tensor], epoch: int, selection: str
    ) -> None:
        provenance = {
            "scene": self._source,
            "epoch": str(epoch),
            "selection": selection,
            "batch_norm": self._config.model.batch_norm,
            "seed": str(self._config.train.seed),
        }
        model = self._config.model
        checkpoint.write(self._out / name, model, weights, self._camera, provenance)


def on_host(tree: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
    """A copy of all tensors in host memory, and what waits until it is complete.

    The copy is of this moment: later work on the device's current stream comes after it.
    """
    on_gpu: list[bool] = []

    def copied(tensor: Tensor) -> Tensor:
        on_gpu.append(tensor.is_cuda)
        tensor = tensor.detach()
        # To the CPU without waiting means to page-locked memory.
        return tensor.to("cpu", non_blocking=True) if tensor.is_cuda else tensor.clone()

    copies = tree_map_only(Tensor, copied, tree)
    if not any(on_gpu):
        return copies, lambda: None
    event = torch.cuda.Event()
    event.record()
    return copies, event.synchronize
