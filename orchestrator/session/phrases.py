"""Normalises and compares texts, divides them into words, counts the words. Lists backchannels in several languages."""

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
"""Language (ISO 639-1 code) → words that a listener says without wanting to speak (Yngve 1970: back channels)."""
_LONGEST_WORDS: Final = 6
"""Limit of words in a text of backchannels. A user who says more words interrupts, even if all are backchannels."""

_TELLING: Final = re.compile(r"""[^A-Za-z0-9\s!?;.,:'"-]|[.,:][0-9]|[0-9]"|\B'|'\B|-(?![A-Za-z]{2})""", re.ASCII)
"""Matches texts that need the slow normalisation (`_normal`), because they may hold more than ASCII words and
punctuation.
"""
_NOT_WORDS: Final = re.compile(r"[^a-z0-9']+")
_OTHER_VALUES: Final = ("<super>", "<sub>", "<fraction>")
"""Kinds of characters that stay as they are, because the Unicode form NFKC changes their meaning: it turns 2² into 22.
"""
_SPOKEN_PUNCTUATION: Final = frozenset("#%&*/@\\·‰‱′″‴†‡٪٫٬")
"""Characters that Unicode calls punctuation, but that people say aloud."""
_LAYOUT: Final = (
    *("\u00ad", "\u061c", "\u200b", "\u200e", "\u200f", "\u2060", "\ufe0e", "\ufe0f", "\ufeff"),
    *map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
)
"""Characters that only change how a text is laid out."""
_TYPED: Final = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\uff07\u00b4`", "'") | dict.fromkeys(_LAYOUT, ""))
"""Translates all forms of the apostrophe to one, and removes the invisible characters in _LAYOUT."""
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
    """Normalise a text for comparison: remove case, punctuation, invisible characters and surplus blanks. If two
    normalised texts are equal, the texts are spoken alike.

    Signs that people say, or may say, stay (3+2, C#, 5:30, -5, 👍), and so do combining marks. Without such a sign, two
    different questions could be equal, and the user could get the answer to the wrong question.
    """
    if _TELLING.search(text):
        return _normal(text)
    return _NOT_WORDS.sub(" ", text.lower()).strip()


@lru_cache(maxsize=256)
def _normal(text: str) -> str:
    """Normalise a text by all rules of `normal`. Slow: `normal` calls it only for texts that match _TELLING."""
    spoken = "".join(map(_spelled, _folded(text.translate(_TYPED)).translate(_TYPED)))
    if not any(char.isnumeric() or _is_symbol(char) for char in spoken):
        spoken = _BRACKETS.sub(" ", spoken)
    spoken = _DASH.sub(_hyphen, _PUNCTUATION.sub(" ", spoken))
    return "" if _SILENT.issuperset(spoken) else " ".join(spoken.split())


def _folded(text: str) -> str:
    """Give each character one spelling: lower case, normal width, no ligatures, composed (NFC)."""
    if not is_normalized("NFKC", text):
        plain = (_compatible(char) for char in normalize("NFC", text))
        text = "".join(plain)
    return normalize("NFC", normalize("NFD", text).casefold())


def _compatible(char: str) -> str:
    return char if decomposition(char).startswith(_OTHER_VALUES) else normalize("NFKC", char)


def _spelled(char: str) -> str:
    """Return the character that stands for `char` in comparisons. It is a blank for a separator, an underscore, or
    punctuation beyond ASCII that is not said aloud; "-" for any dash or minus; "~" for a wave dash; otherwise `char`
    itself.
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
    """Return the replacement for a match of _DASH: a blank for a dash that nobody says, else the match itself.

    Two kinds of dash are not said. First, before two or more letters, within a word or between blanks ("well-known",
    "wait - no"). Second, at the end of the text after a blank ("wait -"). Any other dash may be said, as "minus" or
    "to", such as in "-5", "3-2" and "wait- no".
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
    """Whether two texts have the same words. Texts without words, such as "..." and "?!", must be equal as written."""
    return one == other or (bool(spoken := normal(one)) and spoken == normal(other))


def spans(text: str, *, in_utf16: bool = False) -> list[tuple[int, int]]:
    """Return the start and end index of each word of a text. Blanks separate words; in scripts without blanks, the
    dictionaries of ICU divide the text. Punctuation belongs to the word before it.

    `in_utf16`: the indices count UTF-16 units within scripts without blanks, as they did before state schema 7. They
    are then too high after an emoji or another character beyond U+FFFF.
    """
    if text.isascii():
        return [word.span() for word in _BETWEEN_BLANKS.finditer(text)]
    found: list[tuple[int, int]] = []
    for piece in _BETWEEN_BLANKS.finditer(text):
        found += _cut(piece[0], piece.start(), in_utf16) if _UNSPACED.search(piece[0]) else [piece.span()]
    return found


def _cut(piece: str, offset: int, in_utf16: bool) -> list[tuple[int, int]]:
    from icu4py.breakers import WordBreaker  # imported here: it takes 15 ms, and few texts need it

    found: list[tuple[int, int]] = []
    encodable = piece.encode(errors="replace").decode()
    segments = WordBreaker(encodable, "en").segments()  # indices of UTF-16 units
    if not in_utf16:
        index_of = [at for at, char in enumerate(piece) for _ in range(1 + (char > "\uffff"))] + [len(piece)]
        segments = ((index_of[start], index_of[end]) for start, end in segments)
    for start, end in segments:
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
    """Whether a word of a normalised text begins or ends at index `at`."""
    if at in (0, len(words)) or " " in words[at - 1 : at + 1]:
        return True
    return bool(_UNSPACED.match(words, at)) and any(start == at for start, _ in spans(words))


def phrases_of(value: Any) -> Any:
    """Convert a list from a policy file to the tuple that Policy holds. Any other value is returned unchanged."""
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
    """Whether a text ends with one of these phrases, as whole words: "install" does not end with "all"."""
    if not phrases:
        return False
    words = normal(text)
    return any(
        words.endswith(phrase) and _is_boundary(words, len(words) - len(phrase)) for phrase in _normalised(phrases)
    )


def consists_of(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether a text consists of these phrases alone, such as "yeah okay" or "yeah yeah". False for an empty text, and
    for a text of more than _LONGEST_WORDS words.
    """
    words = normal(text)
    if not words or not phrases or len(spans(words)) > _LONGEST_WORDS:
        return False
    reached = {0}
    for at in range(len(words)):
        if at in reached:
            reached |= {_next_word(words, at + len(one)) for one in _normalised(phrases) if words.startswith(one, at)}
    return len(words) in reached


def _next_word(words: str, end: int) -> int:
    """Return the index at which the next word of `words` begins, after a phrase that ends at index `end`. At the end of
    the text, this is len(words). Returns -1 if `end` is within a word: then no phrase ends there.

    In scripts without blanks, such as Chinese, a phrase may end between any two characters.
    """
    if words[end : end + 1] == " ":
        return end + 1
    # Not by the dictionary of `spans`: it takes a repetition such as 嗯嗯 for one word.
    is_unspaced = _UNSPACED.match(words, end - 1) and _UNSPACED.match(words, end)
    return end if end == len(words) or is_unspaced else -1


def may_become(partial: str, phrases: tuple[str, ...]) -> bool:
    """Whether a partial consists of these phrases, or is the beginning of one of them."""
    heard = normal(partial)
    return bool(heard) and (
        consists_of(partial, phrases) or any(phrase.startswith(heard) for phrase in _normalised(phrases))
    )
