"""BRISQUE of one image by its definition: float64, dense windows, roots by bisection."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64


def as_arrays(model: Mapping[str, object]) -> dict[str, np.ndarray]:
    """The parameters of a support-vector regression by their names, whatever else is there."""
    names = ("support", "coefficients", "gamma", "rho", "low", "high")
    return {name: np.asarray(model[name], dtype=np.float64) for name in names}


def score(image: Float64[np.ndarray, "3 h w"], model: dict[str, np.ndarray]) -> float:
    """The support-vector regression of the scaled features, one vector after the other."""
    gray = 0.2125 * image[0] + 0.7154 * image[1] + 0.0721 * image[2]
    features = np.array(features_of(gray) + features_of(halved(gray)))
    x = 2 * (features - model["low"]) / (model["high"] - model["low"]) - 1
    total = -float(model["rho"])
    for weight, vector in zip(model["coefficients"], model["support"], strict=True):
        total += float(weight) * math.exp(-float(model["gamma"]) * float(((x - vector) ** 2).sum()))
    return total


def halved(gray: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h2 w2"]:
    """Cubic interpolation at the centres of half-size pixels; beyond the border its last pixel."""
    for axis in (0, 1):
        size = gray.shape[axis]
        position = (np.arange(round(size / 2)) + 0.5) * 2 - 0.5
        first = np.floor(position).astype(int)
        rows = 0.0
        for tap in (-1, 0, 1, 2):
            weight = cubic(abs(float(position[0] - first[0]) - tap))
            rows = rows + weight * gray.take((first + tap).clip(0, size - 1), axis)
        gray = np.asarray(rows)
    return gray


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, d = -0.75, distance
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4)


def blurred(gray: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    """A dense 7×7 window of σ = 7/6, zeros beyond the border."""
    y, x = np.mgrid[-3:4, -3:4]
    window = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    height, width = gray.shape
    padded = np.pad(gray, 3)
    total = np.zeros_like(gray)
    for i in range(7):
        for j in range(7):
            total += window[i, j] * padded[i : i + height, j : j + width]
    return total


def features_of(gray: Float64[np.ndarray, "h w"]) -> list[float]:
    """Of normalised luminances, then of their products with four neighbours."""
    mean = blurred(gray)
    deviation = np.sqrt(np.abs(blurred(gray**2) - mean**2))
    above = gray - mean
    # the package's rounding makes flat patches a little positive unless they are black
    above = np.where(np.abs(above) < 1e-12, 1e-12 * gray, above)
    x = above / (deviation + 1 / 255)
    shape, _, left, right = fit(x)
    found = [shape, (left + right) / 2]
    height, width = x.shape
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = x[: height - down, max(0, -across) : width - max(0, across)]
        there = x[down:, max(0, across) : width + min(0, across)]
        found += fit(here * there)
    return found


def fit(x: Float64[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """Asymmetric generalised Gaussian: shape, mean, left and right variance."""
    left, right = float((x[x < 0] ** 2).mean()), float((x[x >= 0] ** 2).mean())
    skew = math.sqrt(left / right)
    ratio = float(np.abs(x).mean()) ** 2 / float((x**2).mean())
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    low, high = 0.05, 200.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio_of(middle) < ratio else (low, middle)
    factor = math.exp((math.lgamma(1 / low) - math.lgamma(3 / low)) / 2)
    factor *= math.exp(math.lgamma(2 / low) - math.lgamma(1 / low))
    return low, (math.sqrt(right) - math.sqrt(left)) * factor, left, right


def ratio_of(shape: float) -> float:
    """(E|x|)² / E[x²] of a generalised Gaussian."""
    log = 2 * math.lgamma(2 / shape) - math.lgamma(1 / shape) - math.lgamma(3 / shape)
    return math.exp(log)
