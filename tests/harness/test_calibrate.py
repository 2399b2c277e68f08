"""Calibration by A/A: noise, smallest detectable slowdown, realised false alarms, their file."""

import dataclasses
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.blocks import Block
from benchmarks.harness.calibration import (
    Calibrated,
    Calibration,
    calibrate,
    calibration_path,
    detectable,
    read_calibration,
    spread,
    write_calibration,
)
from benchmarks.harness.interest import Interest
from benchmarks.harness.machine import Machine
from benchmarks.harness.pairs import State, decide_pairs
from benchmarks.harness.policy import Entry, MetricRule, Policy
from benchmarks.harness.record import Record, RecordError, Session
from benchmarks.harness.verdict import Code
from tests.harness.mutants import UNFINISHED

ROOT = Path(__file__).resolve().parents[2]
MACHINE = Machine("cpu", "Toy CPU", 2, 2**33, "none", {})
POLICY = Policy(
    {
        "time_s": MetricRule("time", "lower", relative=0.25),
        "error_m": MetricRule("accuracy", "lower", relative=0.1),
    },
    (Entry("step*", "Ada", ("time_s", "error_m")),),
)


def session(times: dict[str, float]) -> Session:
    """A process with these times."""
    records = [Record(n, n, metrics={"time_s": t, "error_m": 0.1}) for n, t in times.items()]
    return Session(MACHINE, "room", "abc", tuple(records))


def placebo(sds: dict[str, float], num: int = 30, seed: int = 3) -> list[Block]:
    """A/A blocks whose processes differ by these standard deviations."""
    draw = random.Random(seed)

    def arm() -> Session:
        return session({name: math.exp(draw.gauss(0.0, sd)) for name, sd in sds.items()})

    return [Block(n, 0, "base", None, arm(), arm(), 1.0) for n in range(num)]


def calibrated(blocks: Sequence[Block], relabellings: int = 20) -> Calibration:
    """With few relabellings."""
    return calibrate(blocks, POLICY, "abc, today", seed=5, relabellings=relabellings)


def test_noise_is_that_of_one_process() -> None:
    """Not of a difference of two."""
    found = calibrated(placebo({"step_a": 0.003, "step_b": 0.01, "step_c": 0.03, "step_d": 0.1}))
    noises = {name: time.noise for name, time in found.times.items()}
    assert noises == {
        "step_a time_s": "dedicated", "step_b time_s": "shared",
        "step_c time_s": "noisy", "step_d time_s": "unfit",
    }  # fmt: skip
    assert found.times["step_b time_s"].log_sd == pytest.approx(0.01, rel=0.35)
    assert (found.num_gated, found.key, found.suite) == (4, MACHINE.key, "room")


def test_outlier_does_not_make_a_machine_noisy() -> None:
    """One block in ten may be disturbed."""
    draw = random.Random(7)
    calm = [draw.gauss(0.0, 0.01) for _ in range(30)]
    assert spread([*calm[:28], 0.9, 1.2]) < 1.5 * spread(calm)


@pytest.mark.parametrize("sd", [0.003, 0.02])
def test_detectable_slowdown_is_found_four_times_in_five(sd: float) -> None:
    """By the whole paired rule, screen included, on fresh noise of the same size."""
    draw = random.Random(11)
    shift = math.log1p(detectable(sd, Interest(0.03), num_gated=30))
    found = [
        decide_pairs(
            [draw.gauss(shift, math.sqrt(2) * sd) for _ in range(30)],
            smallest_effect=0.03, num_gated=30,
        ).state
        for _ in range(400)
    ]  # fmt: skip
    assert found.count(State.FAIL) / len(found) == pytest.approx(0.8, abs=0.15)


def test_noisier_machines_find_less() -> None:
    """To the point where nothing can be found."""
    found = [detectable(sd, Interest(0.03), num_gated=30) for sd in (0.001, 0.01, 0.05, 50.0)]
    assert found == sorted(found)
    assert found[0] < 0.01
    assert found[-1] == math.inf


def test_false_alarms_of_quiet_placebos_are_rare() -> None:
    """Realised and simulated lie side by side."""
    found = calibrated(placebo({f"step_{n}": 0.01 for n in range(3)}), relabellings=150)
    assert found.suite_false_alarms <= 0.015
    assert found.simulated_false_alarms <= 0.015


