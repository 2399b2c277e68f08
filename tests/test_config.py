"""The configuration tree: strict loading, one clear error per fault, exact round trips."""

import dataclasses
import inspect
import math
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap import config
from rap.config import Config, ConfigError
from rap.config.checks import MAX_FLOAT, MAX_INT, MAX_SEED

SECTIONS = [field.name for field in dataclasses.fields(Config)]
text = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n\x7f'), max_size=20)


UNIT = st.floats(0.0, 1.0)
BELOW_ONE = st.floats(0.0, 1.0, exclude_max=True)
BOUNDED: dict[str, st.SearchStrategy[Any]] = {
    "dropout": BELOW_ONE,
    "drop_connect": BELOW_ONE,
    "ema_decay": BELOW_ONE,
    "validation_fraction": BELOW_ONE,
    "ssim_weight": UNIT,
    "prune": BELOW_ONE,
    "appearance_dropout": UNIT,
    "augment_vignette": UNIT,
    "refine_start": st.floats(0.0, 0.5),  # not above refine_stop
    "refine_stop": st.floats(0.5, 1.0),
    "min_coverage": BELOW_ONE,
    "curriculum_share": UNIT,
    "low_resolution_share": UNIT,
    "freeze_after": UNIT,
    "sh_degree": st.integers(0, 3),
    "micro_batches": st.just(1),  # must divide the batch size
    # not all terms may have weight 0
    "pose": st.floats(0.0, MAX_FLOAT, exclude_min=True),
    "seed": st.integers(0, MAX_SEED),
    # their product is bounded
    "iterations": st.integers(1, 10_000),
    "finetune_iterations": st.integers(1, 10_000),
    "images_per_step": st.integers(1, 1_000),
}
"""Settings with an upper bound."""


def values_of(kind: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401 (any annotation)
    """Values that every field of this type accepts, bounds included."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(options)
    if isinstance(kind, types.UnionType):
        return st.one_of(*map(values_of, options))
    known = {
        bool: st.booleans(),
        int: st.integers(16, MAX_INT),
        float: st.floats(0.0, MAX_FLOAT),
        str: text,
        Path: text.map(Path),
        type(None): st.none(),
    }
    return known[kind]


def sections(cls: type) -> st.SearchStrategy[Any]:
    """Any instance of a configuration dataclass."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    inner = {
        name: sections(typing.cast(type, kind))
        if dataclasses.is_dataclass(kind)
        else BOUNDED.get(name, values_of(kind))
        for name, kind in fields.items()
    }
    return st.builds(cls, **inner)


def numbers_of(kind: type) -> list[tuple[str, str]]:
    """Section and name of every field that takes numbers of this type."""
    return [
        (section, field.name)
        for section in SECTIONS
        for field in dataclasses.fields(getattr(Config(), section))
        if kind in (typing.get_args(field.type) or (field.type,))
    ]


@pytest.mark.parametrize("key", numbers_of(float), ids=".".join)
def test_no_float_is_infinite(key: tuple[str, str]) -> None:
    """Nor no number, nor more than single precision holds, in any section; named and explained."""
    section, name = key
    for value in (math.inf, -math.inf, math.nan, 1e39):
        named = rf"{section}\.{name} = {re.escape(repr(value))} must be "
        with pytest.raises(ConfigError, match=named):
            dataclasses.replace(getattr(Config(), section), **{name: value})


@pytest.mark.parametrize("key", numbers_of(int), ids=".".join)
def test_no_integer_overflows(key: tuple[str, str]) -> None:
    """Seeds are what generators take, counts and sizes what kernels count with."""
    section, name = key
    for value in (2**63, 2**64, 10**30, -(2**63)):
        named = rf"{section}\.{name} = {value}\D.*must "
        with pytest.raises(ConfigError, match=named):
            dataclasses.replace(getattr(Config(), section), **{name: value})


@pytest.mark.parametrize("section", ["fit", "train"])
def test_the_largest_seed_is_accepted(section: str) -> None:
    """And torch takes it."""
    changed = dataclasses.replace(getattr(Config(), section), seed=MAX_SEED)
    torch.Generator().manual_seed(changed.seed)


