"""Several providers for one port: who is asked, when, and what the breakers remember."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from orchestrator.safe_log import SafeLog
from orchestrator.services import breaker, ports
from orchestrator.services.breaker import FIRST_PAUSE_S
from orchestrator.services.failures import ServiceError
from orchestrator.services.fallback import (
    FallbackAnswer,
    FallbackIntent,
    FallbackSpeechToText,
    FallbackTextToSpeech,
    Health,
    Providers,
    Switch,
)
from orchestrator.services.ports import (
    Answer,
    Intent,
    Request,
    Speaker,
    SpeechChunk,
    SpokenWord,
    Transcript,
    VoiceListener,
)

CHUNK = SpeechChunk(bytes(640), 16_000)
NO_SOUND = SpeechChunk(b"", 16_000, (SpokenWord("hello", 0),))


async def cancelled() -> None:
    """Await a task of the provider's own that it has cancelled."""
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task


@dataclass
class Peer:
    """A provider of every port, by name. `does`: fine, fails, is cancelled, hangs; breaks, raises, is cut off or stalls
    in the middle; gives no chunk, empty chunks or endless empty chunks.
    """

    name: str
    does: str = "fine"
    asked: int = 0
    left: int = 0
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    recognizers: list["Recognizer"] = field(default_factory=list)

    async def _answer(self) -> None:
        self.asked += 1
        if self.does == "fails":
            raise ServiceError(f"{self.name} is down")
        if self.does == "is cancelled":
            await cancelled()
        if self.does == "hangs":
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left += 1

    async def _goes_on(self) -> None:
        if self.does == "breaks":
            raise ServiceError(f"{self.name} broke")
        if self.does == "raises":
            raise RuntimeError(f"{self.name} raised")
        if self.does == "is cut off":
            await cancelled()
        if self.does == "stalls":
            self.hanging.set()
            await asyncio.Event().wait()

    async def classify(self, request: Request) -> Intent:
        await self._answer()
        return Intent(self.name)

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        await self._answer()
        yield self.name
        await self._goes_on()

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        await self._answer()
        while self.does == "endless empty chunks":
            yield NO_SOUND
            await asyncio.sleep(0)
        if self.does == "empty chunks":
            yield NO_SOUND
            yield NO_SOUND
        if self.does in ("no chunk", "empty chunks"):
            return
        yield CHUNK
        await self._goes_on()

    async def open(
        self, on_transcript: Callable[[Transcript], None], on_error: Callable[[str], None], speaker: Speaker
    ) -> "Recognizer":
        await self._answer()
        self.recognizers.append(Recognizer(self, on_transcript, on_error))
        return self.recognizers[-1]


@dataclass
class Recognizer:
    """Answers every utterance with its provider's name, unless that hangs by now."""

    peer: Peer
    transcribe: Callable[[Transcript], None]
    fail: Callable[[str], None]

    voiced: list[bool] = field(default_factory=list)

    def start(self) -> None: ...
    def voice(self, is_speaking: bool) -> None:
        self.voiced.append(is_speaking)

    def feed(self, pcm: bytes) -> None: ...
    def cancel(self) -> None: ...

    def finish(self) -> None:
        if self.peer.does == "raises":
            raise RuntimeError("no more")
        if self.peer.does != "hangs":
            self.transcribe(Transcript(self.peer.name, is_final=True))

    async def close(self) -> None: ...


async def said(port: FallbackAnswer, session_id: str = "") -> str:
    """The answer to hello."""
    async with asyncio.timeout(5):
        return "".join([str(piece) async for piece in port.stream(Request("hello", session_id))])


async def spoken(port: FallbackTextToSpeech, text: str = "hello") -> list[SpeechChunk]:
    async with asyncio.timeout(5):
        return [chunk async for chunk in port.synthesize(Request(text, "s1"))]


