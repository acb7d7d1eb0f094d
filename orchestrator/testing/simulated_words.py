"""What a simulated user says, and how it is understood: words over time, silences in between, and mere sounds."""

from dataclasses import dataclass
from random import Random

BACKCHANNELS = ("uh huh", "yeah", "mm hmm", "okay", "right", "I see")
GOODBYE = "bye"
PLEASE = "please"
SHORT_US = (60_000, 400_000)
LONG_US = (600_000, 2_500_000)
MURMUR_US = (2_000_000, 7_000_000)
NOTICED_US = (50_000, 250_000)
"""How long voice activity seems to go on after the last sound."""
HESITATION_US = (20_000, 1_600_000)


@dataclass(frozen=True, slots=True)
class Word:
    """One word, so long after the one before it, or after the onset."""

    text: str
    after_us: int
    is_told: bool
    """A partial follows it."""
    misheard: str = ""
    """What it is taken for at first."""


@dataclass(frozen=True, slots=True)
class Speech:
    """What is said at a stretch: between its parts the user is silent for a while; a part without words is a sound."""

    parts: tuple[tuple[Word, ...], ...]
    silences_us: tuple[int, ...] = ()
    tails_us: tuple[int, ...] = ()
    """How long voice activity goes on after the last word of each part."""
    looks_complete: bool = False
    """The recogniser says so with the last word."""
    is_revised: bool = False
    """The final has another last word than the last partial."""


def said(chance: Random, name: str) -> Speech:
    """An utterance of some new words; of a question politely put, or of a goodbye, now and then."""
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
    """Two words without any difficulty."""
    words = tuple(Word(f"{name}{letter}", 200_000, is_told=True) for letter in "ab")
    return Speech((words,), (), (200_000,))


def backchannel(chance: Random) -> Speech:
    """A sign of listening, or two."""
    return _speech(chance, [chance.choice(BACKCHANNELS).split() * chance.choice((1, 1, 1, 2))])


def cough(chance: Random) -> Speech:
    """A sound that has no words."""
    return Speech(((),), (), (chance.randrange(*chance.choice((SHORT_US, SHORT_US, LONG_US))),))


def coughs(chance: Random) -> Speech:
    """Several short sounds in a row."""
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


def intent_of(text: str) -> str:
    """What the intent service makes of an utterance."""
    return "goodbye" if GOODBYE in text.lower().replace(".", "").split() else "small_talk"
