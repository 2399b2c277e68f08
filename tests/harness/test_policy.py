"""The policy is read strictly, and the shipped one covers the shipped benchmarks."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.compare import judge_blocks
from benchmarks.harness.parameters import stable_id
from benchmarks.harness.policy import MetricRule, Policy, PolicyError, read_policy
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import block, toy

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


def test_better_than_enough_is_as_good() -> None:
    """What a picture gains beyond the rounding of its levels cannot be lost again."""
    rule = MetricRule("accuracy", "higher", absolute=0.3, enough=60.0)
    assert rule.loss(97.0, 64.0) == 0.0
    assert rule.loss(97.0, 59.0) == 1.0
    assert MetricRule("accuracy", "lower", enough=0.1).loss(0.01, 0.3) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("train_step[batch_size=8]", "first_call_s"),
        ("infer[batch_size=1]", "first_call_s"),
        ("render[splat=small]", "psnr_db"),
        ("views[splat=small]", "psnr_db"),
        ("accuracy", "median_rotation_deg"),
        ("time_to_target", "to_target_s"),
        ("scaling", "step_s"),
    ],
)
def test_shipped_policy_gates(name: str, metric: str) -> None:
    """Slower compilation, worse pictures and worse learning are red by a rule, not by luck."""
    entry = read_policy(BENCHMARKS / "policy.toml").entry(name)
    assert entry is not None
    assert metric in entry.metrics
    assert entry.tier == "gate"


@pytest.mark.parametrize(
    ("name", "metric", "values"),
    [("train_step", "first_call_s", (3.0, 6.0)), ("render", "psnr_db", (40.0, 39.0))],
)
def test_shipped_policy_turns_a_loss_red(
    name: str, metric: str, values: tuple[float, float]
) -> None:
    """In pairs of a suite whose times are otherwise equal."""
    base, head = (replace(toy(name), metrics={"time_s": 1.0, metric: value}) for value in values)
    found = judge_blocks(
        [block(n, [base], [head]) for n in range(14)], read_policy(BENCHMARKS / "policy.toml")
    )
    assert found.code is Code.REGRESSION
    assert [entry.finding.metric for entry in found.red] == [metric]


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
