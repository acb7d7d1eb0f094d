"""A recording without what was said in it: words become x of the same length, and it still replays.

What users, services and the agent say is replaced letter by letter, so that lengths, words and beginnings stay as they
are and the same decisions follow; words that the policy itself looks for (backchannels, closing phrases) are kept.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Literal

from events.derived import CommandIssued
from events.envelope import Event
from events.inputs import SessionOpened
from orchestrator.replay.fold_on import fold_on
from orchestrator.session.phrases import normal
from orchestrator.session.policy import Policy
from orchestrator.session.state import State

Redaction = Literal["none", "default", "hash"]
TEXTS = ("answer", "heard_text", "text")
_KEPT_OF_A_POLICY = {"intent", "more_words"}
_WORD = re.compile(r"\w+")


def redacted(events: Iterable[Event], how: Redaction) -> Iterator[Event]:
    """The same log in other words. `default`: x and 0; `hash`: a word is the same word everywhere, whichever it was.

    Raises UnsoundLogError.
    """
    states: dict[str, State] = {}
    kept: dict[str, set[str]] = {}
    for event in events:
        if isinstance(event, SessionOpened) and (policy := Policy.read(event.policy)) is not None:
            kept.setdefault(event.session_id, _looked_for(policy))
        known = kept.get(event.session_id, set())

        def hide(text: str, known: set[str] = known) -> str:
            return _WORD.sub(lambda word: word[0] if normal(word[0]) in known else _hidden(word[0], how), text)

        hidden = event if how == "none" else _hide(event, hide)
        state = states.setdefault(event.session_id, State())
        fold_on(state, hidden)
        yield hidden.but(state_hash=state.hash()) if event.state_hash else hidden


def _hide(event: Event, hide: Callable[[str], str]) -> Event:
    changes: dict[str, Any] = {name: hide(getattr(event, name)) for name in TEXTS if hasattr(event, name)}
    if isinstance(event, CommandIssued) and "text" in event.payload:
        changes["payload"] = event.payload | {"text": hide(str(event.payload["text"]))}
    if isinstance(event, SessionOpened):
        changes["policy"] = {part: _hide_part(fields, hide) for part, fields in event.policy.items()}
    if words := getattr(event, "words", ()):
        changes["words"] = tuple(word.model_copy(update={"text": hide(word.text)}) for word in words)
    return event.but(**changes)


def _hide_part(fields: Any, hide: Callable[[str], str]) -> Any:
    """What the agent says by policy, as it would be said in the log."""
    return {
        name: hide(value) if isinstance(value, str) and name not in _KEPT_OF_A_POLICY else value
        for name, value in fields.items()
    }


def _looked_for(policy: Policy) -> set[str]:
    phrases = (*policy.interruption.backchannels, *policy.endpointing.phrases)
    return {word for phrase in phrases for word in normal(phrase).split()}


def _hidden(word: str, how: Redaction) -> str:
    if how == "hash":
        digest = blake2b(normal(word).encode()).hexdigest()
        return (digest * (len(word) // len(digest) + 1))[: len(word)]
    return "".join("0" if letter.isdigit() else "X" if letter.isupper() else "x" for letter in word)
