"""The precision switch: what it turns on, off, and back."""

from collections.abc import Iterator

import pytest
import torch

from rap.config import ConfigError, Precision
from rap.model.precision import chosen_by_timing, precision_scope

CPU = torch.device("cpu")
Flags = tuple[bool, bool]


def flags() -> Flags:
    return bool(torch.backends.cuda.matmul.allow_tf32), torch.backends.cudnn.allow_tf32


def set_flags(matmul: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = matmul
    torch.backends.cudnn.allow_tf32 = cudnn


@pytest.fixture(params=[(False, False), (True, True), (False, True)])
def outside(request: pytest.FixtureRequest) -> Iterator[Flags]:
    """TensorFloat-32 flags that somebody set before."""
    before = flags()
    set_flags(*request.param)
    yield request.param
    set_flags(*before)


def product(device: torch.device) -> torch.Tensor:
    torch.manual_seed(0)
    a = torch.randn(256, 256, device=device)
    return a @ a


def test_fp32_turns_tf32_off_and_restores(outside: Flags) -> None:
    """Inside the scope neither matrix products nor convolutions may use TensorFloat-32."""
    with precision_scope("fp32", CPU):
        assert flags() == (False, False)
    assert flags() == outside


def test_settings_are_restored_after_an_error(outside: Flags) -> None:
    """An exception in the block leaves nothing changed."""
    with pytest.raises(KeyError), precision_scope("bf16", CPU):
        raise KeyError
    assert flags() == outside
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_half_precision_is_that_of_its_name(precision: Precision, dtype: torch.dtype) -> None:
    """Matrix products inside the scope are half precision, outside float32."""
    with precision_scope(precision, CPU):
        assert product(CPU).dtype == dtype
    assert product(CPU).dtype == torch.float32


def test_fp32_turns_an_outer_autocast_off() -> None:
    """fp32 means fp32, whoever switched autocast on."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with precision_scope("fp32", CPU):
            assert product(CPU).dtype == torch.float32
        assert product(CPU).dtype == torch.bfloat16


def test_precision_that_the_cpu_lacks_is_refused() -> None:
    """Rather than measure fp32 under another name."""
    with (
        pytest.raises(ConfigError, match="'tf32' needs a CUDA device, not cpu"),
        precision_scope("tf32", CPU),
    ):
        pass


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("precision", "dtype", "at_least", "at_most"),
    [
        ("fp32", torch.float32, 0, 1e-4),
        ("tf32", torch.float32, 1e-3, 0.1),
        ("bf16", torch.bfloat16, 1e-2, 1),
        ("fp16", torch.float16, 1e-3, 0.1),
    ],
)
def test_precision_on_the_gpu(
    precision: Precision, dtype: torch.dtype, at_least: float, at_most: float
) -> None:
    """Each precision has its own rounding error, so each is really what runs."""
    device = torch.device("cuda")
    torch.manual_seed(0)
    a = torch.randn(256, 256, device=device)
    with precision_scope(precision, device):
        c = a @ a
    assert c.dtype == dtype
    error = float((c.double() - a.double() @ a.double()).abs().max())
    assert at_least <= error <= at_most


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_timing_of_convolutions_is_put_back(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, before: bool
) -> None:
    """Who has asked for it keeps it."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", before)
    limit = cudnn.benchmark_limit
    with chosen_by_timing(wanted):
        assert cudnn.benchmark is (wanted or before)
    assert (cudnn.benchmark, cudnn.benchmark_limit) == (before, limit)