@dataclass
class Scene:
    """A primary and a second provider of a port, and the switches that were reported."""

    failures: int = 3
    switches: list[Switch] = field(default_factory=list)
    now_s: float = 1_000
    _answers: FallbackAnswer | None = None
    _speech: FallbackTextToSpeech | None = None

    def __post_init__(self) -> None:
        self.first, self.second = Peer("first"), Peer("second")
        self.health = Health(self.switches.append, lambda: self.now_s)

    def providers(self, patience_s: float = 0.05) -> Providers[Peer]:
        return Providers("answer", [self.first, self.second], self.health, patience_s, self.failures)

    def answers(self, patience_s: float = 0.05) -> FallbackAnswer:
        self._answers = self._answers or FallbackAnswer(self.providers(patience_s))
        return self._answers

    def speech(self) -> FallbackTextToSpeech:
        self._speech = self._speech or FallbackTextToSpeech(self.providers())
        return self._speech


@pytest.mark.parametrize("does", ["fails", "is cancelled", "hangs"])
async def test_the_next_provider_answers_when_one_fails_or_is_late(does: str) -> None:
    """Within the time that the first one has; its request is closed. The session's switch is reported once."""
    scene = Scene()
    scene.first.does = does
    intents, answers = FallbackIntent(scene.providers()), FallbackAnswer(scene.providers())
    assert (await intents.classify(Request("hello", "s1"))).intent == "second"
    assert [await said(answers, "s1"), await said(answers, "s1")] == ["second"] * 2
    assert scene.first.left == (3 if does == "hangs" else 0)
    assert [switch.provider for switch in scene.switches] == ["second", "second"], "one for each of the two services"
    why = {"hangs": "first: nothing within 0.05 s", "is cancelled": "first was cancelled from within"}
    assert scene.switches[0] == Switch("s1", "answer", "second", why.get(does, "first is down"))


async def test_the_error_of_the_last_provider_is_the_error() -> None:
    """And the last one has all the time that is left: its port and the policy limit it."""
    scene = Scene()
    scene.first.does = scene.second.does = "fails"
    with pytest.raises(ServiceError, match="second is down"):
        await said(FallbackAnswer(scene.providers()), "s1")
    assert (scene.first.asked, scene.second.asked, scene.switches) == (1, 1, [])


@pytest.mark.parametrize("does", ["fails", "is cancelled"])
async def test_a_breaker_spares_a_provider_that_fails(does: str) -> None:
    """Open after three failures of any sessions; half open after a pause: one request tries; closed when it is fine."""
    scene = Scene()
    scene.first.does = does
    answers = FallbackAnswer(scene.providers())

    async def asked(session: str) -> str:
        return await said(answers, session)

    for session in ("s1", "s2", "s3", "s4", "s5"):
        assert await asked(session) == "second"
    assert (scene.first.asked, scene.health.broken) == (3, 1)
    scene.now_s += FIRST_PAUSE_S
    assert await asked("s1") == await asked("s1") == "second"
    assert (scene.first.asked, scene.health.broken) == (4, 1), "the trial failed: the pause is twice as long"
    scene.now_s += FIRST_PAUSE_S
    assert (await asked("s1"), scene.first.asked) == ("second", 4)
    scene.first.does = "fine"
    scene.now_s += FIRST_PAUSE_S
    assert (await asked("s1"), await asked("s2"), scene.health.broken) == ("first", "first", 0)
    reported = [(switch.session_id, switch.provider) for switch in scene.switches]
    assert reported == [*((f"s{number}", "second") for number in range(1, 6)), ("s1", "first"), ("s2", "first")]
    assert scene.health.switches == 7


async def test_while_a_trial_runs_nobody_else_waits_for_it() -> None:
    """And a trial that is cancelled leaves the next request to try."""
    scene = Scene(failures=1)
    scene.first.does = "fails"
    answers = FallbackAnswer(scene.providers(patience_s=10))
    await said(answers)
    scene.now_s += FIRST_PAUSE_S
    scene.first.does = "hangs"
    trial = asyncio.create_task(said(answers))
    await asyncio.wait_for(scene.first.hanging.wait(), 5)
    assert await said(answers) == "second"
    assert scene.first.asked == 2
    trial.cancel()
    await asyncio.wait([trial])
    scene.first.does = "fine"
    assert await said(answers) == "first"


