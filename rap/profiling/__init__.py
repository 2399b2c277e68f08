"""Where the time goes: a short warmed-up window of real steps, its numbers, and a verdict."""

from pathlib import Path

from rap.profiling.report import text_of, write
from rap.profiling.summary import Summary, verdict
from rap.profiling.window import Job, Part, record

__all__ = ["Job", "Part", "Summary", "profile", "text_of", "verdict"]


def profile(job: Job, out: Path, steps: int = 5) -> Summary:
    """Run a job for a moment; trace, memory snapshot (GPU only), text and JSON go into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    summary = record(job, out, steps)
    write(summary, out)
    return summary
