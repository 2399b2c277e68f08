"""Photographs to poses at speed: the prepared network, eager, compiled, or as a CUDA graph."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from rap import log
from rap.camera import Camera
from rap.config import ConfigError, Precision
from rap.config.inference import InferExecution
from rap.evaluate.inference import check_precision
from rap.model.infer import PoseNetwork
from rap.model.precision import chosen_by_timing, tf32_scope
from rap.model.recording import compiling, free_generator, in_a_line, pass_on_out_of_memory
from rap.model.regressor import Regressor

_TRIALS = 3
"""Calls before a recording: libraries choose kernels and take their workspaces."""

_NUM_VARIANTS = 64
"""Of one function, where the compiler stops at 8: each network and shape is one."""

SIMPLER: dict[InferExecution, InferExecution] = {
    "compiled+graphed": "graphed",
    "graphed": "eager",
    "compiled": "eager",
}
"""What is taken where an execution fails."""

Call = Callable[..., Any]
Parts = tuple[Call, Call, Call, Call]
"""Features, translation and rotation branch, and the pose of both."""
Images = UInt8[Tensor, "n 3 h w"]
Matrices = Float32[Tensor, "n 4 4"]


class Localizer:
    """`world_from_camera` of uint8 images of the camera's size; the regressor stays as it is.

    All but `eager` know two sizes, one image and `batch_size`, and fill the last batch up: no
    image's pose depends on its neighbours. Whatever is compiled or recorded is so on first use;
    where that fails the next simpler way is taken, and without a GPU `eager` for what is recorded:
    with a line, and `runs` says which, `why` for what reason. Raises ConfigError for arithmetic
    that the device does not have.
    """

    runs: InferExecution
    why: str = ""

    def __init__(
        self,
        regressor: Regressor,
        camera: Camera,
        precision: Precision = "fp32",
        batch_size: int = 64,
        execution: InferExecution = "eager",
    ) -> None:
        self.device = regressor.image_mean.device
        _check(execution, precision, self.device)
        self.batch_size = batch_size
        self.network = PoseNetwork(regressor, camera, precision)
        self._precision: Precision = precision
        # For all recordings: cuBLAS keeps 32 MiB for each stream for good (on Hopper).
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        if "graphed" in execution and self.device.type != "cuda":
            # As a training: a processor has no launches to save.
            self.why = f"there are no CUDA graphs on {self.device}"
            log.info(f"execution = {execution!r}: {self.why}, so the network runs eager")
            execution = "eager"
        self._use(execution)

    @torch.no_grad()
    def __call__(self, images: Images) -> Matrices:
        """Poses on the network's device; images may lie there or on the host. Waits for nothing.

        Raises ValueError for images of another size or type.
        """
        if images.shape[1:] != (3, *self.network.size) or images.dtype != torch.uint8:
            height, width = self.network.size
            raise ValueError(
                f"images {tuple(images.shape)} of {images.dtype} must be [n, 3, {height}, {width}]"
                " of torch.uint8"
            )
        poses = [self._batch(chunk) for chunk in images.split(self.batch_size) if len(chunk)]
        if len(poses) == 1:
            return poses[0]
        return torch.cat(poses) if poses else torch.empty(0, 4, 4, device=self.device)

    def _use(self, execution: InferExecution) -> None:
        self.runs = execution
        net = self.network
        self._whole: Callable[[Tensor], Tensor] = net
        self._parts: Parts = (net.features, net.translation, net.rotation, net.compose)
        self._recordings: dict[int, Recording] = {}
        self._compiled_for: set[int] = set()
        if execution == "compiled":
            self._whole = _compiled(net)
        elif execution == "compiled+graphed":
            # Apart, so that the branches can run on streams of their own.
            features, translation, rotation, compose = map(_compiled, self._parts)
            self._parts = features, translation, rotation, compose

    def _batch(self, images: Images) -> Matrices:
        """One batch at most; falls back from what cannot be compiled or recorded here."""
        while True:
            try:
                # Who waits for the compiler has time for cuDNN's choice, too; without, only a
                # trunk's first convolution is cuDNN's, or all of a timm model's.
                with chosen_by_timing("compiled" in self.runs), tf32_scope(self._precision):
                    return self._run(images)
            # The compiler's code asserts what an operator has promised it.
            except (RuntimeError, AssertionError) as error:
                simpler = SIMPLER.get(self.runs)
                pass_on_out_of_memory(error)
                if simpler is None:
                    raise
                if "graphed" in self.runs:
                    free_generator(self.device)
                self.why = in_a_line(error)
                log.warn(f"execution {self.runs!r} failed, so it is {simpler!r}: {self.why}")
                self._use(simpler)

    def _run(self, images: Images) -> Matrices:
        num = len(images)
        size = num if self.runs == "eager" or num == 1 else self.batch_size
        if "compiled" not in self.runs or size in self._compiled_for:
            return self._of_size(size, images)
        with compiling(f"the network for batches of {size} on {self.device}"):
            poses = self._of_size(size, images)
        self._compiled_for.add(size)
        return poses

    def _of_size(self, size: int, images: Images) -> Matrices:
        """Poses by the network as it is prepared for batches of a size, filled up to it."""
        num = len(images)
        if "graphed" in self.runs:
            if size not in self._recordings:
                self._recordings[size] = self._record(size, images)
            return self._recordings[size].replay(images)
        images = images.to(self.device, non_blocking=True)
        if num < size:
            images = torch.cat([images, images.new_zeros(size - num, *images.shape[1:])])
        return self._whole(images)[:num]

    def _record(self, size: int, images: Images) -> "Recording":
        if self._streams is None:
            self._streams = torch.cuda.Stream(self.device), torch.cuda.Stream(self.device)
        images = torch.zeros(size, *images.shape[1:], dtype=torch.uint8, device=self.device)
        return Recording(self._side_by_side, images, *self._streams)

    def _side_by_side(self, images: Images, side: torch.cuda.Stream) -> Matrices:
        """The network with its branches on two streams.

        The maps stay alive until the streams join, so nothing else can take their memory.
        """
        main = torch.cuda.current_stream()
        features, translate, rotate, compose = self._parts
        maps = features(images)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            translation = translate(maps[0])
        rotation = rotate(maps[1])
        main.wait_stream(side)
        return compose(translation, rotation)


class Recording:
    """A CUDA graph of a call for one batch size, with memory of its own for images and poses."""

    def __init__(
        self, call: Callable[[Tensor, torch.cuda.Stream], Tensor], images: Images,
        main: torch.cuda.Stream, side: torch.cuda.Stream,
    ) -> None:  # fmt: skip
        self._images = images
        self._graph = torch.cuda.CUDAGraph()
        main.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(main):
            for _ in range(_TRIALS):
                call(images, side)
        torch.cuda.synchronize()
        # The outer context leaves the stream, also when the recording breaks off.
        recording = torch.cuda.graph(self._graph, stream=main, capture_error_mode="thread_local")
        with torch.cuda.stream(main), recording:
            self._poses = call(images, side)

    def replay(self, images: Images) -> Matrices:
        """Poses of at most as many images as were recorded; a copy that the next call leaves."""
        num = len(images)
        self._images[:num].copy_(images, non_blocking=True)
        self._graph.replay()
        return self._poses[:num].clone()


def _compiled(function: Call) -> Call:
    """As one graph for each shape, of however many networks there are in a process."""
    compiled = torch.compile(function, dynamic=False, fullgraph=True)

    def call(*tensors: Tensor) -> Any:  # noqa: ANN401 (whatever the function returns)
        with torch._dynamo.config.patch(recompile_limit=_NUM_VARIANTS):
            return compiled(*tensors)

    return call


def _check(execution: str, precision: Precision, device: torch.device) -> None:
    if execution not in get_args(InferExecution):
        accepted = ", ".join(get_args(InferExecution))
        raise ConfigError(f"execution = {execution!r} must be one of {accepted}")
    check_precision(precision, device)
