"""What the workflows may and must not do, and the scripts that they call, run here."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.harness.baseline import COMMITTED, added, write_baseline
from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.machine import Machine
from benchmarks.harness.origin import write_arms
from benchmarks.harness.record import Record, Session
from benchmarks.harness.subject import Subject, digest_of
from tests.harness.toy_trees import BENCHMARKS, ToyTree, make_toy_tree

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
IDENTITY = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")}  # fmt: skip


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> str:
    """The text of each workflow."""
    return request.param.read_text(encoding="utf-8")


def test_actions_are_pinned_by_commit(workflow: str) -> None:
    """With the version beside it; a tag can be moved."""
    used = re.findall(r"- uses: (.*)", workflow)
    assert used
    assert [
        line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)
    ] == []


def test_permissions_are_none_unless_a_job_asks(workflow: str) -> None:
    """And no job may write to the repository's contents."""
    assert "\npermissions: {}\n" in workflow
    assert "contents: write" not in workflow
    assert workflow.count("actions/checkout@") == workflow.count("persist-credentials: false")


def test_scripts_get_no_text_from_outside(workflow: str) -> None:
    """Expressions reach a shell through the environment only."""
    scripts = re.findall(r"run: (?:\|\n((?:(?: {10}.*)?\n)+)|(.*))", workflow)
    assert scripts
    assert [script for script in scripts if "${{" in "".join(script)] == []


def test_plain_text_is_no_second_mapping(workflow: str) -> None:
    """`a: b (c: d)` without quotes is no YAML, and a workflow that is none never runs."""
    scripts = re.sub(r"run: \|\n(?:(?: {10}.*)?\n)+", "\n", workflow)
    plain = re.findall(r"""^ *(?:- )?[\w-]+: ([^"'|>\[{#\s].*)$""", scripts, re.MULTILINE)
    assert plain
    assert [text for text in plain if ": " in text.partition(" #")[0]] == []


def test_foreign_code_never_reaches_the_gpu() -> None:
    """The machine is ours: no pull request runs on it, only what a maintainer has pushed."""
    text = (ROOT / ".github" / "workflows" / "gpu.yml").read_text(encoding="utf-8")
    assert "self-hosted" in text
    assert "pull_request" not in text
    assert "secrets." not in text
    assert 'BENCHMARK_FAULT: ""' in text
    for path in WORKFLOWS:
        if path.stem != "gpu":
            assert "self-hosted" not in path.read_text(encoding="utf-8")


def test_gate_s_judge_is_the_base_s_code() -> None:
    """The change is data to it: taken from git by its commit, never the checkout that commands run.

    The reports are made for the commit of the event, too.
    """
    text = (ROOT / ".github" / "workflows" / "gpu.yml").read_text(encoding="utf-8")
    refs = re.findall(r"actions/checkout@.*\n +with:\n((?: {10}.*\n)+)", text)
    assert ["ref: main" in ref for ref in refs] == [True]
    base, setup = text.index("git checkout --quiet --detach"), text.index("make setup")
    assert base < setup < text.index("-m benchmarks")
    gate = re.search(r"-m benchmarks gate (.*)", text)
    assert gate is not None
    assert '--base "$BASE" --head "$RUNNER_TEMP/head"' in gate[1]
    assert 'BENCHMARK_COMMIT: ""' in text
    report = (ROOT / ".github" / "workflows" / "report.yml").read_text(encoding="utf-8")
    assert "HEAD: ${{ github.event.workflow_run.head_sha }}" in report
    assert '.ci/report "$RUNNER_TEMP/untrusted" "$RUNNER_TEMP/page.md" "$HEAD"' in report
    assert "fetch-depth: 0" in report


