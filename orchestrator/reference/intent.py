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
)
_MAX_CHARACTERS = 300
_THRESHOLD_PERMILLE = 700
_REMEMBERED = 64


class PhraseIntents:
    """IntentPort by example phrases; below the threshold (permille) the intent is "unknown"."""

    def __init__(self, intents: Iterable[IntentExamples], fillers: Iterable[str] = ()) -> None:
        self._fillers = frozenset(fillers)
        self._examples = [(self.normalize(example), intent.name) for intent in intents for example in intent.examples]
        self._texts = [text for text, _ in self._examples]
        self._sorted_texts = [_sorted_words(text) for text in self._texts]
        self._exact = dict(reversed(self._examples))  # the first of equals wins
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
        """Permille: half for sharing words (so that a part of a phrase counts), half for not saying more than that."""
        likeliest, best = UNKNOWN, 0.0
        spoken_sorted = _sorted_words(spoken)
        shared = process.extract(spoken, self._texts, scorer=fuzz.token_set_ratio, limit=None)
        for _, share, at in shared:
            if share + 100 <= best:  # sorted: no later one can win any more
                break
            # The ratio of sorted words is the token sort ratio, without sorting them again for each example.
            likeness = share + fuzz.ratio(spoken_sorted, self._sorted_texts[at], score_cutoff=max(0.0, best - share))
            if likeness > best:
                likeliest, best = self._examples[at][1], likeness
        return likeliest, round(5 * best)

    def normalize(self, text: str) -> str:
        """Lower case, short forms in full, no punctuation, no fillers (unless there is nothing else)."""
        spoken = text[:_MAX_CHARACTERS].lower().replace("’", "'")
        for short, full in _SHORT_FORMS:
            spoken = short.sub(full, spoken)
        words = _WORD.findall(spoken)
        return " ".join([word for word in words if word not in self._fillers] or words)


def _sorted_words(text: str) -> str:
    return " ".join(sorted(text.split()))
