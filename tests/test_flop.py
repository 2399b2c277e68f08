"""What a benchmark says that a step computes, on which its share of the matrix rate rests."""

import pytest
import torch
from torch import nn

from benchmarks.workloads_network import flop_of
from rap.model import depthwise as module
from rap.model.depthwise import depthwise, depthwise_silu

SIZE = (2, 24, 8, 6)


def expected(conv: nn.Conv2d) -> int:
    """Two for each weight of a kernel at each pixel of the output, forward."""
    return 2 * SIZE[0] * SIZE[2] * SIZE[3] // conv.stride[0] ** 2 * conv.weight.numel()


@pytest.mark.parametrize("groups", [1, 3, 24])
def test_each_gradient_is_as_much_as_the_convolution(groups: int) -> None:
    """Also of a weight whose channels are apart; the input's only where it is asked for."""
    conv = nn.Conv2d(24, 24, 3, padding=1, groups=groups)
    for wanted in (False, True):
        x = torch.ones(SIZE, requires_grad=wanted)
        found = flop_of(lambda x=x: conv(x).sum().backward())
        assert found == (2 + wanted) * expected(conv)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("own", [False, True], ids=["torch", "own operators"])
def test_own_operators_count_as_torchs(
    own: bool, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: otherwise a package that has them would seem to compute less."""
    monkeypatch.setattr(module, "usable", lambda *_: own)
    conv = nn.Conv2d(24, 24, 5, stride, 2 if stride == 1 else 0, groups=24)
    x = torch.ones(SIZE, requires_grad=True)
    assert flop_of(lambda: depthwise(conv, x).sum().backward()) == 3 * expected(conv)
    with torch.no_grad():
        assert flop_of(lambda: depthwise_silu(conv, x)) == expected(conv)
