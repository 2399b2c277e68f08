"""Blocks: one fresh process per arm, kept as one line of a file each, so that a run can go on.

The file begins with a header line that says what is compared; a line that was cut off by a kill is
the block that was not finished, and is measured again. Each line holds a digest of itself and of
everything before it: what was changed, moved or taken out later is refused, never gone on with.
"""

import dataclasses
import hashlib
import json
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.policy import Better
from benchmarks.harness.record import SCHEMA, Record, RecordError, Session, parse_session
from benchmarks.harness.subject import DIGEST_LENGTH

Side = Literal["base", "head"]
SIDES: tuple[Side, Side] = ("base", "head")
KIND = "blocks"
TRIES = 3
"""A pair that is invalid is measured at most twice more."""
AFRESH = "run the comparison again without --resume"
CLOCK_TOLERANCE = 0.03
"""GPU clocks that differ by more than this between the arms make a pair invalid, not slow."""


@dataclass(frozen=True)
class Request:
    """What is to be measured next."""

    index: int
    attempt: int
    ids: tuple[str, ...] | None
    """Benchmarks of the block; None: everything that was asked for."""


@dataclass(frozen=True)
class Block:
    """What both arms measured, in fresh processes one after the other, on one machine."""

    index: int
    attempt: int
    first: Side
    ids: tuple[str, ...] | None
    base: Session
    head: Session
    seconds: float
    """Of measuring; counting CUDA calls, in a first block, is not in it."""
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What an arm's process printed last, where it did not end well."""

    def session(self, side: Side) -> Session:
        """The session of one arm."""
        return self.base if side == "base" else self.head


@dataclass(frozen=True)
class Pairs:
    """The valid pairs of one metric of one benchmark, in the order of their blocks."""

    log_ratios: tuple[float, ...]
    base: tuple[float, ...]
    head: tuple[float, ...]
    num_lost: int = 0
    """Blocks that stayed invalid however often they were repeated."""
    repeat: bool = False
    """The newest block is invalid and may be repeated."""
    reasons: tuple[str, ...] = ()
    """Why pairs were invalid."""


def first_side(seed: int, index: int) -> Side:
    """ABBA: the arms alternate in who goes first, from a random start."""
    return SIDES[(random.Random(seed).randrange(2) + index) % 2]


def order_seed(seed: int, index: int) -> int:
    """The seed of the benchmarks' order in a block, the same in both of its arms."""
    return random.Random(f"{seed} {index}").randrange(2**31)


def pairs_of(blocks: Sequence[Block], name: str, metric: str, better: Better) -> Pairs:
    """The log ratios of a metric, positive where the head is worse; one per block, its first valid.

    Only for benchmarks that passed in both arms; a value that is no positive number is left to the
    caller, who must have looked for it.
    """
    tries: dict[int, list[Block]] = {}
    for block in blocks:
        if name in block.base.by_id() and name in block.head.by_id():
            tries.setdefault(block.index, []).append(block)
    sign = 1.0 if better == "lower" else -1.0
    values: list[tuple[float, float]] = []
    reasons: dict[str, None] = {}
    lost, repeat = 0, False
    for index in sorted(tries):
        found = [(block.base.by_id()[name], block.head.by_id()[name]) for block in tries[index]]
        problems = [why_invalid(base, head) for base, head in found]
        reasons |= dict.fromkeys(problem for problem in problems if problem)
        valid = next((pair for pair, why in zip(found, problems, strict=True) if not why), None)
        if valid is not None:
            values.append((valid[0].metrics[metric], valid[1].metrics[metric]))
        repeat = valid is None and len(found) < TRIES
        lost += valid is None and not repeat
    return Pairs(
        tuple(sign * _log_ratio(base, head) for base, head in values),
        tuple(base for base, _ in values), tuple(head for _, head in values),
        lost, repeat, tuple(reasons),
    )  # fmt: skip


def _log_ratio(base: float, head: float) -> float:
    """Finite for any two positive numbers, where their ratio may be none that a float holds."""
    ratio = head / base
    if 0.0 < ratio < math.inf:
        return math.log(ratio)
    return math.log(head) - math.log(base)


def why_invalid(base: Record, head: Record) -> str:
    """Why a pair says nothing about the code; empty where it does."""
    told = [f"{side}: {why}" for side, record in zip(SIDES, (base, head), strict=True)
            for why in record.invalid]  # fmt: skip
    clocks = [record.facts.get("sm_clock_mhz", 0.0) for record in (base, head)]
    if min(clocks) > 0 and abs(_log_ratio(*clocks)) > math.log1p(CLOCK_TOLERANCE):
        told.append(f"GPU clocks of {clocks[0]:.0f} and {clocks[1]:.0f} MHz")
    return "; ".join(told)


