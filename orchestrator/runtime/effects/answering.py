"""The AnswerQuestion effect: cuts an answer that arrives in pieces into texts, and reports each complete text."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from events.inputs import AnswerText, RagAnswered
from orchestrator.runtime.effects.speech import Say
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Answer, Attempt, has_words
from orchestrator.services.sentences import Sentences
from orchestrator.session.state import ANSWER_CHARS

QUIET_S = 1.0
"""Timeout for the next piece of an answer, in seconds. After it, the words of an incomplete sentence are spoken."""


async def answer(pieces: AsyncGenerator[str | Answer, None], attempt: Attempt, language: str, say: Say) -> None:
    """Report an answer that arrives in pieces: ANSWER_TEXT for each text that can be spoken, then RAG_ANSWERED.

    Cancelling this coroutine closes `pieces`, so that the request to the answer service ends. Raises ServiceError if
    the service fails, or if the answer has more than ANSWER_CHARS characters.

    Args:
        pieces: the answer as the service writes it. An `Answer` is a piece of text with the sources of the answer. If
            no words came before an `Answer`, that `Answer` is the whole answer, and RAG_ANSWERED alone reports it.
        attempt: one try at answering the question. It holds the texts that earlier attempts have reported; these texts
            are not reported again.
        language: ISO 639 code of the language in which the answer is cut into sentences.
        say: reports an event.

    """
    texts = _Texts(attempt, Sentences(language), say)
    attempt.speak_now = texts.speak_now
    sources: tuple[str, ...] = ()
    async with aclosing(pieces):
        try:
            async for piece in pieces:
                if isinstance(piece, Answer):
                    sources = piece.sources
                    if texts.is_empty:
                        say(RagAnswered, answer=piece.answer, sources=sources)
                        return
                    piece = piece.answer  # words came before, so this text continues them
                texts.add(piece)
                await asyncio.sleep(0)  # many pieces that are there at once must not block other tasks
        finally:
            texts.stop_waiting()
    texts.end()
    say(RagAnswered, answer="", sources=sources)


class _Texts:
    """Cuts one attempt at an answer into texts, and reports the texts that no earlier attempt has reported."""

    def __init__(self, attempt: Attempt, sentences: Sentences, say: Say) -> None:
        self._attempt = attempt
        self._said = "".join(attempt.said)
        self._repeated = ""
        """The text of this attempt, while it only repeats the text of earlier attempts; afterwards empty."""
        self._skip = 0
        self._sentences = sentences
        self._say = say
        self._index = len(attempt.said)
        self._length = len(self._said)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no attempt has reported a text, and no words wait to be reported."""
        return not self._index and not self._sentences.has_words

    def add(self, piece: str) -> None:
        self.stop_waiting()
        new = self._new(piece)
        self._check_length(self._sentences.waiting_chars + len(new))
        for text in self._sentences.feed(new):
            self._report(text)
        if self._sentences.has_words:
            self._timer = asyncio.get_running_loop().call_later(QUIET_S, self.speak_now)

    def end(self) -> None:
        """Report the text that is still waiting. Text without words, such as punctuation, is left out, unless it is the
        whole answer.
        """
        rest = self._sentences.flush()
        if rest and (has_words(rest) or not self._index):
            self._report(rest)
        self._check_length()

    def stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _new(self, piece: str) -> str:
        """Return the text to report when a piece of the answer arrives: the piece itself, with two exceptions.

        - While this attempt only repeats the text of earlier attempts: nothing. When this attempt's text becomes
          longer: the text after the repeated text.
        - When this attempt's text begins to differ: all text of this attempt. `_report` then skips as many texts as
          earlier attempts have reported.

        If the service continues the text of earlier attempts (`Attempt.resumes`), there are no exceptions.
        """
        if self._attempt.resumes or not self._said:
            return piece
        self._repeated += piece
        if self._said.startswith(self._repeated):
            return ""
        new, before = self._repeated, self._said
        self._said = self._repeated = ""
        if new.startswith(before):
            return new[len(before) :]
        self._skip = self._index  # this attempt differs from the earlier ones
        return new

    def _report(self, text: str) -> None:
        if self._skip:
            self._skip -= 1
            return
        self._length += len(text)
        if self._length > ANSWER_CHARS:
            return  # `add` or `end` then raises the error, by `_check_length`
        self._say(AnswerText, index=self._index, text=text)
        self._index += 1

    def _check_length(self, more: int = 0) -> None:
        if self._length + more > ANSWER_CHARS:
            problem = f"the answer has more than {ANSWER_CHARS} characters"
            raise ServiceError(problem, in_our_words=problem)

    def speak_now(self) -> None:
        """Report the words that wait for the rest of their sentence."""
        self.stop_waiting()
        if self._sentences.has_words:
            self._report(self._sentences.flush())
