"""What the filter did with the views that a run was trained on, as its log tells."""

import json
from pathlib import Path
from typing import Any

NUMBERS = ("rendered", "acceptance", "attempts", "below_filter")
"""Of a redraw, in the log."""


def views_used(path: Path) -> str | None:
    """One line about all redraws of a run from its `log.jsonl`; None where it tells of none.

    A line that is torn, or that lacks one of the numbers, counts for nothing.
    """
    if not path.is_file():
        return None
    records = [_record(line) for line in path.read_text("utf-8", errors="replace").splitlines()]
    kinds = [
        (record, kind)
        for record in records
        for kind in ("views", "streamed")
        if all(isinstance(record.get(f"{kind}_{name}"), int | float) for name in NUMBERS)
        and record[f"{kind}_rendered"]
    ]
    if not kinds:
        return None
    rendered = sum(record[f"{kind}_rendered"] for record, kind in kinds)
    passed = sum(
        record[f"{kind}_rendered"] * record[f"{kind}_acceptance"] for record, kind in kinds
    )
    below = sum(record[f"{kind}_below_filter"] for record, kind in kinds)
    attempts = max(record[f"{kind}_attempts"] for record, kind in kinds)
    return (
        f"{passed / rendered:.1%} of {rendered:,} drawn ones passed the filter, at most "
        f"{attempts} drawn for one; {below:,} kept below it"
    )


def _record(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
