"""Cuts an answer that is still being written into texts to speak: sentences, or clauses where a sentence is long."""

import re

from orchestrator.services.ports import has_words
from orchestrator.session.heard import guessed_ms
from orchestrator.session.phrases import spans

LONG_MS = 7_000
"""Speech of this length is not kept waiting for the end of its sentence: it is cut after a clause."""
TOO_LONG_MS = 17_000
"""Speech of this length is cut between two words."""
_SHORTEST_CLAUSE_MS = 2_000

_CLAUSE_END = re.compile(r"[,;:،؛](?=\s)|\s[-–—](?=\s)|[、，；：]|\n|(?<=[\u0e00-\u109f\u1780-\u17ff])\s")
_CERTAIN_END = re.compile(r"[!?。！？।؟։]$|(?<![\w.])[^\W\d_]{2,}\.$")
"""The end of a text so far that no more of it can turn into something else, such as 3.50, e.g. or an ellipsis."""


class Sentences:
    """Takes the pieces of a text as they come, and gives back its sentences; joined, they are the text again.

    `language` is an ISO 639 code: its abbreviations end no sentence ("Dr. Smith", "z. B.").

        sentences = Sentences("en")
        assert sentences.feed("Dr. Smith is in. He") == ["Dr. Smith is in."]
        assert sentences.flush() == " He"
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self._pending = ""

    @property
    def waiting_chars(self) -> int:
        """Length of what waits for the end of its sentence, words or not."""
        return len(self._pending)

    @property
    def has_words(self) -> bool:
        """Whether words wait for the end of their sentence."""
        return has_words(self._pending)

    def feed(self, piece: str) -> list[str]:
        """Add a piece; returns the texts that are complete with it."""
        self._pending += piece
        texts: list[str] = []
        if not self.has_words:
            return texts
        while ends := self._sentence_ends(self._pending) or self._clause_end(self._pending):
            begin = 0
            for end in ends:
                if has_words(self._pending[begin:end]):  # signs without words go with what follows
                    texts.append(self._pending[begin:end])
                    begin = end
            if not begin:
                break
            self._pending = self._pending[begin:]
        return texts

    def flush(self) -> str:
        """Take the rest, complete or not."""
        rest, self._pending = self._pending, ""
        return rest

    def _clause_end(self, text: str) -> list[int]:
        """Where a text that is long without a sentence's end is cut; empty: it is not, yet."""
        length_ms = guessed_ms(text)
        if length_ms > LONG_MS:
            ends = [found.end() for found in _CLAUSE_END.finditer(text)]
            if ends and guessed_ms(text[: ends[-1]]) >= _SHORTEST_CLAUSE_MS:
                return ends[-1:]
        if length_ms <= TOO_LONG_MS:
            return []
        words = spans(text)
        return [words[-2][1] if len(words) > 1 else len(text)]  # a word without an end is cut anywhere

    def _sentence_ends(self, text: str) -> list[int]:
        """Where sentences end for certain."""
        from sentencex import get_sentence_boundaries  # loaded for answers that come in pieces

        def ends(text: str) -> list[int]:
            found = (boundary["end_index"] for boundary in get_sentence_boundaries(self._language, text))
            return [len(text[:end].rstrip()) for end in found if end < len(text)]

        ended = text.rstrip()
        if not _CERTAIN_END.search(ended):
            return ends(text)
        # It is a sentence if it does not matter what follows: after an abbreviation, a name or a number may.
        numbered = ends(f"{ended} 5")
        return [end for end in ends(f"{ended} Smith") if end in numbered]
