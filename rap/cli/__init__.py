"""The command `rap`: one module here for each of its words, and the only place where errors end.

A command's module is imported when it is called, and imports torch only to work, so that help and
mistakes in the arguments come at once.
"""

import difflib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from rap import log

COMMANDS = {
    "data": "check a scene, or write the procedural room",
    "fit": "photographs and poses to Gaussians",
    "train": "a scene and its Gaussians to a pose regressor",
    "eval": "score a regressor, or estimates made elsewhere, on a scene's test frames",
    "localize": "the poses of photographs",
    "render": "pictures of Gaussians at given poses",
    "profile": "where the time goes of {train,fit,views,infer}, and what it waits for",
    "export": "a regressor as one file that runs without rap: {aoti,onnx}",
    "convert": "a published RAP checkpoint to ours",
    "doctor": "what this machine has, and what does not fit together",
}
"""Each word is a module in this folder with `run(argv) -> exit code`."""

_OK, _UNUSABLE, _INTERRUPTED = 0, 2, 130
_UNREAD = 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Unusable input of any kind ends in one line on stderr and code 2. Errors that are ours to fix
    keep their traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(argv)
        finally:
            # Not at the end of the process, where an error could not be caught.
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough, as in `rap train --help | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return _OK
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        return _fail(f"{argv[0]!r} is not a command; {hint}")
    try:
        return import_module(f"rap.cli.{argv[0]}").run(argv[1:])
    except KeyboardInterrupt:
        log.info(f"rap: interrupted{_resumption(argv)}")
        return _INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(
            str(error) if error.filename is None else f"{error.filename}: {error.strerror}"
        )
    except ValueError as error:
        if not type(error).__module__.startswith("rap."):
            raise
        return _fail(str(error))


def _fail(message: str) -> int:
    log.info(f"rap: error: {' '.join(message.split())}")
    return _UNUSABLE


def _resumption(argv: Sequence[str]) -> str:
    """How an interrupted training goes on, once its run directory holds a run."""
    if argv[0] != "train":
        return ""
    from rap.cli.arguments import UsageError, parse
    from rap.cli.train import Train

    try:
        out = parse(Train, "train", argv[1:]).out
    except UsageError:
        return ""
    if not (out / "config.toml").is_file():
        return ""
    command = ["rap", *argv, *([] if "--resume" in argv else ["--resume"])]
    return f"; the run goes on with: {shlex.join(command)}"


def _help() -> str:
    lines = [f"  {word:<10}{meaning}" for word, meaning in COMMANDS.items()]
    return "\n".join(
        ["usage: rap COMMAND ...", "", *lines, "", "rap COMMAND --help says what it takes.", ""]
    )
