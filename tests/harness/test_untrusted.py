"""Evidence from somebody else: whatever it holds, the answer is an exit code, never a traceback."""

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.__main__ import main
from benchmarks.harness.blocks import Block, BlockFile
from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.machine import Machine
from benchmarks.harness.record import Record, Session
from benchmarks.harness.verdict import Code
from tests.harness.pairs_toys import reseal
from tests.harness.toy_policy import POLICY

MACHINE = Machine("cpu", "Toy CPU", 2, 2**33, "none", {"python": "3.11"})
STEP = Record(
    "step", "n", metrics={"time_s": 1.0, "error_m": 0.1}, samples={"error_m": (0.1, 0.2)},
    intervals={"error_m": 0.01}, counters={"launches": 3}, canary={"wall.copy": 1.0},
    facts={"sm_clock_mhz": 1980.0}, work={"bytes": 1.0}, notes=("note",),
)  # fmt: skip
RUN = Session(MACHINE, "room", "abc", (STEP, dataclasses.replace(STEP, id="step_b")))
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([10**400, -1, "passed", "nan", "../../etc"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with a policy."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "policy.toml").write_text(POLICY, encoding="utf-8")
    return tmp_path


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 (JSON)
    """The way to every value in a JSON document."""
    found = [path] if path else []
    entries: list[tuple[Any, Any]] = []
    if isinstance(content, dict):
        entries = [*content.items()]
    elif isinstance(content, list):
        entries = [*enumerate(content)]
    for key, value in entries:
        found += places(value, (*path, key))
    return found


def replaced(content: Any, path: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401 (JSON)
    """The document with one value changed."""
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
CODES = {int(code) for code in Code}


@SETTINGS
@given(data=st.data())
def test_damaged_evidence_ends_with_a_code(tree: Path, data: st.DataObject) -> None:
    """One value of it, anywhere, is something else."""
    path = tree / "evidence.json"
    write_evidence(path, Evidence(RUN, (RUN,), ("step",)))
    content = json.loads(path.read_text(encoding="utf-8"))
    where = data.draw(st.sampled_from(places(content)))
    path.write_text(json.dumps(replaced(content, where, data.draw(ODD))), encoding="utf-8")
    assert main(["report", "--annotate", str(path)], tree) in CODES


@SETTINGS
@given(data=st.data())
def test_damaged_blocks_end_with_a_code(tree: Path, data: st.DataObject) -> None:
    """A line of pairs in which one value is something else."""
    path = tree / "blocks.jsonl"
    file = BlockFile(path)
    file.start({"seed": 1})
    for number in range(3):
        file.append(Block(number, 0, "base", ("step",), RUN, RUN, 1.0))
    lines = path.read_text(encoding="utf-8").splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    content = json.loads(lines[number])
    where = data.draw(st.sampled_from(places(content)))
    lines[number] = json.dumps(replaced(content, where, data.draw(ODD)))
    reseal(path, "\n".join(lines))
    assert main(["report", str(path)], tree) in CODES


@pytest.mark.parametrize("side", ["base", "head"])
@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("machine", "memory_bytes"), 10**400),
        (("records", 0, "facts", "sm_clock_mhz"), 5e-324),
        (("records", 0, "facts", "sm_clock_mhz"), math.inf),
        (("records", 0, "samples", "error_m", 0), 1e308),
    ],
    ids=["memory", "slowest clock", "endless clock", "sample"],
)
def test_numbers_beyond_every_measurement_end_with_a_code(
    tree: Path, side: str, where: tuple[Any, ...], value: float
) -> None:
    """Their quotients and squares are none that a float holds."""
    path = tree / "blocks.jsonl"
    file = BlockFile(path)
    file.start({"seed": 1})
    file.append(Block(0, 0, "base", ("step",), RUN, RUN, 1.0))
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps(replaced(json.loads(lines[1]), (side, *where), value))
    reseal(path, "\n".join(lines))
    assert main(["report", str(path)], tree) in CODES - {Code.PASS}


@SETTINGS
@given(st.binary(max_size=40))
def test_bytes_end_with_a_code(tree: Path, content: bytes) -> None:
    """Not even text."""
    path = tree / "evidence.json"
    path.write_bytes(content)
    assert main(["report", str(path)], tree) == Code.USAGE
