"""How a step is run: as it is written, compiled, replayed as one recorded CUDA graph, or both.

Every way runs `step.step`, the plain twin. A compiler and a recording need trial runs; they change
nothing, because all state is put back afterwards. What does not work here is left out, with a line.

Batches of one shape are expected (`epoch_indices` fills the last one up). Another shape, such as a
larger image size later in a run, is recorded anew.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from rap import log
from rap.config import Config, Execution
from rap.model.precision import chosen_by_timing
from rap.model.recording import (
    compiling,
    free_generator,
    in_a_line,
    pass_on_out_of_memory,
    side_stream,
)
from rap.train.batches import Batch
from rap.train.distributed import Ranks
from rap.train.step import Comparison, Learner, Terms, compare, optimise, set_controls, step

NUM_TRIALS = 3
"""Steps before a recording: libraries choose kernels and take workspaces, autograd sets up."""
NUM_VARIANTS = 64
"""Of `compare`: one for each shape and kind of network in a process; by itself it stops at 8."""


Shapes = tuple[torch.Size, dict[str, int], bool]
"""Of the images, how many there are of each kind, and whether they are features."""


class Runner:
    """Runs steps of one learner as `train.execution` asks, or as near to it as works here."""

    def __init__(self, learner: Learner, config: Config, device: torch.device) -> None:
        self._learner, self._config, self._device = learner, config, device
        self._compile = "compiled" in config.train.execution
        self._record = "graphed" in config.train.execution
        self._recording: Recording | None = None
        self._compiled: list[Shapes] = []
        self.why = ""
        """Why steps do not run as they were asked to; empty where they do."""
        reasons = []
        if self._compile and (reason := _why_not_compiled(config)):
            self._compile = False
            reasons.append(reason)
        if self._record and (reason := _why_not_recorded(config, device)):
            self._record = False
            # A processor has no launches to save, and compiling takes minutes of a short run.
            self._compile = self._compile and device.type == "cuda"
            reasons.append(reason)
        if reasons:
            self.why, asked = "; ".join(reasons), config.train.execution
            log.info(f"train.execution = {asked!r}: {self.why}, so steps run {self.runs}")

    @property
    def runs(self) -> Execution:
        """How steps are run now: the settings' word, after what had to be left out."""
        if self._record:
            return "compiled+graphed" if self._compile else "graphed"
        return "compiled" if self._compile else "eager"

    @property
    def num_steps(self) -> int:
        """Steps that the learner has taken, in this run and before it was resumed."""
        return self._learner.num_steps

    @property
    def num_replays(self) -> int:
        """Steps that the present recording has run."""
        return 0 if self._recording is None else self._recording.num_replays

    def __call__(self, batch: Batch, lr_factor: float) -> Terms:
        """One step; returns its detached terms on the device."""
        # Who waits a minute for the compiler has time for cuDNN's choice, too.
        with chosen_by_timing("compiled" in self.runs):
            return self._run(batch, lr_factor)

    def _run(self, batch: Batch, lr_factor: float) -> Terms:
        if self._compile and shapes(batch) not in self._compiled:
            self._try_compiler(batch)
        if self._record and (self._recording is None or not self._recording.fits(batch)):
            self._try_recording(batch)
        if self._recording is None:
            return optimise(self._learner, batch, self._config, lr_factor)
        set_controls(self._learner, self._config, lr_factor)
        return self._recording.replay(batch)

    def _try_compiler(self, batch: Batch) -> None:
        """Compile for these shapes; where that fails, no step is compiled from now on."""
        num, _, height, width = batch.images.shape
        kind = "features" if batch.are_features else "images"
        what = f"network and losses for {num} {kind} of {height}x{width} on {self._device}"
        try:
            with (
                compiling(what), kept_state(self._learner, self._device), many_variants(),
                alone(self._learner),
            ):  # fmt: skip
                if self._learner.compare is compare:
                    self._learner.compare = compiled_compare()
                step(self._learner, batch, self._config)
            self._compiled.append(shapes(batch))
        # The compiler's code asserts what an operator has promised it.
        except (RuntimeError, AssertionError) as error:
            pass_on_out_of_memory(error)
            self._learner.compare = compare
            self._compile, self.why = False, f"torch.compile failed: {in_a_line(error)}"
            log.warn(f"torch.compile failed, so steps run {self.runs}: {in_a_line(error)}")

    def _try_recording(self, batch: Batch) -> None:
        self._recording = None  # frees its memory first
        try:
            with kept_state(self._learner, self._device):
                self._recording = Recording(self._learner, batch, self._config)
        except RuntimeError as error:
            pass_on_out_of_memory(error)
            self._record, self.why = False, f"no CUDA graph of the step: {in_a_line(error)}"
            free_generator(self._device)
            log.warn(f"no CUDA graph of the step, so steps run {self.runs}: {in_a_line(error)}")


def compiled_compare() -> Comparison:
    """Network and losses, forward and backward, compiled for one shape as one graph."""
    return torch.compile(compare, dynamic=False, fullgraph=True)


