"""The one switch for arithmetic precision, with a real off position."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rap.config import ConfigError, Precision

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NUM_TIMED = 2


@contextmanager
def tf32_scope(precision: Precision) -> Iterator[None]:
    """Allow TensorFloat-32 for `tf32` alone; what to hold around a backward pass, too.

    Autocast belongs around the forward pass only, but these flags are read when a kernel starts.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def precision_scope(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the block in a precision, then restore what was set before.

    `fp32` is really fp32: TensorFloat-32 and any outer autocast are off. `tf32` allows
    TensorFloat-32 in matrix products and convolutions; `bf16` and `fp16` are autocast, and what
    stays fp32 under them is without TensorFloat-32. `tf32` on the CPU raises ConfigError.
    """
    if device.type != "cuda" and precision == "tf32":
        raise ConfigError(f"train.precision = 'tf32' needs a CUDA device, not {device}; use fp32")
    dtype = AUTOCAST_DTYPES.get(precision)
    with (
        tf32_scope(precision),
        torch.autocast(device.type, dtype=dtype, enabled=dtype is not None),
    ):
        yield


@contextmanager
def chosen_by_timing(wanted: bool) -> Iterator[None]:
    """cuDNN times its two best guesses for each new shape and takes the faster: 3 % of a step.

    Before that it builds every kernel that it knows for the shape: a recorded step of batch 8 began
    after 16 s on an H200, one of batch 64 that took the first guess after 9. Timing ten of each,
    torch's default, gained nothing more.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    if wanted and not cudnn.benchmark:
        cudnn.benchmark, cudnn.benchmark_limit = True, NUM_TIMED
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before
