"""The reference intent service: what a text means, by its likeness to example phrases."""

import re
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter

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
_NEGATION = re.compile(r"\bnot\b(?! (?:i|you|he|she|it|we|they|there)\b)")
"""Does not match "can't I cancel", which asks the same as "can I cancel"."""
_COURTESY = re.compile(
    r"^(?:great|perfect|wonderful|all ?right)\b|\byou too\b"
    r"|\b(?:(?:no|many) )?(?:thanks|thank you)(?:(?: so| very)? much| a lot)?(?: for (?:your help|everything))?\b"
)
_MAX_CHARACTERS = 300
_THRESHOLD_PERMILLE = 700
_WHOLE_PERCENT = 85
"""Least value of both ratios for an intent with `whole: true`. Words of courtesy are not compared."""
_REMEMBERED = 64


class _Example:
    """A phrase of an intent, normalized."""

    def __init__(self, text: str, intent: IntentExamples) -> None:
        self.text = text
        self.intent = intent
        self.is_negated = is_negated(text)
        self.affirmed = _affirmed(text)
        self.sorted_words = _sorted_words(self.affirmed)


class PhraseIntents:
    """IntentPort by example phrases; below the threshold (permille) the intent is "unknown"."""

    def __init__(self, intents: Iterable[IntentExamples], fillers: Iterable[str] = ()) -> None:
        self._fillers = frozenset(fillers)
        examples = [_Example(self.normalize(text), intent) for intent in intents for text in intent.examples]
        self._exact = {one.text: one.intent.name for one in reversed(examples)}  # the first of equals wins
        self._whole = [one for one in examples if one.intent.is_whole]
        self._partial = [one for one in examples if not one.intent.is_whole]
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
        plain = " ".join(_COURTESY.sub("", spoken).split())
        found = (
            self._likeliest(spoken, self._partial),
            self._likeliest(plain or spoken, self._whole, least=_WHOLE_PERCENT),
        )
        permille, likeliest = max(found, key=itemgetter(0))
        return Intent(likeliest if permille >= _THRESHOLD_PERMILLE else UNKNOWN, permille)

    def _likeliest(self, spoken: str, examples: list[_Example], least: int = 0) -> tuple[int, str]:
        """Permille: half for sharing words (so that a part of a phrase counts), half for not saying more than that.
        Both halves must reach `least` percent.
        """
        likeliest, best = UNKNOWN, 0.0
        negated, affirmed = is_negated(spoken), _affirmed(spoken)
        spoken_sorted = _sorted_words(affirmed)
        shared = process.extract(
            affirmed, [one.affirmed for one in examples], scorer=fuzz.token_set_ratio, score_cutoff=least, limit=None
        )
        for _, share, at in shared:
            if share + 100 <= best:  # sorted: no later one can win any more
                break
            example = examples[at]
            # The ratio of sorted words is the token sort ratio, without sorting them again for each example.
            ratio = fuzz.ratio(spoken_sorted, example.sorted_words, score_cutoff=max(least, best - share))
            counts = example.is_negated == negated or not example.intent.heeds_not
            if counts and ratio >= least and share + ratio > best:
                likeliest, best = example.intent.name, share + ratio
        return round(5 * best), likeliest

    def normalize(self, text: str) -> str:
        """Lower case, short forms in full, no punctuation, no fillers (unless there is nothing else)."""
        spoken = text[:_MAX_CHARACTERS].lower().replace("’", "'")
        for short, full in _SHORT_FORMS:
            spoken = short.sub(full, spoken)
        words = _WORD.findall(spoken)
        return " ".join([word for word in words if word not in self._fillers] or words)


def is_negated(normalized: str) -> bool:
    """Whether a normalized text says "not", other than in a question such as "can't I cancel"."""
    return bool(_NEGATION.search(normalized))


def _affirmed(normalized: str) -> str:
    """The text without "not". Likeness ignores the word; `heeds_not` decides whether it matters."""
    return " ".join(word for word in normalized.split() if word != "not")


def _sorted_words(text: str) -> str:
    return " ".join(sorted(text.split()))
