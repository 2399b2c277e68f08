"""Curves from records: which points, in which lines, and that the pictures hold them."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from benchmarks.__main__ import ROOT, main
from benchmarks.harness.curves import (
    CURVES,
    Curve,
    CurvesError,
    draw,
    labels,
    points_of,
    read_curves,
)
from benchmarks.harness.handover import Evidence, write_evidence
from benchmarks.harness.machine import Machine
from benchmarks.harness.parameters import parameters_of, stable_id, value_name
from benchmarks.harness.pictures import picture
from benchmarks.harness.record import Record, Session
from benchmarks.harness.verdict import Code

STEP = Curve("step", "step", "batch", ("images_per_s", "peak_gpu_bytes"))
LISTED = """
[[curve]]
name = "step"
benchmark = "step"
x = "batch"
y = ["images_per_s"]

[[curve]]
name = "other"
benchmark = "other"
x = "batch"
y = ["images_per_s"]
"""


def record(batch: int, precision: str = "fp32", **metrics: float) -> Record:
    """A step's record, ten images per second and batch item unless it says otherwise."""
    name = stable_id("bench_step", {"batch": batch, "precision": precision})
    return Record(name, "node", metrics={"images_per_s": 10.0 * batch, **metrics})


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]+", fullmatch=True),
        st.booleans() | st.integers() | st.none() | st.from_regex(r"[\w.:/+-]+", fullmatch=True),
        max_size=3,
    )
)
def test_parameters_are_read_from_an_id(values: dict[str, bool | int | str | None]) -> None:
    """As they were written."""
    texts = {name: value_name(value) for name, value in values.items()}
    assert parameters_of(stable_id("bench_step", values)) == texts


def test_lines_are_what_differs_and_points_are_in_order() -> None:
    """By number, not by text; a parameter that all share names no line."""
    curve = Curve("step", "step", "batch", ("images_per_s",))
    records = [record(64), record(8, "bf16"), record(8), record(64, "bf16"), record(16)]
    lines = labels(points_of(curve, records))
    assert {name: [p.x for p in line] for name, line in lines.items()} == {
        "precision bf16": [8, 64], "precision fp32": [8, 16, 64],
    }  # fmt: skip
    assert list(labels(points_of(curve, records[:1]))) == [""]


def test_lines_are_in_order_of_their_numbers() -> None:
    """Twelve layers come after two."""
    found = labels(points_of(Curve("s", "step", "precision", ("images_per_s",)), [
        record(batch, precision) for batch in (12, 2) for precision in ("1", "2")
    ]))  # fmt: skip
    assert list(found) == ["batch 2", "batch 12"]


def test_only_sound_records_of_the_benchmark_are_drawn() -> None:
    """Nothing that failed, was throttled, is of another benchmark or another setting."""
    good = record(8)
    bad = [
        Record(good.id, "n", outcome="wrong", metrics=good.metrics),
        Record(good.id, "n", invalid=("throttled",), metrics=good.metrics),
        Record("other[batch=8]", "n", metrics=good.metrics),
        record(8, "bf16"),
    ]
    held = Curve("step", "step", "batch", ("images_per_s",), where={"precision": "fp32"})
    assert [point.record for point in points_of(held, [good, *bad])] == [good]


def test_metric_can_be_the_axis() -> None:
    """Joined along a parameter, or points that stand alone."""
    records = [record(8, latency_s=0.5), record(64, latency_s=0.25)]
    along = Curve("step", "step", "latency_s", ("images_per_s",), along=("batch",))
    points = points_of(along, records)
    assert [(p.x, p.joined, p.note, dict(p.line)) for p in points] == [
        (0.25, True, "batch 64", {"precision": "fp32"}),
        (0.5, True, "batch 8", {"precision": "fp32"}),
    ]
    alone = points_of(Curve("step", "step", "latency_s", ("images_per_s",)), records)
    assert [point.joined for point in alone] == [False, False]
    assert list(labels(alone)) == ["batch 8", "batch 64"]


