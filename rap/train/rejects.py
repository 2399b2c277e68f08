"""Views that the filter rejects, told once: a training goes on with the best of them."""

from collections.abc import Callable, Mapping

from rap import log
from rap.config import ViewsConfig

RARELY = 0.1
"""Share of the drawn views that pass below which a training is told so."""


def once(config: ViewsConfig) -> Callable[[Mapping[str, object]], None]:
    """What warns at the first epoch, of those whose log records it is given, in which few pass."""
    told = False

    def warn(record: Mapping[str, object]) -> None:
        nonlocal told
        message = None if told else rejection(record, config)
        if message is not None:
            log.warn(message)
            told = True

    return warn


def rejection(record: Mapping[str, object], config: ViewsConfig) -> str | None:
    """How few of an epoch's views pass the filter and why, from its log record; None for many."""
    for kind in ("views", "streamed"):
        acceptance, rendered = record.get(f"{kind}_acceptance"), record.get(f"{kind}_rendered")
        if not rendered or not isinstance(acceptance, float | int) or acceptance >= RARELY:
            continue
        why = f"{record[f'{kind}_low_coverage']} had a coverage below {config.min_coverage:g}"
        if config.max_brisque:
            worse = record[f"{kind}_high_brisque"]
            why += f", {worse} a BRISQUE score above {config.max_brisque:g}"
        return (
            f"{acceptance:.1%} of the {rendered} views drawn for epoch {record['epoch']} pass the "
            f"filter ({why}); {record[f'{kind}_below_filter']} that do not are trained on: look at "
            "them with `rap render --filter-sheet`, or change views.min_coverage or "
            "views.max_brisque"
        )
    return None
