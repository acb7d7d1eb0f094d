"""The four ports (intent, answer, text-to-speech, speech-to-text): the protocols that a provider implements.

Each port is filled by an object of the user's, by a plain Python function (text_functions.py), or by the HTTP contract
of docs/services.md (see http_clients.py). A port raises ServiceError, and nothing else, when it cannot answer; a call
that is cancelled stops its work at once.

Values from a service are checked in the constructors below. A bad value would otherwise fail later, in an event, with
an error that names no service.
"""

import math
import re
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from orchestrator.services.failures import ServiceError
from orchestrator.services.journal import JournalPort, NoJournal
from orchestrator.session.conversation import Line

MAX_TEXT_CHARACTERS = 8_000
MAX_NAME_CHARACTERS = 500
MAX_SOURCES = 50
MIN_SAMPLE_RATE_HZ = 8_000
MAX_SAMPLE_RATE_HZ = 96_000

_MARKUP = re.compile(r"<[^<>]*>")


def well_formed(text: str) -> str:
    """The text with � for each lone surrogate: events, logs and clients cannot encode surrogates."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _text(value: Any, what: str, most: int) -> str:
    if not isinstance(value, str):
        raise ServiceError(f"{what} is {_kind(value)}; expected a text")
    if len(value) > most:
        raise ServiceError(f"{what} has {len(value)} characters; at most {most} are allowed")
    return well_formed(value)


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"of type {type(value).__name__}"


def _whole(value: Any, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return round(value)
    raise ServiceError(f"{what} is {value!r:.50}; expected a number")


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a text service. `idempotency_key` is the same for each attempt at the same question.

    `conversation` holds at most the last 40 lines before `text`; only the answer service gets it. `attempt` has the
    results of earlier attempts.
    """

    text: str
    session_id: str = ""
    turn: int = 0
    idempotency_key: str = ""
    conversation: tuple[Line, ...] = ()
    attempt: "Attempt" = field(default_factory=lambda: Attempt(), repr=False, compare=False)

    async def once(
        self, name: str, function: Callable[..., Any], *args: Any, cancellable: bool = False, **kwargs: Any
    ) -> Any:
        """Run a tool call that must not happen twice, and return its result as JSON gives it: lists, dicts, texts.

        The call is recorded before it runs, its result when it returns; a question that is asked again gets that. It
        runs to its end, also if the user interrupts, unless it is `cancellable`. If the process dies inside the call,
        it is run again, with the same key for a parameter `idempotency_key` of the function. `function` may be sync or
        async; its arguments and result are JSON of at most 8,000 characters. Raises ToolError if there is no result.

        ```python
        async def book(day: str, people: int) -> dict[str, int]:
            return {"table": 7}

        async def answer(request: Request) -> str:
            booked = await request.once("book", book, "Friday", people=2)
            return f"You have table {booked['table']}."
        ```
        """
        from orchestrator.services.once import once  # it needs this module

        return await once(self, name, function, args, kwargs, is_cancellable=cancellable)

    async def ask_model(self, ask: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Ask a model, and return its response as JSON gives it; `ask` returns a value or a ModelReply.

        A question that is asked again gets the recorded response: then the model cannot want other tools than before.
        Responses of more than 32,000 characters are not recorded. What `ask` raises is raised here.
        """
        from orchestrator.services.once import ask_model  # it needs this module

        return await ask_model(self, ask, args, kwargs)

    def resume(self) -> str:
        """The part of the answer that an earlier attempt gave, and that is spoken already; mostly empty.

        Calling it promises that the answer goes on from there. Without the promise, as many sentences are skipped as
        were given: a model that is asked again may say something else.
        """
        self.attempt.resumes = True
        return "".join(self.attempt.said)


@dataclass(slots=True)
class Attempt:
    """One attempt at a question: the texts that earlier ones gave, whether this one goes on from them, the record."""

    said: tuple[str, ...] = ()
    resumes: bool = False
    journal: JournalPort = field(default_factory=NoJournal)
    speak_now: Callable[[], None] = lambda: None
    """Speaks the words that wait for the rest of their sentence: a tool call may take a while."""

    def begin(self) -> None:
        """Ask another provider: what the one before has promised does not count."""
        self.resumes = False
        self.journal.begin()


@dataclass(frozen=True, slots=True)
class Intent:
    """The user's intent, as a name; `confidence_permille` is 0 to 1000."""

    intent: str
    confidence_permille: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "intent", _text(self.intent, "the intent", MAX_NAME_CHARACTERS))
        confidence = _whole(self.confidence_permille, "the confidence in permille")
        if not 0 <= confidence <= 1000:
            raise ServiceError(f"the confidence is {confidence} permille; expected 0 to 1000")
        object.__setattr__(self, "confidence_permille", confidence)


