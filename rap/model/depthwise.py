"""Depthwise convolutions of EfficientNet, by Triton kernels of our own where they can run.

cuDNN compiles its half-precision depthwise kernels anew in each process, which takes longer than
all else that a training does before its second step; and it wants a padded copy of the input where
padding differs between the sides. The plain twin pads and convolves.
"""

import importlib
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rap import log
from rap.kernels import failure

Map = Float[Tensor, "b c h w"]
OutMap = Float[Tensor, "b c h2 w2"]
KERNELS = (3, 5)
_MOST = 2**31
"""Entries of a map: the kernels count in 32 bits."""


def depthwise(conv: nn.Conv2d, x: Map) -> OutMap:
    """`same_convolution` of a depthwise layer: padded by kernel − stride, more below and right."""
    if not usable(conv, x):
        return same_convolution(conv, x)
    x, weight = _as_autocast(x), _as_autocast(conv.weight)
    found = torch.ops.rap.depthwise(x, weight, conv.stride[0])
    return found if conv.bias is None else found + conv.bias.to(found.dtype)[:, None, None]


def depthwise_silu(conv: nn.Conv2d, x: Map) -> OutMap:
    """`F.silu(depthwise(conv, x))`, in one kernel where a bias is there and no gradient wanted."""
    if conv.bias is None or torch.is_grad_enabled() or not usable(conv, x):
        return F.silu(depthwise(conv, x))
    x, weight, bias = (_as_autocast(part) for part in (x, conv.weight, conv.bias))
    return torch.ops.rap.depthwise_silu(x, weight, bias, conv.stride[0])


def same_convolution(conv: nn.Conv2d, images: Map) -> Float[Tensor, "b d h2 w2"]:
    """SAME convolution of any layer; the static padding for even inputs, whatever the input."""
    if conv.stride[0] > 1:
        images = _padded(images, conv.kernel_size[0], conv.stride[0])
    return conv(images)


def exporting() -> bool:
    """Whether a file is being made; torch 2.11's compiler says so of all that it compiles."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def usable(conv: nn.Conv2d, x: Map) -> bool:
    """Whether our operator is for it; exported files keep torch's own, which others know."""
    return (
        x.is_cuda and not exporting() and conv.kernel_size[0] in KERNELS
        and x.is_contiguous(memory_format=torch.channels_last) and 0 < x.numel() < _MOST
        and min(x.shape[2:]) >= conv.stride[0] and x.dtype != torch.float64
    )  # fmt: skip


@cache
def kernel_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why cuDNN has to convolve on this device in this precision; None where our own kernels work.

    Found by convolving small maps, forward and backward, beside the plain twin on the host; said
    once. The host waits, so this comes before a recording.
    """
    problem = failure("rap.model.depthwise_kernel", partial(_compare, device, dtype))
    if problem is not None and device.type == "cuda":
        log.info(f"depthwise convolutions in {str(dtype)[6:]} are cuDNN's: {problem}")
    return problem


def _compare(device: torch.device, dtype: torch.dtype, own: ModuleType) -> None:
    """Raise RuntimeError where the kernels are not the plain convolution, SiLU and gradients."""
    size = (1, 16, 5, 6)
    x, bias = torch.linspace(-1, 1, 480).view(size), torch.linspace(-1, 1, 16)
    for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
        weight = torch.linspace(-1, 1, 16 * kernel**2).view(16, 1, kernel, kernel)
        with torch.autocast("cpu", enabled=False):
            grad = padded_convolution(x, weight, stride)
            expected = [
                grad,
                F.silu(grad + bias[:, None, None]),
                _plain_input_gradient(grad, weight, size[2:], stride),
                _plain_weight_gradient(grad, x, kernel, stride),
            ]
        there = [
            part.to(device, dtype, memory_format=torch.channels_last) for part in (x, weight, grad)
        ]
        before, _ = padding(kernel, stride)
        found = [
            own.convolve(*there[:2], None, stride, before),
            own.convolve(*there[:2], bias.to(device, dtype), stride, before),
            own.input_gradient(there[2], there[1], size[2:], stride, before),
            own.weight_gradient(there[2], there[0], kernel, stride, before),
        ]
        for one, other in zip(found, expected, strict=True):
            off = float((one.cpu().float() - other).abs().max() / other.abs().max())
            if not off < 16 * torch.finfo(dtype).eps:
                raise RuntimeError(
                    f"a {kernel}x{kernel} kernel of stride {stride} is off by {off:.2g}"
                )


def _as_autocast(x: Tensor) -> Tensor:
    """In the precision that autocast gives a convolution's inputs."""
    if torch.is_autocast_enabled("cuda"):
        return x.to(torch.get_autocast_dtype("cuda"))
    return x


