"""Parses places in a recording, as typed after `--until`: `41`, `SESSION:41`, `12.5s`, `STT_FINAL`, `Speak[2]`."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from events.codec import DERIVED, INPUTS
from events.envelope import Event
from events.recording import steps
from orchestrator.replay.words import name
from orchestrator.session.commands import COMMANDS

_VERSION: Final = re.compile(r"(?:(?P<session>.+):)?(?P<version>\d+)")
_TIME: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m)")
_NAME: Final = re.compile(r"(?P<name>\w+)(?:\[(?P<nth>\d+)\])?")
_US: Final = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000}
NAMES: Final = (*INPUTS, *DERIVED, *COMMANDS)

WRITE: Final = "a version (41 or SESSION:41), a time (12.5s), or the k-th of a type or command (STT_FINAL, Speak[2])"

Reached = Callable[[Sequence[Event]], bool]
"""A function made from a place: step → whether the step contains the place or comes after it. Called once for each
step, in order.
"""


class BadPlaceError(ValueError):
    """The text names no place; the message lists the accepted forms."""


class NoSuchEventError(LookupError):
    """The log has no event at the given place; the message says where the log ends."""


def place(text: str) -> Reached:
    """Parse a place: a version (of the named session, else of the first session), a time since the session opened, or
    the n-th event of a type or command.

    Returns a function: step → whether the step contains the place or comes after the place. Raises BadPlaceError if
    `text` is no place.
    """
    if found := _VERSION.fullmatch(text):
        return _version(found["session"], int(found["version"]))
    if found := _TIME.fullmatch(text):
        return _time(round(float(found["number"]) * _US[found["unit"]]))
    found = _NAME.fullmatch(text)
    if found is None or found["name"] not in NAMES:
        raise BadPlaceError(f"no such place: {text!r}; write {WRITE}")
    if (nth := int(found["nth"] or 1)) == 0:
        raise BadPlaceError(f"no such place: {text!r}; indices begin with 1")
    return _nth(found["name"], nth)


def session_of(text: str) -> str:
    """Return the session id in the text of a place in a recording, such as `SESSION:41`; "" if the text has no id."""
    found = _VERSION.fullmatch(text)
    return (found["session"] or "") if found else ""


def event_at(events: Sequence[Event], text: str) -> Event:
    """Return the event at a place. `text`: the place as typed. At a time, returns the first input at or after it.

    Raises BadPlaceError if `text` is no place, and NoSuchEventError if the log has no event at the place.

    >>> event_at(log, "12.5s"), event_at(log, "Speak[2]"), event_at(log, "auto_session_1:41")
    """
    is_there = place(text)
    step = next((step for step in steps(events) if is_there(step)), None)
    if step is None:
        ends = f"; it ends at version {events[-1].version}" if events else ""
        raise NoSuchEventError(f"nothing in this log is at {text}{ends}")
    if found := _VERSION.fullmatch(text):
        return next(event for event in step if event.version >= int(found["version"]))
    if _TIME.fullmatch(text):
        return step[0]
    wanted, _, nth = text.rstrip("]").partition("[")
    named = [event for event in events if name(event) == wanted]
    return named[int(nth or 1) - 1]


def _version(session: str | None, version: int) -> Reached:
    wanted = session

    def reached(step: Sequence[Event]) -> bool:
        nonlocal wanted
        wanted = wanted or step[0].session_id
        return step[0].session_id == wanted and step[-1].version >= version

    return reached


def _time(after_us: int) -> Reached:
    opened: dict[str, int] = {}
    return lambda step: step[0].at_us - opened.setdefault(step[0].session_id, step[0].at_us) >= after_us


def _nth(wanted: str, nth: int) -> Reached:
    seen = 0

    def reached(step: Sequence[Event]) -> bool:
        nonlocal seen
        seen += sum(name(event) == wanted for event in step)
        return seen >= nth

    return reached
