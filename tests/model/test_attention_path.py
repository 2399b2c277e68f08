"""The encoder's attention takes a kernel that never holds the scores."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rap.model.transformer import Encoder


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("precision", "backend", "dropout"),
    [
        # cuDNN's own knows no dropout
        (torch.bfloat16, SDPBackend.CUDNN_ATTENTION, 0.0),
        (torch.bfloat16, SDPBackend.FLASH_ATTENTION, 0.0),
        (torch.bfloat16, SDPBackend.FLASH_ATTENTION, 0.1),
        (torch.float16, SDPBackend.FLASH_ATTENTION, 0.0),
        (torch.float16, SDPBackend.FLASH_ATTENTION, 0.1),
        (torch.float32, SDPBackend.EFFICIENT_ATTENTION, 0.0),
        (torch.float32, SDPBackend.EFFICIENT_ATTENTION, 0.1),
    ],
    ids=str,
)
def test_fused_attention_takes_the_encoders_tensors(
    precision: torch.dtype, backend: SDPBackend, dropout: float
) -> None:
    """With nothing else allowed it still runs, forward and backward, at the published size."""
    encoder = Encoder(dim=256, heads=4, layers=2, feedforward=256, dropout=dropout).cuda().train()
    tokens = torch.randn(2, 1201, 256, device="cuda", requires_grad=True)
    position = torch.randn(1201, 256, device="cuda")
    half = precision != torch.float32
    with sdpa_kernel(backend), torch.autocast("cuda", precision, enabled=half):
        encoder(tokens, position).float().square().sum().backward()
    assert tokens.grad is not None
    assert bool(tokens.grad.isfinite().all())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_attention_is_linear_in_memory() -> None:
    """Left to itself it keeps a small multiple of the tokens, not their square."""
    encoder = Encoder(dim=256, heads=4, layers=2, feedforward=256, dropout=0.0).cuda().train()
    peaks = []
    for num in (1001, 2001):
        tokens = torch.randn(4, num, 256, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            encoder(tokens, torch.zeros(num, 256, device="cuda")).float().sum().backward()
        before = torch.cuda.memory_allocated()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 2.6 * peaks[0]
