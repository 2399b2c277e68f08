"""A run's directory: who may begin in it, and that one process at a time trains into it."""

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rap import log
from rap.config import Config, ConfigError, load, to_toml

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TEMPORARY = re.compile(r"\..+\.tmp")


def has_no_epoch(out: Path) -> bool:
    """Whether a run began there and no epoch of it is left: settings, and nothing else but halves.

    Such a directory holds nothing that a new run could destroy.
    """
    if not (out / "config.toml").is_file():
        return False
    names = {path.name for path in out.iterdir()} - {"config.toml"}
    return all(_TEMPORARY.fullmatch(name) for name in names)


def check_run(out: Path, config: Config, resume: bool) -> None:
    """Refuse to start over a run, or to resume where there is none or another one."""
    started = (out / "config.toml").exists()
    if started and not resume and not has_no_epoch(out):
        raise ConfigError(f"{out} already holds a run; resume it (--resume) or name another folder")
    if resume and not started:
        raise ConfigError(f"{out} holds no run to resume: config.toml is missing")
    if resume and settings_that_matter(load(out / "config.toml")) != settings_that_matter(config):
        raise ConfigError(
            f"{out} was started with other settings: resume it with those of its config.toml, or "
            "start a new run in another folder"
        )


def settings_that_matter(config: Config) -> str:
    """Settings without those that change where work happens but not its result."""
    neutral = replace(
        config,
        image=replace(config.image, num_workers=0, pin_memory=False, device_budget_gib=0.0,
                      cache_dir=None),
        views=replace(config.views, render_batch=None),
        train=replace(config.train, execution="eager", checkpointing=False, save_every=1),
    )  # fmt: skip
    return to_toml(neutral)


@contextmanager
def opened(out: Path, config: Config, resume: bool) -> Iterator[None]:
    """Make or clean a run's directory, and keep others from training into it meanwhile.

    For the one process of a run that writes. Raises ConfigError where another is at work.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        # Asked again: in the meantime, another process may have begun and ended.
        check_run(out, config, resume)
        if not resume and has_no_epoch(out):
            log.info(f"{out}: its run ended before its first epoch did; it is started anew")
        log.sweep(out)
        if not resume:
            with log.replacing(out / "config.toml") as temporary:
                temporary.write_text(to_toml(config), encoding="utf-8")
        yield


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A lock that ends with this process however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder}: another process is training into it; wait for its end, or name another "
                "folder"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warn(f"{folder}: its file system has no locks; see that one process trains there")
        yield
    finally:
        os.close(descriptor)