class Recording:
    """A CUDA graph of one whole step, with memory of its own for batch and terms.

    Random numbers come from the default generator, whose seed and offset are told to the graph at
    each replay: seeding it works as for a plain step. Augmentation has a generator of its own
    and happens before, on the batch.
    """

    def __init__(self, learner: Learner, batch: Batch, config: Config) -> None:
        channels_last = config.train.channels_last
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self._batch = replace(
            batch, images=batch.images.clone(memory_format=layout),
            world_from_camera=batch.world_from_camera.clone(),
        )  # fmt: skip
        self.num_replays = 0
        self._graph = torch.cuda.CUDAGraph()
        stream = side_stream(batch.images.device)
        # What earlier work has left in the allocator's cache belongs to other streams.
        torch.cuda.empty_cache()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(NUM_TRIALS):
                step(learner, self._batch, config)
            # Gradients of the recording lie in its memory, so none may exist when it begins.
            learner.optimizer.zero_grad(set_to_none=True)
        torch.cuda.current_stream().wait_stream(stream)
        # Other threads may write a checkpoint meanwhile. The outer context leaves the stream, also
        # when the recording breaks off.
        recording = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.stream(stream), recording:
            terms = step(learner, self._batch, config)
            self._names, self._values = list(terms), torch.stack(list(terms.values()))

    def fits(self, batch: Batch) -> bool:
        """Whether the batch has the recorded sizes."""
        return shapes(batch) == shapes(self._batch)

    def replay(self, batch: Batch) -> Terms:
        """The recorded step on another batch; the terms are a copy that later steps leave alone."""
        self._batch.images.copy_(batch.images)
        self._batch.world_from_camera.copy_(batch.world_from_camera)
        self._graph.replay()
        self.num_replays += 1
        return dict(zip(self._names, self._values.clone().unbind(), strict=True))


@contextmanager
def kept_state(learner: Learner, device: torch.device) -> Iterator[None]:
    """Steps inside change nothing: weights, statistics, optimisers and random state are put back.

    Optimisers' moments that did not exist before remain, as zeros: what a first step starts from.
    """
    # In host memory: the trials' peak is not to be the training's.
    before = [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in _state(learner)]
    scaler = learner.scaler.state_dict()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            learner.optimizer.zero_grad(set_to_none=True)
            _put_back(before, _state(learner))
            if scaler:
                _put_scaler_back(learner, scaler)


@torch.no_grad()
def _put_back(before: list[tuple[Tensor, Tensor]], now: list[Tensor]) -> None:
    known = {id(tensor) for tensor, _ in before}
    for tensor, value in before:
        tensor.copy_(value)
    for tensor in now:
        if id(tensor) not in known:
            tensor.zero_()


def _put_scaler_back(learner: Learner, before: dict[str, float]) -> None:
    """Scale and growth in place, where a recording reads them, and no step half done."""
    # Forgets, too, whose gradients have been unscaled, of a trial that broke off after that.
    learner.scaler.update(before["scale"])
    learner.scaler.load_state_dict(before)
    for name in ("grad_scale", "found_inf"):
        # What the scaler tells an optimiser for the time of its step.
        vars(learner.optimizer).pop(name, None)


def _state(learner: Learner) -> list[Tensor]:
    """Every tensor that a step changes and the next one reads."""
    networks = (learner.regressor, learner.pose_loss, learner.average, learner.discriminator)
    optimizers = (learner.optimizer, learner.discriminator_optimizer)
    of_networks = (
        itertools.chain(network.parameters(), network.buffers())
        for network in networks if network is not None
    )  # fmt: skip
    of_optimizers = (
        state.values() for optimizer in optimizers if optimizer is not None
        for state in optimizer.state.values()
    )  # fmt: skip
    found = itertools.chain(*of_networks, *of_optimizers)
    return [value for value in found if isinstance(value, Tensor)]


@contextmanager
def alone(learner: Learner) -> Iterator[None]:
    """Steps inside exchange nothing: where one process fails to compile, none waits for it."""
    ranks, learner.ranks = learner.ranks, Ranks()
    try:
        yield
    finally:
        learner.ranks = ranks


@contextmanager
def many_variants() -> Iterator[None]:
    """Let the compiler make a variant of a function for each shape and kind of network."""
    with torch._dynamo.config.patch(recompile_limit=NUM_VARIANTS):
        yield


def _why_not_recorded(config: Config, device: torch.device) -> str:
    """Why a step cannot be recorded here; empty where it can."""
    if device.type != "cuda":
        return f"there are no CUDA graphs on {device}"
    if config.train.checkpointing and (config.model.dropout or config.model.drop_connect):
        return "checkpointing with dropout asks the generator what a recording cannot tell"
    return ""


def _why_not_compiled(config: Config) -> str:
    """Why a step is not to be compiled; empty where it is."""
    model = config.model
    if config.train.checkpointing and (model.dropout or model.drop_connect):
        return "compiled checkpointing draws dropout that does not follow the seed"
    return ""


def shapes(batch: Batch) -> Shapes:
    """What a compiled or recorded step is made for."""
    return batch.images.shape, dict(batch.sizes), batch.are_features