async def test_when_all_breakers_are_open_all_are_asked() -> None:
    """An attempt is better than none."""
    scene = Scene(failures=1)
    scene.first.does = scene.second.does = "fails"
    answers = FallbackAnswer(scene.providers())
    for _ in range(2):
        with pytest.raises(ServiceError):
            await said(answers)
    scene.first.does = "fine"
    assert await said(answers) == "first"


@pytest.mark.parametrize("does", ["fails", "is cancelled", "hangs"])
async def test_speech_that_does_not_begin_is_anothers(does: str) -> None:
    """The first chunk decides."""
    scene = Scene()
    scene.first.does = does
    speech = FallbackTextToSpeech(scene.providers())
    assert [chunk async for chunk in speech.synthesize(Request("hello", "s1"))] == [CHUNK]
    assert (scene.first.asked, scene.second.asked, len(scene.switches)) == (1, 1, 1)


@pytest.mark.parametrize("does", ["fails", "hangs"])
async def test_a_blank_piece_is_no_beginning(does: str) -> None:
    """Language models send an empty one first. Nobody has heard anything of that answer: the next provider has its
    turn. The blank pieces of one that goes on are kept.
    """

    class Blank(Peer):
        async def stream(self, request: Request) -> AsyncGenerator[str, None]:
            yield ""
            yield " "
            await self._answer()
            yield "first"

    for what, words in ((does, "second"), ("fine", " first")):
        scene = Scene()
        scene.first = Blank("first", what)
        assert await said(FallbackAnswer(scene.providers()), "s1") == words


async def test_an_answer_that_breaks_later_is_an_error() -> None:
    """The user has heard its beginning."""
    scene = Scene(failures=1)
    scene.first.does = "breaks"
    answers = FallbackAnswer(scene.providers())
    with pytest.raises(ServiceError, match="first broke"):
        await said(answers)
    assert (scene.second.asked, await said(answers)) == (0, "second")


async def test_speech_that_breaks_later_is_an_error() -> None:
    """The user has heard its beginning. The next answer is another provider's."""
    scene = Scene(failures=1)
    scene.first.does = "breaks"
    speech = FallbackTextToSpeech(scene.providers())
    chunks = speech.synthesize(Request("hello"))
    assert await anext(chunks) == CHUNK
    with pytest.raises(ServiceError, match="first broke"):
        await anext(chunks)
    scene.second.does = "fine"
    assert [chunk async for chunk in speech.synthesize(Request("hello"))] == [CHUNK]
    assert scene.second.asked == 1


@pytest.mark.parametrize("does", ["breaks", "raises", "is cut off"])
@pytest.mark.parametrize("listen", [lambda scene: said(scene.answers()), lambda scene: spoken(scene.speech())])
async def test_a_provider_that_always_breaks_later_opens_its_breaker(
    does: str, listen: Callable[["Scene"], Awaitable[object]]
) -> None:
    """Its first piece is no success; also of an exception that is no ServiceError."""
    scene = Scene()
    scene.first.does = does
    for _ in range(3):
        with pytest.raises((ServiceError, RuntimeError), match="first"):
            await listen(scene)
    await listen(scene)
    assert (scene.first.asked, scene.second.asked) == (3, 1)


async def test_an_answer_that_stalls_is_a_failure_when_it_is_given_up() -> None:
    """By the policy's deadline for the next text."""
    scene = Scene(failures=1)
    scene.first.does = "stalls"
    answers = scene.answers()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(said(answers), 0.3)
    assert await said(answers) == "second"


