"""The policy is read strictly, and the shipped one covers the shipped benchmarks."""

import ast
from pathlib import Path

import pytest

from benchmarks.harness.parameters import stable_id
from benchmarks.harness.policy import Policy, PolicyError, read_policy

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RULE = '[metric.time_s]\nfamily = "time"\nbetter = "lower"\nrelative = 0.25\nconfirm = 0.15\n'
ENTRY = '[[benchmark]]\nname = "step*"\nowner = "us"\nmetrics = ["time_s"]\n'


def parse(tmp_path: Path, text: str) -> Policy:
    """Read a policy from a text."""
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def test_first_matching_entry_holds(tmp_path: Path) -> None:
    """A special case stands before its glob."""
    special = '[[benchmark]]\nname = "step[n=8]"\nowner = "them"\nmetrics = []\n'
    policy = parse(tmp_path, RULE + special + ENTRY)
    owners = [entry.owner for n in (8, 9) if (entry := policy.entry(f"step[n={n}]"))]
    assert owners == ["them", "us"]
    assert policy.entry("other") is None


def test_defaults_of_an_entry(tmp_path: Path) -> None:
    """It gates, and the smallest effect of interest is 3 %."""
    entry = parse(tmp_path, RULE + ENTRY).entry("step")
    assert entry is not None
    assert (entry.tier, entry.smallest_effect, entry.metrics) == ("gate", 0.03, ("time_s",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[metrics.time_s]", "unknown metrics; accepted are metric, benchmark"),
        (RULE + "margin = 3\n", "unknown margin"),
        (RULE.replace("time", "speed", 2), "'speed' is none of time, memory, accuracy"),
        (RULE.replace("0.25", "-1"), "not a number >= 0"),
        (RULE.replace("0.25", '"1"'), "not a number >= 0"),
        ('[metric.x]\nfamily = "time"\n', "better missing"),
        ("metric = 3", r"write \[metric"),
        ("[metric]\ntime_s = 3", "time_s: must be a table"),
        (ENTRY, "gates time_s without a rule"),
        (RULE + ENTRY + 'tier = "soft"\n', "none of gate, advisory"),
        (RULE + ENTRY.replace('["time_s"]', '"time_s"'), "metrics: 'time_s' does not fit"),
        ("not toml", "cannot be read as TOML"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A misspelt key would loosen the gate in silence."""
    with pytest.raises(PolicyError, match=message):
        parse(tmp_path, text)


def test_missing_policy_is_refused(tmp_path: Path) -> None:
    """Without one nothing could be judged."""
    with pytest.raises(PolicyError, match="cannot be read"):
        read_policy(tmp_path / "policy.toml")


def test_every_benchmark_has_an_entry_in_the_shipped_policy() -> None:
    """A new benchmark needs an owner and margins before it is merged."""
    policy = read_policy(BENCHMARKS / "policy.toml")
    names = [
        stable_id(node.name, {})
        for path in BENCHMARKS.glob("bench_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("bench_")
    ]
    assert [name for name in names if policy.entry(name) is None] == []
