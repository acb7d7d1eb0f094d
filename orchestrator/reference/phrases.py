"""Converts written phrases into pocketsphinx input: sentences of known words, a dictionary, a language model.

Imported by the recogniser's own process only.
"""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pocketsphinx
from pocketsphinx.lm import ArpaBoLM

_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)*|\d+")
_NUMBERS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
"""
_ONES, _TENS = _NUMBERS.split()[:20], _NUMBERS.split()[20:]

# Pronunciations that the English dictionary lacks: of hesitation sounds and of domain words.
_PRONOUNCED_ALSO = {
    "erm": ("ER M",),
    "mmm": ("M", "AH M"),
    "uhm": ("AH M",),
    "vegan": ("V IY G AH N",),
}
_HESITATIONS = ("um", "mmm", "uh")
_WEIGHT_OF_PLAIN = 3


@dataclass(frozen=True, slots=True)
class Domain:
    """The sentences that can be recognised, the pronunciations of their words, and the words without pronunciation."""

    sentences: tuple[str, ...]
    pronunciations: tuple[str, ...]
    """Lines of a pocketsphinx dictionary: a word (or word(2)) and its phones."""
    missing: tuple[str, ...]


def acoustic_model() -> str:
    """The folder of the English acoustic model in the pocketsphinx wheel."""
    return _model_path("en-us/en-us")


def general_language_model() -> str:
    return _model_path("en-us/en-us.lm.bin")


def full_dictionary() -> str:
    return _model_path("en-us/cmudict-en-us.dict")


def learn(phrases: Iterable[str]) -> Domain:
    """Reduce the dictionary to the words of the phrases. Words missing from the dictionary are dropped from phrases."""
    spoken = [tuple(spoken_words(phrase)) for phrase in phrases]
    wanted = {word for words in spoken for word in words} | {*_HESITATIONS, "please"}
    # A dictionary with all words takes seconds to load, one with these words takes milliseconds.
    lines = (*_dictionary_lines(wanted), *_extra_lines(wanted))
    known = {line.split(None, 1)[0].split("(")[0] for line in lines}
    sentences = (" ".join(word for word in words if word in known) for words in spoken)
    return Domain(tuple(dict.fromkeys(filter(None, sentences))), lines, tuple(sorted(wanted - known)))


def spoken_words(phrase: str) -> Iterator[str]:
    """The words of a phrase as spoken: lower case, no punctuation, numbers below 100 spelled out."""
    for token in _WORD.findall(phrase.lower()):
        if token.isdigit() and int(token) < 100:
            yield from _number(int(token))
        else:
            yield token.replace("’", "'")


def hesitating(domain: Domain) -> tuple[str, ...]:
    """The sentences with spoken variants: weighted plain ones, some after an "um", some with a "please"."""
    known = {line.split(None, 1)[0] for line in domain.pronunciations}
    started = [f"{sound} {text}" for text in domain.sentences for sound in _HESITATIONS if sound in known]
    asked = [f"{text} please" for text in domain.sentences if "please" in known]
    return (*domain.sentences * _WEIGHT_OF_PLAIN, *started, *asked)


def arpa(sentences: Iterable[str], discount: float) -> str:
    """A back-off trigram model of the sentences in ARPA format; `discount` is the probability mass of unseen orders."""
    model = ArpaBoLM(text="\n".join(sentences), add_start=True, discount_mass=discount)
    model.compute()
    written = io.StringIO()
    model.write(written)
    return written.getvalue()


def grammar(sentences: Iterable[str]) -> str:
    """A JSGF grammar that accepts exactly these sentences."""
    return f"#JSGF V1.0;\ngrammar phrases;\npublic <phrase> = {' | '.join(sentences)};\n"


def _model_path(name: str) -> str:
    return str(pocketsphinx.get_model_path(name))  # type: ignore[no-untyped-call]


def _number(value: int) -> Iterator[str]:
    if value < len(_ONES):
        yield _ONES[value]
        return
    yield _TENS[value // 10 - 2]
    if value % 10:
        yield _ONES[value % 10]


def _dictionary_lines(wanted: set[str]) -> Iterator[str]:
    with Path(full_dictionary()).open(encoding="utf-8") as lines:
        for line in lines:
            if line.split(None, 1)[0].split("(")[0] in wanted:
                yield line.rstrip("\n")


def _extra_lines(wanted: set[str]) -> Iterator[str]:
    for word in sorted(wanted & _PRONOUNCED_ALSO.keys()):
        # Variant numbers start at 7, above those of the dictionary's own variants.
        for number, phones in enumerate(_PRONOUNCED_ALSO[word], start=7):
            yield f"{word}({number}) {phones}"