class BlockFile:
    """The blocks of one run on disk: a header line, then one line per block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last: str | None = None
        """The digest of the last line, where it is known."""

    def start(self, header: Mapping[str, object]) -> None:
        """Begin the file; what is compared never changes after this."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line, self._last = sealed({"schema": SCHEMA, "kind": KIND, **header}, "")
        self.path.write_text(line, encoding="utf-8")

    def append(self, block: Block) -> None:
        """Add a finished block; it is on the disk when this returns."""
        if self._last is None:
            self.read()
        line, digest = sealed(dataclasses.asdict(block), self._last or "")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._last = digest

    def header(self) -> dict[str, Any]:
        """What is compared, as the first line says; whether that still holds, `read` looks."""
        return self._header(self._parse(1, self._text().partition("\n")[0]))

    def read(self) -> tuple[dict[str, Any], list[Block]]:
        """Header and blocks; a last line that was cut off is dropped. RecordError for the rest."""
        complete, _, torn = self._text().rpartition("\n")
        if torn:
            self._drop(len(torn.encode()))
        header, *rest = [self._parse(n, line) for n, line in enumerate(complete.split("\n"), 1)]
        self._header(header)
        self._last = ""
        for number, content in enumerate((header, *rest), 1):
            self._last = self._unseal(number, content, self._last)
        return header, [self._block(n, content) for n, content in enumerate(rest, 2)]

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.path}: cannot be read ({error})") from error

    def _header(self, content: dict[str, Any]) -> dict[str, Any]:
        if content.get("kind") != KIND or content.get("schema") != SCHEMA:
            raise RecordError(
                f"{self.path}: is not a file of blocks of this harness (schema {SCHEMA}); {AFRESH}"
            )
        return content

    def _unseal(self, number: int, content: dict[str, Any], before: str) -> str:
        """Take a line's digest out of it; RecordError where it is not the one that was written."""
        where, found = f"{self.path}:{number}", content.pop("digest", None)
        if found is None:
            raise RecordError(f"{where}: has no digest, as an older harness wrote it; {AFRESH}")
        _, digest = sealed(content, before)
        if found != digest:
            raise RecordError(
                f"{where}: this line, or the one before it, is not what was measured: it was "
                f"changed afterwards; {AFRESH}"
            )
        return digest

    def _drop(self, num_bytes: int) -> None:
        with self.path.open("r+b") as file:
            file.truncate(self.path.stat().st_size - num_bytes)

    def _parse(self, number: int, line: str) -> dict[str, Any]:
        try:
            content = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{self.path}:{number}: is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise RecordError(f"{self.path}:{number}: is no object")
        return content

    def _block(self, number: int, content: dict[str, Any]) -> Block:
        where = f"{self.path}:{number}"
        names = {entry.name for entry in dataclasses.fields(Block)}
        if set(content) != names:
            odd = ", ".join(sorted(set(content) ^ names))
            raise RecordError(f"{where}: fields missing or unknown: {odd}")
        if content["first"] not in SIDES:
            raise RecordError(f"{where}: first: {content['first']!r} is none of base, head")
        fields: dict[str, Any] = dict(content)
        for side in SIDES:
            fields[side] = parse_session(content[side], f"{where}: {side}")
        ids, problems = content["ids"], content["problems"]
        if not all(type(content[name]) is int for name in ("index", "attempt")):
            raise RecordError(f"{where}: index and attempt must be counts")
        if ids is not None and not _are_texts(ids):
            raise RecordError(f"{where}: ids: {ids!r} is no list of ids")
        if not isinstance(problems, dict) or not _are_texts([*problems.values()]):
            raise RecordError(f"{where}: problems: must hold texts")
        fields["ids"] = None if ids is None else tuple(ids)
        return Block(**fields)


def begin(path: Path, header: Mapping[str, object]) -> tuple[BlockFile, list[Block], int]:
    """A new file, no blocks yet, and the seed of their orders, which is kept in it."""
    file, seed = BlockFile(path), random.SystemRandom().randrange(2**31)
    file.start({**header, "seed": seed})
    return file, [], seed


def go_on(path: Path) -> tuple[BlockFile, list[Block], int]:
    """What `begin` gave, with the blocks that were measured since."""
    file = BlockFile(path)
    header, blocks = file.read()
    return file, blocks, int(header["seed"])


def sealed(content: Mapping[str, object], before: str) -> tuple[str, str]:
    """A line with the digest of itself and of what is before it, and that digest."""
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()[:DIGEST_LENGTH]
    return json.dumps({**content, "digest": digest}, sort_keys=True) + "\n", digest


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
