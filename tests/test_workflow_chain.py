"""The steps of the GPU workflow and of its report, run here one after the other on a toy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.toy_trees import BENCHMARKS, ToyTree, clean_environment, make_toy_tree

ROOT = Path(__file__).resolve().parents[1]
SEARCH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def step(workflow: str, name: str) -> str:
    """The script of a step."""
    text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text(encoding="utf-8")
    found = re.search(rf"- name: {re.escape(name)}\n(?: {{8}}(?!run).*\n| {{9,}}.*\n)*"
                      r" {8}run: \|\n((?: {10}.*\n)+)", text)  # fmt: skip
    assert found is not None, name
    return re.sub(r"^ {10}", "", found[1], flags=re.MULTILINE)


class Runner:
    """A machine that has checked out main, and is told of an event."""

    def __init__(self, toy: ToyTree, home: Path, head: str) -> None:
        self.checkout, self.home = toy, home
        self.variables = {
            **clean_environment(), "PATH": SEARCH, "RUNNER_TEMP": str(home), "HEAD": head,
            "EVENT": "push", "REF": "refs/heads/pull-request/7", "BEFORE": "", "ASKED": "",
            "GITHUB_ENV": str(home / "env"), "GITHUB_STEP_SUMMARY": str(home / "summary.md"),
            "BENCHMARK_COMMIT": "", "TMPDIR": str(home),
            "BENCHMARK_LOCK_DIR": str(home),
        }  # fmt: skip

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """A step, by this interpreter and without a GPU."""
        script = script.replace(".venv/bin/python", sys.executable).replace("cuda", "cpu")
        environment = self.home / "env"
        told = environment.read_text(encoding="utf-8") if environment.exists() else ""
        variables = dict(line.split("=", 1) for line in told.splitlines())
        return subprocess.run(["bash", "-e", "-c", script], cwd=self.checkout.root, text=True,
                              env={**self.variables, **variables}, capture_output=True,
                              check=False)  # fmt: skip


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    """Main has a baseline of this machine; the change edits the suite and its own harness."""
    toy = make_toy_tree(tmp_path / "toy")
    subprocess.run(["cp", "-r", str(ROOT / ".ci"), str(toy.root)], check=True)
    record = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-record", "--device", "cpu"]
    home = tmp_path / "runner"
    home.mkdir()
    environment = {**clean_environment(), "BENCHMARK_LOCK_DIR": str(home)}
    subprocess.run([*record, "--baseline-dir", "stored"], cwd=toy.root, env=environment,
                   capture_output=True, check=True)  # fmt: skip
    (toy.root / "stored").rename(toy.root / "benchmarks" / "baselines")
    toy.commit("baseline")
    toy.git("update-ref", "refs/remotes/origin/main", "HEAD")
    toy.git("checkout", "-q", "-b", "pull-request/7")
    toy.write("benchmarks/bench_toy.py", f"{BENCHMARKS}\n# edited\n")
    toy.write("benchmarks/__main__.py", "raise SystemExit('the judge is the change itself')\n")
    toy.commit("change")
    head = toy.git("rev-parse", "HEAD")
    toy.git("checkout", "-q", "-")
    return Runner(toy, home, head)


@pytest.mark.slow
def test_what_the_gate_hands_over_is_what_the_report_accepts(runner: Runner) -> None:
    """Judged by the base though the change edits the commands, green, with an owner asked twice."""
    names = ("The judge is the base of the change",
             "Screen against the stored baseline, pairs for what is suspect", "Report")  # fmt: skip
    for name in names:
        done = runner.run(step("gpu", name))
        assert done.returncode == 0, done.stdout + done.stderr
    summary = (runner.home / "summary.md").read_text(encoding="utf-8")
    assert "## PASS (exit code 0), once an owner has approved" in summary
    handed = runner.home / "head" / ".benchmarks"
    page = runner.home / "page.md"
    done = runner.run(f'.ci/report "{handed}" "{page}" "$HEAD"')
    assert done.stdout == "state=pending\ndescription=PASS, once an owner has approved\n"
    runner.variables["HEAD"] = runner.checkout.git("rev-parse", "HEAD")
    done = runner.run(f'.ci/report "{handed}" "{page}" "$HEAD"')
    assert "state=failure" in done.stdout


GH = """#!/usr/bin/env bash
printf '%s\\n' "$@" >>"$TOLD"
case "$*" in *body=@-*) cat >>"$TOLD" ;; esac
"""
PAGE = "## REGRESSION\n$(touch gone) `id` ${HOME}\nEOF\ntext<<EOF\n"


def script(workflow: str, name: str, home: Path, **variables: str) -> str:
    """Run a step where `gh` only notes what it is told; what it was told."""
    (home / "gh").write_text(GH, encoding="utf-8")
    (home / "gh").chmod(0o755)
    (home / "told").write_text("", encoding="utf-8")
    environment = {
        "PATH": f"{home}:{os.environ['PATH']}", "TOLD": str(home / "told"),
        "RUNNER_TEMP": str(home), "GITHUB_OUTPUT": str(home / "output"),
        "REPOSITORY": "us/rap", **variables,
    }  # fmt: skip
    subprocess.run(
        ["bash", "-e", "-c", step(workflow, name)], cwd=home, env=environment, check=True
    )
    return (home / "told").read_text(encoding="utf-8")


def test_page_reaches_the_job_that_writes_as_it_is(tmp_path: Path) -> None:
    """Whatever is in it: one output, whose end no line of it can fake; nothing of it is run."""
    (tmp_path / "page.md").write_text(PAGE, encoding="utf-8")
    script("report", "The page, for the job that may write", tmp_path)
    first, *lines, last = (tmp_path / "output").read_text(encoding="utf-8").splitlines()
    assert first == f"text<<{last}"
    assert re.fullmatch("[0-9a-f]{32}", last)
    assert "\n".join(lines) == PAGE
    told = script("report", "Comment on the pull request", tmp_path,
                  BRANCH="pull-request/7", TEXT="\n".join(lines))  # fmt: skip
    assert told == f"api\nrepos/us/rap/issues/7/comments\n-F\nbody=@-\n{PAGE}\n"
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("branch", ["main", "pull-request/", "pull-request/7/x", "pull-request/-1"])
def test_only_a_pull_request_is_commented_on(tmp_path: Path, branch: str) -> None:
    """Its number is taken from the branch that a maintainer has pushed."""
    name = "Comment on the pull request"
    assert script("report", name, tmp_path, BRANCH=branch, TEXT="page") == ""
    assert script("report", name, tmp_path, BRANCH="pull-request/7", TEXT="") == ""


def test_status_is_what_the_verdict_says(tmp_path: Path) -> None:
    """Of the commit of the event."""
    told = script("report", "The required check", tmp_path, COMMIT="abc", STATE="failure",
                  DESCRIPTION="COVERAGE: a b", PAGE="https://x/y")  # fmt: skip
    assert told.splitlines() == [
        "api", "repos/us/rap/statuses/abc", "-f", "context=gpu-gate", "-f", "state=failure",
        "-f", "description=COVERAGE: a b", "-f", "target_url=https://x/y",
    ]  # fmt: skip
