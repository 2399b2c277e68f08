"""Who judges, and what is new or gone: a damaged rule must fail the tests that guard it."""

from pathlib import Path

import pytest

from tests.harness.mutants import require_killed

SOURCES = [
    ("additions.py", "return node if names and not names & bound else None", "return node"),
    ("additions.py", "if isinstance(node, ast.Name)}", "if False}"),
    ("additions.py", "json.dumps({**theirs, **ours}", "json.dumps({**ours, **theirs}"),
    ("judge.py", "(*COMMANDS, POLICY.name, *GOLDENS)", "(*COMMANDS, POLICY.name)"),
    ("judge.py", "if entry.name not in known)", ")"),
    ("judge.py", "(*base.entries, *added)", "(*added, *base.entries)"),
    ("judge.py", "{**head.metrics, **base.metrics}", "{**base.metrics, **head.metrics}"),
    ("judge.py", "asked = [*_edits(base, head)]", "asked = []"),
    ("known.py", "benchmark_id in self.ids or bare(benchmark_id) in self.names",
     "benchmark_id in self.ids"),
    ("compare.py", "bare(name) not in lost and (bare(name) in ran or not crashed)", "False"),
    ("screen.py", "held.status is Status.SUSPECT and bool(quickest)", "False"),
    ("blocks.py", "if found != digest:", "if False:"),
    ("commit.py", "if commit and digests[name] != stamped[name]", "if False"),
    ("evidence.py", "has_it = known is None or found.name in known.ids", "has_it = False"),
    ("evidence.py", "has_it = known is None or known.knows(found.name)", "has_it = False"),
    ("evidence.py", "if not before and not stored:", "if not before:"),
    ("turnover.py", "if _is_defined(finding.id, run, terms):", "if False:"),
    ("turnover.py", "if kept or terms.declared.entry(finding.id) is not None:", "if False:"),
    ("turnover.py", "if terms.declared.entry(name) is None:", "if True:"),
    ("turnover.py", "asked.append(", "print("),
    ("origin.py", "if (session.commit, proof) != (source.commit, digest):", "if False:"),
    ("origin.py", 'f"{head}~1") is None', "head) is None"),
    ("origin.py", 'if session.commit == "unknown" and not any(',
     'if session.commit == "unknown" or not any('),
]  # fmt: skip
GUARDS = (
    "test_additions.py", "test_judge.py", "test_known.py", "test_new_in_pairs.py",
    "test_turnover.py", "test_report_origin.py", "test_screen.py", "test_blocks.py",
    "test_commit.py",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("file", "line", "mutant"), SOURCES)
def test_damaged_judge_fails_its_tests(tmp_path: Path, file: str, line: str, mutant: str) -> None:
    """The head's policy or goldens first, a check left out, silence: each mutant is killed."""
    require_killed(tmp_path, file, line, mutant, GUARDS)
