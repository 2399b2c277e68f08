"""Measures and decides; knows nothing of `rap`. Benchmarks need these names."""

from benchmarks.harness.measure import Measure, Result
from benchmarks.harness.parameters import axis, combine

__all__ = ["Measure", "Result", "axis", "combine"]
