"""Squeeze and excite without a pass over the map: our kernels, where they run, and torch's way."""

import copy
import importlib
import json
import re
import sys
from collections.abc import Iterator
from importlib import util
from math import nan
from types import ModuleType, SimpleNamespace

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rap import kernels
from rap.camera import Camera
from rap.config import ModelConfig
from rap.model import depthwise, squeeze
from rap.model.backbone import Block, BlockSpec
from rap.model.depthwise import same_convolution
from rap.model.infer import PoseNetwork, folded
from rap.model.precision import tf32_scope
from rap.model.regressor import Regressor, build_regressor
from rap.model.squeeze import kernel_problem, usable
from tests.processes import run_interpreted

FILTERS = [
    (3, 1, (2, 3), 33, 1), (3, 2, (21, 14), 8, 3), (5, 1, (7, 19), 40, 3), (5, 2, (9, 7), 8, 1),
]  # fmt: skip
"""Kernel, stride, height and width of the map, channels, images."""
GATES = [
    (1, 3, 32, 8, 16), (2, 70, 200, 5, 40), (1, 2, 1152, 48, 33), (3, 260, 8, 4, 130),
    (8, 1, 150, 70, 1),
]  # fmt: skip
"""Images, tiles, channels, squeezed and projected ones."""
PRECISIONS = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest difference from float64, of the largest value."""
CAMERA = Camera(60.0, 60.0, 40.0, 24.0, 80, 48)


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found.double().cpu() - expected).abs().max() / expected.abs().max())


def filtered(case: tuple[int, int, tuple[int, int], int, int], dtype: torch.dtype) -> list[float]:
    """A map and its sums by the kernel; the process must interpret Triton, or have a GPU."""
    own = importlib.import_module("rap.model.depthwise_kernel")
    kernel, stride, size, channels, num = case
    x, weight, bias = (
        part.to(dtype)
        for part in (
            drawn(num, channels, *size),
            drawn(channels, 1, kernel, kernel, seed=1),
            drawn(channels, seed=2),
        )
    )
    conv = nn.Conv2d(
        channels, channels, kernel, stride, kernel // 2 * (stride == 1), groups=channels
    )
    conv.weight, conv.bias = nn.Parameter(weight.double()), nn.Parameter(bias.double())
    with torch.no_grad():
        expected = F.silu(same_convolution(conv, x.double()))
    there = [part.to(device_of_kernels()) for part in (weight, bias)]
    x = x.to(device_of_kernels(), memory_format=torch.channels_last)
    found, sums = own.convolve_summed(x, *there, stride, (kernel - stride) // 2, 16)
    parts = (num, -(-expected.shape[2] * expected.shape[3] // 16), channels)
    assert sums.shape == parts
    again = own.convolve_summed(x, *there, stride, (kernel - stride) // 2, 16)
    assert torch.equal(again[0], found)
    assert torch.equal(again[1], sums)
    return [difference(found, expected), difference(sums.sum(1), expected.sum((2, 3)))]


def gated(case: tuple[int, int, int, int, int], dtype: torch.dtype) -> list[float]:
    """Gated weights, and a map with its bias and what it is added to, by the kernels."""
    own = importlib.import_module("rap.model.squeeze_kernel")
    num, parts, channels, squeezed, outs = case
    weights = [
        drawn(*size, seed=seed).to(dtype)
        for seed, size in enumerate(
            [(squeezed, channels), (squeezed,), (channels, squeezed), (channels,), (outs, channels)]
        )
    ]
    sums = drawn(num, parts, channels, seed=9)
    expected = squeeze._plain_weight(sums.double(), 37, *(part.double() for part in weights))
    there = [part.to(device_of_kernels()) for part in weights]
    found = own.gated_weight(sums.to(device_of_kernels()), 37, *there)
    off = [difference(found, expected)]
    bias, out = weights[3], weights[0]
    for residual in (None, weights[2].mT.contiguous()):
        found = out.to(device_of_kernels(), copy=True)
        added = None if residual is None else residual.to(device_of_kernels())
        own.add_bias(found, there[3], added)
        total = out.double() + bias.double()
        off.append(difference(found, total if residual is None else total + residual.double()))
    return off


def device_of_kernels() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    """What is known of a device's kernels is forgotten."""
    kernel_problem.cache_clear()
    depthwise.kernel_problem.cache_clear()
    yield
    kernel_problem.cache_clear()
    depthwise.kernel_problem.cache_clear()


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operators on a CPU, where they do what they do without Triton."""
    monkeypatch.setattr(depthwise, "usable", lambda *_: True)


def folded_block(spec: BlockSpec) -> Block:
    """A block whose BatchNorm went into its convolutions, with biases that matter."""
    torch.manual_seed(0)
    block = Block(spec, 0.0).eval()
    pairs = [("depthwise", "depthwise_norm"), ("project", "project_norm")]
    for conv, norm in [*pairs, ("expand", "expand_norm")][: 3 if spec.expansion > 1 else 2]:
        nn.init.normal_(getattr(block, norm).bias)
        setattr(block, conv, folded(getattr(block, conv), getattr(block, norm)))
        setattr(block, norm, nn.Identity())
    return block.requires_grad_(False)


def last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


@pytest.mark.slow
def test_interpreted_the_kernels_compute() -> None:
    """Where there is no GPU, Triton's interpreter runs them, in a process of its own."""
    found = run_interpreted(__file__)
    assert found["problem"] is None
    for worst, one in zip(found["worst"], FILTERS + GATES, strict=True):
        assert max(worst) < PRECISIONS["float32"], one


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_kernels_compute(precision: str) -> None:
    """On a GPU, in every precision."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    dtype = getattr(torch, precision)
    assert kernel_problem(torch.device("cuda"), dtype) is None
    for one in FILTERS:
        assert max(filtered(one, dtype)) < PRECISIONS[precision], one
    for one in GATES:
        assert max(gated(one, dtype)) < PRECISIONS[precision], one


@pytest.mark.parametrize("num", [0, 1, 3])
@pytest.mark.parametrize(
    "spec",
    [BlockSpec(3, 1, 1, 8, 8, 1), BlockSpec(5, 1, 6, 8, 8, 2), BlockSpec(3, 2, 6, 8, 16, 2)],
    ids=str,
)
def test_a_block_is_the_plain_one(
    spec: BlockSpec, num: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a residual and without, one image and several; the layout is kept."""
    block, x = folded_block(spec).double(), last(drawn(num, 8, 17, 23).double())
    with torch.no_grad():
        expected = block(x)
        monkeypatch.setattr(depthwise, "usable", lambda *_: True)
        precision = "float64" if device.type == "cpu" else "float32"
        dtype = getattr(torch, precision)
        x = last(x.to(device, dtype))
        block = block.to(device, dtype)
        assert usable(block.depthwise, block.project, x)
        found = block(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found.shape == expected.shape
    if num:
        assert difference(found, expected) < PRECISIONS[precision]


@pytest.fixture(scope="module")
def regressor() -> Regressor:
    """Of B0's depth, with norms of its own images and heads that answer to what they see."""
    config = ModelConfig(
        width=0.25, dim=32, heads=2, layers=1, feedforward=32, head_hidden=32,
        batch_norm="calibrated",
    )  # fmt: skip
    regressor = build_regressor(config, seed=3)
    generator = torch.Generator().manual_seed(4)
    regressor.calibrate([torch.rand(4, 3, 48, 80, generator=generator)])
    for branch in (regressor.translation_branch, regressor.rotation_branch):
        nn.init.normal_(branch.head_out.weight, std=0.3, generator=generator)
    return regressor


@pytest.mark.parametrize("num", [1, 16])
def test_poses_are_those_of_the_plain_way(
    num: int, regressor: Regressor, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole network's; in half precision they are as far off fp32 as the plain way's."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (16, 3, 48, 80), dtype=torch.uint8, generator=generator)
    regressor, found = copy.deepcopy(regressor).to(device), {}
    for precision in ("fp32", "bf16"):
        network = PoseNetwork(regressor, CAMERA, precision)
        for own in (False, True):
            monkeypatch.setattr(depthwise, "usable", lambda *_, own=own: own)
            with torch.no_grad(), tf32_scope("fp32"):
                found[precision, own] = torch.cat(
                    [network(some.to(device)) for some in images.split(num)]
                )
    assert not torch.equal(found["bf16", True], found["bf16", False]), "both ways were gone"
    exact = found["fp32", False]
    torch.testing.assert_close(found["fp32", True], exact, atol=1e-4, rtol=1e-4)
    plain, ours = ((found["bf16", own] - exact).abs().mean() for own in (False, True))
    assert 0 < ours < 1.5 * plain + 1e-3


def test_it_is_for_networks_without_batch_norm_that_nobody_trains(
    forced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere the plain way, also under autocast and for several maps smaller than weights."""
    block, x = folded_block(BlockSpec(3, 1, 6, 8, 8, 2)), last(drawn(2, 48, 4, 2))
    trained = Block(BlockSpec(3, 1, 6, 8, 8, 2), 0.0)
    assert not usable(block.depthwise, block.project, x)
    with torch.no_grad():
        assert usable(block.depthwise, block.project, x)
        assert not usable(trained.depthwise, trained.project, x)
        assert not usable(block.depthwise, block.project, x.double())
        assert not usable(block.depthwise, block.project, x[:, :, 1:])
        assert usable(block.depthwise, block.project, x[:1, :, 1:])
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)
        assert not usable(block.depthwise, block.project, x)


def test_a_cpu_and_a_file_keep_the_plain_way(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operators are not even asked, so that goldens and exports are the same to the bit."""
    block = folded_block(BlockSpec(3, 1, 6, 8, 8, 2)).to(device)
    x = last(drawn(2, 48, 4, 2)).to(device)
    with torch.no_grad():
        assert usable(block.depthwise, block.project, x) == (device.type == "cuda")
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        assert not usable(block.depthwise, block.project, x)


def test_a_machine_without_triton_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a GPU; a CPU never asks but in these tests."""
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    for _ in range(2):
        assert kernel_problem(torch.device("cuda"), torch.float16) == "no triton installed"
    assert capsys.readouterr().err.count("excite in float16 is torch's: no triton installed") == 1


def plain_kernels(of_sums: float, of_weight: float, of_bias: float) -> ModuleType:
    """In the place of both modules of kernels; each result is off by a factor."""

    def convolve_summed(
        x: Tensor, weight: Tensor, bias: Tensor, stride: int, before: int, tile: int
    ) -> tuple[Tensor, Tensor]:
        y = F.silu(depthwise.padded_convolution(x, weight, stride) + bias[:, None, None])
        return y, of_sums * y.sum((2, 3))[:, None]

    def add_bias(out: Tensor, bias: Tensor, residual: Tensor | None) -> None:
        out += of_bias * bias
        out += 0 if residual is None else residual

    found = ModuleType("plain")
    vars(found).update(
        triton=SimpleNamespace(TritonError=OSError),
        convolve_summed=convolve_summed,
        gated_weight=lambda *parts: of_weight * squeeze._plain_weight(*parts),
        add_bias=add_bias,
    )
    return found


@pytest.mark.parametrize(
    ("factors", "wrong"),
    [
        ((1.0, 1.0, 1.0), None), ((1.01, 1.0, 1.0), "its sum over pixels"),
        ((1.0, nan, 1.0), "a gated weight"), ((1.0, 1.0, 1.01), "a sum with the bias"),
    ],
)  # fmt: skip
def test_kernels_that_are_wrong_on_a_machine_are_left_aside(
    factors: tuple[float, float, float], wrong: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are compared with the plain twins before they are used."""
    monkeypatch.setattr(kernels.util, "find_spec", lambda _: object())
    monkeypatch.setattr(kernels.importlib, "import_module", lambda _: plain_kernels(*factors))
    problem = kernel_problem(torch.device("cpu"), torch.float32)
    if wrong is None:
        assert problem is None
    else:
        assert problem is not None
        assert re.fullmatch(f"{wrong} is off by (0.0[01]\\d*|nan)", problem)


@pytest.mark.cuda
def test_the_kernels_run_where_the_map_is() -> None:
    """On a second GPU, while the first is the current one, as for `--device cuda:1`."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two NVIDIA GPUs")
    block, x = folded_block(BlockSpec(3, 1, 6, 8, 8, 2)), last(drawn(2, 8, 12, 22))
    with torch.no_grad():
        expected = block(x).double()
        block, x = block.to("cuda:1"), x.to("cuda:1")
        assert difference(block(x), expected) < 1e-3
        filtered = depthwise.depthwise(block.depthwise, last(drawn(2, 48, 5, 6)).to(x.device))
    assert filtered.device == x.device
    assert kernel_problem(x.device, x.dtype) is None
    assert depthwise.kernel_problem(x.device, x.dtype) is None


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 2])
def test_what_torch_asks_of_the_operators(num: int, device: torch.device) -> None:
    """Shapes and layouts promised to the compiler are those that come."""
    block = folded_block(BlockSpec(5, 2, 6, 8, 16, 2)).to(device)
    x = last(drawn(num, 48, 12, 22)).to(device)
    y, sums = torch.ops.rap.depthwise_silu_summed(
        x, block.depthwise.weight, block.depthwise.bias, 2
    )
    gate = (block.squeeze.weight, block.squeeze.bias, block.excite.weight, block.excite.bias)
    projection = (block.project.weight, block.project.bias)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor",
              "test_aot_dispatch_static")  # fmt: skip
    with torch.no_grad():
        torch.library.opcheck(
            torch.ops.rap.depthwise_silu_summed.default,
            (x, block.depthwise.weight, block.depthwise.bias, 2), test_utils=checks,
        )  # fmt: skip
        for residual in (None, last(drawn(num, 16, 6, 11)).to(device)):
            torch.library.opcheck(
                torch.ops.rap.gated_projection.default,
                (y, sums, *gate, *projection, residual), test_utils=checks,
            )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("num", [1, 2])
def test_a_compiled_block_keeps_the_operators(
    num: int, device: torch.device, forced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a break, and with the map of the eager one."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it breaks the graph
    block = folded_block(BlockSpec(5, 1, 6, 8, 8, 2)).to(device)
    x = last(drawn(num, 8, 6, 11)).to(device)
    with torch.no_grad():
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), block(x))


@pytest.mark.slow
def test_an_exported_block_has_torchs_operators_for_any_batch(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others know these, and nothing asked of the map makes its batch size a constant."""
    monkeypatch.setattr(depthwise, "usable", lambda *_: not torch.compiler.is_exporting())
    block = folded_block(BlockSpec(3, 1, 6, 8, 8, 2)).to(device)
    x = last(drawn(2, 8, 6, 11)).to(device)
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=9)
        program = torch.export.export(block, (x,), dynamic_shapes=({0: batch},))
        three = last(drawn(3, 8, 6, 11)).to(device)
        torch.testing.assert_close(program.module()(three), block(three), atol=1e-4, rtol=1e-4)
    assert not [node for node in program.graph.nodes if "rap" in str(node.target)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    problem = kernel_problem(torch.device("cpu"), torch.float32)
    worst = [filtered(one, torch.float32) for one in FILTERS]
    worst += [gated(one, torch.float32) for one in GATES]
    sys.stdout.write(json.dumps({"problem": problem, "worst": worst}))