@pytest.mark.parametrize(
    "changes",
    [{"iterations": 10**11}, {"iterations": 10**6, "images_per_step": 11},
     {"prune": 0.5, "finetune_iterations": 10**8}],
)  # fmt: skip
def test_a_fit_without_end_is_refused(changes: dict[str, Any]) -> None:
    """The order of its photographs is drawn before its first step."""
    with pytest.raises(ConfigError, match=r"fit\.iterations = .*must each be at most 10,000,000"):
        dataclasses.replace(Config().fit, **changes)


@given(sections(Config))
def test_toml_round_trip(tree: Config) -> None:
    """Whatever the settings are, written as TOML and read back they are equal."""
    assert config.from_toml(config.to_toml(tree), "test") == tree


def test_empty_text_is_the_defaults() -> None:
    """Every key is optional."""
    assert config.from_toml("", "test") == Config()


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    """Loading a file with one key leaves the rest at its default."""
    path = tmp_path / "my.toml"
    path.write_text("[train]\nbatch_size = 3\n", encoding="utf-8")
    expected = dataclasses.replace(
        Config(), train=dataclasses.replace(Config().train, batch_size=3)
    )
    assert config.load(path) == expected


def test_whole_numbers_stand_for_floats_and_text_for_paths() -> None:
    """`dropout = 0` is the float 0.0, and a folder is a Path."""
    tree = config.from_toml('[model]\ndropout = 0\n[image]\ncache_dir = "a/b"\n', "test")
    assert isinstance(tree.model.dropout, float)
    assert tree.image.cache_dir == Path("a/b")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[trian]\nbatch_size = 8", r"my\.toml: unknown key trian; did you mean train\?"),
        (
            "[train]\nbatchsize = 8",
            r"my\.toml: unknown key train\.batchsize; did you mean train\.batch_size\?",
        ),
        ("[weights]\nzzzz = 1", r"unknown key weights\.zzzz; known: pose, rendered, view"),
        ("[train]\nbatch_size = 8.5", r"train\.batch_size = 8\.5 must be int"),
        ("[train]\nbatch_size = true", r"train\.batch_size = True must be int"),
        ('[train]\nlearning_rate = "1e-3"', r"train\.learning_rate = '1e-3' must be float"),
        ("[train]\nlearning_rate = true", r"train\.learning_rate = True must be float"),
        ("[train]\nchannels_last = 1", r"train\.channels_last = 1 must be bool"),
        ("[model]\nbackbone = 0", r"model\.backbone = 0 must be str"),
        ("[image]\ncache_dir = 1", r"image\.cache_dir = 1 must be Path"),
        ("[image]\npin_memory = [true]", r"image\.pin_memory = \[True\] must be bool"),
        (
            '[train]\nprecision = "fp8"',
            r"train\.precision = 'fp8' must be one of fp32, tf32, bf16, fp16",
        ),
        ("[train]\nprecision = 16", r"train\.precision = 16 must be one of fp32"),
        ("train = 3", r"my\.toml: train must be a table"),
        ("[train\n", r"my\.toml: not valid TOML"),
    ],
)
def test_a_fault_is_one_error_with_file_key_and_remedy(
    tmp_path: Path, toml: str, message: str
) -> None:
    """Unknown keys, typing errors and wrong types name the file, the key and what is accepted."""
    path = tmp_path / "my.toml"
    path.write_text(toml, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        config.load(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_no_text_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    """Missing and binary files are named."""
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"my\.toml: cannot be read as text"):
        config.load(path)


def test_an_integer_too_large_for_a_float_is_one_error() -> None:
    """Even an absurd number ends in a message, not in a traceback."""
    with pytest.raises(ConfigError, match=r"train\.learning_rate"):
        config.from_toml(f"[train]\nlearning_rate = 1{'0' * 400}", "test")


@pytest.mark.parametrize("name", config.preset_names())
def test_presets_parse_and_say_something(name: str) -> None:
    """Each preset that ships is a valid configuration that differs from the defaults."""
    assert config.preset(name) != Config()


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    """The error lists the presets that exist."""
    with pytest.raises(ConfigError, match=r"'nope' does not exist; there are .*room"):
        config.preset("nope")


def test_every_setting_has_a_help_text() -> None:
    """The command line shows the docstring under each field, so none may lack it."""
    for section in SECTIONS:
        source = inspect.getsource(type(getattr(Config(), section))).splitlines()
        for field in dataclasses.fields(getattr(Config(), section)):
            line = next(i for i, row in enumerate(source) if row.startswith(f"    {field.name}: "))
            assert source[line + 1].lstrip().startswith('"""'), f"{section}.{field.name}"


def test_written_toml_is_readable_by_others() -> None:
    """The text is plain TOML with one table per section."""
    assert list(tomllib.loads(config.to_toml(Config()))) == SECTIONS


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[train]\nbatch_size = 0\n", r"train\.batch_size = 0 must be at least 1"),
        ("[train]\nlearning_rate = nan\n", r"train\.learning_rate = nan must be at least 0"),
        ("[views]\nrefresh_epochs = 0\n", r"views\.refresh_epochs = 0"),
        ("[image]\nheight = 8\n", r"image\.height = 8 must be at least 16"),
        ("[weights]\nview = -1.0\n", r"weights\.view = -1\.0"),
        ("[fit]\nsh_degree = 4\n", r"fit\.sh_degree = 4 must be from 0 to 3"),
        ("[fit]\nssim_weight = 1.5\n", r"fit\.ssim_weight = 1\.5 must be from 0 to 1"),
        ("[fit]\nrefine_start = 1.1\n", r"fit\.refine_start = 1\.1 must be from 0 to 1"),
        ("[fit]\nrefine_stop = 85\n", r"fit\.refine_stop = 85\.0 must be from 0 to 1"),
        (
            "[fit]\nrefine_start = 0.9\n",
            r"fit\.refine_start = 0\.9 must be at most fit\.refine_stop = 0\.85",
        ),
        ("[fit]\nmax_gaussians = 1\n", r"fit\.max_gaussians = 1 must be at least 2"),
        ("[fit]\ndepth_weight = inf\n", r"fit\.depth_weight = inf must be a finite number"),
        ("[fit]\nseed = -1\n", r"fit\.seed = -1 must be from 0 to 9223372036854775807"),
        ("[model]\ndropout = 1.0\n", r"model\.dropout = 1\.0 must be at least 0 and below 1"),
        ("[model]\ndrop_connect = -0.1\n", r"model\.drop_connect = -0\.1 must be at least 0"),
        ("[views]\nmin_coverage = 1\n", r"views\.min_coverage = 1\.0 must be at least 0 and b"),
        (
            "[views]\ncurriculum_share = 1.5\n",
            r"views\.curriculum_share = 1\.5 must be from 0 to 1",
        ),
        (
            "[train]\nlow_resolution_height = 8\n",
            r"train\.low_resolution_height = 8 must be at least 16",
        ),
        ("[train]\nema_decay = 1.0\n", r"train\.ema_decay = 1\.0 must be at least 0 and below 1"),
        ("[train]\nvalidation_fraction = 1\n", r"train\.validation_fraction = 1\.0 must be at le"),
        ("[train]\nvalidation_fraction = nan\n", r"train\.validation_fraction = nan must be at le"),
        ("[train]\nseed = -7\n", r"train\.seed = -7 must be from 0 to 92"),
        ("[weights]\npose = 0\nview = 0\n", r"weights\.\* are all 0; at least one must be above"),
        (
            "[weights]\nfeature = 1\n[train]\nbatch_size = 1\n",
            r"train\.batch_size = 1 with weights\.feature = 1\.0: vicreg",
        ),
    ],
)
def test_values_out_of_range_are_refused(text: str, named: str) -> None:
    """The message names the source, the key, the value and the bound."""
    with pytest.raises(ConfigError, match=r"planted\.toml: " + named):
        config.from_toml(text, "planted.toml")


@pytest.mark.parametrize("value", ["-1e-3", "nan"])
@pytest.mark.parametrize(
    "name",
    ["means_lr", "scales_lr", "quats_lr", "opacities_lr", "sh_lr", "noise_lr", "opacity_reg",
     "scale_reg", "appearance_lr", "appearance_reg"],
)  # fmt: skip
def test_rates_and_weights_of_a_fit_are_not_negative(name: str, value: str) -> None:
    """A fit would climb or diverge only after it had begun."""
    with pytest.raises(ConfigError, match=rf"fit\.{name} = .* must be at least 0"):
        config.from_toml(f"[fit]\n{name} = {value}\n", "test")


def test_single_photographs_go_with_other_feature_losses() -> None:
    """Only vicreg needs a second photograph in the batch."""
    toml = '[weights]\nfeature = 1\n[train]\nbatch_size = 1\nfeature_loss = "mse"\n'
    assert config.from_toml(toml, "test").train.batch_size == 1
