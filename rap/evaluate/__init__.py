"""Poses in, numbers out: errors, medians, recalls, baselines, latency, and files for other tools.

The names load on first use, so that `import rap` stays fast; `__init__.pyi` holds their types.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "baselines": ["constant_mean_pose", "nearest_pose_retrieval"],
    "errors": [
        "RECALL_THRESHOLDS", "SCORE_RULE", "PoseErrors", "ScoreError", "Summary", "pose_errors",
        "score", "summarise",
    ],
    "estimates": [
        "json_text", "read_estimates", "read_poses", "tum_text", "write_colmap",
        "write_pose_files", "write_tum",
    ],
    "inference": [
        "Latency", "Locate", "Streamed", "load_run", "localize", "measure_latency", "pick_device",
        "predict", "stream",
    ],
    "localizer": ["Localizer"],
    "reference": ["read_reference"],
    "report": [
        "Evaluation", "against", "evaluate", "evaluate_locator", "score_estimates", "show",
        "write_report",
    ],
}  # fmt: skip
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (any public name)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
