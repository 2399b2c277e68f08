"""Evidence from a machine that is not believed: of which commit, and by whose policy judged."""

import dataclasses
import json
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.baseline import COMMITTED, added, write_baseline
from benchmarks.harness.blocks import Block, BlockFile
from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.machine import Machine
from benchmarks.harness.origin import ARMS, write_arms
from benchmarks.harness.record import Outcome, Record, Session
from benchmarks.harness.subject import Subject, digest_of
from benchmarks.harness.trees import extract
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import reseal
from tests.harness.toy_trees import ToyTree, make_toy_tree

POLICY = """
[metric.time_s]
family = "time"
better = "lower"
relative = 0.25
confirm = 0.15
"""
ENTRY = '[[benchmark]]\nname = "{}"\nowner = "Ada"\nmetrics = ["time_s"]\n'
SUITE = "def bench_spin(measure): ...\n\n\ndef bench_view(measure): ...\n"
NOISE = [1.001, 0.999, 1.002, 0.998, 1.0015, 0.9985, 1.0, 1.0005] * 3


def timed(name: str, seconds: float = 1.0) -> Record:
    """A benchmark that took so long."""
    return Record(name, f"benchmarks/bench_toy.py::bench_{name}", metrics={"time_s": seconds})


@dataclass
class Change:
    """A repository, the commit that a change leaves from, and what its gate hands over."""

    toy: ToyTree
    machine: Machine
    base: str
    folder: Path
    head: str = ""

    def commit(self) -> None:
        """The change is committed."""
        self.head = self.toy.commit("change")

    def session(self, commit: str, *records: Record) -> Session:
        """What a process says that it measured on a commit."""
        out = self.folder.parent / f"of-{commit}"
        if not out.exists():
            extract(self.toy.root, commit, out)
        proof = Subject(str(out / "rap/__init__.py"), digest_of(out / "rap"))
        return Session(self.machine, "room", commit, records, subject=proof)

    def hand_over(self, *records: Record, ratios: tuple[float, ...] = ()) -> None:
        """The folder of a gate: a screen of the head, pairs of a suspect."""
        write_evidence(self.folder / "screen.json", Evidence(self.session(self.head, *records)))
        write_arms(self.folder, self.base, self.head)
        if ratios:
            file = BlockFile(self.folder / "blocks.jsonl")
            file.start({"seed": 1})
            for number, ratio in enumerate(ratios):
                base = self.session(self.base, timed("spin"))
                head = self.session(self.head, timed("spin", ratio))
                file.append(Block(number, 0, "base", None, base, head, 1.0))

    def report(self, *options: str, head: str | None = None) -> int:
        """The verdict again, for the commit that an event names."""
        sha = self.toy.git("rev-parse", self.head) if head is None else head
        return main(["report", str(self.folder), "--head", sha, *options], self.toy.root)


