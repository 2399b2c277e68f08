"""`python -m benchmarks baseline record | accept | list | diff`: from measured to committed.

`record` measures in fresh processes, each in its own random order, and keeps the sessions. `accept`
makes them this hardware's baseline, unless anything speaks against them. Nothing else writes there.
"""

import datetime
import random
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.baseline import (
    COMMITTED,
    LOCAL,
    Baseline,
    locate,
    read_baseline,
    write_baseline,
)
from benchmarks.harness.changes import differences
from benchmarks.harness.children import terminable
from benchmarks.harness.commands import Subparsers, UsageError, add_suite
from benchmarks.harness.fresh import Fresh
from benchmarks.harness.judging import uncounted, with_counts
from benchmarks.harness.lock import alone
from benchmarks.harness.machine import resolve_device, suite_name, this_machine
from benchmarks.harness.processes import NOTHING_SELECTED, Ran, lost
from benchmarks.harness.record import Session, read_json, read_session, write_session
from benchmarks.harness.rules import KNOWN_SESSIONS
from benchmarks.harness.sessions import (
    FOLDER,
    Objection,
    combined,
    inexact_counters,
    newest_sessions,
    objections,
    session_path,
    without,
    worst_code,
)
from benchmarks.harness.verdict import Code

COUNTED_SESSIONS = 2
"""Of them CUDA calls are counted, which takes as long as timing does.

One is enough for the numbers; the second finds those that differ between processes, as where a
library chooses its kernels by timing them: no exact counters, they would be red by chance.
"""


def add(subparsers: Subparsers) -> None:
    """The command line of `baseline`."""
    parser = subparsers.add_parser("baseline", help="stored numbers: record, accept, list, diff")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    record = actions.add_parser("record", help="measure in fresh processes and keep the sessions")
    record.add_argument("--sessions", type=int, default=KNOWN_SESSIONS, help="default: 5")
    record.add_argument("-k", dest="keyword", default="", metavar="EXPR", help="as pytest's -k")
    _add_suite(record)
    record.set_defaults(run=run_record)
    accept = actions.add_parser("accept", help="make recorded sessions this hardware's baseline")
    accept.add_argument("files", nargs="*", type=Path, help="default: the newest, of one code")
    for option, verb in (("--keep-others", "keep"), ("--drop-others", "drop")):
        text = f"{verb} stored benchmarks that were not measured"
        accept.add_argument(option, action="store_true", help=text)
    text = "leave out benchmarks that were unsteady or disturbed; what is stored of them stays"
    accept.add_argument("--steady-only", action="store_true", help=text)
    _add_suite(accept)
    accept.set_defaults(run=run_accept)
    _add_suite(listing := actions.add_parser("list", help="what is stored, and for which hardware"))
    listing.set_defaults(run=run_list)
    diff = actions.add_parser("diff", help="two baselines or sessions, number by number")
    diff.add_argument("files", nargs="*", type=Path, help="default: stored against newest sessions")
    diff.add_argument("--all", action="store_true", help="also what differs by less than 1 %%")
    _add_suite(diff)
    diff.set_defaults(run=run_diff)


def _add_suite(parser: ArgumentParser) -> None:
    add_suite(parser)
    parser.add_argument("--baseline-dir", type=Path, default=None, metavar="DIR",
                        help=f"default: {COMMITTED}")  # fmt: skip


def run_record(arguments: Namespace) -> int:
    """Measure; 1 or 12 where a session did not pass, but what was measured is kept."""
    if arguments.sessions < 1:
        raise UsageError(f"--sessions {arguments.sessions}: at least 1")
    options = ["--device", _device(arguments), "--scene", arguments.scene]
    options += ["--full"] * arguments.full
    fresh = Fresh(arguments.root, tuple(options), lambda text: _say(f"    {text}"))
    selection = ["benchmarks", *(["-k", arguments.keyword] if arguments.keyword else [])]
    with terminable(), alone():
        sessions = _record(arguments, fresh, selection)
    found = objections(sessions)
    code = _objected(found, "recorded, but this cannot be accepted:")
    _offer_steady(found, sessions)
    return code


