"""One branch's encoder alone: torch's fused attention against the matrix of all pairs."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import paths, plain
from benchmarks import workloads_network as network
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import Precision
from rap.model.precision import precision_scope, tf32_scope

NUM_IMAGES = {"cpu": 2, "cuda": 24}
CELLS = {81: (8, 10), 301: (15, 20), 1201: (30, 40)}
"""Rows and columns for a number of tokens; 301 and 1201 are those of a 240 x 320 image's levels."""
NUM_CHECKED = 2
"""Images that have a slope: the twin keeps the matrix of all pairs, in float64, of every layer."""
TOLERANCE = {"fp32": 1e-4, "bf16": 0.06}
"""Of outputs and gradients against float64, as a share of their norms; a bf16 has eight bits."""
ROUNDING = 1e-3
"""A half precision that is nearer to float64 is none."""


OPERATION = {
    "sdpa": "_scaled_dot_product", "plain": "_scaled_dot_product",
    "flash": "_scaled_dot_product_flash", "efficient": "_scaled_dot_product_efficient",
    "cudnn": "_scaled_dot_product_cudnn", "math": "_scaled_dot_product",
}  # fmt: skip
"""What the operations of an implementation are called; `plain` and `math` have none of them."""
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip
"""Of torch's attention, one alone; with `sdpa` it chooses."""
HALF_ONLY = ("flash", "cudnn")
"""On a GPU."""


def possible(attention: str, tokens: int, layers: int, precision: str) -> bool:
    """One implementation after the other at the published depth only."""
    if attention in ("sdpa", "plain"):
        return True
    half = precision == "bf16"
    return (tokens >= 301 and layers == (6 if half else 2)) and (half or attention not in HALF_ONLY)


def by_default(attention: str, tokens: int, layers: int, precision: str) -> bool:
    """As published: six layers on a GPU, both maps' tokens there, and one run of the plain twin."""
    if (tokens, layers, precision) == (301, 2, "fp32"):
        return attention == "sdpa"
    return (layers, precision) == (6, "bf16") and (attention, tokens) in {
        ("sdpa", 301), ("sdpa", 1201), ("plain", 1201),
    }  # fmt: skip


CASES = [case for case in combine(
    axis(["sdpa", "plain"], cuda=["flash", "efficient", "cudnn"], full=["math"]),
    axis([301, 1201], full=[81]), axis([2], cuda=[6], full=[1, 12]),
    axis(["fp32"], cuda=["bf16"]), default=by_default,
) if possible(*case.values)]  # fmt: skip


@pytest.mark.parametrize(("attention", "tokens", "layers", "precision"), CASES)
def bench_transformer(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    attention: str, tokens: int, layers: int, precision: Precision,
) -> None:  # fmt: skip
    """Forward and backward; the pose token and all gradients are those of float64.

    `plain` puts the twin in torch's place: what the fused kernel is worth in time and memory. The
    others allow torch one of its own implementations.
    """
    encoder, inputs, position = network.seeded_encoder(
        layers, scale.model, CELLS[tokens], NUM_IMAGES[device.type], device
    )
    free = [inputs.requires_grad_(), *encoder.parameters()]
    (slope,) = network.random_like([inputs[:, 0]])
    slope[NUM_CHECKED:] = 0
    if attention == "plain":
        monkeypatch.setattr(F, "scaled_dot_product_attention", plain.attention)
    fused, alone = paths.Operations(OPERATION[attention]), BACKENDS.get(attention)

    def step(
        tokens: Tensor = inputs,
        kind: Precision = precision,
        backend: SDPBackend | None = alone,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        with tf32_scope(kind), sdpa_kernel(backend) if backend else nullcontext():
            with precision_scope(kind, device):
                token = encoder(tokens, position)
            return token.detach(), torch.autograd.grad(token, free, slope)

    # The counter takes no leaf of the graph for a module's input.
    flop = network.flop_of(lambda: step(inputs.clone()))
    with fused:
        step()
    result = measure(step, items=len(inputs), unit="images", clock="gpu", flop=flop, replay=True)

    expected = 0 if attention in ("plain", "math") else layers
    result.check(fused.num == expected, f"{fused.num} calls of fused attention in {layers} layers")
    weights = plain.in_float64(encoder)
    exact = inputs.detach()[:NUM_CHECKED].double().requires_grad_()
    token = plain.encoder(weights, scale.model.heads, exact, position.double())
    of_weights = [weights[name] for name, _ in encoder.named_parameters()]
    gradient = torch.autograd.grad(token, [exact, *of_weights], slope[:NUM_CHECKED].double())
    # The same weights in fp32 are held to more than half precision can be.
    plainly = step(kind="fp32", backend=None)
    for kind, found in {"fp32": plainly, precision: result.value}.items():
        off = plain.error([found[0][:NUM_CHECKED]], [token])
        result.check(off < TOLERANCE[kind], f"tokens in {kind} are {off:.1e} off float64")
        of_inputs, *others = found[1]
        off = plain.error([of_inputs[:NUM_CHECKED], *others], gradient)
        result.check(off < TOLERANCE[kind], f"gradients in {kind} are {off:.1e} off float64")
        real = kind == "fp32" or off > ROUNDING
        result.check(real, f"fp32 in disguise: {kind} is {off:.1e} off float64 only")
