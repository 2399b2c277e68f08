"""The verdict made again from its evidence, by somebody who does not believe who measured."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.harness import handover
from benchmarks.harness.baseline import COMMITTED, added, write_baseline
from benchmarks.harness.blocks import Block, BlockFile
from benchmarks.harness.handover import Evidence, read_evidence, write_evidence
from benchmarks.harness.machine import Machine
from benchmarks.harness.markdown import MAX_LINES, annotations, junit, page, plain
from benchmarks.harness.policy import read_policy
from benchmarks.harness.record import Record, RecordError, Session
from benchmarks.harness.rules import Finding, Status
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import reseal

POLICY = """
[metric.time_s]
family = "time"
better = "lower"
relative = 0.25
confirm = 0.15

[[benchmark]]
name = "step*"
owner = "Ada"
metrics = ["time_s"]
"""
STEP = Record("step", "benchmarks/bench_toy.py::bench_step", metrics={"time_s": 1.0})
SLOW = dataclasses.replace(STEP, metrics={"time_s": 1.5})


@pytest.fixture
def tree(tmp_path: Path, toy_machine: Machine) -> Path:
    """A checkout with a policy and a baseline."""
    path = tmp_path / COMMITTED / toy_machine.key / "room.json"
    write_baseline(path, added(None, Session(toy_machine, "room", "abc", (STEP,))))
    (tmp_path / "benchmarks" / "policy.toml").write_text(POLICY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def report(
    tree: Path, toy_machine: Machine, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Hands over a run with fresh processes; the exit code and the page."""

    def report(
        now: Record | None, *again: Record, options: tuple[str, ...] = ()
    ) -> tuple[int, str]:
        def session(*records: Record) -> Session:
            return Session(toy_machine, "room", "def456", records)

        run = session() if now is None else session(now)
        evidence = Evidence(run, tuple(session(one) for one in again))
        path = tree / "evidence.json"
        write_evidence(path, evidence)
        assert read_evidence(path) == evidence
        code = main(["report", str(path), *options], tree)
        return code, capsys.readouterr().out

    return report


Report = Callable[..., tuple[int, str]]


def test_verdict_is_made_again(report: Report) -> None:
    """From the numbers: green, red after three fresh processes, incomplete without them."""
    assert report(STEP)[0] == Code.PASS
    code, printed = report(SLOW, SLOW, SLOW, SLOW)
    assert (code, "## REGRESSION (exit code 1)" in printed) == (Code.REGRESSION, True)
    assert "| step | time&#95;s | 1 s | 1.5 s | +50.0% | WORSE." in printed
    assert report(SLOW)[0] == Code.INCONCLUSIVE


def test_run_that_left_something_out_is_coverage(report: Report) -> None:
    """Whatever it says that it was asked for."""
    assert report(None)[0] == Code.COVERAGE


