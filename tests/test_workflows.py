"""What the workflows may and must not do, and the scripts that they call, run here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.machine import Machine
from benchmarks.harness.record import Session

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


def test_base_that_is_an_option_is_refused(checkout: Path) -> None:
    """It comes from a form."""
    command = [".ci/base", "workflow_dispatch", "refs/heads/main", "", "--all"]
    assert subprocess.run(command, cwd=checkout, capture_output=True, check=False).returncode == 4


def report(folder: Path, page: Path) -> str:
    """The status that the report sets."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([ROOT / ".ci" / "report", folder, page], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout


def test_gate_that_did_not_run_is_red(tmp_path: Path) -> None:
    """Nothing handed over, or two results where one is expected."""
    page = tmp_path / "page.md"
    assert report(tmp_path / "nothing", page).startswith("state=failure\n")
    assert page.read_text(encoding="utf-8") == "## The gate: the gate did not run\n"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "screen.json").write_text("{}", encoding="utf-8")
    page.unlink(missing_ok=True)
    assert "more than one result" in report(tmp_path, page)
    assert "more than one result" in page.read_text(encoding="utf-8")


def test_unknown_machine_is_red(tmp_path: Path) -> None:
    """A screen that this checkout has no baseline for."""
    machine = Machine("cpu", "Nobody's CPU", 2, 2**33, "none", {})
    write_evidence(tmp_path / "in" / "screen.json", Evidence(Session(machine, "room", "abc")))
    found = report(tmp_path / "in", tmp_path / "page.md")
    assert found.startswith("state=failure\ndescription=ENVIRONMENT")
    assert "## ENVIRONMENT" in (tmp_path / "page.md").read_text(encoding="utf-8")
