"""Redacts the words of a recording so that the recording still replays: `orch export --redact`.

Words of users, services and the agent are replaced letter by letter. Word lengths and word boundaries stay, so that the
reducer decides the same; docs/replay.md lists the exceptions. Words that the policy looks for (backchannels, closing
phrases) stay readable. So does the beginning of a backchannel.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Any, Literal
from unicodedata import category, east_asian_width

from events.derived import CommandIssued
from events.envelope import Event
from events.inputs import ProviderSwitched, RagAnswered, SessionOpened
from orchestrator.replay.fold_on import rehashed
from orchestrator.safe_text import is_name
from orchestrator.session.phrases import consists_of, is_unspaced, normal, spans
from orchestrator.session.policy import Policy

Redaction = Literal["none", "default", "hash"]
TEXTS = ("answer", "error", "heard_text", "text")
"""Fields with words of users, services and the agent. `error` is in the list because it may repeat the user's words."""
JSON = ("arguments", "response", "result")
"""Fields with JSON that the agent exchanges with its tools and its model. After the redaction they still hold JSON."""
_KEPT_OF_A_POLICY = {"intent", "language", "more_words"}
_OF_JSON = re.compile(
    r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|(?:\w|[^\x00-\x7f])+', re.DOTALL
)
"""Matches a string, a number or a literal of JSON. If the text is not JSON, also matches a word, or a string without a
closing quote.
"""
_OF_A_STRING = re.compile(r'\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]|[^\\]+|\\')
_DIGITS = 16
"""Largest number of digits in a redacted number of JSON."""
_LITERALS = {"false", "null", "true"}
_WIDE, _NARROW = ("\u3006", "\u3099"), ("\u17f0", "\u0f71")
"""Replacement of a word in a writing system without blanks, such as Chinese (wide characters) or Thai (narrow): (first
character, combining mark for each further character). ICU takes the character with its marks for one word.
"""


def redacted(events: Iterable[Event], how: Redaction) -> Iterator[Event]:
    """Yield the events of a log, redacted, with recomputed state hashes. `default`: letters become x or X, digits 0.
    `hash`: equal words get equal replacements. `none`: nothing is redacted.

    Raises UnsoundLogError if the log is damaged or of a newer orch.
    """
    return rehashed(map(Hiding(how), events))


