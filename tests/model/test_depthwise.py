"""Depthwise convolutions: our kernels, where they run, against padding and torch's convolution."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib import util
from math import nan
from types import ModuleType, SimpleNamespace

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rap import kernels
from rap.model import depthwise as module
from rap.model.backbone import EfficientNetTrunk
from rap.model.depthwise import (
    depthwise,
    depthwise_silu,
    exporting,
    kernel_problem,
    same_convolution,
)
from tests.processes import run_interpreted

CASES = [
    (kernel, stride, size, channels)
    for kernel in (3, 5) for stride in (1, 2)
    for size, channels in (((8, 6), 8), ((7, 9), 40), ((2, 3), 33))
]  # fmt: skip
"""Kernel, stride, height and width of the map, channels: none of them a multiple of a tile."""
PRECISIONS = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest difference from float64, of the largest value."""


def random_case(
    kernel: int, stride: int, size: tuple[int, int], channels: int
) -> tuple[nn.Conv2d, Tensor, Tensor]:
    """A layer, a map and what the convolution's gradient is taken with."""
    generator = torch.Generator().manual_seed(kernel + 10 * stride + 100 * channels)
    conv = nn.Conv2d(
        channels, channels, kernel, stride, kernel // 2 if stride == 1 else 0, groups=channels,
        bias=False,
    )  # fmt: skip
    nn.init.normal_(conv.weight, generator=generator)
    x = torch.randn(3, channels, *size, generator=generator)
    weighted = torch.randn(3, channels, *(side // stride for side in size), generator=generator)
    return conv, x, weighted


def plain(conv: nn.Conv2d, x: Tensor, weighted: Tensor) -> list[Tensor]:
    """Output, both gradients and, with a bias of halves, SiLU of the output; in float64."""
    conv, x = conv.double(), x.double().requires_grad_()
    out = same_convolution(conv, x)
    gradients = torch.autograd.grad((out * weighted.double()).sum(), [x, conv.weight])
    return [out.detach(), *gradients, F.silu(out + 0.5).detach()]


def differences(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [
        float((one.detach().double().cpu() - other).abs().max() / other.detach().abs().max())
        for one, other in zip(found, expected, strict=True)
    ]


def by_kernels(case: tuple[int, int, tuple[int, int], int], dtype: torch.dtype) -> list[float]:
    """What the kernels make of a case; the process must interpret Triton, or have a GPU."""
    kernels = importlib.import_module("rap.model.depthwise_kernel")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    conv, x, weighted = random_case(*case)
    kernel, stride, size, _ = case
    # Numbers that the precision can hold.
    conv, x, weighted = conv.to(dtype), x.to(dtype), weighted.to(dtype)
    weight = conv.weight.detach().to(device)
    expected = plain(conv, x, weighted)
    x, weighted = (part.to(device, memory_format=torch.channels_last) for part in (x, weighted))
    before = (kernel - stride) // 2
    bias = torch.full([len(weight)], 0.5, device=device, dtype=dtype)
    found = [
        kernels.convolve(x, weight, None, stride, before),
        kernels.input_gradient(weighted, weight, size, stride, before),
        kernels.weight_gradient(weighted, x, kernel, stride, before),
        kernels.convolve(x, weight, bias, stride, before),
    ]
    # As promised to the compiler, which stops a training otherwise.
    assert found[2].is_contiguous()
    return differences(found, expected)


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[int, int, tuple[int, int], int]]:
    """All of them; what is known of a device's kernels is forgotten afterwards."""
    kernel_problem.cache_clear()
    yield request.param
    kernel_problem.cache_clear()


@pytest.mark.slow
def test_interpreted_the_kernels_convolve() -> None:
    """Where there is no GPU, Triton's interpreter runs them, in a process of its own."""
    found = run_interpreted(__file__)
    assert found["problem"] is None
    for worst, one in zip(found["worst"], CASES, strict=True):
        assert max(worst) < PRECISIONS["float32"], one


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_kernels_convolve(case: tuple[int, int, tuple[int, int], int], precision: str) -> None:
    """On a GPU, in every precision."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    assert kernel_problem(torch.device("cuda"), getattr(torch, precision)) is None
    assert max(by_kernels(case, getattr(torch, precision))) < PRECISIONS[precision]


@pytest.mark.parametrize("bias", [False, True])
def test_the_operator_has_the_convolutions_gradients(
    case: tuple[int, int, tuple[int, int], int],
    bias: bool,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU by torch's functions, as where Triton does not work; layout of the output kept."""
    monkeypatch.setattr(module, "usable", lambda *_: True)
    precision = "float64" if device.type == "cpu" else "float32"
    conv, x, weighted = random_case(*case)
    expected = plain(conv, x, weighted)
    conv = conv.to(device, getattr(torch, precision))
    x, weighted = (part.to(device, conv.weight.dtype) for part in (x, weighted))
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    if bias:
        conv.bias = nn.Parameter(torch.full_like(conv.weight[:, 0, 0, 0], 0.5))
    out = depthwise(conv, x)
    gradients = torch.autograd.grad((out * weighted).sum(), [x, conv.weight])
    assert out.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        smooth = depthwise_silu(conv, x)
    if bias:
        out = out - 0.5
    else:
        smooth = F.silu(out + 0.5)
    assert max(differences([out, *gradients, smooth], expected)) < PRECISIONS[precision]


def test_a_fused_silu_has_a_gradient_where_one_is_wanted(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kernel for both has none, so it is left aside."""
    monkeypatch.setattr(module, "usable", lambda *_: True)
    conv, x, _ = random_case(3, 1, (8, 6), 8)
    conv.bias = nn.Parameter(torch.ones(8))
    depthwise_silu(conv.to(device), x.to(device)).sum().backward()
    assert conv.bias.grad is not None


@pytest.mark.slow
def test_what_torch_asks_of_an_operator(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes and layouts promised to the compiler are those that come."""
    conv, x, _ = random_case(5, 2, (8, 6), 8)
    x = x.to(device).to(memory_format=torch.channels_last).requires_grad_()
    weight = conv.weight.detach().to(device).requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor",
              "test_aot_dispatch_static")  # fmt: skip
    torch.library.opcheck(torch.ops.rap.depthwise.default, (x, weight, 2), test_utils=checks)
    bias = torch.ones(8, device=device)
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.rap.depthwise_silu.default, (x, weight, bias, 2), test_utils=checks
        )


def test_it_is_for_channels_last_on_a_gpu(device: torch.device) -> None:
    """Elsewhere the plain twin: a CPU has no such kernels, and files keep torch's operator."""
    conv, x, _ = random_case(3, 1, (8, 6), 8)
    x = x.to(device)
    last = x.to(memory_format=torch.channels_last)
    wanted = device.type == "cuda"
    assert module.usable(conv, last) == wanted
    assert not module.usable(conv, x)
    assert not module.usable(conv.double(), last.double())
    assert not module.usable(conv, last[:0])
    assert not module.usable(nn.Conv2d(8, 8, 7, groups=8), last)
    assert not module.usable(nn.Conv2d(8, 8, 3, 2, groups=8), last[:, :, :1])


def test_a_machine_without_triton_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a GPU; a CPU never asks but in these tests."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    kernel_problem.cache_clear()
    for _ in range(2):
        assert kernel_problem(torch.device("cuda"), torch.float16) == "no triton installed"
    kernel_problem.cache_clear()
    assert capsys.readouterr().err.count("in float16 are cuDNN's: no triton installed") == 1


def activated(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else F.silu(x + bias[:, None, None])


def plain_kernels(factor: float) -> ModuleType:
    """In the place of the kernels' module; the weights' gradient is off by a factor."""
    found = ModuleType("plain")
    vars(found).update(
        triton=SimpleNamespace(TritonError=OSError),
        convolve=lambda x, weight, bias, stride, before: activated(
            module.padded_convolution(x, weight, stride), bias
        ),
        input_gradient=lambda grad, weight, size, stride, before: module._plain_input_gradient(
            grad, weight, size, stride
        ),
        weight_gradient=lambda grad, x, kernel, stride, before: (
            factor * module._plain_weight_gradient(grad, x, kernel, stride)
        ),
    )
    return found


@pytest.mark.parametrize(("factor", "wrong"), [(1.0, None), (1.01, "3x3"), (nan, "3x3")])
def test_kernels_that_are_wrong_on_a_machine_are_left_aside(
    factor: float, wrong: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are compared with the plain twin before they are used."""
    monkeypatch.setattr(kernels.util, "find_spec", lambda _: object())
    monkeypatch.setattr(kernels.importlib, "import_module", lambda _: plain_kernels(factor))
    kernel_problem.cache_clear()
    problem = kernel_problem(torch.device("cpu"), torch.float32)
    kernel_problem.cache_clear()
    if wrong is None:
        assert problem is None
    else:
        assert problem is not None
        assert re.search(f"a {wrong} kernel of stride [12] is off by (0.01|nan)", problem)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "autocast"])
def test_a_trunk_trains_alike(
    device: torch.device, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs and gradients of all weights, with the operator and without."""
    torch.manual_seed(0)
    trunk = EfficientNetTrunk("b0", 0.25, 0.0, (3, 4)).to(device)
    x = torch.rand(2, 3, 48, 64, device=device).to(memory_format=torch.channels_last)
    dtype = torch.bfloat16 if half else torch.float32
    found = []
    for wanted in (False, True):
        monkeypatch.setattr(module, "usable", lambda *_, wanted=wanted: wanted)
        monkeypatch.setattr(module, "_as_autocast", lambda part: part.to(dtype))
        trunk.zero_grad()
        with torch.autocast(device.type, dtype, enabled=half):
            maps = trunk(x)
        torch.stack([level.float().square().mean() for level in maps]).sum().backward()
        found.append([*maps, *(weight.grad for weight in trunk.parameters())])
    for one, other in zip(*found, strict=True):
        if one is not None:
            scale = float(one.detach().abs().max()) or 1.0
            assert float((one - other).detach().abs().max()) <= (0.1 if half else 1e-4) * scale


@pytest.mark.slow
def test_the_compiler_makes_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 says of all that it compiles that it is exported: no kernel of ours ever ran."""

    def answer(x: Tensor) -> Tensor:
        return x + (2 if exporting() else 1)

    assert int(torch.compile(answer, backend="eager", fullgraph=True)(torch.zeros(()))) == 1
    assert (
        int(torch.export.export(_Said(answer), (torch.zeros(()),)).module()(torch.zeros(()))) == 2
    )
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert exporting()
    monkeypatch.setattr(torch.compiler, "is_dynamo_compiling", lambda: True)
    assert not exporting()


class _Said(nn.Module):
    """A function as a module, which an export wants."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.slow
def test_a_compiled_trunk_keeps_the_operator(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a break, and with the gradients of the eager one."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it breaks the graph
    monkeypatch.setattr(module, "usable", lambda *_: True)
    torch.manual_seed(0)
    trunk = EfficientNetTrunk("b0", 0.25, 0.0, (3,)).to(device)
    x = torch.rand(2, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    found = []
    for run in (trunk, torch.compile(trunk, backend="aot_eager", fullgraph=True)):
        (gradient,) = torch.autograd.grad(run(x)[0].square().mean(), [trunk.stem.weight])
        found.append(gradient)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    problem = kernel_problem(torch.device("cpu"), torch.float32)
    worst = [by_kernels(case, torch.float32) for case in CASES]
    sys.stdout.write(json.dumps({"problem": problem, "worst": worst}))
