"""The reference intent service: what a text means, by its likeness to example phrases."""

import re
from collections.abc import Iterable
from functools import lru_cache

from rapidfuzz import fuzz, process

from orchestrator.reference.content import IntentExamples
from orchestrator.services.ports import Intent, Request

UNKNOWN = "unknown"

_WORD = re.compile(r"\w+(?:'\w+)*")
_SHORT_FORMS = (
    (re.compile(r"\bcan(?:'t|not)\b"), "can not"),
    (re.compile(r"\bwon't\b"), "will not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\b(what|where|when|who|how|that|there|it|he|she)'s\b"), r"\1 is"),
    (re.compile(r"'m\b"), " am"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'d\b"), " would"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"\bgood bye\b"), "goodbye"),
)
_NEGATED_QUESTION = re.compile(
    r"^((?:why )?(?:are|is|was|were|do|does|did|can|could|will|would|should|have|has))"
    r"(?: not( (?:i|you|he|she|it|we|they|there)\b)|( (?:i|you|he|she|it|we|they|there)) not\b)"
)
"""It asks the same without "not": "are you not open", "isn't there parking"."""
_MAX_CHARACTERS = 300
_THRESHOLD_PERMILLE = 700
_WHOLE_PERCENT = 85
"""Least value of both ratios for an intent that must be all that is said."""
_REMEMBERED = 64


class _Example:
    """A phrase of an intent, normalized."""

    def __init__(self, text: str, intent: IntentExamples) -> None:
        self.text = text
        self.negated, self.affirmed = is_negated(text), _affirmed(text)
        self.sorted_words = _sorted_words(self.affirmed)
        self.intent = intent


class PhraseIntents:
    """IntentPort by example phrases; below the threshold (permille) the intent is "unknown"."""

    def __init__(self, intents: Iterable[IntentExamples], fillers: Iterable[str] = ()) -> None:
        self._fillers = frozenset(fillers)
        examples = [_Example(self.normalize(text), intent) for intent in intents for text in intent.examples]
        self._exact = {one.text: one.intent.name for one in reversed(examples)}  # the first of equals wins
        self._examples = {negated: [one for one in examples if one.negated == negated] for negated in (False, True)}
        """Is negated → examples. "I will be able to come" shares all but one word with its opposite."""
        self._texts = {negated: [one.affirmed for one in ones] for negated, ones in self._examples.items()}
        # A turn asks twice: for its intent, and for its answer.
        self._match_normalized = lru_cache(_REMEMBERED)(self._match_normalized_once)

    async def classify(self, request: Request) -> Intent:
        return self.match(request.text)

    def match(self, text: str) -> Intent:
        """The likeliest intent of a text; at most 1 ms for 300 examples and any text."""
        return self._match_normalized(self.normalize(text))

    def _match_normalized_once(self, spoken: str) -> Intent:
        if spoken in self._exact:
            return Intent(self._exact[spoken], 1000)
        likeliest, permille = self._likeliest(spoken) if spoken else (UNKNOWN, 0)
        return Intent(likeliest if permille >= _THRESHOLD_PERMILLE else UNKNOWN, permille)

    def _likeliest(self, spoken: str) -> tuple[str, int]:
        """Permille: half for sharing words (so that a part of a phrase counts), half for not saying more than that. A
        negated text is compared with negated examples only, another text with the others.
        """
        likeliest, best = UNKNOWN, 0.0
        negated, affirmed = is_negated(spoken), _affirmed(spoken)
        spoken_sorted = _sorted_words(affirmed)
        shared = process.extract(affirmed, self._texts[negated], scorer=fuzz.token_set_ratio, limit=None)
        for _, share, at in shared:
            if share + 100 <= best:  # sorted: no later one can win any more
                break
            example = self._examples[negated][at]
            # The ratio of sorted words is the token sort ratio, without sorting them again for each example.
            ratio = fuzz.ratio(spoken_sorted, example.sorted_words, score_cutoff=max(0.0, best - share))
            counts = not example.intent.is_whole or min(share, ratio) >= _WHOLE_PERCENT
            if counts and share + ratio > best:
                likeliest, best = example.intent.name, share + ratio
        return likeliest, round(5 * best)

    def normalize(self, text: str) -> str:
        """Lower case, short forms in full, no punctuation, no fillers (unless there is nothing else), no negated
        questions.
        """
        spoken = text[:_MAX_CHARACTERS].lower().replace("’", "'")
        for short, full in _SHORT_FORMS:
            spoken = short.sub(full, spoken)
        words = _WORD.findall(spoken)
        text = " ".join([word for word in words if word not in self._fillers] or words)
        return _NEGATED_QUESTION.sub(r"\1\2\3", text)


def is_negated(normalized: str) -> bool:
    """Whether a normalized text says "not"."""
    return "not" in normalized.split()


def _affirmed(normalized: str) -> str:
    """The text without "not", which likeness leaves out: only texts that both have it, or neither, are compared."""
    return " ".join(word for word in normalized.split() if word != "not")


def _sorted_words(text: str) -> str:
    return " ".join(sorted(text.split()))
