"""Several providers for one port: who is asked, when, and what the breakers remember."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import pytest

from orchestrator.safe_log import SafeLog
from orchestrator.services import fallback
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
from orchestrator.services.ports import Answer, Intent, Request, Speaker, SpeechChunk, Transcript

CHUNK = SpeechChunk(bytes(640), 16_000)


@dataclass
class Peer:
    """A provider of every port, by name. `does`: fine, fails, hangs, or breaks (in the middle)."""

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
        if self.does == "hangs":
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left += 1

    async def classify(self, request: Request) -> Intent:
        await self._answer()
        return Intent(self.name)

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        await self._answer()
        yield self.name
        if self.does == "breaks":
            raise ServiceError(f"{self.name} broke")

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        await self._answer()
        yield CHUNK
        if self.does == "breaks":
            raise ServiceError(f"{self.name} broke")

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

    def start(self) -> None: ...
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
    return "".join([str(piece) async for piece in port.stream(Request("hello", session_id))])


@dataclass
class Scene:
    """A primary and a second provider of a port, and the switches that were reported."""

    failures: int = 3
    switches: list[Switch] = field(default_factory=list)
    now_s: float = 1_000

    def __post_init__(self) -> None:
        self.first, self.second = Peer("first"), Peer("second")
        self.health = Health(self.switches.append, lambda: self.now_s)

    def providers(self, patience_s: float = 0.05) -> Providers[Peer]:
        return Providers("answer", [self.first, self.second], self.health, patience_s, self.failures)


@pytest.mark.parametrize("does", ["fails", "hangs"])
async def test_the_next_provider_answers_when_one_fails_or_is_late(does: str) -> None:
    """Within the time that the first one has; its request is closed. The session's switch is reported once."""
    scene = Scene()
    scene.first.does = does
    intents, answers = FallbackIntent(scene.providers()), FallbackAnswer(scene.providers())
    assert (await intents.classify(Request("hello", "s1"))).intent == "second"
    assert [await said(answers, "s1"), await said(answers, "s1")] == ["second"] * 2
    assert scene.first.left == (3 if does == "hangs" else 0)
    assert [switch.provider for switch in scene.switches] == ["second", "second"], "one for each of the two services"
    why = "first: nothing within 0.05 s" if does == "hangs" else "first is down"
    assert scene.switches[0] == Switch("s1", "answer", "second", why)


async def test_the_error_of_the_last_provider_is_the_error() -> None:
    """And the last one has all the time that is left: its port and the policy limit it."""
    scene = Scene()
    scene.first.does = scene.second.does = "fails"
    with pytest.raises(ServiceError, match="second is down"):
        await said(FallbackAnswer(scene.providers()), "s1")
    assert (scene.first.asked, scene.second.asked, scene.switches) == (1, 1, [])


async def test_a_breaker_spares_a_provider_that_fails() -> None:
    """Open after three failures of any sessions; half open after a pause: one request tries; closed when it is fine."""
    scene = Scene()
    scene.first.does = "fails"
    answers = FallbackAnswer(scene.providers())

    async def asked(session: str) -> str:
        return await said(answers, session)

    for session in ("s1", "s2", "s3", "s4", "s5"):
        assert await asked(session) == "second"
    assert (scene.first.asked, scene.health.broken) == (3, 1)
    scene.now_s += fallback.FIRST_PAUSE_S
    assert await asked("s1") == await asked("s1") == "second"
    assert (scene.first.asked, scene.health.broken) == (4, 1), "the trial failed: the pause is twice as long"
    scene.now_s += fallback.FIRST_PAUSE_S
    assert (await asked("s1"), scene.first.asked) == ("second", 4)
    scene.first.does = "fine"
    scene.now_s += fallback.FIRST_PAUSE_S
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
    scene.now_s += fallback.FIRST_PAUSE_S
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


@pytest.mark.parametrize("does", ["fails", "hangs"])
async def test_speech_that_does_not_begin_is_anothers(does: str) -> None:
    """The first chunk decides."""
    scene = Scene()
    scene.first.does = does
    speech = FallbackTextToSpeech(scene.providers())
    assert [chunk async for chunk in speech.synthesize(Request("hello", "s1"))] == [CHUNK]
    assert (scene.first.asked, scene.second.asked, len(scene.switches)) == (1, 1, 1)


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


@pytest.mark.parametrize("trouble", ["reports", "hangs", "raises"])
async def test_a_recogniser_that_breaks_is_followed_by_another_providers(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reports an error, gives no final, or raises: the one that is opened next is the second provider's."""
    scene = Scene(failures=1)
    monkeypatch.setattr(fallback, "_OVERDUE_S", 0)
    hearing = FallbackSpeechToText(scene.providers())
    heard: list[str] = []
    errors: list[str] = []

    async def open_one() -> fallback.Recognizer:
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
