"""Loads the benchmarks' plugin: its options exist for `pytest` and `pytest benchmarks` alike."""

pytest_plugins = ["benchmarks.harness.plugin"]
