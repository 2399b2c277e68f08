"""Where a command's settings come from: presets, files, flags, and the run itself."""

from pathlib import Path

import pytest

from rap import cli
from rap.cli.arguments import parse_configured
from rap.cli.fit import Fit
from rap.cli.train import Train
from rap.config import Config, preset, to_toml


def test_presets_follow_the_scene() -> None:
    """The room has a preset of its own; any folder starts from 7-Scenes'."""
    assert parse_configured(Fit, "fit", ["room", "-o", "a"])[1] == preset("room")
    assert parse_configured(Fit, "fit", ["other", "-o", "a"])[1] == preset("seven_scenes")
    given = parse_configured(Fit, "fit", ["room", "-o", "a", "--preset", "cambridge"])[1]
    assert given == preset("cambridge")


def test_flags_override_the_file_which_overrides_the_defaults(tmp_path: Path) -> None:
    """The order of precedence, and that sections without flags come from the file."""
    settings = tmp_path / "my.toml"
    settings.write_text("[fit]\niterations = 4\n[train]\nepochs = 2\nbatch_size = 3\n")
    argv = ["room", "-o", "run", "--config", str(settings), "--train.epochs", "7"]
    _, config = parse_configured(Train, "train", argv)
    assert config.train.epochs == 7
    assert config.train.batch_size == 3
    assert config.fit.iterations == 4
    assert config.train.learning_rate == Config().train.learning_rate


def test_resumed_runs_start_from_their_own_settings(tmp_path: Path) -> None:
    """`--resume` needs no preset: the run directory holds all settings."""
    stored = preset("cambridge")
    (tmp_path / "config.toml").write_text(to_toml(stored))
    argv = ["room", "-o", str(tmp_path), "--resume"]
    assert parse_configured(Train, "train", argv)[1] == stored


def test_published_configuration_files_are_accepted(tmp_path: Path) -> None:
    """`--config` also takes the published code's own files."""
    path = tmp_path / "chess.txt"
    path.write_text("rvs_rotation = 10\nepochs = 2000\n")
    argv = ["room", "-o", "run", "--config", str(path)]
    config = parse_configured(Train, "train", argv)[1]
    assert (config.views.rotation_deg, config.train.epochs) == (10.0, 2000)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit", "--fit.seed", "18446744073709551616"], "fit.seed = 18446744073709551616 must be "),
        (["fit", "--fit.depth-weight", "inf"], "fit.depth_weight = inf must be a finite number"),
        (["fit", "--save-every-s", "nan"], "--save-every-s = nan must be a finite number"),
        (["fit", "--save-every-s", "-1"], "--save-every-s = -1.0 must be at least 0"),
        (["fit", "--fit.iterations", "100000000000"], "must each be at most 10,000,000"),
        (["train", "--views.translation-m", "inf"], "views.translation_m = inf must be"),
        (["train", "--views.min-coverage", "1"], "1.0 must be at least 0 and below 1"),
        (
            ["render", "--views.radius-clip-px", "inf"],
            "views.radius_clip_px = inf must be",
        ),
        (
            ["render", "--seed", "9223372036854775808"],
            "--seed = 9223372036854775808 must be",
        ),
    ],
)
def test_numbers_that_nothing_can_be_done_with(
    argv: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each is one line that says what is accepted, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    words = {
        "fit": ["room", "-o", "a.ply"],
        "train": ["room", "-o", "run"],
        "render": ["--splat", "a.ply", "--poses", "room", "-o", "views"],
    }
    assert cli.main([argv[0], *words[argv[0]], *argv[1:]]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
