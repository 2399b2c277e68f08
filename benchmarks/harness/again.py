"""The command that measures one benchmark of a comparison again, from trees that still exist."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.known import PREFIX, bare
from benchmarks.harness.trees import PREFIX as SCRATCH
from benchmarks.harness.trees import Arm, Source

EXPRESSION = re.compile(r"[\w:+\-.\[\]/]+")
"""What pytest reads as one word of -k."""
FOLDER = "folder "


def base_word(base: Arm | Source) -> str:
    """How a base is named on a command line; empty for the working tree, which is the default.

    A folder that was exported stays; one of our own is gone by then, and a branch moves on: of
    those the commit is told.
    """
    if base.label.startswith("working tree"):
        return ""
    if base.label.startswith(FOLDER) and SCRATCH not in base.label:
        return str(Path(base.label.removeprefix(FOLDER)).resolve())
    return base.commit.partition("+")[0]


def chosen(node: str, benchmark_id: str) -> str:
    """The -k that chooses one benchmark by its node id, else all of its name; or nothing."""
    for word in (node.rpartition("::")[2], f"{PREFIX}{bare(benchmark_id)}"):
        if word and EXPRESSION.fullmatch(word):
            return word
    return ""


def again(command: str, base: Arm | Source, node: str, benchmark_id: str) -> str:
    """A command line of `ab`, for one benchmark from the start; empty where -k cannot name it."""
    keyword = chosen(node, benchmark_id)
    words = shlex.split(command)
    if not keyword or "ab" not in words:
        return ""
    before, after = words[: words.index("ab") + 1], words[words.index("ab") + 1 :]
    if after and not after[0].startswith("-"):
        after = after[1:]
    if "-k" in after:
        at = after.index("-k")
        after = [*after[:at], *after[at + 2 :]]
    name = base_word(base)
    kept = [word for word in after if word != "--resume"]
    return typed([*before, *([name] if name else []), "-k", keyword, *kept])


def typed(words: Sequence[str]) -> str:
    """Words as a shell takes them; what stands before the program are variables."""
    program = words.index("python")
    variables = [
        f"{name}={shlex.quote(value)}"
        for name, _, value in (word.partition("=") for word in words[:program])
    ]
    return " ".join([*variables, shlex.join(words[program:])])
