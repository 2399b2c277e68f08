"""Settings that cannot work, or would have no effect, refused before any image is read.

What a single section can tell is checked where the section is made (`rap.config`); this is what
only a training can tell: how shares of a run and of the photographs round, and what needs what.
"""

import math

import torch

from rap.config import Config, ConfigError
from rap.model.precision import precision_scope
from rap.model.regressor import build_regressor
from rap.train.schedule import num_learning_epochs, num_small_epochs


def check_settings(config: Config, num_photographs: int, device: torch.device) -> None:
    """Raise ConfigError for settings that do not fit each other, the scene or the device."""
    train = config.train
    with precision_scope(train.precision, device):
        build_regressor(config.model, train.seed)
    _check_validation(config, num_photographs)
    _check_small_images(config)
    _check_freezing(config)
    _check_terms(config)
    _check_curriculum(config)
    if config.model.batch_norm == "frozen":
        raise ConfigError(
            "model.batch_norm = 'frozen' needs pretrained weights, from which training cannot "
            "start yet: a frozen random trunk passes nothing on; use 'live' or 'calibrated'"
        )


def _check_validation(config: Config, num_photographs: int) -> None:
    """Refuse what follows the validation score, or shapes validation, where nothing is held out."""
    train = config.train
    if round(num_photographs * train.validation_fraction):
        return
    needing = {
        "schedule": (train.schedule == "plateau", "'one_cycle' or 'constant'"),
        "patience": (train.patience > 0, "0"),
        "validation_block": (train.validation_block > 0, "0"),
    }
    for name, (asked, otherwise) in needing.items():
        if asked:
            raise ConfigError(
                f"train.{name} = {getattr(train, name)!r} has no effect: train.validation_fraction "
                f"= {train.validation_fraction!r} holds none of {num_photographs} photographs out; "
                f"accepted: a larger fraction, or train.{name} = {otherwise}"
            )


def _check_small_images(config: Config) -> None:
    train = config.train
    if not train.low_resolution_share:
        return
    if num_small_epochs(config) == 0:
        raise ConfigError(
            f"train.low_resolution_share = {train.low_resolution_share!r} is no epoch of "
            f"train.epochs = {train.epochs}; accepted: 0, or at least {1 / train.epochs:.2g}"
        )
    if train.low_resolution_height >= config.image.height:
        raise ConfigError(
            f"train.low_resolution_height = {train.low_resolution_height} must be below "
            f"image.height = {config.image.height}, or train.low_resolution_share 0"
        )


def _check_freezing(config: Config) -> None:
    """Refuse a trunk that is never frozen, or has learnt nothing, and features that go stale."""
    train, model = config.train, config.model
    num_learning = num_learning_epochs(config)
    if num_learning == train.epochs:
        _refuse_unfrozen(config)
        return
    levels = model.translation_level, model.rotation_level
    if levels[0] != levels[1]:
        raise ConfigError(
            f"train.freeze_after = {train.freeze_after} needs both branches on one level, not "
            f"model.translation_level = {levels[0]} and model.rotation_level = {levels[1]}"
        )
    if num_learning == 0 and model.batch_norm == "live":
        raise ConfigError(
            f"train.freeze_after = {train.freeze_after} freezes a random trunk whose BatchNorm has "
            "no statistics: let it learn first, or use model.batch_norm = 'calibrated'"
        )
    if train.cached_features and config.views.stream_per_step:
        raise ConfigError(
            f"train.cached_features would not see views redrawn by views.stream_per_step = "
            f"{config.views.stream_per_step}: set that to 0, or cached_features to false"
        )


def _refuse_unfrozen(config: Config) -> None:
    """What asks for a frozen trunk where every epoch trains it."""
    train = config.train
    most = f"at most {1 - 1 / train.epochs:.6g}"
    if train.cached_features:
        raise ConfigError(
            f"train.cached_features = True has no effect: with train.freeze_after = "
            f"{train.freeze_after!r} the trunk learns in each of train.epochs = {train.epochs}; "
            f"accepted: train.freeze_after {most}, or train.cached_features = false"
        )
    if train.freeze_after < 1:
        raise ConfigError(
            f"train.freeze_after = {train.freeze_after!r} leaves no epoch of train.epochs = "
            f"{train.epochs} to a frozen trunk; accepted: 1, or {most}"
        )


def _check_terms(config: Config) -> None:
    """Refuse settings of views that no term uses, and weights of poses that no term compares."""
    weights, views = config.weights, config.views
    for name in ("stream_per_step", "max_brisque", "curriculum_share"):
        if getattr(views, name) and not weights.view:
            raise ConfigError(
                f"views.{name} = {getattr(views, name)!r} has no effect with weights.view = 0; "
                f"accepted: a weight above 0, or views.{name} = 0"
            )
    if views.curriculum_share and views.curriculum_start == 1:
        raise ConfigError(
            f"views.curriculum_start = {views.curriculum_start!r} is where views.curriculum_share "
            f"= {views.curriculum_share!r} leads to; accepted: another start, or a share of 0"
        )
    if config.train.learn_pose_weights and not (weights.pose or weights.rendered or weights.view):
        raise ConfigError(
            "train.learn_pose_weights = True has no effect without a term that compares poses; "
            "accepted: weights.pose, weights.rendered or weights.view above 0, or false"
        )


def _check_curriculum(config: Config) -> None:
    """Refuse redraws too rare to follow the reach of views, which would stay where it starts."""
    views, epochs = config.views, config.train.epochs
    if not views.curriculum_share or views.stream_per_step:
        return
    # As `view_reach` rounds: the first epoch whose views lie as far as they ever will.
    end = math.ceil(views.curriculum_share * epochs)
    most, every = min(end, epochs - 1), views.refresh_epochs
    if every <= most:
        return
    ways = [f"views.refresh_epochs at most {most}" if most else "more epochs"]
    if every < epochs:
        ways.append(f"a views.curriculum_share of at least {every / epochs:.3g}")
    raise ConfigError(
        f"views.curriculum_share = {views.curriculum_share!r} ends after {end} of train.epochs = "
        f"{epochs}, views.refresh_epochs = {every} redraws too late for it; accepted: "
        f"{', '.join(ways)}, views.stream_per_step above 0, or views.curriculum_share = 0"
    )
