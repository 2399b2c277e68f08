"""From a finished run to its verdict: re-measure what is suspect, store what is new, tell JUnit."""

import os
from dataclasses import replace

import pytest

from benchmarks.harness.baseline import (
    added,
    is_committed,
    is_local,
    renewed,
    write_baseline,
)
from benchmarks.harness.counting import joined
from benchmarks.harness.fresh import Fresh
from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.record import Session
from benchmarks.harness.report import Judgement
from benchmarks.harness.rules import CONFIRMATIONS, RERUNS
from benchmarks.harness.suite import Suite, TimedRun
from benchmarks.harness.verdict import Code, Verdict, judge

MAX_REPEATS = CONFIRMATIONS + RERUNS
CI_VARIABLES = (
    "CI", "CONTINUOUS_INTEGRATION", "TF_BUILD", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE",
    "CIRCLECI", "APPVEYOR", "TRAVIS", "DRONE", "CIRRUS_CI", "SEMAPHORE", "BITBUCKET_BUILD_NUMBER",
    "JENKINS_URL", "HUDSON_URL", "BUILD_NUMBER", "TEAMCITY_VERSION", "CODEBUILD_BUILD_ID",
    "BUILDER_OUTPUT", "GO_PIPELINE_LABEL", "PROW_JOB_ID", "bamboo_planKey",
)  # fmt: skip
"""What CI services set. Not all of them set CI: Azure has TF_BUILD, Jenkins a URL and a number."""
NO_CI = ("", "0", "false", "no", "off")
"""Of such a variable; each system sets another text where it runs: true, True, 1, woodpecker."""


def judge_run(
    config: pytest.Config, suite: Suite, timing: TimedRun, run: Session, failed: bool
) -> Judgement:
    """Judge a run; where it passed, store it as a first baseline or because that was asked for.

    `failed`: pytest saw a failure, of a benchmark or any other test; then nothing is stored.
    """
    if run.machine.device == "cuda" and not run.faults:
        run = with_counts(run, Fresh(suite.root, suite.arguments))
    again: list[Session] = []
    if suite.wanted.judged:
        verdict = _judge_with_reruns(config, suite, timing, run, again)
    else:  # only to be recorded: it must be right, valid and listed, but may be slower
        verdict = judge(run, None, timing.policy, expected=())
    judgement = Judgement(
        verdict, run, timing.baseline, timing.policy, timing.path, suite.arguments
    )
    if suite.wanted.evidence is not None:
        expected = suite.expected(config) if suite.wanted.judged else ()
        evidence = Evidence(run, tuple(again), tuple(sorted(expected)), is_required())
        write_evidence(suite.wanted.evidence, evidence)
    if verdict.code is not Code.PASS or run.faults or failed:
        return judgement
    return replace(judgement, recorded=_store(config, suite, timing, run))


def with_counts(run: Session, fresh: Fresh) -> Session:
    """A GPU run with the CUDA calls that a process of its own has counted.

    What was not counted says why; where the baseline has a count, that is red.
    """
    wanted = [record for record in run.records if record.outcome == "passed"]
    if not wanted:
        return run
    counted, problem = fresh.count(wanted)
    records = tuple(joined(r, counted.get(r.id), problem) for r in run.records)
    return replace(run, records=records)


def uncounted(run: Session, why: str) -> Session:
    """A GPU run with a note in each record that its CUDA calls were not counted."""
    return replace(run, records=tuple(joined(record, None, why) for record in run.records))


def _store(config: pytest.Config, suite: Suite, timing: TimedRun, run: Session) -> tuple[str, ...]:
    """Write what a passed run adds to its baseline; the ids that were written."""
    old = timing.baseline
    if is_committed(suite.root, timing.path):
        return ()
    if suite.wanted.record:
        new = renewed(old, run, suite.expected(config))
    elif old is None or is_local(suite.root, timing.path):
        new = added(old, run)
    else:  # elsewhere, only --benchmark-record changes what is there
        return ()
    before = {} if old is None else old.records
    changed = [name for name, record in new.records.items() if before.get(name) is not record]
    if changed:
        write_baseline(timing.path, new)
    return tuple(sorted(changed))


def _judge_with_reruns(
    config: pytest.Config, suite: Suite, timing: TimedRun, run: Session, again: list[Session]
) -> Verdict:
    """Judge; measure what is suspect in a fresh process; judge again, until nothing is pending.

    What was measured is added to `again`.
    """
    fresh = Fresh(suite.root, suite.arguments)
    while True:
        verdict = judge(
            run, timing.baseline, timing.policy, expected=suite.expected(config),
            remeasured=again, baseline_required=is_required(),
        )  # fmt: skip
        if not verdict.pending or len(again) == MAX_REPEATS:
            return verdict
        _say(config, f"measuring again, in a fresh process: {', '.join(verdict.pending)}")
        records = [record for record in run.records if record.id in verdict.pending]
        again.append(fresh.measure(run.machine, run.suite, records))


def is_required() -> bool:
    """Whether a machine without a baseline is no pass: in CI nobody would see that it has none."""
    found = [os.environ.get(name, "") for name in CI_VARIABLES]
    return any(value.strip().lower() not in NO_CI for value in found)


def _say(config: pytest.Config, text: str) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        terminal.ensure_newline()
        terminal.write_line(text)


def report_to_junit(config: pytest.Config, judgement: Judgement) -> None:
    """Each red finding becomes a failed test case of the JUnit file, if one is written."""
    writers = [p for p in config.pluginmanager.get_plugins() if type(p).__name__ == "LogXML"]
    for writer in writers:
        for finding in judgement.verdict.red:
            node = f"benchmarks/verdict::{finding.metric or 'coverage'} of {finding.id or 'run'}"
            text = f"{finding.status.value}: {finding.detail}"
            place = ("", 0, node)
            writer.pytest_runtest_logreport(
                pytest.TestReport(node, place, {}, "failed", text, "call")
            )
            writer.pytest_runtest_logreport(
                pytest.TestReport(node, place, {}, "passed", None, "teardown")
            )
