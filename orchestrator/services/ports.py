"""The four ports: what a conversation asks of the outside world, as typed protocols.

Each port is filled by an object of the user's, by a plain Python function (text_functions.py), or by the HTTP contract
of docs/services.md (see http_clients.py). A port raises ServiceError, and nothing else, when it cannot answer; a call
that is cancelled stops its work at once.
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol


class ServiceError(Exception):
    """A service refused, broke, or answered something unreadable. The message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that was said in the conversation: by the user, or by the agent as far as the user heard it."""

    role: Literal["agent", "user"]
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a text service is asked. `idempotency_key` is the same for each attempt at the same question.

    `conversation` is what was said before `text`, the last 40 lines of it at most; the answer service alone gets it.
    """

    text: str
    session_id: str = ""
    turn: int = 0
    idempotency_key: str = ""
    conversation: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Intent:
    """What the user wants, as a name; `confidence_permille` is 0 to 1000."""

    intent: str
    confidence_permille: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent will say, and the names of the documents it comes from."""

    answer: str
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of the text and where in the whole synthesis it begins, in milliseconds of audio."""

    text: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """A piece of synthesised speech, about 200 ms: 16-bit little-endian mono PCM at `sample_rate_hz`."""

    pcm: bytes
    sample_rate_hz: int
    words: tuple[SpokenWord, ...] = field(default=())

    @property
    def duration_ms(self) -> int:
        return len(self.pcm) * 1000 // (2 * self.sample_rate_hz)


class IntentPort(Protocol):
    """Says what the user wants."""

    async def classify(self, request: Request) -> Intent: ...


class AnswerPort(Protocol):
    """Says what the agent answers."""

    async def answer(self, request: Request) -> Answer: ...


class TextToSpeechPort(Protocol):
    """Turns text into speech, chunk by chunk, as soon as each is there. Closing the generator ends the synthesis."""

    def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]: ...


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was understood of the current utterance: a partial that may change, or the final."""

    text: str
    is_final: bool
    elapsed_us: int = 0
    """Of a final: from `finish` to the result."""
    is_complete: bool = False
    """Of a partial: the recogniser itself thinks that the user is done (a known phrase, an eager end of turn)."""


class Recognizer(Protocol):
    """Speech-to-text for one microphone. At most one utterance is open at a time.

    `start` opens an utterance, `feed` takes 16 kHz mono s16le PCM of any length, `finish` closes it: exactly one
    final Transcript follows (its text may be empty). `cancel` closes it without a result. None of them blocks.
    Results arrive through the callback given to SpeechToTextPort.open, on the event loop.
    """

    def start(self) -> None: ...
    def feed(self, pcm: bytes) -> None: ...
    def finish(self) -> None: ...
    def cancel(self) -> None: ...
    async def close(self) -> None: ...


class SpeechToTextPort(Protocol):
    """Opens recognisers, one per media connection."""

    async def open(
        self, on_transcript: Callable[[Transcript], None], on_error: Callable[[str], None]
    ) -> Recognizer: ...