class Hiding:
    """Redacts events one by one, in the order of their log. Keeps the recorded state hashes, which do not fit the
    redacted events; `redacted` recomputes them.

    >>> hide = Hiding("default"); [hide(event) for event in step]
    """

    def __init__(self, how: Redaction) -> None:
        self._how = how
        self._kept: dict[str, _Kept] = {}
        """Session id → the words of the session that stay readable."""

    def __call__(self, event: Event) -> Event:
        if isinstance(event, SessionOpened) and (policy := Policy.read(event.policy)) is not None:
            self._kept.setdefault(event.session_id, _Kept.of(policy))
        kept = self._kept.get(event.session_id, _Kept())
        return event if self._how == "none" else _hide(event, lambda text: _hide_text(text, kept, self._how), kept)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Words of a session that stay readable: backchannels and beginnings of backchannels, closing phrases, and the
    intent of a user's goodbye.
    """

    words: frozenset[str] = frozenset()
    phrases: tuple[str, ...] = ()
    goodbye: str = ""

    @classmethod
    def of(cls, policy: Policy) -> "_Kept":
        backchannels, closing = _words_of(policy.interruption.backchannels), _words_of(policy.endpointing.phrases)
        beginnings = {word[:end] for word in backchannels for end in range(1, len(word))}
        words = frozenset(backchannels | closing | beginnings)
        return cls(words, policy.interruption.backchannels, policy.goodbye.intent)

    def holds(self, word: str) -> bool:
        return self.words.issuperset(normal(word).split()) or consists_of(word, self.phrases)


def _words_of(phrases: Iterable[str]) -> set[str]:
    spoken = [normal(phrase) for phrase in phrases]
    return {phrase[start:end] for phrase in spoken for start, end in spans(phrase)}


def _hide(event: Event, hide: Callable[[str], str], kept: _Kept) -> Event:
    changes: dict[str, Any] = {name: hide(getattr(event, name)) for name in TEXTS if hasattr(event, name)}
    changes |= {name: _hide_json(getattr(event, name), hide) for name in JSON if hasattr(event, name)}
    if isinstance(event, CommandIssued) and "text" in event.payload:
        changes["payload"] = event.payload | {"text": hide(str(event.payload["text"]))}
    if isinstance(event, SessionOpened):
        # with the same `hide` as Speak commands: a greeting and its Speak stay equal
        changes["policy"] = {part: _hide_part(fields, hide) for part, fields in event.policy.items()}
    if isinstance(event, ProviderSwitched):
        changes["reason"] = hide(event.reason)
    if (intent := getattr(event, "intent", "")) and intent != kept.goodbye and not is_name(intent):
        changes["intent"] = hide(intent)
    if isinstance(event, RagAnswered):
        changes["sources"] = tuple(map(hide, event.sources))
    if words := getattr(event, "words", ()):
        changes["words"] = tuple(word.model_copy(update={"text": hide(word.text)}) for word in words)
    return event.replace(**changes)


def _hide_json(text: str, hide: Callable[[str], str]) -> str:
    """Redact the strings, field names and numbers of a JSON text. Valid JSON stays valid. The text never gets longer.
    Numbers become whole numbers.
    """

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
    """Redact the texts in a part of the policy, such as the greeting. `fields`: name → value. `hide`: the function that
    redacts a text. A part that is not a mapping, as in a log from another program, is redacted whole.
    """
    if not isinstance(fields, dict):
        return hide(fields) if isinstance(fields, str) else fields if fields is None else "x"
    return {
        name: hide(value) if isinstance(value, str) and name not in _KEPT_OF_A_POLICY else value
        for name, value in fields.items()
    }


def _hide_text(text: str, kept: _Kept, how: Redaction) -> str:
    pieces: list[str] = []
    at = 0
    for start, end in spans(text):
        word = text[start:end]
        pieces += text[at:start], word if kept.holds(word) else _hide_word(word, kept, how)
        at = end
    return "".join((*pieces, text[at:]))


def _hide_word(word: str, kept: _Kept, how: Redaction) -> str:
    """Redact the letters, combining marks and digits of a word. Its punctuation stays."""
    parts = ((is_spoken, "".join(part)) for is_spoken, part in groupby(word, _is_of_a_word))
    return "".join(
        _unlike(kept, _hidden(part, how)) if is_spoken and not kept.holds(part) else part for is_spoken, part in parts
    )


def _unlike(kept: _Kept, hidden: str) -> str:
    """Return `hidden`, the replacement of a word. If the replacement happens to be a backchannel, the beginning of a
    backchannel or a closing phrase, its first character becomes 0, so that the reducer does not act on it.
    """
    return "0" + hidden[1:] if kept.holds(hidden) else hidden


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or category(character)[0] == "M"


def _is_wide(character: str) -> bool:
    return east_asian_width(character) in "FW"


def _hidden(word: str, how: Redaction) -> str:
    """Return a replacement of a word, with the same length and with characters of the same width. The duration of
    speech is guessed from both.
    """
    digest = blake2b(normal(word).encode()).hexdigest() if how == "hash" else ""
    if is_unspaced(word):
        return _hidden_unspaced(word, digest)
    if digest:
        hidden = (digest * (len(word) // len(digest) + 1))[: len(word)]
    else:
        hidden = "".join("0" if letter.isdigit() else "X" if letter.isupper() else "x" for letter in word)
    if word.isascii():
        return hidden
    return "".join(chr(ord(new) + 0xFEE0) if _is_wide(old) else new for old, new in zip(word, hidden, strict=True))


def _hidden_unspaced(word: str, digest: str) -> str:
    """Return a replacement for a word of a language that puts no blanks between words, such as Chinese or Thai.
    `digest`: a digest of the word, so that equal words get equal replacements; empty: only length and width are kept.
    """
    is_wide = _is_wide(word[0])
    first, mark = _WIDE if is_wide else _NARROW
    if not digest:
        return first + mark * (len(word) - 1)
    number = int(digest[:8], 16)
    if is_wide:
        return chr(0x3400 + number % 6582) + mark * (len(word) - 1)
    return chr(0x17F0 + number % 10) + "".join(chr(0x17C9 + ord(one) % 8) for one in digest[8:][: len(word) - 1])