def jobs(workflow: str) -> dict[str, str]:
    """The text of each job of a workflow."""
    parts = re.split(r"^  ([\w-]+):\n", workflow.partition("\njobs:\n")[2], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_job_that_may_write_runs_nothing_from_outside(workflow: str) -> None:
    """No action, no package, none of our own code: what was read is handed over as text."""
    found = jobs(workflow)
    assert found
    for name, job in found.items():
        if re.search(r": write\b", job):
            assert not re.search(r"- uses:|pip |python|\.ci/", job), name
        assert "timeout-minutes:" in job, name
        assert "    permissions:" in job, name


def test_report_believes_no_workflow_of_a_fork() -> None:
    """One with the gate's name, brought by a pull request, would hand over what it likes."""
    found = jobs((ROOT / ".github" / "workflows" / "report.yml").read_text(encoding="utf-8"))
    assert """contains(fromJSON('["push", "schedule"]'), github.event.workflow_run.event)
      && github.event.workflow_run.head_repository.full_name == github.repository""" in (
        found["verdict"]
    )
    assert "if: always() && needs.verdict.result != 'skipped'" in found["tell"]


@pytest.mark.parametrize("name", ["gpu", "report"])
def test_run_that_waits_for_its_turn_is_not_cancelled(name: str) -> None:
    """By default the next one takes its place, and a commit is red that nobody has measured."""
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    assert "  cancel-in-progress: false\n  queue: max\n" in text


def test_creep_is_watched_on_a_schedule() -> None:
    """With the whole history, or it would see one baseline; its page is shown however it ends."""
    text = (ROOT / ".github" / "workflows" / "creep.yml").read_text(encoding="utf-8")
    assert "schedule:" in text
    assert "fetch-depth: 0" in text
    assert ".ci/creep" in text
    assert "if: ${{ !cancelled() }}" in text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of five commits, a release among them, with our scripts."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    git(tmp_path, "init", "-q", "-b", "main")
    for number in range(5):
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", str(number))
        if number == 1:
            git(tmp_path, "tag", "v1")
    git(tmp_path, "update-ref", "refs/remotes/origin/main", "HEAD~1")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", *arguments], cwd=folder, env={**os.environ, **IDENTITY},
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("push", "refs/heads/main", "HEAD~3"), "HEAD~3"),
        (("push", "refs/heads/main", "0" * 40), "HEAD~1"),
        (("push", "refs/heads/pull-request/7", "HEAD~3"), "origin/main"),
        (("schedule", "refs/heads/main"), "v1"),
        (("workflow_dispatch", "refs/heads/main", "", "HEAD~2"), "HEAD~2"),
    ],
)
def test_base_of_a_change(checkout: Path, arguments: tuple[str, ...], expected: str) -> None:
    """What main was before, where a branch left it, the last release, or what was asked for."""
    done = subprocess.run([".ci/base", *arguments], cwd=checkout, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == git(checkout, "rev-parse", f"{expected}^{{commit}}")


def test_base_of_another_commit_than_this_checkout(checkout: Path) -> None:
    """The judge's scripts run in main, the change is named by its commit."""
    git(checkout, "checkout", "-q", "-b", "change", "HEAD~2")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "a change")
    head = git(checkout, "rev-parse", "HEAD")
    git(checkout, "checkout", "-q", "main")
    for ref, expected in (("pull-request/7", "main~2"), ("main", f"{head}~1")):
        done = subprocess.run([".ci/base", "push", f"refs/heads/{ref}", "", "", head], cwd=checkout,
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stdout.strip() == git(checkout, "rev-parse", expected)
    command = [".ci/base", "push", "refs/heads/main", "", "", "--all"]
    assert subprocess.run(command, cwd=checkout, capture_output=True, check=False).returncode == 4


def test_base_that_is_an_option_is_refused(checkout: Path) -> None:
    """It comes from a form."""
    command = [".ci/base", "workflow_dispatch", "refs/heads/main", "", "--all"]
    assert subprocess.run(command, cwd=checkout, capture_output=True, check=False).returncode == 4


@dataclass(frozen=True)
class Reported:
    """A repository with our harness, a change that left its main, and what its gate hands over."""

    toy: ToyTree
    base: str
    head: str
    page: Path

    def hand_over(self, folder: Path, commit: str, seconds: float = 1.0) -> None:
        """A screen that says that it is of this commit."""
        proof = Subject("/rap/__init__.py", digest_of(self.toy.root / "rap"))
        names = ("spin", "steady")
        records = [Record(name, "n", metrics={"time_s": seconds}) for name in names]
        run = Session(MACHINE, "room", commit[:12], tuple(records), subject=proof)
        write_evidence(folder / "screen.json", Evidence(run))

    def report(self, folder: Path, head: str) -> dict[str, str]:
        """The status that the report sets, by the scripts of main."""
        self.page.unlink(missing_ok=True)
        search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run([self.toy.root / ".ci" / "report", folder, self.page, head],
                              env={**os.environ, "PATH": search}, capture_output=True, text=True,
                              check=True)  # fmt: skip
        return dict(line.split("=", 1) for line in done.stdout.splitlines())


MACHINE = Machine("cpu", "Nobody's CPU", 2, 2**33, "none", {})


@pytest.fixture
def reported(tmp_path: Path) -> Reported:
    """The change touches a note; main has a baseline and has moved on since."""
    root = tmp_path / "toy"
    shutil.copytree(ROOT / ".ci", root / ".ci")
    records = tuple(Record(name, "n", metrics={"time_s": 1.0}) for name in ("spin", "steady"))
    stored = added(None, Session(MACHINE, "room", "abc", records))
    write_baseline(root / COMMITTED / MACHINE.key / "room.json", stored)
    toy = make_toy_tree(root)
    base = toy.git("rev-parse", "HEAD")
    toy.git("checkout", "-q", "-b", "pull-request/7")
    toy.write("benchmarks/bench_toy.py", BENCHMARKS + "\n# edited\n")
    toy.commit("change")
    head = toy.git("rev-parse", "HEAD")
    toy.git("checkout", "-q", "-")
    toy.write("notes.txt", "main goes on")
    toy.commit("main")
    toy.git("update-ref", "refs/remotes/origin/main", "HEAD")
    return Reported(toy, base, head, tmp_path / "page.md")


def test_gate_that_did_not_run_is_red(reported: Reported, tmp_path: Path) -> None:
    """Nothing handed over, or two results where one is expected."""
    found = reported.report(tmp_path / "nothing", reported.head)
    assert found == {"state": "failure", "description": "the gate did not run"}
    assert reported.page.read_text(encoding="utf-8") == "## The gate: the gate did not run\n"
    for name in ("a", "b"):
        reported.hand_over(tmp_path / name, reported.head)
    found = reported.report(tmp_path, reported.head)
    assert found["description"] == "more than one result was handed over"
    assert "more than one result" in reported.page.read_text(encoding="utf-8")


def test_evidence_of_the_event_s_commit_is_judged(reported: Reported, tmp_path: Path) -> None:
    """By the base that the change left main at; an owner is asked where the suite was edited."""
    reported.hand_over(tmp_path / "in", reported.head)
    found = reported.report(tmp_path / "in", reported.head)
    page = reported.page.read_text(encoding="utf-8")
    assert found == {"state": "pending", "description": "PASS, once an owner has approved"}, page
    assert "AN OWNER MUST APPROVE" in page


def test_evidence_of_another_commit_is_red(reported: Reported, tmp_path: Path) -> None:
    """The artefact is right in itself, and of the commit before."""
    reported.hand_over(tmp_path / "in", reported.base)
    found = reported.report(tmp_path / "in", reported.head)
    assert found["state"] == "failure"
    assert "refused" in found["description"]
    page = reported.page.read_text(encoding="utf-8")
    assert reported.base[:12] in page
    assert reported.head[:12] in page


@pytest.mark.parametrize("head", ["0" * 40, "HEAD", "--all", "abc"])
def test_event_without_a_commit_of_ours_is_red(
    reported: Reported, tmp_path: Path, head: str
) -> None:
    """A branch that has been moved since, or no commit at all."""
    reported.hand_over(tmp_path / "in", reported.head)
    found = reported.report(tmp_path / "in", head)
    assert found == {"state": "failure", "description": "the commit of the event is not here"}


def test_unknown_machine_is_red(reported: Reported, tmp_path: Path) -> None:
    """A screen that the base has no baseline for."""
    reported.hand_over(tmp_path / "in", reported.head)
    path = tmp_path / "in" / "screen.json"
    text = path.read_text(encoding="utf-8").replace("Nobody's CPU", "Somebody's CPU")
    path.write_text(text, encoding="utf-8")
    found = reported.report(tmp_path / "in", reported.head)
    assert found["state"] == "failure"
    assert found["description"].startswith("ENVIRONMENT")
    assert "## ENVIRONMENT" in reported.page.read_text(encoding="utf-8")


def test_commit_of_main_is_judged_by_the_base_that_its_gate_names(
    reported: Reported, tmp_path: Path
) -> None:
    """What main was before is in no event; it must be a commit before, and not the head."""
    head = reported.toy.git("rev-parse", "HEAD")
    reported.hand_over(tmp_path / "in", head)
    write_arms(tmp_path / "in", reported.base, head)
    assert reported.report(tmp_path / "in", head)["state"] == "success"
    write_arms(tmp_path / "in", head, head)
    assert reported.report(tmp_path / "in", head)["state"] == "failure"


def test_creep_s_page_says_what_it_found(reported: Reported) -> None:
    """A page for the summary; the exit code is the verdict."""
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [reported.toy.root / ".ci" / "creep", reported.page]
    environment = {**os.environ, "PATH": search, "CI": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    page = reported.page.read_text(encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "1 readable baselines" in page
    assert "no release with this baseline" in page
    reported.toy.git("rm", "-rq", "benchmarks/baselines")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 11
    assert "no baseline is committed" in reported.page.read_text(encoding="utf-8")
