"""For pytest in another tree (`-p`): writes down which benchmarks it has collected there.

It is copied out of this package, of which that tree has its own version: it imports nothing of it.
"""

import json
import os
from pathlib import Path

import pytest

VARIABLE = "BENCHMARK_LISTING"
"""Names the file that is written."""
FAILED: list[str] = []


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Remember a file that cannot be collected: nobody knows what it holds."""
    if report.failed:
        FAILED.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write what every selection has left: functions with their parameters, and failed files."""
    benchmarks = [
        (getattr(item, "originalname", item.name), getattr(item, "callspec", None))
        for item in session.items
        if "measure" in getattr(item, "fixturenames", ())
    ]
    found = [(name, {} if spec is None else spec.params) for name, spec in benchmarks]
    content = {"benchmarks": found, "failed": FAILED}
    text = json.dumps(content, default=repr)  # a value without a stable name is refused by the id
    Path(os.environ[VARIABLE]).write_text(text, encoding="utf-8")
