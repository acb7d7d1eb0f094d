"""`orch replay` with a change: the same conversations under another policy or with other inputs, beside the old."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.show import events_of, log_of
from cli.side_by_side import side_by_side
from cli.sources import whole
from cli.terminal import UsageError
from events.codec import BadEventError, decode_input
from events.envelope import Event, Input
from orchestrator.policy_file import PolicyFileError, read_policy
from orchestrator.replay.decisions import changed, decisions, typical_ms, waits_ms
from orchestrator.replay.what_if import Change, WhatIf, what_if
from projections.golden_log import golden

SCHEMA = "orch.what_if/1"
COLUMNS = "as it was", "as it would be"


@dataclass(frozen=True, slots=True)
class Compared:
    """One recording, before and after."""

    source: str
    old: list[Event]
    new: WhatIf

    @property
    def decisions(self) -> tuple[Counter[str], Counter[str]]:
        return decisions(self.old), decisions(self.new.events)


def run(
    sources: list[str], *, without: tuple[str, ...], insert: str, settings: tuple[str, ...], policy: str, as_json: bool
) -> int:
    """Raises UsageError, and what opening a source raises."""
    found = []
    for source in sources:
        old = events_of(whole(source))
        found.append(Compared(source, old, _changed(old, without, insert, settings, policy)))
    if as_json:
        print(json.dumps({"recordings": [_json(one) for one in found], "schema": SCHEMA}, ensure_ascii=False, indent=2))
        return 0
    if len(found) == 1:
        for line in side_by_side([*golden(found[0].old)], [*golden(found[0].new.events)], *COLUMNS):
            print(line)
        print()
    for line in _table(found):
        print(line)
    return 0


def _changed(old: list[Event], without: tuple[str, ...], insert: str, settings: tuple[str, ...], policy: str) -> WhatIf:
    try:
        change = Change(
            policy=read_policy(Path(policy)) if policy else None,
            settings=_settings(settings),
            without=frozenset(_input(old, text).event_id for text in without),
            insert=tuple(decode_input(line) for line in Path(insert).read_bytes().splitlines()) if insert else (),
        )
        return what_if(old, change)
    except PolicyFileError as error:
        raise UsageError(str(error)) from error
    except BadEventError as error:
        raise UsageError(f"{insert}: {error}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        is_unknown = problem["type"] == "extra_forbidden"
        what = "there is no such field; docs/policy.md names them all" if is_unknown else problem["msg"]
        raise UsageError(f"--set {'.'.join(map(str, problem['loc']))}: {what}") from error


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
    """The input of that version, in the first session or the one that is named before a colon."""
    log, version = log_of(old, text)
    for event in log:
        if str(event.version) == version:
            if isinstance(event, Input):
                return event
            raise UsageError(f"--without {text}: that is said by the reducer; only inputs can be left out")
    raise UsageError(f"--without {text}: there is no such version")


def _table(found: list[Compared]) -> list[str]:
    """What was decided otherwise, over all recordings, and how much of the new ones nobody recorded."""
    old, new = Counter[str](), Counter[str]()
    differ = 0
    for one in found:
        before, after = one.decisions
        old, new = old + before, new + after
        differ += before != after
    rows = [(name, str(before), str(after)) for name, (before, after) in changed(old, new).items()]
    before_ms = typical_ms([ms for one in found for ms in waits_ms(one.old)])
    after_ms = typical_ms([ms for one in found for ms in waits_ms(one.new.events)])
    if before_ms != after_ms:
        rows.append(("median wait for an answer, ms", _or_none(before_ms), _or_none(after_ms)))
    lines = [f"{name:50} {before:>8} → {after:>8}" for name, before, after in rows] or ["no decision changes"]
    results, simulated = sum(one.new.results for one in found), sum(one.new.simulated for one in found)
    lines.append(f"{differ} of {len(found)} conversations decide otherwise")
    lines.append(f"{simulated} of {results} results of services and playback are simulated, the others as recorded")
    return lines


def _or_none(number: int | None) -> str:
    return "none" if number is None else str(number)


def _json(one: Compared) -> dict[str, Any]:
    return {
        "decisions": {name: [*pair] for name, pair in changed(*one.decisions).items()},
        "new": [*golden(one.new.events)],
        "old": [*golden(one.old)],
        "results": one.new.results,
        "simulated": one.new.simulated,
        "source": one.source,
        "wait_ms": [typical_ms(waits_ms(one.old)), typical_ms(waits_ms(one.new.events))],
    }
