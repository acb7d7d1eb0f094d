"""Redacts the words of a recording, which still replays: `orch export --redact`.

Words of users, services and the agent are replaced letter by letter. Word lengths and word boundaries stay, so the
reducer decides the same. Words that the policy looks for (backchannels, closing phrases) are kept.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Literal

from events.derived import CommandIssued
from events.envelope import Event
from events.inputs import ProviderSwitched, RagAnswered, SessionOpened
from orchestrator.replay.fold_on import rehashed
from orchestrator.session.phrases import normal
from orchestrator.session.policy import Policy

Redaction = Literal["none", "default", "hash"]
TEXTS = ("answer", "error", "heard_text", "text")
"""Fields with the words of users, services and the agent. An error is among them: it may repeat the user's words."""
JSON = ("arguments", "response", "result")
"""Fields that agent, tools and model exchange as JSON. Redacted, they are still JSON."""
_KEPT_OF_A_POLICY = {"intent", "more_words"}
_WORD = re.compile(r"\w+")
_OF_JSON = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\w+', re.DOTALL)
"""A string, a number, a literal; in a text that is no JSON also any word, and a string without an end."""
_OF_A_STRING = re.compile(r'\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]|[^\\]+|\\')
_DIGITS = 16
"""Longest redacted number."""
_LITERALS = {"false", "null", "true"}


def redacted(events: Iterable[Event], how: Redaction) -> Iterator[Event]:
    """The same log, redacted. `default`: letters become x, digits 0; `hash`: equal words get equal replacements.

    Raises UnsoundLogError.
    """
    return rehashed(map(Hiding(how), events))


class Hiding:
    """Redacts events one by one, in the order of their log. Leaves the state hashes as they are: they no longer fit.

    >>> hide = Hiding("default"); [hide(event) for event in step]
    """

    def __init__(self, how: Redaction) -> None:
        self._how = how
        self._kept: dict[str, set[str]] = {}
        """Session → words that its policy looks for."""

    def __call__(self, event: Event) -> Event:
        if isinstance(event, SessionOpened) and (policy := Policy.read(event.policy)) is not None:
            self._kept.setdefault(event.session_id, _looked_for(policy))
        known = self._kept.get(event.session_id, set())

        def hide(text: str) -> str:
            return _WORD.sub(lambda word: word[0] if normal(word[0]) in known else _hidden(word[0], self._how), text)

        return event if self._how == "none" else _hide(event, hide)


def _hide(event: Event, hide: Callable[[str], str]) -> Event:
    changes: dict[str, Any] = {name: hide(getattr(event, name)) for name in TEXTS if hasattr(event, name)}
    changes |= {name: _hide_json(getattr(event, name), hide) for name in JSON if hasattr(event, name)}
    if isinstance(event, CommandIssued) and "text" in event.payload:
        changes["payload"] = event.payload | {"text": hide(str(event.payload["text"]))}
    if isinstance(event, SessionOpened):
        changes["policy"] = {part: _hide_part(fields, hide) for part, fields in event.policy.items()}
    if isinstance(event, ProviderSwitched):
        changes["reason"] = hide(event.reason)
    if isinstance(event, RagAnswered):
        changes["sources"] = tuple(map(hide, event.sources))
    if words := getattr(event, "words", ()):
        changes["words"] = tuple(word.model_copy(update={"text": hide(word.text)}) for word in words)
    return event.but(**changes)


def _hide_json(text: str, hide: Callable[[str], str]) -> str:
    """Redact strings, names of fields and numbers. JSON stays JSON and gets no longer; numbers become whole numbers."""

    def hide_piece(piece: re.Match[str]) -> str:
        if piece[0].startswith("\\"):
            return "x" if piece[0].startswith("\\u") else piece[0]
        return hide(piece[0])

    def hide_token(token: re.Match[str]) -> str:
        if token[0] in _LITERALS:
            return token[0]
        if token[0].startswith('"'):
            return _OF_A_STRING.sub(hide_piece, token[0])
        if token[0][0] not in "-0123456789":
            return hide(token[0])
        digits = "".join(one for one in token[0] if one in "0123456789")[:_DIGITS]
        return str(int(hide(digits), 16))[: len(digits)]

    return _OF_JSON.sub(hide_token, text)


def _hide_part(fields: Any, hide: Callable[[str], str]) -> Any:
    """Redact the texts of a part of the policy, in the same way as where the agent speaks them. A part that is no
    mapping, in a log from elsewhere, is hidden whole.
    """
    if not isinstance(fields, dict):
        return hide(fields) if isinstance(fields, str) else fields if fields is None else "x"
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
