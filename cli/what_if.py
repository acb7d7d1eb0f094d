"""`orch replay --set`, `--policy`, `--without`, `--insert`: compares conversations with the same ones changed."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.show import log_of
from cli.side_by_side import WAIT, row, side_by_side
from cli.sources import whole
from cli.terminal import UsageError
from events.codec import BadEventError, decode_input
from events.envelope import Event, Input
from events.file_kinds import BOM, other_kind
from events.recording import BadRecordingError
from orchestrator.policy_file import PolicyFileError, read_policy, setting_problem
from orchestrator.replay import comparison
from orchestrator.replay.change import Change, WhatIf
from orchestrator.replay.comparison import Comparison
from orchestrator.replay.replay import events_of
from orchestrator.replay.what_if import what_if

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
    """Print the comparison. Raises UsageError and the errors of `sources.opened`."""
    found = []
    for source in sources:
        old = events_of(whole(source))
        one = Comparison.of(source, old, _changed(old, without, insert, settings, policy))
        if as_jsonl:
            print(json.dumps(one.as_json(), ensure_ascii=False), flush=True)
        else:
            found.append(one)
    if as_json:
        print(json.dumps(comparison.as_json(found), ensure_ascii=False, indent=2))
    if as_json or as_jsonl:
        return 0
    for line in (*_judged(found), "", *_table(found)):
        print(line)
    if len(found) == 1:
        print()
        for line in side_by_side(*found[0].golden, *COLUMNS):
            print(line)
    return 0


def _changed(old: list[Event], without: tuple[str, ...], insert: str, settings: tuple[str, ...], policy: str) -> WhatIf:
    try:
        change = Change(
            policy=read_policy(Path(policy)) if policy else None,
            settings=_settings(settings),
            without=frozenset(_input(old, text).event_id for text in without),
            insert=_inputs(insert) if insert else (),
        )
        return what_if(old, change)
    except PolicyFileError as error:
        raise UsageError(str(error)) from error
    except ValidationError as error:
        raise UsageError(f"--set {setting_problem(error)}") from error


def _inputs(file: str) -> tuple[Input, ...]:
    """The events of a file, one a line. Raises BadRecordingError, OSError."""
    data = Path(file).read_bytes()
    if kind := other_kind(data):
        raise BadRecordingError(f"{file} is no file of events but {kind}")
    found = []
    for number, line in enumerate(data.removeprefix(BOM).splitlines(), 1):
        try:
            found += [decode_input(line)] if line.strip() else []
        except BadEventError as error:
            raise BadRecordingError(f"{file}, line {number}: {error}") from error
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
        lines.append(f"cannot be judged: {unjudged} utterances that are cut or never complete; their words are guessed")
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
