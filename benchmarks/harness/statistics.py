"""The few statistics that the harness needs, on plain lists of floats, without dependencies."""

import math
from collections.abc import Sequence
from functools import cache


def quantile(values: Sequence[float], q: float) -> float:
    """The `q` quantile (0 to 1), linear between order statistics (Hyndman and Fan, type 7)."""
    if not values:
        raise ValueError("quantile of no values")
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:  # also keeps inf - inf out of it
        return ordered[low]
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones."""
    return quantile(values, 0.5)


def log_median(times: Sequence[float]) -> float:
    """Median on the scale of logarithms: the location of one process's round times, in seconds."""
    return math.exp(median([math.log(time) for time in times]))


def geometric_mean(values: Sequence[float]) -> float:
    """Mean on the scale of logarithms; 1 for no values."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else 1.0


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample, of at least two values."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def median_half_width(values: Sequence[float], confidence: float = 0.95) -> float:
    """How much worse the median of a second set of as many values may be by chance, one-sided.

    Student's t times the spread of a difference of two medians of n normal values, with
    var(median) = π/2 · s²/n (its limit for large n; 17 % too much at n = 3, the safe side).
    0 for fewer than two values: then only the policy's margin is left.
    """
    num = len(values)
    if num < 2:
        return 0.0
    return t_quantile(confidence, num - 1) * deviation(values) * math.sqrt(math.pi / num)


@cache
def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t with (possibly fractional) degrees of freedom, by bisection."""
    if not 0.0 < probability < 1.0 or degrees <= 0.0:
        raise ValueError(f"t_quantile({probability}, {degrees}): needs 0 < p < 1 and degrees > 0")
    if probability < 0.5:
        return -t_quantile(1.0 - probability, degrees)
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < probability:
        high *= 2.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if t_cdf(middle, degrees) < probability else (low, middle)
    return 0.5 * (low + high)


def t_cdf(t: float, degrees: float) -> float:
    """P(T <= t) of Student's t, through the regularised incomplete beta function."""
    tail = 0.5 * _incomplete_beta(0.5 * degrees, 0.5, degrees / (degrees + t * t))
    return 1.0 - tail if t > 0.0 else tail


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), on the side where it converges fast."""
    if x <= 0.0 or x >= 1.0:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    fraction = 1.0
    for k in range(120, 0, -1):  # evaluated from its tail: so many terms are ample on this side
        m = k // 2
        if k % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1.0 + term / fraction
    return math.exp(log_front) / (a * fraction)
