"""BatchNorm and SiLU in one step: values, gradients and statistics of two, in less memory."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rap.model.activation import counted_at_once, norm_silu

SHAPE = (6, 16, 9, 7)


def norm_on(device: torch.device, training: bool) -> nn.BatchNorm2d:
    """A BatchNorm whose weights and statistics are none of a fresh one."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16, eps=1e-3, momentum=0.1)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        assert tensor is not None
        nn.init.normal_(tensor, 0.3)
    assert norm.running_var is not None
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm.to(device).train(training)


def results(
    norm: nn.BatchNorm2d, joined: bool, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], int]:
    """Output, gradients and statistics; and the bytes of maps that were kept."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SHAPE, generator=generator).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = norm_silu(norm, x) if joined else F.silu(norm(x))
    gradient = torch.randn(SHAPE, generator=generator).to(device, dtype)
    y.backward(gradient)
    found = [y.detach(), x.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()]
    return [tensor for tensor in found if tensor is not None], sum(kept.values())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_the_plain_one_in_less_memory(
    dtype: torch.dtype, training: bool, device: torch.device
) -> None:
    """Values, gradients, running statistics and their count; only the input is kept."""
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    want, much = results(norm_on(device, training), False, dtype, device)
    found, less = results(norm_on(device, training), True, dtype, device)
    assert len(found) == len(want) == 7
    for got, expected in zip(found, want, strict=True):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    one = want[0].nbytes
    assert (much, less) == (2 * one, one)


def test_weights_that_are_not_trained_get_no_gradient() -> None:
    """As in a calibrated network."""
    norm = norm_on(torch.device("cpu"), training=False).requires_grad_(False)
    x = torch.randn(SHAPE, requires_grad=True)
    norm_silu(norm, x).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None


def test_what_is_no_batch_norm_is_called() -> None:
    """A folded network has nothing there."""
    x = torch.randn(SHAPE)
    assert torch.equal(norm_silu(nn.Identity(), x), F.silu(x))


@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (2, 16, 1, 1), (1, 16, 1, 2)])
def test_one_value_for_each_channel_has_no_statistics(shape: tuple[int, ...]) -> None:
    """Torch's own error, and no NaN in the running variance; two values are enough."""
    norm, x = norm_on(torch.device("cpu"), training=True), torch.randn(shape)
    if x.numel() == 16:
        with pytest.raises(ValueError, match="more than 1 value per channel when training"):
            norm_silu(norm, x)
    else:
        norm_silu(norm, x)
    assert norm.running_var is not None
    assert norm.running_var.isfinite().all()
    norm_silu(norm.eval(), x)


def test_calibration_averages_over_all_batches() -> None:
    """Momentum None counts batches, which the plain layer does."""
    norm = norm_on(torch.device("cpu"), training=True)
    norm.momentum = None
    norm.reset_running_stats()
    batches = [torch.randn(SHAPE) + shift for shift in range(3)]
    for batch in batches:
        norm_silu(norm, batch)
    assert norm.running_mean is not None
    want = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, want)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batches_are_counted_once(momentum: float | None) -> None:
    """As each norm counts for itself; without momentum the count is needed in the pass itself."""
    norms = nn.Sequential(
        nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, track_running_stats=False),
        nn.BatchNorm2d(3).eval(), nn.BatchNorm2d(3),
    )  # fmt: skip
    alone, x = copy.deepcopy(norms), torch.randn(4, 3, 2, 2)
    for _ in range(3):
        with counted_at_once([norms]):
            found = norms(x)
        assert torch.equal(found, alone(x))
    assert norms.state_dict().keys() == alone.state_dict().keys()
    for name, value in alone.state_dict().items():
        assert torch.equal(norms.state_dict()[name], value), name
    assert [int(n.num_batches_tracked or 0) for n in norms if isinstance(n, nn.BatchNorm2d)] == [
        3,
        0,
        0,
        3,
    ]


def test_counts_are_back_after_an_error() -> None:
    """A state that is written afterwards has them."""
    norm = nn.BatchNorm2d(3)
    with pytest.raises(KeyError), counted_at_once([norm]):
        raise KeyError
    assert norm.num_batches_tracked is not None
