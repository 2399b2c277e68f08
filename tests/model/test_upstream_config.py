"""Published configuration files become ours, and what cannot be used is named with its line."""

from pathlib import Path

import pytest

from rap import log
from rap.config import ConfigError
from rap.model.upstream import read_config
from rap.model.upstream_config import parse_config

RELEASED = """run_name=church
logbase=ckpts/Cambridge
rap_resolution=2
epochs=1500
batch_size=4
rvs_refresh_rate=20
rvs_trans=1.5
rvs_rotation=4     
d_max=0.25
#pretrained_model_path=logs/rap_church_b0/RAPNet/checkpoint-1442-0.0758.pt
"""  # noqa: W291 (as released)

SAVED = """
amp = True
amp_dtype = torch.bfloat16
compile_model = False
feature_loss = triplet
freeze_batch_norm = True
learning_rate = 0.0002
loss_weights = [1.0, 0.5, 2.0, 0.0]
patience = [100, 50]
pretrained_model_path = None
reduction = ['reduction_3', 'reduction_2']
s_q = -6.0
s_x = -2
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "chess.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_released_file_is_mapped(tmp_path: Path) -> None:
    """Values of the file come over; keys without a counterpart are listed, comments are not."""
    config, left_out = parse_config(written(tmp_path, RELEASED))
    assert (config.train.epochs, config.train.batch_size) == (1500, 4)
    assert (config.views.translation_m, config.views.rotation_deg) == (1.5, 4.0)
    assert (config.views.refresh_epochs, config.views.bounds_margin_m) == (20, 0.25)
    assert left_out == ["run_name", "logbase", "rap_resolution"]


def test_left_out_settings_have_the_published_defaults(tmp_path: Path) -> None:
    """An empty file is the published command line without arguments."""
    config, left_out = parse_config(written(tmp_path, ""))
    assert left_out == []
    assert config.train.learning_rate == 1e-4
    assert (config.train.precision, config.train.schedule) == ("fp16", "plateau")
    assert (config.weights.rendered, config.weights.adversarial) == (1.0, 0.7)
    assert (config.views.translation_m, config.views.rotation_deg) == (5.0, 1.2)


def test_file_that_training_saved_is_mapped(tmp_path: Path) -> None:
    """Lists, flags and types are read as data: nothing is evaluated."""
    config, left_out = parse_config(written(tmp_path, SAVED))
    assert (config.train.precision, config.train.execution) == ("bf16", "eager")
    assert (config.train.feature_loss, config.train.learning_rate) == ("triplet", 2e-4)
    weights = config.weights
    assert (weights.pose, weights.rendered) == (1.0, 1.0)
    assert (weights.feature, weights.view, weights.adversarial) == (0.5, 2.0, 0.0)
    assert (config.model.translation_level, config.model.rotation_level) == (3, 2)
    assert (config.train.translation_log_weight, config.train.rotation_log_weight) == (2.0, 6.0)
    assert (config.model.batch_norm, config.train.patience) == ("frozen", 100)
    assert left_out == ["pretrained_model_path"]


@pytest.mark.parametrize(
    "line",
    ["epochs=3", "epochs = 3", "epochs: 3", "epochs 3", "--epochs = 3", "epochs = '3' # few"],
)
def test_every_spelling_of_a_line_is_read(tmp_path: Path, line: str) -> None:
    """Configargparse accepts all of these."""
    text = f"---\n[section]\n; a comment\n{line}\n"
    assert parse_config(written(tmp_path, text))[0].train.epochs == 3


def test_lone_key_means_true_and_the_last_of_two_lines_holds(tmp_path: Path) -> None:
    """As configargparse reads them."""
    config, _ = parse_config(written(tmp_path, "epochs=3\ncompile_model\nepochs=4\n"))
    assert config.train.execution == "compiled"
    assert config.train.epochs == 4


def test_precision_does_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    """Without autocast the arithmetic is TensorFloat-32, whatever its type would have been."""
    for text in ("amp=False\namp_dtype=torch.float16", "amp_dtype=torch.float16\namp=False"):
        assert parse_config(written(tmp_path, text))[0].train.precision == "tf32"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("epochs = many", "invalid literal"),
        ("epochs = 0", "must be at least 1"),
        ("rvs_trans = -1", "must not be negative"),
        ("rvs_trans = nan", "must be finite"),
        ("d_max = __import__('os')", "could not convert"),
        ("loss_weights = [1, 1, 1]", "must be 4 values"),
        ("feature_loss = l1", "must be one of vicreg, triplet, ntxent, mse"),
        ("reduction = ['reduction_4', 'reduction_6']", "reduction_1 to reduction_5"),
        ("amp_dtype = torch.int8", "must be one of torch.float16"),
        ("compile_model = maybe", "must be true or false"),
    ],
)
def test_unusable_value_is_named_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    """One error with file, line number, key, value and what is accepted."""
    path = written(tmp_path, f"run_name = a\n\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        parse_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: {line.split(' = ')[0]} = ")
    assert reason in message


def test_line_that_sets_nothing_is_refused(tmp_path: Path) -> None:
    """Text that is no setting is an error, not skipped."""
    with pytest.raises(ConfigError, match=r"chess\.txt:1: '= 3' is not a `key = value` line"):
        parse_config(written(tmp_path, "= 3"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """No file at the path."""
    with pytest.raises(ConfigError, match=r"absent\.txt: cannot be read"):
        read_config(tmp_path / "absent.txt")


def test_left_out_keys_are_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`read_config` says which settings did not come over."""
    warnings = []
    monkeypatch.setattr(log, "warn", warnings.append)
    read_config(written(tmp_path, "datadir = a\nepochs = 3\n"))
    assert len(warnings) == 1
    assert warnings[0].endswith("left out: datadir")
