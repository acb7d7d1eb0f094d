"""Compares, normalises, counts and divides words; lists phrases of listening (backchannels) in several languages."""

import re
from functools import lru_cache
from typing import Any, Final
from unicodedata import category, decomposition, is_normalized, normalize

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
"""Limit of words in a row of backchannels: a user who says more of them wants the floor."""

_TELLING: Final = re.compile(r"""[^A-Za-z0-9\s!?;.,:'"-]|[.,:][0-9]|[0-9]"|\B'|'\B|-(?![A-Za-z]{2})""", re.ASCII)
"""Matches texts that need the slow normalisation: they may hold more than ASCII words and punctuation."""
_NOT_WORDS: Final = re.compile(r"[^a-z0-9']+")
_OTHER_VALUES: Final = ("<super>", "<sub>", "<fraction>")
"""Compatibility forms that NFKC would give another meaning: 2² is not 22."""
_SPOKEN_PUNCTUATION: Final = frozenset("#%&*/@\\·‰‱′″‴†‡٪٫٬")
"""Characters that Unicode calls punctuation, but that people say aloud."""
_LAYOUT: Final = (
    *("\u00ad", "\u061c", "\u200b", "\u200e", "\u200f", "\u2060", "\ufe0e", "\ufe0f", "\ufeff"),
    *map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
)
"""Characters that only change how a text is laid out."""
_TYPED: Final = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\uff07\u00b4`", "'") | dict.fromkeys(_LAYOUT, ""))
"""Translates all forms of the apostrophe to one, and removes characters of layout."""
_PUNCTUATION: Final = re.compile(r"[;!?]|[.,:](?!\d)|(?<=[.,:])[.,:]|(?<!\w)'|(?<!\d)'(?!\w)|(?<!\d)\"")
_DASH: Final = re.compile(r"-(?:[-\s]*-)?(\s*)")
_BRACKETS: Final = re.compile(r"[()\[\]{}]")
_BETWEEN_BLANKS: Final = re.compile(r"\S+")
_SILENT: Final = frozenset(" '\".,:()[]{}-")
_UNSPACED: Final = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Letters of scripts that put no blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, kana, Han."""


def normal(text: str) -> str:
    """Normalise a text for comparison: remove case, punctuation, layout and surplus blanks. Two normalised texts are
    equal only if the texts are spoken alike.

    Signs that are said aloud stay (3+2, C#, 5:30, -5, 👍), and so do combining marks. A sign that may or may not be
    spoken stays, too: to answer another question is worse than to ask the same question twice.
    """
    if _TELLING.search(text):
        return _normal(text)
    return _NOT_WORDS.sub(" ", text.lower()).strip()


@lru_cache(maxsize=256)
def _normal(text: str) -> str:
    """Normalise a text as `normal` does, with the rules for signs and letters that its short way cannot treat."""
    spoken = "".join(map(_spelled, _folded(text.translate(_TYPED)).translate(_TYPED)))
    if not any(char.isnumeric() or _is_symbol(char) for char in spoken):
        spoken = _BRACKETS.sub(" ", spoken)
    spoken = _DASH.sub(_hyphen, _PUNCTUATION.sub(" ", spoken))
    return "" if _SILENT.issuperset(spoken) else " ".join(spoken.split())


def _folded(text: str) -> str:
    """Give each character one spelling: no case, no full or half width, no ligatures; composed (NFC)."""
    if not is_normalized("NFKC", text):
        plain = (_compatible(char) for char in normalize("NFC", text))
        text = "".join(plain)
    return normalize("NFC", normalize("NFD", text).casefold())


def _compatible(char: str) -> str:
    return char if decomposition(char).startswith(_OTHER_VALUES) else normalize("NFKC", char)


def _spelled(char: str) -> str:
    """The character that stands for `char` in comparisons: a blank for separators and for punctuation beyond ASCII that
    is not said aloud, one form for all dashes, one for wave dashes, otherwise `char` itself.
    """
    if char.isascii() and char.isprintable():
        return " " if char == "_" else char
    kind = category(char)
    if char in "〜〰":
        return "~"
    if kind == "Pd" or char == "\u2212":
        return "-"
    if kind[0] == "Z" or kind == "Cc" or (kind[0] == "P" and char not in _SPOKEN_PUNCTUATION):
        return " "
    return char


def _is_symbol(char: str) -> bool:
    return category(char)[0] == "S" or char in _SPOKEN_PUNCTUATION


def _hyphen(dash: re.Match[str]) -> str:
    """The replacement of a dash: a blank where the dash is silent, such as before a word of several letters; the dash
    itself where it may be said.
    """
    text, at = dash.string, dash.end()
    is_alone = not text[: dash.start()][-1:].strip()
    if dash[1] and not is_alone:
        return dash[0]
    if text[at : at + 1].isalpha() and (
        text[at + 1 : at + 2].isalpha() or category(text[at + 1 : at + 2] or " ")[0] == "M"
    ):
        return " "
    return " " if is_alone and at == len(text) else dash[0]


def are_alike(one: str, other: str) -> bool:
    """Whether two texts are the same words. Texts without words, such as "..." and "?!", must be equal as written."""
    return one == other or (bool(spoken := normal(one)) and spoken == normal(other))


def spans(text: str) -> list[tuple[int, int]]:
    """The start and end of each word of a text. Blanks separate words; in scripts without blanks, the dictionaries of
    ICU do.

    Punctuation belongs to the word before it.
    """
    if text.isascii():
        return [word.span() for word in _BETWEEN_BLANKS.finditer(text)]
    found: list[tuple[int, int]] = []
    for piece in _BETWEEN_BLANKS.finditer(text):
        found += _cut(piece[0], piece.start()) if _UNSPACED.search(piece[0]) else [piece.span()]
    return found


def _cut(piece: str, offset: int) -> list[tuple[int, int]]:
    from icu4py.breakers import WordBreaker  # 15 ms, for those who speak such a language

    found: list[tuple[int, int]] = []
    encodable = piece.encode(errors="replace").decode()
    for start, end in WordBreaker(encodable, "en").segments():
        if found and not any(map(str.isalnum, piece[start:end])):
            found[-1] = (found[-1][0], offset + end)
        else:
            found.append((offset + start, offset + end))
    return found


def is_unspaced(text: str) -> bool:
    """Whether a text begins with a letter of a script that puts no blanks between words."""
    return _UNSPACED.match(text) is not None


def count_words(text: str) -> int:
    """Count the spoken words of a text. Chinese, Japanese, Thai and similar scripts are divided by a dictionary:
    请等一下 is three words.
    """
    return len(spans(normal(text)))


def begins_with(text: str, beginning: str) -> bool:
    """Whether a text begins with all the words of `beginning`. False if `beginning` has no words."""
    words, first = normal(text), normal(beginning)
    return bool(first) and words.startswith(first) and _is_boundary(words, len(first))


def _is_boundary(words: str, at: int) -> bool:
    """Whether position `at` of a normalised text is not within a word."""
    if at in (0, len(words)) or " " in words[at - 1 : at + 1]:
        return True
    return bool(_UNSPACED.match(words, at)) and any(start == at for start, _ in spans(words))


def phrases_of(value: Any) -> Any:
    """Convert a list from a policy file to the tuple that Policy holds."""
    return tuple(value) if isinstance(value, list) else value


def backchannels_of(value: Any) -> Any:
    """Convert a language code, such as "de", to the backchannels of that language. A value that is no text is returned
    unchanged. Raises ValueError for an unknown code.
    """
    if not isinstance(value, str):
        return value
    if value not in BACKCHANNELS:
        known = ", ".join(BACKCHANNELS)
        raise ValueError(f"no phrases for the language {value!r}: one of {known}, or a list of phrases")
    return BACKCHANNELS[value]


@lru_cache(maxsize=64)
def _normalised(phrases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(spoken for phrase in phrases if (spoken := normal(phrase)))


def ends_with(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text ends with one of these phrases, word by word."""
    if not phrases:
        return False
    words = normal(text)
    return any(
        words.endswith(phrase) and _is_boundary(words, len(words) - len(phrase)) for phrase in _normalised(phrases)
    )


def consists_of(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text is nothing but a few of these phrases, such as "yeah okay". An empty text is not."""
    words = normal(text)
    if not words or not phrases or len(spans(words)) > _LONGEST_WORDS:
        return False
    reached = {0}
    for at in range(len(words)):
        if at in reached:
            reached |= {_next_word(words, at + len(one)) for one in _normalised(phrases) if words.startswith(one, at)}
    return len(words) in reached


def _next_word(words: str, end: int) -> int:
    """Return where the next word begins after a phrase that ends at index `end` of `words`: behind the blank, or
    len(words) at the end of the text; -1 if `end` is within a word, so that the phrase does not end there.

    Returns `end` in scripts without blanks: ICU takes a repetition such as 嗯嗯 for one word, so a phrase may end
    between any two characters.
    """
    if words[end : end + 1] == " ":
        return end + 1
    is_unspaced = _UNSPACED.match(words, end - 1) and _UNSPACED.match(words, end)
    return end if end == len(words) or is_unspaced else -1


def may_become(partial: str, phrases: tuple[str, ...]) -> bool:
    """Whether a partial transcript consists of these phrases, or is the beginning of one. Then only later words can
    show whether the user says more than such a phrase.
    """
    heard = normal(partial)
    return bool(heard) and (
        consists_of(partial, phrases) or any(phrase.startswith(heard) for phrase in _normalised(phrases))
    )