@pytest.fixture
def change(tmp_path: Path, toy_machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Change:
    """A base with a baseline; then a faster package."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = tmp_path / "toy"
    stored = Session(toy_machine, "room", "abc", (timed("spin"), timed("view")))
    write_baseline(root / COMMITTED / toy_machine.key / "room.json", added(None, stored))
    commands = root / "benchmarks" / "harness" / "commands"
    commands.mkdir(parents=True)
    (commands / "gate.py").touch()
    toy = make_toy_tree(root, harness=False, policy=POLICY + ENTRY.format("*"))
    toy.write("benchmarks/bench_toy.py", SUITE)
    toy.write("benchmarks/policy.toml", POLICY + ENTRY.format("spin") + ENTRY.format("view"))
    base = toy.commit("base")
    toy.cost(0.004)
    found = Change(toy, toy_machine, base, tmp_path / "gate")
    found.commit()
    return found


def test_evidence_of_the_commit_passes(change: Change, capsys: pytest.CaptureFixture[str]) -> None:
    """By the base that it names, or by the one that the caller names; nobody has to approve."""
    change.hand_over(timed("spin"), timed("view"))
    assert change.report() == Code.PASS
    assert change.report("--base", change.base) == Code.PASS
    assert "OWNER" not in capsys.readouterr().out


def test_pairs_of_the_commits_pass(change: Change) -> None:
    """Both arms are what they say."""
    change.hand_over(timed("spin", 1.06), timed("view"), ratios=tuple(NOISE))
    assert change.report() == Code.PASS


@pytest.mark.parametrize("name", ["screen.json", "blocks.jsonl"])
@pytest.mark.parametrize("what", ["commit", "digest"])
def test_evidence_of_another_commit_is_refused(
    change: Change, name: str, what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Older evidence, or of another branch: one line says which commit, nothing is judged."""
    change.hand_over(timed("spin", 1.06), timed("view"), ratios=tuple(NOISE))
    path = change.folder / name
    subject = change.session(change.head).subject
    right = subject.digest if what == "digest" and subject else change.head
    text = path.read_text(encoding="utf-8")
    assert right in text
    forged = text.replace(right, "0123456789ab")
    if name == "blocks.jsonl":
        reseal(path, forged)
    else:
        path.write_text(forged, encoding="utf-8")
    assert change.report("-o", str(tmp_path / "page.md")) == Code.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert "0123456789ab" in line
    assert change.head in line
    assert "## USAGE" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_event_of_another_commit_is_refused(change: Change) -> None:
    """The artefact is whole and right, and belongs to the commit before."""
    change.hand_over(timed("spin"), timed("view"))
    change.toy.cost(0.009)
    assert change.report(head=change.toy.commit("later")) == Code.USAGE
    assert change.report(head="0" * 40) == Code.USAGE


@pytest.mark.parametrize("side", ["base", "head"])
def test_pairs_against_another_base_are_refused(change: Change, side: str) -> None:
    """A slow base would hide a slow head."""
    change.hand_over(timed("spin", 1.06), timed("view"), ratios=tuple(NOISE))
    path = change.folder / "blocks.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    block = json.loads(lines[3])
    block[side]["commit"] = "0123456789ab"
    lines[3] = json.dumps(block)
    reseal(path, "\n".join(lines))
    assert change.report() == Code.USAGE


@pytest.mark.parametrize(
    ("commit", "outcome"), [("unknown", "passed"), ("0123456789ab", "errored")]
)
def test_no_other_evidence_goes_without_its_commit(
    change: Change, commit: str, outcome: Outcome
) -> None:
    """Only what died before it could say anything, and has no number."""
    change.hand_over(timed("spin", 1.06), timed("view"), ratios=tuple(NOISE))
    odd = Session(change.machine, "room", commit, (Record("spin", "", outcome),))
    block = Block(24, 0, "base", None, change.session(change.base, timed("spin")), odd, 1.0)
    BlockFile(change.folder / "blocks.jsonl").append(block)
    assert change.report() == Code.USAGE


def test_process_that_died_is_judged_and_not_refused(change: Change) -> None:
    """It could not say whose it was; its benchmarks crashed, and that is red by itself."""
    change.hand_over(timed("spin", 1.06), timed("view"), ratios=tuple(NOISE))
    dead = Session(change.machine, "unknown", "unknown", (Record("spin", "", "errored", "-11"),))
    block = Block(24, 0, "base", None, change.session(change.base, timed("spin")), dead, 1.0)
    BlockFile(change.folder / "blocks.jsonl").append(block)
    assert change.report() == Code.COVERAGE


@pytest.mark.parametrize("claim", ["head", "later", "nowhere", "HEAD", "--all", None])
def test_base_that_is_no_commit_before_the_head_is_refused(
    change: Change, claim: str | None
) -> None:
    """The machine that measured may not choose whose policy judges: least of all the head's."""
    change.hand_over(timed("spin"), timed("view"))
    if claim is None:
        (change.folder / ARMS).unlink()
    else:
        known = {"head": change.head, "nowhere": "0" * 12}
        if claim == "later":
            change.toy.write("notes.txt", "")
            known["later"] = change.toy.commit("later")
        write_arms(change.folder, known.get(claim, claim), change.head)
    assert change.report() == Code.USAGE


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"{}", b'{"kind": "arms", "schema": 2}'])
def test_damaged_claim_is_refused(change: Change, content: bytes) -> None:
    """A file of somebody else's."""
    change.hand_over(timed("spin"), timed("view"))
    (change.folder / ARMS).write_bytes(content)
    assert change.report() == Code.USAGE


