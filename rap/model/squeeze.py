"""Squeeze and excite of a network without BatchNorm, with no pass of its own over the wide map.

Where our Triton kernels run, the depthwise convolution leaves sums over its tiles; one small kernel
makes each image's gate of them, and multiplies the projection's weight by it instead of the map:
project(y * gate) is y @ (W * gate)^T. For inference alone: nothing here has a gradient. The plain
twin is `Block`'s.
"""

import importlib
from functools import cache, partial
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rap import log
from rap.kernels import failure
from rap.model import depthwise

TILE = 64
"""Pixels of an image that are summed together."""
_MOST = 2**31
"""Entries of a map or of all images' weights: the kernels count in 32 bits."""


def usable(conv: nn.Conv2d, project: nn.Conv2d, x: Float[Tensor, "b c h w"]) -> bool:
    """Whether `squeezed_projection` is for this depthwise layer, projection and map.

    Both layers must have taken their BatchNorm in, which a bias tells. Several small maps have
    fewer entries than as many weights, so these are left to the plain way.
    """
    if conv.bias is None or project.bias is None or torch.is_grad_enabled():
        return False
    if not depthwise.usable(conv, x) or x.dtype != project.weight.dtype:
        return False
    num, (narrow, wide) = x.shape[0], project.weight.shape[:2]
    pixels = (x.shape[2] // conv.stride[0]) * (x.shape[3] // conv.stride[0])
    return (
        not torch.is_autocast_enabled("cuda") and (num == 1 or pixels >= narrow)
        and num * narrow * max(pixels, wide) < _MOST
    )  # fmt: skip


def squeezed_projection(
    conv: nn.Conv2d, squeeze: nn.Conv2d, excite: nn.Conv2d, project: nn.Conv2d,
    x: Float[Tensor, "b c h w"], residual: Float[Tensor, "b d h2 w2"] | None,
) -> Float[Tensor, "b d h2 w2"]:  # fmt: skip
    """`project(gate * y) + residual` of `y = silu(conv(x))`; where `usable` says so."""
    y, sums = torch.ops.rap.depthwise_silu_summed(x, conv.weight, conv.bias, conv.stride[0])
    return torch.ops.rap.gated_projection(
        y, sums, squeeze.weight, squeeze.bias, excite.weight, excite.bias, project.weight,
        project.bias, residual,
    )  # fmt: skip


@cache
def kernel_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why torch's own operators have to do on this device in this precision; None: they need not.

    As `depthwise.kernel_problem`.
    """
    problem = failure("rap.model.squeeze_kernel", partial(_compare, device, dtype))
    if problem is not None and device.type == "cuda":
        log.info(f"squeeze and excite in {str(dtype)[6:]} is torch's: {problem}")
    return problem


def _compare(device: torch.device, dtype: torch.dtype, own: ModuleType) -> None:
    """Raise RuntimeError where the kernels are not the plain twins."""
    convolve = importlib.import_module("rap.model.depthwise_kernel").convolve_summed

    def there(part: Tensor) -> Tensor:
        return part.to(device, dtype)

    def check(what: str, found: Tensor, expected: Tensor) -> None:
        off = float((found.cpu().float() - expected).abs().max() / expected.abs().max())
        if not off < 16 * torch.finfo(dtype).eps:
            raise RuntimeError(f"{what} is off by {off:.2g}")

    x, bias = torch.linspace(-1, 1, 5760).view(2, 16, 12, 15), torch.linspace(-1, 1, 16)
    for kernel, stride in ((3, 1), (3, 2), (5, 1), (5, 2)):
        taps = torch.linspace(-1, 1, 16 * kernel**2).view(16, 1, kernel, kernel)
        with torch.autocast("cpu", enabled=False):
            y = depthwise.padded_convolution(x, taps, stride)
        y = F.silu(y + bias[:, None, None])
        last = there(x).to(memory_format=torch.channels_last)
        before, _ = depthwise.padding(kernel, stride)
        found, sums = convolve(last, there(taps), there(bias), stride, before, TILE)
        check(f"a {kernel}x{kernel} kernel of stride {stride}", found, y)
        check("its sum over pixels", sums.sum(1), y.sum((2, 3)))
    # Gates from 0.16 to 0.83.
    sums, weight = torch.linspace(-2, 1, 96).view(2, 3, 16), torch.linspace(-1, 1, 160)
    gate = (weight[48:112].view(4, 16), bias[:4], weight[48:112].view(16, 4), bias)
    weight = weight.view(10, 16)
    found = own.gated_weight(sums.to(device), 6, *map(there, gate), there(weight))
    with torch.autocast("cpu", enabled=False):
        check("a gated weight", found, _plain_weight(sums, 6, *gate, weight))
    for residual in (None, weight):
        found = there(weight).clone()
        own.add_bias(found, there(bias), None if residual is None else there(residual))
        expected = weight + bias if residual is None else weight + bias + residual
        check("a sum with the bias", found, expected)


def _kernels(x: Tensor) -> ModuleType | None:
    """The kernels, which Triton starts on the current device, whatever their tensors' is."""
    with torch.cuda.device_of(x):
        if kernel_problem(x.device, x.dtype) is not None:
            return None
    return importlib.import_module("rap.model.squeeze_kernel")


def _plain_weight(
    sums: Tensor, pixels: int, squeeze: Tensor, squeeze_bias: Tensor, excite: Tensor,
    excite_bias: Tensor, project: Tensor,
) -> Tensor:  # fmt: skip
    """`[n, d, c]`: the projection's weight times each image's gate."""
    squeeze, squeeze_bias, excite, excite_bias = (
        part.to(sums.dtype) for part in (squeeze, squeeze_bias, excite, excite_bias)
    )
    squeezed = F.silu(F.linear(sums.sum(1) / pixels, squeeze, squeeze_bias))
    gate = F.linear(squeezed, excite, excite_bias).sigmoid()
    return (project.to(sums.dtype) * gate[:, None]).to(project.dtype)


def _plain_add_bias(out: Tensor, bias: Tensor, residual: Tensor | None) -> None:
    out += bias if residual is None else bias + residual


def _sums(x: Tensor, height: int, width: int) -> Tensor:
    """`[n, tiles, c]` zeros for sums over a map's pixels, at least in fp32."""
    parts = (height * width + TILE - 1) // TILE
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_zeros(x.shape[0], parts, x.shape[1], dtype=dtype)


@torch.library.custom_op("rap::depthwise_silu_summed", mutates_args=())
def _depthwise_silu_summed(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int
) -> tuple[Tensor, Tensor]:
    x = x.contiguous(memory_format=torch.channels_last)
    if _kernels(x) is not None:
        convolve = importlib.import_module("rap.model.depthwise_kernel").convolve_summed
        before, _ = depthwise.padding(weight.shape[-1], stride)
        with torch.cuda.device_of(x):
            return convolve(x, weight.contiguous(), bias, stride, before, TILE)
    y = torch.ops.rap.depthwise_silu(x, weight, bias, stride)
    # Which tile has which part does not matter.
    sums = _sums(x, *y.shape[2:])
    sums[:, 0] = y.sum((2, 3), dtype=sums.dtype)
    return y, sums


@torch.library.custom_op("rap::gated_projection", mutates_args=())
def _gated_projection(
    y: Tensor, sums: Tensor, squeeze: Tensor, squeeze_bias: Tensor, excite: Tensor,
    excite_bias: Tensor, project: Tensor, bias: Tensor, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    size, own = y.shape[2:], _kernels(y)
    weigh = _plain_weight if own is None else own.gated_weight
    squeeze, excite, project = (part.flatten(1).contiguous() for part in (squeeze, excite, project))
    gate = (squeeze, squeeze_bias, excite, excite_bias)
    y = y.permute(0, 2, 3, 1).flatten(1, 2)
    if residual is not None:
        residual = residual.permute(0, 2, 3, 1).flatten(1, 2).contiguous()
    with torch.cuda.device_of(y):
        weight = weigh(sums.contiguous(), y.shape[1], *gate, project)
        if len(y) == 1:
            out = F.linear(y, weight[0], bias)
            out = out if residual is None else out.add_(residual)
        else:
            out = torch.bmm(y, weight.mT)
            add = _plain_add_bias if own is None else own.add_bias
            add(out, bias, residual)
    return out.unflatten(1, size).permute(0, 3, 1, 2)


@_depthwise_silu_summed.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    height, width = x.shape[2] // stride, x.shape[3] // stride
    return depthwise.empty_map(x, x.shape[1], height, width), _sums(x, height, width)


@_gated_projection.register_fake
def _(
    y: Tensor, sums: Tensor, squeeze: Tensor, squeeze_bias: Tensor, excite: Tensor,
    excite_bias: Tensor, project: Tensor, bias: Tensor, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    return depthwise.empty_map(y, project.shape[0], *y.shape[2:])
