"""The golden numbers: made by the twins and by nothing else, and moved by every error."""

import pytest
import torch

from benchmarks import frozen

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def twins() -> dict[str, frozen.Numbers]:
    """Made again, here."""
    return frozen.twins()


@pytest.mark.parametrize("part", ["network", "render", "losses", "step", "training"])
def test_stored_numbers_are_the_twins(twins: dict[str, frozen.Numbers], part: str) -> None:
    """To what a double keeps on another machine; run `python -m benchmarks.frozen` if meant."""
    off = frozen.difference(twins[part], frozen.read_goldens(part))
    assert max(off.values()) < 1e-8


def test_quantities_that_differ_by_name_are_an_error() -> None:
    """Not comparing one is not agreeing on it."""
    golden = frozen.read_goldens("losses")
    fewer = {name: value for name, value in golden.items() if name != "mse"}
    with pytest.raises(AssertionError, match="mse"):
        frozen.difference(fewer, golden)


def test_inputs_are_formulas() -> None:
    """The same numbers on every machine and under every version."""
    assert frozen.spread(3, name="a").tolist() == pytest.approx(
        [0.8181073977611959, 0.8826025000071755, 0.6039518517455358], rel=1e-9
    )  # fmt: skip
    assert frozen.spread(4000, name="b").abs().max() <= 1
    assert abs(float(frozen.spread(4000, name="b").mean())) < 0.05


def halved(term: frozen.FeatureTerm) -> frozen.FeatureTerm:
    """A term with half of its weight."""
    return lambda a, b: 0.5 * term(a, b)


def wrong_weight(kind: str) -> frozen.Numbers:
    """The losses, one of them with half of its weight."""
    terms: dict[str, frozen.FeatureTerm] = {**frozen.plain.FEATURE_LOSSES}
    terms[kind] = halved(terms[kind])
    return frozen.loss_numbers(torch.float64, CPU, terms, lambda p, true: (p - true).square().sum())


def noisy_weights() -> frozen.Numbers:
    """Each weight off by about 0.1 %."""
    regressor = frozen.network(torch.float32, CPU)
    with torch.no_grad():
        for name, value in regressor.named_parameters():
            value.mul_(1 + 1e-3 * frozen.spread(*value.shape, name=f"noise of {name}"))
    return frozen.network_numbers(regressor)


def shifted_gaussians(monkeypatch: pytest.MonkeyPatch) -> frozen.Numbers:
    """Every pixel centre off by a twentieth of a pixel."""
    shifted = frozen.Camera(40.0, 42.0, 24.05, 18.0, 48, 36)
    monkeypatch.setattr(frozen, "CAMERA", shifted)
    return frozen.render_numbers(torch.float32, CPU, "reference")


def test_small_errors_move_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By more than what is tolerated."""
    found = (
        ("network", noisy_weights(), frozen.TOLERANCE["fp32"]),
        ("render", shifted_gaussians(monkeypatch), frozen.RENDER_TOLERANCE),
        ("losses", wrong_weight("vicreg"), frozen.TOLERANCE["fp32"]),
    )
    for part, numbers, tolerance in found:
        off = frozen.difference(numbers, frozen.read_goldens(part))
        assert max(off.values()) > 2 * tolerance, part