@pytest.mark.parametrize("waits", [True, False])
async def test_an_answer_that_is_interrupted_is_a_success(waits: bool) -> None:
    """Where it waits for the next piece, or at a piece: one failure before it is not the first of two in a row."""
    scene = Scene(failures=2)
    answers = scene.answers(patience_s=10)
    for _ in range(2):
        scene.first.does = "breaks"
        with pytest.raises(ServiceError):
            await said(answers)
        scene.first.does = "stalls"
        scene.first.hanging.clear()
        if waits:
            listening = asyncio.create_task(said(answers))
            await asyncio.wait_for(scene.first.hanging.wait(), 5)
            listening.cancel()
            await asyncio.wait([listening])
        else:
            async with aclosing(answers.stream(Request("hello"))) as pieces:
                assert await anext(pieces) == "first"
    assert (scene.first.asked, scene.second.asked, scene.health.broken) == (4, 0, 0)


@pytest.mark.parametrize("does", ["no chunk", "empty chunks", "endless empty chunks"])
async def test_speech_without_sound_is_anothers(does: str) -> None:
    """For a text with words it is a failure of the provider. The last one's is the error."""
    scene = Scene()
    scene.first.does = does
    speech = scene.speech()
    assert await spoken(speech) == [CHUNK]
    assert scene.switches[0].reason == "no sound for a text with words; does the voice know the language?"
    await spoken(speech)
    await spoken(speech)
    assert (scene.first.asked, scene.second.asked, scene.health.broken) == (3, 3, 1)
    scene.second.does = does
    with pytest.raises(ServiceError, match="no sound for a text with words"):
        await spoken(speech)


async def test_speech_of_a_text_without_words_may_have_no_sound() -> None:
    """An emoji: nobody else is asked."""
    scene = Scene(failures=1)
    speech = scene.speech()
    scene.first.does = "no chunk"
    assert await spoken(speech, "👍") == []
    scene.first.does = "empty chunks"
    assert await spoken(speech, "👍") == [NO_SOUND, NO_SOUND]
    assert (scene.second.asked, scene.health.broken) == (0, 0)


async def test_words_before_the_first_sound_are_kept() -> None:
    scene = Scene()

    async def words_first(_: Request) -> AsyncGenerator[SpeechChunk, None]:
        yield NO_SOUND
        yield CHUNK

    scene.first.synthesize = words_first  # type: ignore[method-assign]
    assert await spoken(scene.speech()) == [NO_SOUND, CHUNK]


async def test_a_session_that_comes_to_a_broken_provider_is_told_why() -> None:
    """Its breaker was opened by other sessions, whose words the reason leaves out. Empty means that it is back."""
    scene = Scene(failures=1)
    scene.first.does = "fails"
    answers = scene.answers()
    await said(answers, "s1")
    await said(answers, "s2")
    assert [switch.reason for switch in scene.switches] == [
        "first is down",
        "first has failed before (the service failed)",
    ]
    scene.first.does = "fine"
    scene.now_s += FIRST_PAUSE_S
    await said(answers, "s2")
    assert scene.switches[-1] == Switch("s2", "answer", "first", "")


@pytest.mark.parametrize("does", ["fails", "is cancelled", "hangs"])
async def test_a_recogniser_that_does_not_open_is_anothers(does: str) -> None:
    scene = Scene(failures=1)
    scene.first.does = does
    heard: list[str] = []
    hearing = FallbackSpeechToText(scene.providers())
    recognizer = await hearing.open(lambda told: heard.append(told.text), heard.append, Speaker("s1"))
    recognizer.finish()
    assert (heard, scene.health.broken) == (["second"], 1)


