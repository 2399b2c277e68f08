"""A policy of one time and one accuracy, for evidence that is damaged or made up."""

POLICY = """
[metric.time_s]
family = "time"
better = "lower"
relative = 0.25
confirm = 0.15

[metric.error_m]
family = "accuracy"
better = "lower"
relative = 0.1

[[benchmark]]
name = "step*"
owner = "Ada"
metrics = ["time_s", "error_m"]
"""