def test_picture_holds_the_numbers() -> None:
    """In the units that its axes name."""
    records = [record(8, peak_gpu_bytes=3 << 20), record(64, peak_gpu_bytes=9 << 20)]
    lines = labels(points_of(STEP, records))
    rate, memory = picture(STEP, lines, STEP.y, "a machine").axes
    assert np.asarray(rate.lines[0].get_xydata()).tolist() == [[8, 80], [64, 640]]
    assert np.asarray(memory.lines[0].get_xydata()).tolist() == [[8, 3], [64, 9]]
    assert (rate.get_ylabel(), memory.get_ylabel()) == ("images per second", "peak gpu (MiB)")


@pytest.mark.parametrize(("largest", "scale"), [(9.0, "linear"), (900.0, "log")])
def test_axis_is_logarithmic_where_values_are_far_apart(largest: float, scale: str) -> None:
    """Else it starts at zero, so that heights can be compared; a point without it is no zero."""
    records = [record(8, off_m=1.0), record(32), record(64, off_m=largest)]
    curve = Curve("step", "step", "batch", ("off_m",))
    (axes,) = picture(curve, labels(points_of(curve, records)), curve.y, "a machine").axes
    assert axes.get_yscale() == scale
    assert (axes.get_ylim()[0] == 0) == (scale == "linear")


def test_points_that_stand_alone_are_not_joined() -> None:
    """Nor in the legend."""
    records = [record(8, latency_s=0.25), record(64, latency_s=0.5)]
    joined = labels(points_of(STEP, records))
    curve = Curve("step", "step", "latency_s", ("images_per_s",))
    alone = labels(points_of(curve, records))
    (axes,) = picture(curve, alone, curve.y, "a machine").axes
    assert {line.get_linestyle() for line in axes.lines} == {"None"}
    (axes,) = picture(STEP, joined, STEP.y[:1], "a machine").axes
    assert axes.lines[0].get_linestyle() == "-"


def test_a_note_is_written_once() -> None:
    """Where lines meet at one x, at the highest of them."""
    records = [
        record(8, "fp32", latency_s=0.25),
        record(8, "bf16", latency_s=0.25, images_per_s=90.0),
        record(64, "fp32", latency_s=0.5),
    ]
    curve = Curve("step", "step", "latency_s", ("images_per_s",), along=("batch",))
    (axes,) = picture(curve, labels(points_of(curve, records)), curve.y, "a machine").axes
    assert [text.get_text() for text in axes.texts] == ["batch 8", "batch 64"]


def test_long_titles_and_notes_stay_inside() -> None:
    """A title breaks its lines, and the last point's note goes to its left."""
    records = [record(8, latency_s=0.25), record(64, latency_s=0.5)]
    curve = Curve("step", "step", "latency_s", ("images_per_s",), along=("batch",))
    figure = picture(curve, labels(points_of(curve, records)), curve.y, "a machine; " * 30)
    (axes,) = figure.axes
    assert [text.get_horizontalalignment() for text in axes.texts] == ["left", "right"]
    figure.draw_without_rendering()
    title = figure.get_suptitle()
    assert max(map(len, title.splitlines())) < 110
    width = figure.get_figwidth() * figure.dpi
    (drawn,) = [text for text in figure.findobj(Text) if text.get_text() == title]
    extent = drawn.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= width


@pytest.mark.parametrize(
    ("values", "label", "shown"),
    [
        ([0.5, 2.0], "latency (s)", [0.5, 2]),
        ([0.002, 0.25], "latency (ms)", [2, 250]),
        ([2e-7, 5e-7], "latency (µs)", [0.2, 0.5]),
    ],
)
def test_unit_fits_the_numbers(values: list[float], label: str, shown: list[float]) -> None:
    """The largest in which something is one or more."""
    records = [record(8, latency_s=values[0]), record(64, latency_s=values[1])]
    curve = Curve("step", "step", "batch", ("latency_s",))
    (axes,) = picture(curve, labels(points_of(curve, records)), curve.y, "a machine").axes
    drawn = np.asarray(axes.lines[0].get_xydata())
    assert axes.get_ylabel() == label
    assert drawn[:, 1].tolist() == pytest.approx(shown)