def test_addition_passes_with_a_note(change: Change, capsys: pytest.CaptureFixture[str]) -> None:
    """The head's policy lists it, the base has never had it; the page asks for an owner."""
    change.toy.write("benchmarks/bench_more.py", "def bench_more(measure): ...\n")
    change.toy.write(
        "benchmarks/policy.toml", POLICY + "".join(map(ENTRY.format, ("spin", "view", "more")))
    )
    change.commit()
    change.hand_over(timed("spin"), timed("view"), timed("more"))
    pairs = change.folder / "blocks.jsonl"
    file = BlockFile(pairs)
    file.start({"seed": 1})
    lacking = Record("more", "", "errored", "AttributeError: rap has no attribute 'more'")
    for number, ratio in enumerate(NOISE):
        base = change.session(change.base, lacking, timed("spin"))
        head = change.session(change.head, timed("more"), timed("spin", ratio))
        file.append(Block(number, 0, "base", None, base, head, 1.0))
    assert change.report("--annotate") == Code.PASS
    page = unescape(capsys.readouterr().out).splitlines()
    assert page[0] == "## PASS (exit code 0), once an owner has approved"
    asked = [line for line in page[:6] if "AN OWNER MUST APPROVE" in line]
    assert any("no base to compare with: more" in line for line in asked)
    assert any("more.py changed" in line for line in asked)
    warned = [line for line in page if line.startswith("::warning ")]
    assert len(warned) == len(asked)
    assert "title=AN OWNER MUST APPROVE::" in warned[0]


def test_removal_passes_only_if_the_policy_lets_go(
    change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    """Out of the suite alone it is COVERAGE; out of both it passes with a note."""
    change.toy.write("benchmarks/bench_toy.py", "def bench_spin(measure): ...\n")
    change.commit()
    change.hand_over(timed("spin"))
    assert change.report() == Code.COVERAGE
    change.toy.write("benchmarks/policy.toml", POLICY + ENTRY.format("spin"))
    change.commit()
    change.hand_over(timed("spin"))
    capsys.readouterr()
    assert change.report() == Code.PASS
    assert "removed from the suite and from its policy: view" in unescape(capsys.readouterr().out)


def test_loosened_policy_is_not_the_one_that_judges(change: Change) -> None:
    """The base's margins and tiers hold for what both know."""
    policy = POLICY + ENTRY.format("spin") + ENTRY.format("view")
    change.toy.write("benchmarks/policy.toml", policy.replace('"Ada"', '"Ada"\ntier = "advisory"'))
    change.commit()
    ratios = tuple(1.06 * ratio for ratio in NOISE)
    change.hand_over(timed("spin", 1.06), timed("view"), ratios=ratios)
    assert change.report() == Code.REGRESSION


def test_page_says_that_the_judge_was_edited(
    change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark of the head's, golden numbers, the harness: nobody has to look for it."""
    change.toy.write("benchmarks/bench_toy.py", SUITE + "\n# edited\n")
    change.toy.write("benchmarks/goldens.json", "{}")
    change.commit()
    change.hand_over(timed("spin"), timed("view"))
    assert change.report() == Code.PASS
    printed = unescape(capsys.readouterr().out)
    assert "toy.py changed" in printed
    assert "golden numbers are the base's" in printed


def test_page_says_by_whom_it_was_judged(
    change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base's commit, and where in it the numbers lie: no folder that is gone by then."""
    change.hand_over(timed("spin"), timed("view"))
    assert change.report() == Code.PASS
    printed = unescape(capsys.readouterr().out)
    assert f"policy and baselines of commit {change.base}" in printed
    assert "screened against benchmarks/baselines/" in printed


def test_plain_report_needs_no_history(change: Change, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --head it judges by this checkout, and --base alone is a mistake."""
    change.hand_over(timed("spin"), timed("view"))
    assert main(["report", str(change.folder)], change.toy.root) == Code.PASS
    assert main(["report", str(change.folder), "--base", "HEAD"], change.toy.root) == Code.USAGE
    assert "--head" in capsys.readouterr().err


def test_evidence_without_proof_is_refused(change: Change) -> None:
    """Numbers of a process that imported no package say nothing about a commit."""
    change.hand_over(timed("spin"), timed("view"))
    run = change.session(change.head, timed("spin"), timed("view"))
    write_evidence(change.folder / "screen.json", Evidence(dataclasses.replace(run, subject=None)))
    assert change.report() == Code.USAGE
