"""Generates the speech of a simulated user, and how it is understood: timed words, silences, sounds without words."""

import re
from dataclasses import dataclass
from random import Random
from unicodedata import normalize

BACKCHANNELS = ("uh huh", "yeah", "mm hmm", "okay", "right", "I see")
GOODBYE = "bye"
PLEASE = "please"
SHORT_US = (60_000, 400_000)
LONG_US = (600_000, 2_500_000)
MURMUR_US = (2_000_000, 7_000_000)
NOTICED_US = (50_000, 250_000)
"""Range of the time for which voice activity is still detected after the last sound."""
HESITATION_US = (20_000, 1_600_000)
SCRIPTS: dict[str, tuple[str, ...]] = {
    "latin": tuple("abcdefgh"),
    "signs": tuple("+#%&*@=/"),
    "emoji": ("👍", "👎", "👍🏽", "❤", "🎉", "🔥", "👨‍💻", "🇩🇪"),
    "accents": tuple(normalize("NFC", f"a{mark}") for mark in "\u0300\u0301\u0303\u0309\u0323\u0302\u0306\u030a"),
    "devanagari": ("क", "का", "कि", "की", "कु", "कू", "के", "को"),
    "arabic": ("ك", "كَ", "كُ", "كِ", "كّ", "كً", "كٌ", "٥"),
    "hebrew": ("ש", "שׁ", "שׂ", "שָ", "שֶ", "שִ", "שֹ", "שּ"),
}
"""Script → spellings of the letters a to h at the end of a word. Some words differ only in marks or signs."""
_NEW_WORD = re.compile(r"([a-z]\d+)([a-h])([xz]?)")


@dataclass(frozen=True, slots=True)
class Word:
    """One word, `after_us` after the previous word, or after the onset of the part."""

    text: str
    after_us: int
    is_told: bool
    """Whether a partial follows the word."""
    misheard: str = ""
    """The wrong word in the first partial; empty: understood correctly."""


@dataclass(frozen=True, slots=True)
class Speech:
    """One utterance: parts with silences between them. A part without words is a sound."""

    parts: tuple[tuple[Word, ...], ...]
    silences_us: tuple[int, ...] = ()
    tails_us: tuple[int, ...] = ()
    """How long voice activity goes on after the last word of each part."""
    looks_complete: bool = False
    """Whether the partial of the last word has `is_complete`."""
    is_revised: bool = False
    """Whether the final has another last word than the last partial."""


def said(chance: Random, name: str) -> Speech:
    """Draw an utterance of new words. Sometimes it ends with "please" or "bye"."""
    count = chance.randrange(1, 6)
    words = [f"{name}{letter}" for letter in "abcdefgh"[:count]]
    if chance.random() < 0.15:
        words.append(PLEASE)
    elif chance.random() < 0.2:
        words.append(GOODBYE)
    parts = [words]
    if count > 1 and chance.random() < 0.35:
        at = chance.randrange(1, count)
        parts = [words[:at], words[at:]]
    if chance.random() < 0.08:
        parts.insert(0, [])
    return _speech(chance, parts, murmurs=chance.random() < 0.06)


def plain(name: str) -> Speech:
    """Two words that are understood at once and correctly."""
    words = tuple(Word(f"{name}{letter}", 200_000, is_told=True) for letter in "ab")
    return Speech((words,), (), (200_000,))


def backchannel(chance: Random) -> Speech:
    """Draw a backchannel, spoken once or twice."""
    return _speech(chance, [chance.choice(BACKCHANNELS).split() * chance.choice((1, 1, 1, 2))])


def cough(chance: Random) -> Speech:
    """Draw a sound without words."""
    return Speech(((),), (), (chance.randrange(*chance.choice((SHORT_US, SHORT_US, LONG_US))),))


def coughs(chance: Random) -> Speech:
    """Draw several short sounds in a row."""
    count = chance.randrange(3, 12)
    silences_us = tuple(chance.randrange(300_000, 900_000) for _ in range(count - 1))
    return Speech(((),) * count, silences_us, tuple(chance.randrange(*SHORT_US) for _ in range(count)))


def _speech(chance: Random, parts: list[list[str]], *, murmurs: bool = False) -> Speech:
    tails_us = [chance.randrange(*NOTICED_US) for _ in parts]
    if murmurs:
        tails_us[-1] = chance.randrange(*MURMUR_US)
    told = chance.choice((0.3, 0.7, 1.0))
    return Speech(
        tuple(tuple(_word(chance, word, told) for word in part) for part in parts),
        tuple(chance.randrange(*HESITATION_US) for _ in parts[1:]),
        tuple(tails_us),
        looks_complete=chance.random() < 0.2,
        is_revised=chance.random() < 0.1,
    )


def _word(chance: Random, text: str, told: float) -> Word:
    misheard = f"{text}x" if chance.random() < 0.1 else ""
    return Word(text, chance.randrange(100_000, 300_000), chance.random() < told, misheard)


def written(text: str, script: str) -> str:
    """Rewrite the new words of a text in another script."""
    letters = SCRIPTS[script]
    return _NEW_WORD.sub(lambda word: word[1] + letters["abcdefgh".index(word[2])] + word[3], text)


def intent_of(text: str) -> str:
    """The simulated intent service: the intent of an utterance."""
    return "goodbye" if GOODBYE in text.lower().replace(".", "").split() else "small_talk"