@pytest.mark.parametrize("trouble", ["reports", "hangs", "raises"])
async def test_a_recogniser_that_breaks_is_followed_by_another_providers(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports an error, gives no final, or raises: the one that is opened next is the second provider's."""
    scene = Scene(failures=1)
    monkeypatch.setattr(breaker, "_OVERDUE_S", 0)
    hearing = FallbackSpeechToText(scene.providers())
    heard: list[str] = []
    errors: list[str] = []

    async def open_one() -> ports.Recognizer:
        return await hearing.open(lambda told: heard.append(told.text), errors.append, Speaker("s1"))

    recognizer = await open_one()
    recognizer.start()
    recognizer.finish()
    assert heard == ["first"]
    if trouble == "reports":
        scene.first.recognizers[0].fail("the connection broke")
        assert errors == ["the connection broke"]
    else:
        scene.first.does = trouble
        recognizer.start()
        try:
            recognizer.finish()
        except RuntimeError:
            assert trouble == "raises"
    await recognizer.close()
    recognizer = await open_one()
    recognizer.start()
    recognizer.finish()
    assert heard == ["first", "second"]
    assert [switch.provider for switch in scene.switches] == ["second"]


async def test_opening_a_recogniser_is_no_success() -> None:
    """Each utterance fails: the pause is twice as long each time, until one has a final."""
    scene = Scene(failures=1)
    hearing = FallbackSpeechToText(scene.providers())

    async def utters(does: str) -> str:
        """Open a recogniser and finish an utterance. Returns the provider."""
        asked, scene.first.does = scene.first.asked, does
        recognizer = await hearing.open(lambda _: None, lambda _: None, Speaker("s1"))
        recognizer.start()
        with suppress(RuntimeError):
            recognizer.finish()
        await recognizer.close()
        return "first" if scene.first.asked > asked else "second"

    for pause_s in (FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S):
        assert await utters("raises") == "first"
        scene.now_s += pause_s - 1
        assert await utters("fine") == "second"
        scene.now_s += 1
    assert await utters("fine") == "first"
    assert scene.health.broken == 0
    assert scene.switches[0].reason == "first has failed before (first: its recogniser raised RuntimeError)"


async def test_a_recogniser_of_a_silent_caller_keeps_nobody_from_the_provider() -> None:
    """It is the trial, and never decides: another one follows when it is closed, or after a pause."""
    scene = Scene(failures=1)
    hearing = FallbackSpeechToText(scene.providers())

    async def opens() -> tuple[ports.Recognizer, int]:
        recognizer = await hearing.open(lambda _: None, lambda _: None, Speaker("s1"))
        return recognizer, scene.first.asked

    await opens()
    scene.first.recognizers[0].fail("it broke")
    scene.now_s += FIRST_PAUSE_S
    silent, asked = await opens()
    assert (asked, (await opens())[1]) == (2, 2)
    await silent.close()
    assert (await opens())[1] == 3
    scene.now_s += FIRST_PAUSE_S
    assert (await opens())[1] == 4


async def test_a_recogniser_hears_when_the_speaker_falls_silent() -> None:
    """Through the fallback, as `media` tells it; one that does not listen for it is told nothing."""
    scene = Scene()
    recognizer = await FallbackSpeechToText(scene.providers()).open(lambda _: None, lambda _: None, Speaker("s1"))
    assert isinstance(recognizer, VoiceListener)
    recognizer.voice(False)
    assert scene.first.recognizers[0].voiced == [False]
    deaf = SimpleNamespace()
    watch = breaker.Watch(lambda _: None, lambda _: None, breaker.Breaker(1, lambda: 0), "deaf")
    breaker.WatchedRecognizer(deaf, watch).voice(False)  # type: ignore[arg-type]


async def test_the_log_does_not_quote_a_provider_where_words_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    """Its error may repeat the user's words."""
    caplog.set_level(logging.WARNING)
    scene = Scene()
    scene.health.note(Switch("s1", "answer", "second", "she said bananas"))
    record = caplog.records[-1]
    SafeLog().filter(record)
    assert "answer is second from now on" in record.getMessage()
    assert "bananas" not in record.getMessage()


def test_equal_names_get_numbers() -> None:
    """So that a log says which one."""
    providers = Providers("answer", [Peer("a"), Peer("b"), Peer("a")], Health(lambda _: None), 1)
    assert [provider.name for provider in providers.in_turn()] == ["a", "b", "a 2"]