@dataclass(frozen=True, slots=True)
class Answer:
    """The agent's answer, and the names of its source documents."""

    answer: str
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", _text(self.answer, "the answer", MAX_TEXT_CHARACTERS))
        if not isinstance(self.sources, list | tuple):
            raise ServiceError(f"the sources are {_kind(self.sources)}; expected a list of names")
        sources = tuple(well_formed(str(source))[:MAX_NAME_CHARACTERS] for source in self.sources[:MAX_SOURCES])
        object.__setattr__(self, "sources", sources)


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of the text and its start in the whole synthesis, in milliseconds of audio."""

    text: str
    at_ms: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _text(self.text, "a word of the speech", MAX_TEXT_CHARACTERS))
        object.__setattr__(self, "at_ms", _whole(self.at_ms, f"the time of the word {self.text!r:.50}"))


@dataclass(frozen=True, slots=True)
class SpeechChunk:
    """A piece of synthesised speech, about 200 ms: 16-bit little-endian mono PCM at `sample_rate_hz`."""

    pcm: bytes
    sample_rate_hz: int
    words: tuple[SpokenWord, ...] = field(default=())

    def __post_init__(self) -> None:
        rate = self.sample_rate_hz
        if not isinstance(rate, int) or not MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ:
            expected = f"{MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}"
            raise ServiceError(f"the sample rate of the speech is {rate!r:.50}; expected {expected} Hz")
        if not isinstance(self.pcm, bytes):
            raise ServiceError(f"a chunk of speech is {_kind(self.pcm)}; expected bytes, two for each sample")

    @property
    def duration_ms(self) -> int:
        return self.duration_us // 1000

    @property
    def duration_us(self) -> int:
        return len(self.pcm) * 1_000_000 // (2 * self.sample_rate_hz)


SHORTEST_SOUND_US = 1000
"""Speech of a text with words that is shorter, in microseconds, counts as no sound."""


def has_words(text: str) -> bool:
    """Whether the text has a letter or digit outside of markup such as `<break/>`. Emoji, dots or dashes alone may have
    no sound.
    """
    return any(character.isalnum() for character in _MARKUP.sub("", text))


class IntentPort(Protocol):
    """Classifies the intent of a text."""

    async def classify(self, request: Request) -> Intent: ...


class AnswerPort(Protocol):
    """Answers a text: with one Answer, or with the pieces of a text as they are written.

    Pieces may have any length; they are joined, and spoken sentence by sentence. The last may be an Answer: its sources
    count, and its text is one more piece. Closing the generator ends the request: the user interrupted.
    """

    def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]: ...


class WholeAnswers(Protocol):
    """Answers a text with one Answer. `answer_port` makes an AnswerPort of it."""

    async def answer(self, request: Request) -> Answer: ...


class TextToSpeechPort(Protocol):
    """Turns text into speech; yields each chunk as soon as it is ready. Closing the generator ends the synthesis.

    A text without words may yield no chunk, or empty ones. For a text with words that is a failure.
    """

    def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]: ...


@dataclass(frozen=True, slots=True)
class Transcript:
    """The transcript of the current utterance: a partial that may change, or the final."""

    text: str
    is_final: bool
    elapsed_us: int = 0
    """For a final: time from `finish` to the result."""
    is_complete: bool = False
    """For a partial: the recogniser expects no more words (a known phrase, an eager end of turn)."""

    def __post_init__(self) -> None:
        """Cut the text at the limit: the user's first words are worth more than an error."""
        if not isinstance(self.text, str):
            raise ServiceError(f"the transcript is {_kind(self.text)}; expected a text")
        object.__setattr__(self, "text", well_formed(self.text)[:MAX_TEXT_CHARACTERS])


class Recognizer(Protocol):
    """Speech-to-text for one microphone. At most one utterance is open at a time.

    `start` opens an utterance, `feed` takes 16 kHz mono s16le PCM of any length, `finish` closes it: exactly one
    final Transcript follows (its text may be empty). `cancel` closes it without a result. None of them blocks. The next
    utterance may open before the final of the one before arrives; finals come in the order of the utterances.
    Results arrive through the callback given to SpeechToTextPort.open, on the event loop.

    `on_error` reports that this recogniser is broken, during or between utterances; no final follows. An exception from
    a method, or no final within five seconds of `finish`, counts the same. The caller then closes the recogniser and
    retries opening another until that succeeds. A recogniser need not reconnect by itself; if it does so without a
    loss, it reports nothing.
    """

    def start(self) -> None: ...
    def feed(self, pcm: bytes) -> None: ...
    def finish(self) -> None: ...
    def cancel(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose speech a recogniser hears: the session, and the language as a BCP 47 tag such as `de-DE`.

    An empty language means that nobody has named one (`ORCH_LANGUAGE`): the service uses its own.
    """

    session_id: str = ""
    language: str = ""


NO_SPEAKER = Speaker()


@runtime_checkable
class VoiceListener(Protocol):
    """What a Recognizer may have as well: `voice` is called when the speaker of the open utterance falls silent, be it
    for a breath, and when they go on. A recogniser that decodes then has its final ready when `finish` comes.
    """

    def voice(self, is_speaking: bool) -> None: ...


class SpeechToTextPort(Protocol):
    """Opens recognisers, one per media connection, and another one after each `on_error`.

    Raises ServiceError when it cannot: orch tries again with backoff while the call lasts.
    """

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> Recognizer: ...
