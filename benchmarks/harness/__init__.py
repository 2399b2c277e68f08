"""Measures and decides; knows nothing of `rap`. Benchmarks need `axis`, `Measure`, `Result`."""

from benchmarks.harness.measure import Measure, Result
from benchmarks.harness.parameters import axis

__all__ = ["Measure", "Result", "axis"]
