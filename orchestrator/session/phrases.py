"""Words as they compare: normalised, counted, and the phrases of listening in several languages."""

import re
from typing import Any, Final

BACKCHANNELS: Final[dict[str, tuple[str, ...]]] = {
    "de": ("aha", "ach so", "genau", "gut", "hm", "hmm", "ja", "klar", "mhm", "mm", "okay", "ok", "richtig", "stimmt"),
    "en": (
        *("ah", "aha", "alright", "cool", "go on", "good", "got it", "great", "hm", "hmm", "huh", "i see"),
        *("mhm", "mm", "mm hmm", "mmm", "oh", "ok", "okay", "right", "sure", "uh", "uh huh", "um", "wow"),
        *("yeah", "yep", "yes"),
    ),
    "es": ("ajá", "bien", "bueno", "claro", "eh", "hm", "mhm", "ok", "sí", "vale", "ya", "ya veo"),
    "fr": ("ah", "ah bon", "d'accord", "euh", "hm", "mhm", "oh", "ok", "ouais", "oui", "très bien"),
    "it": ("ah", "certo", "ecco", "eh", "hm", "mhm", "ok", "sì", "va bene"),
    "nl": ("aha", "goed", "hm", "ja", "klopt", "mhm", "oké", "precies"),
    "pl": ("aha", "dobrze", "hm", "jasne", "mhm", "no", "ok", "rozumiem", "tak"),
    "pt": ("ah", "certo", "claro", "hm", "mhm", "ok", "pois", "sim", "tá", "tá bom"),
}
"""What listeners say without wanting the floor (Yngve 1970 called them back channels), by ISO 639-1 code."""
_LONGEST_WORDS: Final = 6
"""A longer row of backchannels is somebody who wants to be heard."""
_NOT_WORDS: Final = re.compile(r"[^\w']+|_+")


def normal(text: str) -> str:
    """Without case, punctuation and surplus blanks: two texts that are spoken alike are equal."""
    return _NOT_WORDS.sub(" ", text.casefold()).strip()


def phrases_of(value: Any) -> Any:
    """A list as the tuple that a policy holds."""
    return tuple(value) if isinstance(value, list) else value


def backchannels_of(value: Any) -> Any:
    """The phrases that a language code stands for; anything but a text is what it is. Raises ValueError."""
    if not isinstance(value, str):
        return value
    if value not in BACKCHANNELS:
        known = ", ".join(BACKCHANNELS)
        raise ValueError(f"no phrases for the language {value!r}: one of {known}, or a list of phrases")
    return BACKCHANNELS[value]


def ends_with(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text ends with one of these phrases, word by word."""
    words = f" {normal(text)}"
    return any(words.endswith(f" {normal(phrase)}") for phrase in phrases)


def consists_of(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text is nothing but a few of these phrases, such as "yeah okay". An empty one is not."""
    words = normal(text).split()
    if not 0 < len(words) <= _LONGEST_WORDS:
        return False
    known = {tuple(normal(phrase).split()) for phrase in phrases}
    reached = {0}
    for end in range(1, len(words) + 1):
        if any(tuple(words[start:end]) in known for start in reached):
            reached.add(end)
    return len(words) in reached


def may_become(partial: str, phrases: tuple[str, ...]) -> bool:
    """Whether a partial is one of these phrases, or the beginning of one: more has to be heard."""
    heard = normal(partial)
    return consists_of(partial, phrases) or any(normal(phrase).startswith(heard) for phrase in phrases if heard)