def _record(arguments: Namespace, fresh: Fresh, selection: Sequence[str]) -> list[Session]:
    sessions = []
    for number in range(1, arguments.sessions + 1):
        order = random.SystemRandom().randrange(2**31)
        _say(f"session {number} of {arguments.sessions}, order {order} ({fresh.log})")
        session, code, end = fresh.session(selection, "--benchmark-order", str(order))
        if session is None:
            raise _no_records(f"session {number} of {arguments.sessions}", code, end)
        path = session_path(arguments.root, session, datetime.datetime.now(datetime.UTC))
        if session.machine.device == "cuda" and number > COUNTED_SESSIONS:
            session = uncounted(session, f"the first {COUNTED_SESSIONS} sessions do that")
        elif session.machine.device == "cuda":
            # The times are kept, however counting ends.
            write_session(path, uncounted(session, "the session was cut off"))
            _say(f"  {path}; counting CUDA calls, in a process of its own")
            session = with_counts(session, fresh)
        write_session(path, session)
        _say(f"  {sum(r.outcome == 'passed' for r in session.records)} benchmarks: {path}")
        sessions.append(session)
    return sessions


def _no_records(which: str, code: int, end: str) -> ValueError:
    """What a session that measured nothing means: bad arguments, a crash, an unfit machine."""
    if code == NOTHING_SELECTED:
        return UsageError(f"{which}: the selection (-k) holds no benchmark")
    tail = end.partition("\n")[2]
    if code == Code.USAGE:
        return UsageError(f"{which}: its process ended with USAGE (4)\n{tail}")
    return lost(f"{which} gave no records:", Ran(None, code, tail))


def run_accept(arguments: Namespace) -> int:
    """Write the baseline, or say everything that speaks against it."""
    if arguments.keep_others and arguments.drop_others:
        raise UsageError("--keep-others and --drop-others: one of them")
    sessions, unsteady, code = _acceptable(_sessions(arguments), arguments.steady_only)
    if code != Code.PASS:
        return code
    for line in inexact_counters(sessions):
        _say(line)
    new = _as_baseline(sessions)
    folder = arguments.baseline_dir or arguments.root / COMMITTED
    path = locate(arguments.root, new.machine.key, new.suite, folder)
    old = read_baseline(path, new.machine.key, new.suite)
    stored = set() if old is None else set(old.records)
    gone = sorted(stored - set(new.records) - set(unsteady))
    if gone and not (arguments.keep_others or arguments.drop_others):
        _say(f"refused: {path} has what was not measured: {', '.join(gone)}")
        _say("  --keep-others keeps it, --drop-others drops it")
        return Code.COVERAGE
    measured = len(new.records)
    if old is not None:
        kept = [*(gone if arguments.keep_others else ()), *(n for n in unsteady if n in stored)]
        new = _keeping(new, old, kept)
        for line in differences(old, new):
            _say(line)
    write_baseline(path, new)
    _say(f"accepted {measured} benchmarks of {len(sessions)} sessions: {path}")
    _tell_left_out(unsteady, old)
    message = f"baseline: {new.machine.key}: WHY"
    _say(f"commit it alone: git add {path} && git commit -m {shlex.quote(message)} -- {path}")
    return Code.PASS


def _acceptable(sessions: list[Session], steady_only: bool) -> tuple[list[Session], list[str], int]:
    """What may become the baseline, the benchmarks left out of it, and the code of a refusal."""
    found = objections(sessions)
    unsteady = [objection.unsteady for objection in found if objection.unsteady]
    if not (steady_only and unsteady and _rest(found, sessions)):
        code = _objected(found, "refused:")
        _offer_steady(found, sessions)
        return sessions, [], code
    _objected(found, "left out:")
    return without(sessions, unsteady), unsteady, Code.PASS


def _rest(found: Sequence[Objection], sessions: Sequence[Session]) -> int:
    """How many benchmarks could be accepted without the unsteady ones; 0 where none may be."""
    if not all(objection.unsteady for objection in found):
        return 0
    rest = without(sessions, [objection.unsteady for objection in found])
    return len(_as_baseline(rest).records)


def _offer_steady(found: Sequence[Objection], sessions: Sequence[Session]) -> None:
    """Say what can be accepted after all, so that what was measured is not lost."""
    if found and (num := _rest(found, sessions)):
        _say(f"  baseline accept --steady-only leaves out what is named here, and accepts {num}")


def _tell_left_out(names: Sequence[str], old: Baseline | None) -> None:
    """What the stored baseline says about benchmarks whose new times were not used."""
    for name in names:
        origin = None if old is None else old.origins.get(name)
        nothing = "nothing is stored, so a loss of it will not be seen"
        now = nothing if origin is None else f"keeps the numbers from {origin}"
        _say(f"left out as unsteady: {name}: {now}")


