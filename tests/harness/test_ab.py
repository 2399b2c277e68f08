"""`python -m benchmarks ab` over a toy repository, its processes played: codes, files, messages."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.listing import Listing
from benchmarks.harness.lock import alone
from benchmarks.harness.subject import digest_of
from benchmarks.harness.verdict import Code
from tests.harness.ab_stage import Stage
from tests.harness.toy_trees import BENCHMARKS, FASTER


def test_slower_working_tree_is_red(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Dirty, against HEAD: exit code 1, and the report says what, how much, how sure, and who."""
    stage.toy.cost(0.0055)
    assert stage.ab() == 1
    printed = capsys.readouterr().out
    assert "spin time_s: slower by 10.0%" in printed
    assert "owner: toys" in printed
    assert "p <0.0001 for the whole suite, 8 fresh blocks" in printed
    assert "REGRESSION (exit code 1)" in printed
    assert "steady time_s: " not in printed


def test_result_is_stored_as_json_and_markdown(stage: Stage) -> None:
    """Beside the blocks that it came from."""
    stage.toy.cost(0.0055)
    stage.ab()
    (folder,) = stage.runs()
    assert {path.name for path in folder.iterdir()} == {
        "blocks.jsonl", "result.json", "result.md", "result.txt",
    }  # fmt: skip
    found = stage.result()
    assert (found["verdict"], found["code"], found["num_blocks"]) == ("REGRESSION", 1, 14)
    text = (folder / "result.md").read_text(encoding="utf-8")
    assert text.startswith("### REGRESSION: working tree (dirty) against HEAD")
    assert "| spin |" in text