def test_foreign_machine_without_a_baseline_is_red_in_ci(
    tree: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who reports decides that, not the one who ran."""
    shutil.rmtree(tree / COMMITTED)
    assert report(STEP)[0] == Code.PASS
    monkeypatch.setenv("CI", "true")
    assert report(STEP)[0] == Code.ENVIRONMENT


def test_too_large_or_odd_files_are_usage(
    tree: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither read nor shown."""
    odd = tree / "odd.json"
    odd.write_text('{"kind": "evidence", "schema": 2, "remeasured": 3}', encoding="utf-8")
    assert main(["report", str(odd)], tree) == Code.USAGE
    assert main(["report", str(tree / "none.json")], tree) == Code.USAGE
    monkeypatch.setattr(handover, "MAX_BYTES", 10)
    with pytest.raises(RecordError, match="at most"):
        read_evidence(odd)


def test_page_is_written_and_annotated(tree: Path, report: Report) -> None:
    """On the line of the policy that holds for the benchmark."""
    output = tree / "page.md"
    printed = report(SLOW, SLOW, SLOW, SLOW, options=("--annotate", "-o", str(output)))[1]
    assert output.read_text(encoding="utf-8").startswith("## REGRESSION")
    assert "::error file=benchmarks/policy.toml,line=9,title=step time_s::WORSE: +50%" in printed


def gate_folder(tree: Path, machine: Machine, now: Record, ratios: Sequence[float]) -> Path:
    """What a gate leaves: its screen, and pairs in which the head took these multiples."""

    def session(record: Record) -> Session:
        return Session(machine, "room", "def456", (record,))

    folder = tree / "gate"
    write_evidence(folder / "screen.json", Evidence(session(now)))
    if ratios:
        file = BlockFile(folder / "blocks.jsonl")
        file.start({"seed": 1})
        for number, ratio in enumerate(ratios):
            head = dataclasses.replace(STEP, metrics={"time_s": ratio})
            file.append(Block(number, 0, "base", None, session(STEP), session(head), 1.0))
    return folder


NOISE = [1.001, 0.999, 1.002, 0.998, 1.0015, 0.9985, 1.0, 1.0005] * 3


@pytest.mark.parametrize(
    ("now", "ratios", "code"),
    [
        (STEP, [], Code.PASS),
        (SLOW, [], Code.INCONCLUSIVE),  # not clearly fine, and nobody looked again
        (SLOW, NOISE, Code.PASS),
        (SLOW, [1.06 * ratio for ratio in NOISE], Code.REGRESSION),
        (dataclasses.replace(STEP, outcome="wrong"), [], Code.REGRESSION),
    ],
)
def test_gate_s_verdict_is_made_again(
    tree: Path, toy_machine: Machine, capsys: pytest.CaptureFixture[str],
    now: Record, ratios: list[float], code: Code,
) -> None:  # fmt: skip
    """From its screen and its pairs: a stored number only screens."""
    folder = gate_folder(tree, toy_machine, now, ratios)
    assert main(["report", str(folder)], tree) == code
    assert f"## {code.name}" in capsys.readouterr().out


def test_page_has_the_numbers_of_the_gate(
    tree: Path, toy_machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a red time: the effect of its pairs, between what, how sure, and how to see it again."""
    folder = gate_folder(tree, toy_machine, SLOW, [1.06 * ratio for ratio in NOISE])
    text = (folder / "blocks.jsonl").read_text(encoding="utf-8")
    commit = "0123456789ab"
    reseal(folder / "blocks.jsonl", text.replace("def456", commit))
    assert main(["report", str(folder)], tree) == Code.REGRESSION
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| step")]
    assert "| 1 s | 1.06 s | +6.0% | WORSE. +6.0% between +5.8% .. +6.2%, p &#60;0.0001" in row
    assert f"again&#58; python -m benchmarks ab {commit} -k bench&#95;step --device cpu" in row


def test_gate_whose_pairs_are_of_another_machine_is_usage(tree: Path, toy_machine: Machine) -> None:
    """A block never spans two machines, and no verdict does."""
    folder = gate_folder(tree, toy_machine, SLOW, NOISE)
    blocks = (folder / "blocks.jsonl").read_text(encoding="utf-8").replace("Toy CPU", "Other CPU")
    reseal(folder / "blocks.jsonl", blocks)
    assert main(["report", str(folder)], tree) == Code.USAGE


def test_junit_has_a_failure_for_each_red_finding(tree: Path, report: Report) -> None:
    """Whatever characters it holds."""
    output = tree / "junit.xml"
    report(SLOW, SLOW, SLOW, SLOW, options=("--junit", str(output)))
    suite = ElementTree.parse(output).getroot()
    assert suite.get("failures") == "1"
    odd = Finding("a\x00<b>", "", Status.WRONG, detail="\x1b]&")
    assert ElementTree.fromstring(junit([odd])).get("failures") == "1"


@given(st.text())
def test_text_of_others_stays_text(text: str) -> None:
    """No tag, no link, no mention, no new cell, no second line."""
    found = plain(text)
    assert found.isprintable() or found == ""
    assert not set(found) & set("\\`*_{}[]()<>!|~@$:")
    assert found.count("#") == found.count("&#")


def test_page_is_at_most_sixty_lines() -> None:
    """However much is red."""
    many = [Finding(f"step{n}", "time_s", Status.WORSE, 1.0, 2.0) for n in range(300)]
    lines = page(Code.REGRESSION, many, [f"fact {n}" for n in range(30)])
    assert len(lines) <= MAX_LINES
    assert any("more rows are left out" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_annotation_cannot_be_broken_out_of(tree: Path) -> None:
    """A new line would be a command of its own."""
    path = tree / "benchmarks" / "policy.toml"
    evil = Finding("step,x::y", "", Status.WRONG, detail="a\n::warning::b % c")
    (line,) = annotations([evil], read_policy(path), path)
    assert "\n" not in line
    assert "title=step%2Cx%3A%3Ay::WRONG ANSWER: a%0A::warning::b %25 c" in line