def _kernel(x: Tensor) -> ModuleType | None:
    """The kernels, which Triton starts on the current device, whatever their tensors' is."""
    with torch.cuda.device_of(x):
        if kernel_problem(x.device, x.dtype) is not None:
            return None
    return importlib.import_module("rap.model.depthwise_kernel")


def padding(kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before the first and behind the last pixel of a row, and of a column."""
    total = kernel - stride
    return total // 2, total - total // 2


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    return F.pad(x, padding(kernel, stride) * 2)


def padded_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """`same_convolution` by a depthwise weight `[c, 1, k, k]`: the plain twin of the kernels."""
    return F.conv2d(_padded(x, weight.shape[-1], stride), weight, None, stride, groups=x.shape[1])


# Not by autograd, which an operator's inside does not have.
def _plain_input_gradient(
    grad: Tensor, weight: Tensor, size: tuple[int, int], stride: int
) -> Tensor:
    (height, width), (before, after) = size, padding(weight.shape[-1], stride)
    padded = [*grad.shape[:2], height + before + after, width + before + after]
    found = nn.grad.conv2d_input(padded, weight, grad, stride, groups=grad.shape[1])
    return found[:, :, before : before + height, before : before + width]


def _plain_weight_gradient(grad: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    size = [x.shape[1], 1, kernel, kernel]
    return nn.grad.conv2d_weight(_padded(x, kernel, stride), size, grad, stride, groups=size[0])


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """The convolution, with a bias also SiLU of the sum; channels last."""
    x, kernel = x.contiguous(memory_format=torch.channels_last), weight.shape[-1]
    own = _kernel(x)
    if own is not None:
        before, _ = padding(kernel, stride)
        with torch.cuda.device_of(x):
            return own.convolve(x, weight.contiguous(), bias, stride, before)
    out = padded_convolution(x, weight, stride)
    out = out if bias is None else F.silu(out + bias[:, None, None])
    return out.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("rap::depthwise", mutates_args=())
def _depthwise(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return _convolved(x, weight, None, stride)


@torch.library.custom_op("rap::depthwise_silu", mutates_args=())
def _depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return _convolved(x, weight, bias, stride)


@torch.library.custom_op("rap::depthwise_input_gradient", mutates_args=())
def _input_gradient(grad: Tensor, weight: Tensor, height: int, width: int, stride: int) -> Tensor:
    grad, kernel = grad.contiguous(memory_format=torch.channels_last), weight.shape[-1]
    own = _kernel(grad)
    if own is not None:
        before, _ = padding(kernel, stride)
        with torch.cuda.device_of(grad):
            return own.input_gradient(grad, weight.contiguous(), (height, width), stride, before)
    found = _plain_input_gradient(grad, weight, (height, width), stride)
    return found.clone(memory_format=torch.channels_last)


@torch.library.custom_op("rap::depthwise_weight_gradient", mutates_args=())
def _weight_gradient(grad: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    grad = grad.contiguous(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    own = _kernel(grad)
    if own is not None:
        with torch.cuda.device_of(grad):
            return own.weight_gradient(grad, x, kernel, stride, padding(kernel, stride)[0])
    return _plain_weight_gradient(grad, x, kernel, stride).contiguous()


@_depthwise.register_fake
def _(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return empty_map(x, x.shape[1], x.shape[2] // stride, x.shape[3] // stride)


@_depthwise_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return empty_map(x, x.shape[1], x.shape[2] // stride, x.shape[3] // stride)


@_input_gradient.register_fake
def _(grad: Tensor, weight: Tensor, height: int, width: int, stride: int) -> Tensor:
    return empty_map(grad, grad.shape[1], height, width)


@_weight_gradient.register_fake
def _(grad: Tensor, x: Tensor, kernel: int, stride: int) -> Tensor:
    return x.new_empty(x.shape[1], 1, kernel, kernel)


def empty_map(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Memory for as many images, channels last, in the same precision and place."""
    size = (x.shape[0], channels, height, width)
    return torch.empty(size, device=x.device, dtype=x.dtype, memory_format=torch.channels_last)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:  # noqa: ANN401 (torch's own)
    x, weight, ctx.stride = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
    x, weight = ctx.saved_tensors
    of_x = of_weight = None
    if ctx.needs_input_grad[0]:
        of_x = torch.ops.rap.depthwise_input_gradient(grad, weight, *x.shape[2:], ctx.stride)
    if ctx.needs_input_grad[1]:
        of_weight = torch.ops.rap.depthwise_weight_gradient(grad, x, weight.shape[-1], ctx.stride)
    return of_x, of_weight, None


_depthwise.register_autograd(_backward, setup_context=_keep)
