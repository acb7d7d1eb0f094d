"""`orch replay --set`, `--policy`, `--without`, `--insert`: compares conversations with the same ones changed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.exits import OK, UNUSABLE
from cli.show import log_of
from cli.side_by_side import WAIT, row, side_by_side
from cli.sources import whole
from cli.terminal import UsageError, naming, say, words
from events.codec import BadEventError, decode_input
from events.envelope import Event, Input
from events.file_kinds import BOM, other_kind
from events.recording import BadRecordingError
from orchestrator.policy_file import PolicyFileError, read_policy, setting_problem
from orchestrator.replay import comparison
from orchestrator.replay.change import Change
from orchestrator.replay.comparison import Comparison
from orchestrator.replay.fold_on import UnsoundLogError
from orchestrator.replay.replay import events_of
from orchestrator.replay.what_if import what_if

Known = dict[str, list[Event]]
"""The events of standard input, if it is a source: it can be read once."""
COLUMNS = "as it was", "as it would be"
MOST_NAMED = 40
"""Recordings named below the table; those that decide otherwise come first."""


def run(
    sources: list[str],
    *,
    without: tuple[str, ...],
    insert: str,
    settings: tuple[str, ...],
    policy: str,
    as_json: bool,
    as_jsonl: bool,
) -> int:
    """Print the comparison. Returns 0, or 2 if a recording is unreadable. Raises UsageError, BadRecordingError and
    OSError.
    """
    change, code, found = _change(insert, settings, policy), OK, []
    known: Known = {}
    if change.insert:
        _check_insertion(sources, change, insert, known)
    for source in sources:
        try:
            one = _compared(source, without, change, known)
        except (BadRecordingError, UnsoundLogError, OSError) as error:
            say(f"✗ {words(error)}")
            code = UNUSABLE
            continue
        if as_jsonl:
            print(json.dumps(one.as_json(), ensure_ascii=False), flush=True)
        else:
            found.append(one)
    if as_json:
        print(json.dumps(comparison.as_json(found), ensure_ascii=False, indent=2))
    if as_json or as_jsonl or not found:
        return code
    for line in (*_judged(found), "", *_table(found)):
        print(line)
    if len(found) == 1:
        print()
        for line in side_by_side(*found[0].golden, *COLUMNS):
            print(line)
    return code


def _change(insert: str, settings: tuple[str, ...], policy: str) -> Change:
    """The change for every recording. Raises UsageError, BadRecordingError, OSError."""
    try:
        return Change(
            policy=read_policy(Path(policy)) if policy else None,
            settings=_settings(settings),
            insert=_inputs(insert) if insert else (),
        )
    except PolicyFileError as error:
        raise UsageError(str(error)) from error


def _check_insertion(sources: list[str], change: Change, insert: str, known: Known) -> None:
    """Raise UsageError, before anything is printed, if an event to insert has no effect: its session is in none of the
    readable recordings, or opens later.
    """
    opened_us: dict[str, int] = {}
    unreadable = 0
    for source in sources:
        try:
            for event in _read(source, known):
                opened_us.setdefault(event.session_id, event.at_us)
        except (BadRecordingError, OSError):
            unreadable += 1
    for new in change.insert:
        if new.session_id and new.session_id not in opened_us:
            where = f"the recordings, of which {unreadable} cannot be read" if unreadable else "the recordings"
            raise UsageError(f"--insert {insert}: session {new.session_id} is not in {where}")
        for session_id in [new.session_id] if new.session_id else opened_us:
            if new.at_us < (at_us := opened_us[session_id]):
                raise UsageError(f"--insert: at_us {new.at_us} is before session {session_id} opens, at {at_us}")


def _read(source: str, known: Known) -> list[Event]:
    """The events of a source. Raises BadRecordingError, also for a session that is not known, and OSError."""
    if source in known:
        return known[source]
    try:
        events = events_of(whole(source))
    except LookupError as error:
        raise BadRecordingError(str(error)) from error
    if source == "-":
        known[source] = events
    return events


def _compared(source: str, without: tuple[str, ...], change: Change, known: Known) -> Comparison:
    """Run a recording with the change. Raises BadRecordingError, UnsoundLogError, OSError, UsageError."""
    old = _read(source, known)
    left_out = frozenset(_input(old, text).event_id for text in without)
    try:
        return Comparison.of(source, old, what_if(old, replace(change, without=left_out)))
    except ValidationError as error:
        raise UsageError(f"--set {setting_problem(error)}") from error


def _inputs(file: str) -> tuple[Input, ...]:
    """The events of a file, one a line. Raises BadRecordingError, OSError, UsageError."""
    with naming(file):
        data = Path(file).read_bytes()
    if kind := other_kind(data):
        raise BadRecordingError(f"{file} is no file of events but {kind}")
    found = []
    for number, line in enumerate(data.removeprefix(BOM).splitlines(), 1):
        try:
            found += [decode_input(line)] if line.strip() else []
        except BadEventError as error:
            raise BadRecordingError(f"{file}, line {number}: {error}") from error
    if not found:
        raise UsageError(f"--insert {file}: the file is empty; write one event a line")
    return tuple(found)


def _settings(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        path, sign, value = text.partition("=")
        part, dot, name = path.removeprefix("policy.").partition(".")
        if not (sign and dot):
            raise UsageError(f"--set {text}: write PART.FIELD=VALUE, such as interruption.min_words=2")
        try:
            found.setdefault(part, {})[name] = json.loads(value)
        except ValueError:
            found.setdefault(part, {})[name] = value
    return found


def _input(old: list[Event], text: str) -> Input:
    """The input with this version, in the first session or in the session named before a colon. Raises UsageError."""
    log, version = log_of(old, text)
    for event in log:
        if str(event.version) == version:
            if isinstance(event, Input):
                return event
            raise UsageError(f"--without {text}: that is said by the reducer; only inputs can be left out")
    raise UsageError(f"--without {text}: there is no such version")


def _judged(found: list[Comparison]) -> list[str]:
    """How much of the new runs is simulated, and which decisions cannot be judged."""
    results, simulated, moved = (sum(getattr(one, name) for one in found) for name in ("results", "simulated", "moved"))
    lines = [f"{simulated} of {results} results of services and playback are simulated, the others as recorded"]
    if moved:
        lines.append(f"{moved} finals come at another time: by the recogniser's recorded delay after the endpoint")
    if unjudged := sum(one.unjudged for one in found):
        lines.append(f"cannot be judged: {unjudged} utterances that never complete or are cut (words guessed)")
    return lines


def _table(found: list[Comparison]) -> list[str]:
    """The decisions that differ and the wait for an answer, over all recordings; then the recordings that changed."""
    rows = [(name, str(before), str(after)) for name, (before, after) in comparison.changes(found).items()]
    lines = [row(*cells) for cells in rows] or ["no decision changes"]
    lines.append(row(WAIT, *comparison.waits(found)))
    if len(found) == 1:
        return lines
    changed = sorted((not _decides_otherwise(one), one.source, what) for one in found if (what := _changes(one)))
    lines.append(f"{sum(_decides_otherwise(one) for one in found)} of {len(found)} conversations decide otherwise")
    lines += [f"  {source}: {what}" for _, source, what in changed[:MOST_NAMED]]
    if (more := len(changed) - MOST_NAMED) > 0:
        lines.append(f"  … and {more} more; --jsonl has a line for each")
    return lines


def _decides_otherwise(one: Comparison) -> bool:
    old, new = one.decisions
    return old != new


def _changes(one: Comparison) -> str:
    """What changed in a recording: counts of decisions, and the wait."""
    parts = [f"{name} {before} → {after}" for name, (before, after) in comparison.changes([one]).items()]
    before_ms, after_ms = comparison.waits([one])
    return ", ".join(parts + ([f"wait {before_ms} → {after_ms} ms"] if before_ms != after_ms else []))
