"""What people read of an A/B: short, escaped, complete, and alive while it runs."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness import live
from benchmarks.harness.abreport import Report, content, lines, markdown, texts
from benchmarks.harness.blocks import Block
from benchmarks.harness.compare import judge_blocks
from benchmarks.harness.counting import NOT_COUNTED
from benchmarks.harness.evidence import counted_nowhere
from benchmarks.harness.live import Display
from benchmarks.harness.trees import Arm
from benchmarks.harness.versus import Ended
from tests.harness.pairs_toys import POLICY, block, timed, toy

NAMES = [f"step[n={n}]" for n in range(100)]


def report(blocks: list[Block], *, ended: Ended = Ended.DECIDED, note: str = "") -> Report:
    """A comparison of two toy trees."""
    base = Arm(Path("base"), "origin/main", "abc123", "d1")
    head = Arm(Path("head"), "working tree", "abc123+dirty", "d2")
    judged = judge_blocks(blocks, POLICY)
    notes = (note,) if note else ()
    return Report(
        judged, base, head, POLICY, "Toy CPU, 2 cores", ended, 12.0, len(blocks),
        "python -m benchmarks ab --resume", notes,
    )  # fmt: skip


def many(ratio: float) -> list[Block]:
    """A hundred benchmarks, all this much slower."""
    return [
        block(n, [toy(name, time_s=1.0) for name in NAMES],
              [toy(name, time_s=ratio * (1 + 0.001 * (n % 3))) for name in NAMES])
        for n in range(14)
    ]  # fmt: skip


def test_markdown_is_at_most_sixty_lines() -> None:
    """A job summary with a hundred red benchmarks is still read."""
    text = markdown(report(many(1.1)))
    assert len(text.splitlines()) <= 60
    assert "more rows are in the JSON" in text


def test_markdown_escapes_what_was_handed_in() -> None:
    """A branch or benchmark name cannot become a link, a tag or a column."""
    found = report(timed([1.0] * 6), note="<img src=x> [a](b) | `c`")
    text = markdown(found)
    assert "<img" not in text
    assert "[a]" not in text
    assert "&#124;" in text


def test_json_holds_every_finding_and_no_infinity() -> None:
    """One block has no finite interval; JSON has no word for that but null."""
    text = json.dumps(content(report(timed([1.1]))), allow_nan=False)
    (finding,) = json.loads(text)["findings"]
    assert (finding["id"], finding["state"], finding["high"]) == ("step", "MORE", None)
    assert len(json.loads(json.dumps(content(report(many(1.0)))))["findings"]) == 100


def test_text_names_what_how_much_how_sure_and_who() -> None:
    """A red line needs no help."""
    text = texts([*lines(report(timed([1.06, 1.061, 1.059] * 5)))])
    for part in (
        "base      origin/main, commit abc123, package d1",
        "step time_s: slower by 6.0%",
        "p <0.0001 for the whole suite, 8 fresh blocks; abc123 -> abc123+dirty",
        "to see it again: python -m benchmarks ab abc123 -k step",
        "owner: somebody",
        "REGRESSION (exit code 1): 1 times in pairs",
    ):
        assert part in text


def test_undecided_says_what_could_have_been_found_and_how_to_go_on() -> None:
    """Not telling is no pass, and no dead end."""
    text = texts([*lines(report(timed([1.0, 1.3, 0.7]), ended=Ended.BUDGET))])
    assert "step time_s: not decided, 3 blocks to go; " in text
    assert "to go on: python -m benchmarks ab --resume" in text
    text = texts([*lines(report(timed([1.0, 1.4, 1.1, 1.3, 0.9] * 6)))])
    assert "step time_s: cannot tell, " in text
    assert "24 blocks, which could have found +" in text
    text = texts([*lines(report(timed([1.0, 1.11, 0.96, 1.09, 0.98] * 6)))])
    assert "blocks, given up: all blocks together could have found +" in text


def test_open_accuracy_is_not_decided() -> None:
    """After the time was spent it is no verdict about the code."""
    errors = (1.0, 1.1, 0.9, 1.05), (1.4, 0.8, 1.3, 0.7)
    base, head = (replace(toy("learn", error_m=1.0), samples={"error_m": e}) for e in errors)
    text = texts([*lines(report([block(0, [base], [head])], ended=Ended.BUDGET))])
    assert "learn error_m: not decided, more to measure. worse by " in text


def test_report_without_numbers_has_no_table() -> None:
    """Interrupted before the first block: still a report."""
    text = texts([*lines(report([], ended=Ended.INTERRUPTED))])
    assert "benchmark  " not in text
    assert "INTERRUPTED (exit code 2), so far INCONCLUSIVE: " in text
    assert "exit code 10" not in text


def test_pipe_gets_a_line_per_block() -> None:
    """Neither twice, nor those that an earlier run had shown."""
    stream = StringIO()
    blocks = timed([1.0, 1.01, 1.0])
    display = Display(stream, "head against base", 1)
    for num in (1, 2, 2, 3):
        display.show(judge_blocks(blocks[:num], POLICY), blocks[:num], "")
    display.close()
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()] == [
        "block 2",
        "block 3",
    ]


def test_pipe_hears_which_benchmark_runs_in_the_first_block() -> None:
    """Where a run is cut off shows there; later blocks take as long."""
    stream = StringIO()
    blocks = timed([1.0, 1.01])
    display = Display(stream, "head against base")
    display.tell("base 3.1 s: step[n=8]")
    display.show(judge_blocks(blocks, POLICY), blocks, "")
    display.tell("head 4.1 s: step[n=8]")
    display.close()
    told, block = stream.getvalue().splitlines()
    assert (told, block.split(" (")[0]) == ("  base 3.1 s: step[n=8]", "block 2")


def test_terminal_gets_a_table_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arm that is running, what each line could find, and how much is still to come."""

    def terminal(file: StringIO) -> Console:
        return Console(file=file, force_terminal=True, width=160)

    monkeypatch.setattr(live, "Console", terminal)
    stream = StringIO()
    display = Display(stream, "head against base")
    blocks = timed([1.0, 1.01, 1.0], "step[n=8]")
    display.show(judge_blocks(blocks, POLICY), blocks, "head")
    display.tell("3.1 s: next[n=9]")
    display.close()
    shown = stream.getvalue()
    assert "block 4: head" in shown
    assert "3.1 s: next[n=9]" in shown
    assert "step[n=8]" in shown
    assert "3 blocks to go" in shown


def test_what_is_compared_with_nothing_is_told_with_its_reason() -> None:
    """Only the head's CUDA calls could be counted: the table alone would not say why."""
    counted = replace(toy(time_s=1.0), counters={"launches": 3})
    blocks = [block(n, [toy(time_s=1.0)], [counted]) for n in range(6)]
    told = "in the base arm, there is no count of them: nothing to compare launches with"
    assert f"  step: {told}" in texts([*lines(report(blocks))])


def test_counts_that_neither_arm_has_are_told() -> None:
    """A change of them is not seen, and a reader must know."""
    lost = replace(toy(time_s=1.0), notes=(f"{NOT_COUNTED}: no CUPTI",))
    told = counted_nowhere(block(0, [lost, toy("b")], [lost, toy("b")]))
    assert told.startswith("CUDA calls of 1 benchmarks were counted in neither arm")
    assert told.endswith(": no CUPTI")
    assert counted_nowhere(block(0, [lost], [toy()])) == ""