def _keeping(new: Baseline, old: Baseline, names: Sequence[str]) -> Baseline:
    return Baseline(
        new.machine, new.suite,
        {**new.records, **{name: old.records[name] for name in names}},
        {**new.origins, **{name: old.origins[name] for name in names}},
        {**new.noise, **{name: old.noise[name] for name in names if name in old.noise}},
        new.start or old.start,
    )  # fmt: skip


def _sessions(arguments: Namespace) -> list[Session]:
    if arguments.files:
        return [read_any(path) for path in arguments.files]
    key, suite = _key(arguments), _suite(arguments)
    found = newest_sessions(arguments.root, key, suite)
    if found:
        return [read_session(path) for path in found]
    local = arguments.root / LOCAL / key / f"{suite}.json"
    if local.exists():
        return [read_any(local)]
    raise UsageError(
        f"nothing was recorded for {key} ({suite}): python -m benchmarks baseline record"
    )


def read_any(path: Path) -> Session:
    """A session, or a baseline as one: `pytest benchmarks --benchmark-record` writes those."""
    content = read_json(path, "session", "baseline")
    if content["kind"] == "session":
        return read_session(path)
    stored = read_baseline(path, str(content.get("key")), str(content.get("suite")))
    if stored is None:
        raise UsageError(f"{path}: is gone")
    commits = sorted({origin.partition(",")[0] for origin in stored.origins.values()})
    if len(commits) > 1:
        raise UsageError(f"{path}: was recorded from several commits ({', '.join(commits)})")
    return Session(stored.machine, stored.suite, commits[0], tuple(stored.records.values()))


def run_list(arguments: Namespace) -> int:
    """One line for each file; this machine's are marked."""
    key = _key(arguments)
    folders = [arguments.baseline_dir or arguments.root / COMMITTED, arguments.root / LOCAL]
    _say(f"this machine is {key}")
    for folder in folders:
        for path in sorted(folder.glob("*/*.json")):
            content = read_json(path, "baseline", "calibration")
            if content["kind"] == "baseline":
                _say(_line(path, key))
    for folder in sorted((arguments.root / FOLDER).glob("*/*")):
        num = len(list(folder.glob("*.json")))
        _say(f"  {folder.parent.name} {folder.name}: {num} recorded sessions ({folder})")
    return Code.PASS


def _line(path: Path, key: str) -> str:
    stored = read_baseline(path, path.parent.name, path.stem)
    if stored is None:
        raise UsageError(f"{path}: is gone")
    mark = "*" if stored.machine.key == key else " "
    known = sum(noise.sessions >= KNOWN_SESSIONS for noise in stored.noise.values())
    origins = sorted(set(stored.origins.values()))
    shown = origins[0] if len(origins) == 1 else f"{len(origins)} origins, {origins[-1]}"
    counted = f"{len(stored.records)} benchmarks, the noise of {known} known"
    board = f", {stored.machine.gpu_uuid}" if stored.machine.gpu_uuid else ""
    return f"{mark} {path.parent.name} {path.stem}: {counted}; from {shown}{board} ({path})"


def run_diff(arguments: Namespace) -> int:
    """The differences of two files, or of what is stored and what was recorded since."""
    if len(arguments.files) not in (0, 2):
        raise UsageError("baseline diff: two files, or none for stored against newest sessions")
    if arguments.files:
        old, new = (_as_baseline([read_any(path)]) for path in arguments.files)
    else:
        key, suite = _key(arguments), _suite(arguments)
        path = locate(arguments.root, key, suite, arguments.baseline_dir)
        stored = read_baseline(path, key, suite)
        if stored is None:
            raise UsageError(f"nothing is stored for {key} ({suite}): {path}")
        old, new = stored, _as_baseline(_sessions(arguments))
    if old.machine.key != new.machine.key:
        raise UsageError(f"{old.machine.key} and {new.machine.key} cannot be compared")
    for line in differences(old, new, everything=arguments.all):
        _say(line)
    return Code.PASS


def _as_baseline(sessions: Sequence[Session]) -> Baseline:
    return combined(sessions, datetime.datetime.now(datetime.UTC).date())


def _objected(found: Sequence[Objection], title: str) -> int:
    if found:
        _say(title)
    for objection in found:
        _say(f"  {objection.code.name}: {objection.text}")
    return worst_code(found)


def _device(arguments: Namespace) -> str:
    return resolve_device(arguments.device)


def _key(arguments: Namespace) -> str:
    return this_machine(_device(arguments))[0].key


def _suite(arguments: Namespace) -> str:
    return suite_name(arguments.scene, full=arguments.full)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