def test_too_little_is_named_not_drawn(tmp_path: Path, toy_machine: Machine) -> None:
    """One point is no curve, and a metric that nobody has is no panel."""
    session = Session(toy_machine, "room", "abc", (record(8),))
    (told,) = draw([STEP], session, tmp_path)
    assert told == "step: not drawn, the run has 1 points with batch"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[curve]]\nname = 'a'\nbenchmark = 'b'\nx = 'c'\n", "y"),
        ("[[curve]]\nname = 'a'\nbenchmark = 'b'\nx = 'c'\ny = 'd'\n", "y"),
        ("[[curve]]\nname = 'a'\nbenchmark = 'b'\nx = 'c'\ny = ['d']\nz = 1\n", "z"),
        ("[[curves]]\nname = 'a'\n", "curves"),
        ("curve = [1]\n", "must be a table"),
        ("[[curve", "cannot be read as TOML"),
    ],
)
def test_list_of_curves_is_read_strictly(tmp_path: Path, text: str, says: str) -> None:
    """One error that names the file and what is wrong."""
    path = tmp_path / "curves.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CurvesError, match=re.escape(str(path)) + ".*" + says):
        read_curves(path)


def test_listed_curves_are_of_benchmarks_that_exist() -> None:
    """A renamed benchmark or parameter does not leave its curve behind."""
    sources = [path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("bench_*.py")]
    for curve in read_curves(ROOT / CURVES):
        (source,) = [text for text in sources if f"def bench_{curve.benchmark}(" in text]
        for name in (curve.x, *curve.along, *curve.where):
            measured = name == "time_s" or f'metric("{name}"' in source
            assert measured or f"    {name}: " in source or f" {name}: " in source, name


@pytest.fixture
def report(
    tmp_path: Path, toy_machine: Machine, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Draws the curves of a run in a checkout with a list; exit code, output, errors."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "policy.toml").write_text(
        "[metric.time_s]\nfamily = 'time'\nbetter = 'lower'\nrelative = 0.25\nconfirm = 0.15\n"
        "[[benchmark]]\nname = 'step'\nowner = 'Ada'\nmetrics = []\n",
        encoding="utf-8",
    )

    def report(listed: str, times: int = 1) -> tuple[int, str, str]:
        (tmp_path / CURVES).write_text(listed, encoding="utf-8")
        path = tmp_path / "evidence.json"
        run = Session(toy_machine, "room", "abc", (record(8), record(64)))
        write_evidence(path, Evidence(run))
        files = [str(path)] * times
        code = main(["report", *files, "--curves", str(tmp_path / "drawn")], tmp_path)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return report


def test_report_draws_beside_its_verdict(
    report: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A picture for each curve that the run has, a line for each that it has not."""
    code, printed, _ = report(LISTED)
    assert code == Code.PASS
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["step.png"]
    assert (tmp_path / "drawn" / "step.png").read_bytes().startswith(b"\x89PNG")
    assert "step.png: 2 points" in printed
    assert "other: not drawn" in printed


def test_pictures_cannot_change_the_verdict(report: Callable[..., tuple[int, str, str]]) -> None:
    """A list that cannot be used is one line beside it; two runs at once are a wrong call."""
    code, printed, errors = report("[[curve]]")
    assert (code, "exit code 0" in printed) == (Code.PASS, True)
    assert "curve 1: name, benchmark, x, y" in errors
    assert report(LISTED, times=2)[0] == Code.USAGE
