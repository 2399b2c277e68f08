"""One branch's encoder alone: torch's fused attention against the matrix of all pairs."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

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


def by_default(attention: str, tokens: int, layers: int, precision: str) -> bool:
    """As published: six layers on a GPU, both maps' tokens there, and one run of the plain twin."""
    if (tokens, layers, precision) == (301, 2, "fp32"):
        return attention == "sdpa"
    return (layers, precision) == (6, "bf16") and (attention, tokens) in {
        ("sdpa", 301), ("sdpa", 1201), ("plain", 1201),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("attention", "tokens", "layers", "precision"),
    combine(
        axis(["sdpa", "plain"]), axis([301, 1201], full=[81]),
        axis([2], cuda=[6], full=[1, 12]), axis(["fp32"], cuda=["bf16"]), default=by_default,
    ),
)  # fmt: skip
def bench_transformer(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, device: torch.device, scale: Scale,
    attention: str, tokens: int, layers: int, precision: Precision,
) -> None:  # fmt: skip
    """Forward and backward; the pose token and all gradients are those of float64.

    `plain` puts the twin in torch's place: what the fused kernel is worth in time and memory.
    """
    encoder, inputs, position = network.seeded_encoder(
        layers, scale.model, CELLS[tokens], NUM_IMAGES[device.type], device
    )
    free = [inputs.requires_grad_(), *encoder.parameters()]
    (slope,) = network.random_like([inputs[:, 0]])
    slope[NUM_CHECKED:] = 0
    if attention == "plain":
        monkeypatch.setattr(F, "scaled_dot_product_attention", plain.attention)
    fused = paths.Operations("_scaled_dot_product")

    def step(
        tokens: Tensor = inputs, kind: Precision = precision
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        with tf32_scope(kind):
            with precision_scope(kind, device):
                token = encoder(tokens, position)
            return token.detach(), torch.autograd.grad(token, free, slope)

    # The counter takes no leaf of the graph for a module's input.
    flop = network.flop_of(lambda: step(inputs.clone()))
    with fused:
        step()
    result = measure(step, items=len(inputs), unit="images", clock="gpu", flop=flop)

    expected = layers if attention == "sdpa" else 0
    result.check(fused.num == expected, f"{fused.num} calls of fused attention in {layers} layers")
    weights = plain.in_float64(encoder)
    exact = inputs.detach()[:NUM_CHECKED].double().requires_grad_()
    token = plain.encoder(weights, scale.model.heads, exact, position.double())
    of_weights = [weights[name] for name, _ in encoder.named_parameters()]
    gradient = torch.autograd.grad(token, [exact, *of_weights], slope[:NUM_CHECKED].double())
    # The same weights in fp32 are held to more than half precision can be.
    for kind, found in {"fp32": step(kind="fp32"), precision: result.value}.items():
        off = plain.error([found[0][:NUM_CHECKED]], [token])
        result.check(off < TOLERANCE[kind], f"tokens in {kind} are {off:.1e} off float64")
        of_inputs, *others = found[1]
        off = plain.error([of_inputs[:NUM_CHECKED], *others], gradient)
        result.check(off < TOLERANCE[kind], f"gradients in {kind} are {off:.1e} off float64")
        real = kind == "fp32" or off > ROUNDING
        result.check(real, f"fp32 in disguise: {kind} is {off:.1e} off float64 only")