def test_arms_that_differ_are_seen_in_the_false_alarms() -> None:
    """Half of the blocks 30 % apart, always in one direction, are no noise of one code."""
    blocks = placebo({"step": 0.001})
    odd = [
        dataclasses.replace(block, head=session({"step": 1.3})) if n % 2 else block
        for n, block in enumerate(blocks)
    ]
    assert calibrated(odd).times["step time_s"].noise == "unfit"


def test_too_few_blocks_are_refused() -> None:
    """Invalid ones do not count."""
    with pytest.raises(RecordError, match="7 valid A/A blocks"):
        calibrated(placebo({"step": 0.01}, num=7))
    hot = dataclasses.replace(Record("step", "step", metrics={"time_s": 1.0}), invalid=("hot",))
    disturbed = [
        dataclasses.replace(block, head=dataclasses.replace(block.head, records=(hot,)))
        for block in placebo({"step": 0.01}, num=9)
    ]
    with pytest.raises(RecordError, match="0 valid A/A blocks"):
        calibrated(disturbed)


def test_calibration_survives_the_disk(tmp_path: Path) -> None:
    """Beside the baseline, four digits, one line for each time; a foreign one is refused."""
    found = calibrated(placebo({"step_a": 0.003, "step_b": 0.1}))
    path = calibration_path(tmp_path, found.key, found.suite, None)
    assert path == tmp_path / ".benchmarks/rap" / MACHINE.key / "room.calibration.json"
    assert read_calibration(path, found.key) is None
    write_calibration(path, found)
    back = read_calibration(path, found.key)
    assert back is not None
    assert back.times["step_a time_s"].noise == found.times["step_a time_s"].noise
    write_calibration(path, back)
    assert read_calibration(path, found.key) == back
    assert sum("detectable" in line for line in path.read_text("utf-8").splitlines()) == 2
    with pytest.raises(RecordError, match="is the calibration of"):
        read_calibration(path, "another")
    path.write_text(path.read_text("utf-8").replace('"blocks"', '"bricks"'), encoding="utf-8")
    with pytest.raises(RecordError, match="calibrate again"):
        read_calibration(path, found.key)


@pytest.mark.parametrize(("finds", "advisory"), [(0.059, False), (0.061, True)])
def test_time_that_is_too_coarse_is_advisory(finds: float, advisory: bool) -> None:
    """More than twice the effect of interest, until it is made quieter."""
    assert Calibrated(30, 0.05, "unfit", finds, 0.03, 0.0).advisory is advisory


def test_nonsense_is_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before anything is measured."""
    assert main(["calibrate", "--blocks", "2", "--device", "cpu"], tmp_path) == Code.USAGE
    assert "at least 8" in capsys.readouterr().err


BENCHMARKS = """
import rap

def bench_toy(measure):
    measure(lambda: sum(range(30000)), rounds=5)
"""


@pytest.mark.slow
def test_calibrate_in_a_real_tree(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Eight blocks in two goes; the result lies where the baseline will."""
    benchmarks, package = tmp_path / "benchmarks", tmp_path / "rap"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copytree(ROOT / "benchmarks" / "harness", benchmarks / "harness", ignore=UNFINISHED)
    for name in ("__main__.py", "__init__.py"):
        shutil.copy(ROOT / "benchmarks" / name, benchmarks)
    shipped = (ROOT / "benchmarks" / "policy.toml").read_text(encoding="utf-8")
    entry = '\n[[benchmark]]\nname = "toy"\nowner = "Ada"\nmetrics = ["time_s"]\n'
    (benchmarks / "policy.toml").write_text(shipped + entry, encoding="utf-8")
    (benchmarks / "bench_toy.py").write_text(BENCHMARKS, encoding="utf-8")
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "benchmarks", "calibrate", "--device", "cpu",
               "--blocks", "8", "--relabellings", "50"]  # fmt: skip
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "BENCHMARK_COMMIT": "abc123", "TMPDIR": str(home)}
    codes = []
    for extra in (["--budget", "1s"], ["--resume", "--budget", "9h"]):
        done = subprocess.run([*command, *extra], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, check=False)  # fmt: skip
        codes.append(done.returncode)
    assert "block 8 of 8" in done.stderr
    assert codes == [Code.INCONCLUSIVE, Code.PASS], done.stdout + done.stderr
    (path,) = (tmp_path / ".benchmarks" / "rap").rglob("room.calibration.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["times"]["toy time_s"]["blocks"] == 8
    assert found["origin"].startswith("abc123, ")