def test_lost_benchmark_is_coverage(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Both arms run the head's suite: what it deleted is in neither, and was the base's."""
    stage.toy.write("benchmarks/bench_more.py", "def bench_more(measure): ...\n")
    stage.toy.commit("more")
    (stage.toy.root / "benchmarks" / "bench_more.py").unlink()
    stage.toy.cost(0.004)
    assert stage.ab() == Code.COVERAGE
    assert "more: MISSING" in capsys.readouterr().out
    assert stage.ab("-k", "spin or steady") == 0


def test_lost_value_of_a_parameter_is_coverage(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """The benchmark itself is there: only the base's own suite, listed, tells that one is gone."""
    stage.listing = Listing(frozenset({"spin", "steady", "spin[batch_size=64]"}))
    stage.toy.cost(0.00501)
    assert stage.ab() == 0  # the suite is the same one: nothing is listed
    stage.toy.write("benchmarks/bench_toy.py", "# one value less\n" + BENCHMARKS)
    capsys.readouterr()
    assert stage.ab() == 12
    told = "spin[batch_size=64]: MISSING. is in the base's suite; the head's suite, which both"
    assert told in capsys.readouterr().out


def test_base_that_cannot_be_listed_is_told(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """A comparison is still one; a reader must know what it cannot see."""
    stage.listing = Listing(problem="benchmarks/bench_new.py cannot be collected")
    stage.toy.cost(0.00501)
    stage.toy.write("pytest.ini", "[pytest]\n")
    assert stage.ab() == 0
    printed = capsys.readouterr()
    assert "the suite of HEAD is another one: listing its benchmarks" in printed.err
    assert "not known for sure (benchmarks/bench_new.py cannot be collected)" in printed.out


def test_faster_working_tree_is_green_and_named(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """A speed-up is reported and never a failure."""
    stage.toy.cost(0.004)
    assert stage.ab("HEAD") == 0
    assert "better" in capsys.readouterr().out


def test_patch_is_compared_with_the_tree_it_changes(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The working tree stays as it is."""
    patch = tmp_path / "slower.patch"
    patch.write_text(FASTER.replace("0.004", "0.006"), encoding="utf-8")
    before = stage.toy.git("status", "--porcelain")
    assert stage.ab("--patch", str(patch)) == 1
    assert "working tree + slower.patch" in capsys.readouterr().out
    assert stage.toy.git("status", "--porcelain") == before


def test_exported_folder_is_a_base(stage: Stage, tmp_path: Path) -> None:
    """Written by `export`, with its commit, for a machine without git history."""
    export = tmp_path / "export"
    commit = stage.toy.git("rev-parse", "--short=12", "HEAD")
    assert main(["export", str(export), "HEAD"], stage.toy.root) == 0
    stage.toy.cost(0.0055)
    (stage.toy.root / ".git").rename(tmp_path / "no-git")
    assert stage.ab(str(export)) == 1
    base = stage.result()["base"]
    assert isinstance(base, dict)
    assert base["commit"] == commit


def test_export_never_mixes_trees(stage: Stage, tmp_path: Path) -> None:
    """A folder that exists is refused; without a commit the working tree is written."""
    assert main(["export", str(tmp_path), "HEAD"], stage.toy.root) == 4
    assert main(["export", str(tmp_path / "a"), "no-such"], stage.toy.root) == 4
    stage.toy.cost(0.007)
    assert main(["export", str(tmp_path / "b")], stage.toy.root) == 0
    assert "0.007" in (tmp_path / "b" / "rap" / "__init__.py").read_text(encoding="utf-8")
    commit, digest, *_ = (tmp_path / "b" / ".commit").read_text(encoding="utf-8").split()
    assert commit.endswith("+dirty")
    assert digest == digest_of(tmp_path / "b" / "rap")


def test_edited_export_is_named_dirty(
    stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code is in no commit, whatever its stamp says; a note tells what was edited."""
    export = tmp_path / "export"
    assert main(["export", str(export), "HEAD"], stage.toy.root) == 0
    for name in ("rap/more.py", "benchmarks/bench_toy.py"):
        (export / name).write_text("A = 1\n", encoding="utf-8")
    digest_of.cache_clear()
    assert stage.ab(str(export)) == 0
    base = stage.result()["base"]
    assert isinstance(base, dict)
    assert str(base["commit"]).endswith("+dirty")
    told = f"folder {export}: edited since its export: rap, benchmarks"
    assert told in capsys.readouterr().out


def test_placebo_is_green(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Both arms are copies of one tree, and the report says so."""
    assert stage.ab("--aa") == 0
    assert "placebo" in capsys.readouterr().out
    found = stage.result()
    base, head = found["base"], found["head"]
    assert isinstance(base, dict)
    assert isinstance(head, dict)
    assert base["digest"] == head["digest"]


def test_same_trees_are_usage(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """An A/B of nothing would be green for ever; the message says what to do."""
    assert stage.ab() == 4
    assert "--aa" in capsys.readouterr().err
    assert stage.log == []


def test_fault_is_injected_in_the_head_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts as a difference between equal trees, and the report names it."""
    monkeypatch.setenv("BENCHMARK_FAULT", "slow:30@spin")
    assert stage.ab() == 1
    printed = capsys.readouterr().out
    assert "INJECTED FAULTS in the head (BENCHMARK_FAULT): slow:30@spin" in printed
    assert "spin time_s: slower by 30.0%" in printed


def test_two_comparisons_at_once_are_environment(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each would measure the other."""
    with alone():
        assert stage.ab("--aa") == 11
    assert "another comparison is running" in capsys.readouterr().err
    assert stage.log == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--budget", "soon"),
        ("--aa", "--patch", "x.patch"),
        ("--patch", "x.patch"),
        ("--bisect", "HEAD", "HEAD"),
        ("--bisect", "HEAD", "HEAD", "-k", "spin"),
        ("--bisect", "HEAD~1", "HEAD", "-k", "spin", "--aa"),
        ("no-such-commit",),
        ("--aa", "--metric", "nonsense"),
        ("--aa", "--resume"),
        ("--device", "tpu"),
        ("--aa", "--effect", "0.3"),
        ("--aa", "--effect", "much"),
    ],
)
def test_bad_arguments_are_usage(stage: Stage, arguments: tuple[str, ...]) -> None:
    """Exit code 4 before anything is measured."""
    assert stage.ab(*arguments) == 4
    assert stage.log == []


def test_metric_may_be_one_that_the_policy_does_not_rule(stage: Stage) -> None:
    """By the unit at its end; where no benchmark has it nothing was compared, and that is red."""
    stage.toy.cost(0.0055)
    assert stage.ab("--metric", "time_s") == 1
    assert stage.ab("--metric", "other_s") == 12


def test_larger_effect_of_interest_is_decided_sooner(stage: Stage) -> None:
    """What is too noisy for 3 % may still exclude 30 %."""
    stage.noise = 0.05
    assert stage.ab("--aa", "--budget", "0") == 10
    assert stage.ab("--aa", "--effect", "30%") == 0
    assert stage.result()["num_blocks"] == 6


def test_policy_below_the_margin_is_usage(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Layout effects alone could reach such a smallest effect."""
    policy = stage.toy.root / "benchmarks" / "policy.toml"
    text = policy.read_text(encoding="utf-8")
    policy.write_text(text + "smallest_effect = 0.004\n", encoding="utf-8")
    assert stage.ab("--aa") == 4
    assert "smallest_effect" in capsys.readouterr().err


def test_bisect_finds_the_slower_commit(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """By the same rule; commits that leave the package alone are passed over."""
    for number in range(1, 7):
        stage.toy.cost((0.005 if number < 4 else 0.0058) + 1e-9 * number)
        stage.toy.commit(f"change {number}")
        stage.toy.write("notes.txt", str(number))
        stage.toy.commit("notes")
    assert stage.ab("--bisect", "HEAD~12", "HEAD", "-k", "spin") == 1
    printed = capsys.readouterr().out
    assert "6 commits" in printed
    assert "first slower commit: " in printed
    assert "change 4" in printed.splitlines()[-1]


def test_bisect_of_good_history_passes(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Where BAD is not slower there is nothing to search."""
    stage.toy.cost(0.00501)
    stage.toy.commit("harmless")
    assert stage.ab("--bisect", "HEAD~1", "HEAD", "-k", "spin") == 0
    assert "nothing to search" in capsys.readouterr().out
