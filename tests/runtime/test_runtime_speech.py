"""The Speak effect: words with their times, waiting for somebody who can hear, pausing and resuming."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from itertools import pairwise
from typing import Any

import pytest

from events import inputs
from events.derived import CommandIssued
from events.envelope import Input
from events.inputs import PlaybackDone, PlaybackStarted, ServiceFailed, TtsChunkReady
from orchestrator.reference.natural_speech import NaturalSpeech
from orchestrator.reference.server import ReferenceServer
from orchestrator.runtime.effects.effects import Effects, Services
from orchestrator.runtime.effects.timers import Timers
from orchestrator.runtime.live_session import CALL_FOLLOWS_S, LiveSession
from orchestrator.services.failures import ListenerGone
from orchestrator.services.http_clients import open_session
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Request, SpeechChunk, SpokenWord
from orchestrator.services.speech_functions import text_to_speech_port
from orchestrator.session.commands import CancelTask, Command, PausePlayback, ResumePlayback, Speak, StopPlayback
from orchestrator.session.state import State
from tests.runtime.support import CHUNK, StubClient, StubHandler, Stubs, soon


class Scene:
    """A session in which commands are performed one by one, and everything that is reported about them."""

    def __init__(self, **ports: Any) -> None:
        self.stubs = Stubs()
        self.reported: list[Input] = []
        filled = {"intent": self.stubs, "answer": self.stubs, "text_to_speech": self.stubs} | ports
        self._effects = Effects(Services(speech_to_text=self.stubs, **filled), self.reported.append)
        self.live = LiveSession("s", State(session_id="s"), Timers("s", self.reported.append))

    def do(self, command: Command) -> None:
        self._effects.perform(
            self.live,
            CommandIssued(
                session_id="s", command_id="c", name=command.name, target=command.target, payload=command.payload()
            ),
        )

    def speak(self, text: str = "Hi!", from_ms: int = 0) -> None:
        self.do(Speak(ends="", from_ms=from_ms, playback_id="answer-1", text=text))

    async def spoken(self) -> list[TtsChunkReady]:
        """The chunks, when the playback is over."""
        await soon(lambda: any(isinstance(event, PlaybackDone) for event in self.reported))
        return [event for event in self.reported if isinstance(event, TtsChunkReady)]

    async def settled(self) -> None:
        """Let everything that can go on go on: what is left waits for something."""
        for _ in range(20):
            await asyncio.sleep(0)

    def kinds(self) -> list[type[Input]]:
        return [type(event) for event in self.reported]


@pytest.fixture
async def scene() -> Scene:
    return Scene()


class Words:
    """Speaks chunks of 100 ms, each with these words."""

    def __init__(self, *chunks: tuple[SpokenWord, ...]) -> None:
        self._chunks = chunks

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        for words in self._chunks:
            yield SpeechChunk(CHUNK.pcm, CHUNK.sample_rate_hz, words)


async def test_a_chunk_is_reported_with_the_words_that_begin_in_it() -> None:
    """As the synthesiser says, with times in the whole of the answer."""
    scene = Scene(text_to_speech=Words((SpokenWord("Hi!", 0), SpokenWord("How", 90)), (), (SpokenWord("are", 210),)))
    scene.live.handler = StubHandler()
    scene.speak()
    assert [event.words for event in await scene.spoken()] == [
        (inputs.SpokenWord(at_ms=0, text="Hi!"), inputs.SpokenWord(at_ms=90, text="How")),
        (),
        (inputs.SpokenWord(at_ms=210, text="are"),),
    ]


async def test_words_of_speech_that_was_heard_before_are_not_said_again() -> None:
    """A new owner goes on in the middle: the chunks that it skips were reported, and so were their words."""
    words = [(SpokenWord(f"word{number}", 100 * number),) for number in range(4)]
    scene = Scene(text_to_speech=Words(*words))
    scene.live.handler = StubHandler()
    scene.speak(from_ms=200)
    chunks = await scene.spoken()
    assert [event.index for event in chunks] == [0, 1]
    assert [(word.text, word.at_ms) for event in chunks for word in event.words] == [("word2", 200), ("word3", 300)]


async def test_speech_goes_on_at_the_sample_where_it_was_heard() -> None:
    """Also in the middle of a chunk: a service may give a whole answer as one."""
    pcm = b"".join(bytes([sample % 256, 0]) for sample in range(16 * 1_000))
    scene = Scene(text_to_speech=Whole(SpeechChunk(pcm, 16_000)))
    handler = scene.live.handler = RememberingHandler()
    scene.speak(from_ms=300)
    (chunk,) = await scene.spoken()
    assert chunk.duration_ms == 700
    assert b"".join(handler.written) == pcm[2 * 16 * 300 :]
    (complete,) = [event for event in scene.reported if isinstance(event, inputs.TtsComplete)]
    assert complete.duration_ms == 1_000


class Whole:
    """Speaks one chunk, whatever is asked."""

    def __init__(self, chunk: SpeechChunk) -> None:
        self._chunk = chunk

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        yield self._chunk


class RememberingHandler(StubHandler):
    """Keeps what is to be heard. Once it is broken, each playback over it is one that was stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.broken = False

    async def write(self, chunk: SpeechChunk) -> None:
        if self.broken:
            raise ListenerGone("answer-1")
        self.written.append(chunk.pcm)
        await super().write(chunk)


def nothing(text: str) -> Iterator[bytes]:
    yield from ()


async def nothing_async(text: str) -> AsyncGenerator[bytes, None]:
    for _ in range(3):
        yield b""


def no_result(text: str) -> None:
    """A function that has nothing to return."""


SILENT: dict[str, Any] = {
    "yields nothing": text_to_speech_port(nothing),
    "yields empty bytes": text_to_speech_port(nothing_async),
    "returns empty bytes": text_to_speech_port(lambda text: b""),
    "returns nothing": text_to_speech_port(no_result),
    "an empty chunk": Whole(SpeechChunk(b"", 16_000)),
    "an object with no chunk": Words(),
}


@pytest.mark.parametrize("port", SILENT)
async def test_an_answer_without_words_may_have_no_sound(port: str) -> None:
    """Whichever way a voice has nothing to say: it has been said, and no empty chunk is told of."""
    scene = Scene(text_to_speech=SILENT[port])
    scene.live.handler = SilentHandler()
    scene.speak("👍")
    assert await scene.spoken() == []
    assert scene.kinds() == [inputs.TtsComplete, PlaybackDone]


@pytest.mark.parametrize("port", SILENT)
async def test_an_answer_with_words_and_no_sound_is_a_failure(port: str) -> None:
    """Nobody hears it: the voice is not set up for it."""
    scene = Scene(text_to_speech=SILENT[port])
    scene.live.handler = SilentHandler()
    scene.speak("We are open.")
    await soon(lambda: bool(scene.reported))
    (failed,) = [event for event in scene.reported if isinstance(event, inputs.ServiceFailed)]
    assert "no sound" in failed.error or "expected bytes" in failed.error


class SilentHandler(StubHandler):
    """Has nothing to play."""

    async def write(self, chunk: SpeechChunk) -> None:
        assert not chunk.pcm


async def test_chunks_of_less_than_a_millisecond_add_up() -> None:
    """A voice may say its audio sample by sample: the length of the whole is right, and no chunk has no length."""
    scene = Scene(text_to_speech=text_to_speech_port(lambda text: [SpeechChunk(bytes(20), 16_000)] * 160))
    scene.live.handler = RememberingHandler()
    scene.speak("Hi!")
    chunks = await scene.spoken()
    assert sum(chunk.duration_ms for chunk in chunks) == 100
    assert {chunk.duration_ms for chunk in chunks} == {1}


async def test_a_playback_that_breaks_off_with_its_connection_is_no_failure(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of the connection is an event of its own, by which the core decides: nothing else is said about it."""
    handler = scene.live.handler = RememberingHandler()
    handler.broken = True
    scene.speak()
    await scene.settled()
    assert scene.kinds() == [TtsChunkReady]
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_second_attempt_takes_the_place_of_the_first(scene: Scene) -> None:
    """Where the core speaks on before the first has noticed that its connection is gone: one of them speaks."""
    first = scene.live.handler = StubHandler(plays_to_the_end=False)
    scene.speak()
    await scene.settled()
    second = scene.live.handler = StubHandler()
    scene.speak(from_ms=100)
    await scene.spoken()
    await soon(lambda: not scene.live.task()._stages)
    assert (first.told, second.told) == (["play answer-1"], ["play answer-1"])


class LeavingClient(StubClient):
    """Is gone before anything was shown to it."""

    async def show_reply(self, playback_id: str, text: str) -> None:
        self.shown.append(text)
        raise ListenerGone("gone")


async def test_a_text_that_was_not_shown_is_shown_to_the_next_client(scene: Scene) -> None:
    """However often the connection breaks; no failure of a service."""
    for number in range(4):
        leaving = scene.live.client = LeavingClient(f"browser-{number}")
        if number == 0:
            scene.speak("Hi!")
        await scene.settled()
        assert leaving.shown == ["Hi!"]
    staying = scene.live.client = StubClient()
    await scene.spoken()
    assert staying.shown == ["Hi!"]
    assert {*scene.kinds()} == {PlaybackStarted, PlaybackDone}


async def test_the_rest_is_played_in_the_call_that_follows_a_lost_one(scene: Scene) -> None:
    """Its client is there all the time; the call is waited for."""
    scene.live.client = client = StubClient()
    scene.live.handler = StubHandler()
    scene.live.handler = None
    scene.speak()
    await scene.settled()
    assert scene.reported == []
    scene.live.handler = handler = StubHandler("fastrtc_2")
    await scene.spoken()
    assert (handler.told, client.shown) == (["play answer-1"], [])


async def test_a_call_that_was_lost_long_ago_is_not_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next answer is shown at once."""
    scene.live.client = client = StubClient()
    scene.live.handler = StubHandler()
    scene.live.handler = None
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now + CALL_FOLLOWS_S + 1)
    scene.speak()
    await scene.settled()
    assert client.shown == ["Hi!"]


async def test_words_that_no_event_can_carry_cost_nobody_the_answer() -> None:
    """Too long, too many, before the beginning or days later: cut to what fits."""
    words = (SpokenWord("a" * 600, -5), SpokenWord("late", 10**12), *(SpokenWord("x", 1) for _ in range(600)))
    scene = Scene(text_to_speech=Words(words))
    scene.live.handler = StubHandler()
    scene.speak()
    (chunk,) = await scene.spoken()
    assert [(word.text, word.at_ms) for word in chunk.words[:2]] == [("a" * 500, 0), ("late", 24 * 3600 * 1000)]
    assert len(chunk.words) == 500


async def test_the_words_of_the_reference_voice_arrive_in_order_with_rising_times() -> None:
    """A real synthesis, over real HTTP, into the events: every word once, each later than the last."""
    text = "We serve breakfast, soup, sandwiches and cake."
    stubs = Stubs()
    async with open_session() as http, ReferenceServer(stubs, stubs, NaturalSpeech()) as server:
        scene = Scene(text_to_speech=HttpTextToSpeech(http, server.base_url))
        scene.live.handler = StubHandler()
        scene.speak(text)
        chunks = await scene.spoken()
    words = [word for event in chunks for word in event.words]
    assert [word.text for word in words] == text.split()
    assert all(word.at_ms < later.at_ms for word, later in pairwise(words))
    assert words[-1].at_ms < sum(event.duration_ms for event in chunks)


async def test_a_handler_is_told_to_pause_and_to_go_on(scene: Scene) -> None:
    """Both name their playback. Neither ends the stage that speaks."""
    handler = scene.live.handler = StubHandler(plays_to_the_end=False)
    scene.speak()
    await scene.settled()
    scene.do(PausePlayback(playback_id="answer-1"))
    scene.do(ResumePlayback(playback_id="answer-1"))
    assert handler.told == ["play answer-1", "pause answer-1", "resume answer-1"]
    scene.do(StopPlayback(playback_id="answer-1"))
    assert handler.told[-1] == "stop answer-1"
    scene.do(CancelTask())
    await soon(lambda: not scene.live.closing)


async def test_a_pause_may_reach_the_handler_before_its_playback_does(scene: Scene) -> None:
    """The stage has not begun yet when the next command is performed: the handler must remember."""
    handler = scene.live.handler = StubHandler()
    scene.speak()
    scene.do(PausePlayback(playback_id="answer-1"))
    await scene.spoken()
    assert handler.told == ["pause answer-1", "play answer-1"]


async def test_without_a_handler_there_is_nothing_to_pause(scene: Scene) -> None:
    """An answer that is shown as text is all there at once."""
    scene.live.client = StubClient()
    scene.speak()
    scene.do(PausePlayback(playback_id="answer-1"))
    scene.do(ResumePlayback(playback_id="answer-1"))
    assert await scene.spoken() == []


async def test_an_answer_waits_for_the_first_client(scene: Scene) -> None:
    """Nothing is said about it while nobody is there; then it is shown."""
    scene.speak("Hi!")
    await scene.settled()
    assert scene.reported == []
    client = scene.live.client = StubClient()
    await scene.spoken()
    assert client.shown == ["Hi!"]
    assert scene.kinds() == [PlaybackStarted, PlaybackDone]


async def test_an_answer_waits_for_the_first_handler(scene: Scene) -> None:
    """Where the call comes first, the answer is played."""
    scene.speak()
    await scene.settled()
    handler = scene.live.handler = StubHandler()
    assert len(await scene.spoken()) == 3
    assert handler.told == ["play answer-1"]


async def test_a_client_that_comes_and_goes_at_once_has_heard_nothing(scene: Scene) -> None:
    """Before the effect could go on it was gone: the wait goes on, and the next one is shown the answer."""
    scene.speak("Hi!")
    await scene.settled()
    hasty = scene.live.client = StubClient()
    scene.live.client = None
    await scene.settled()
    assert scene.reported == []
    client = scene.live.client = StubClient()
    await scene.spoken()
    assert (hasty.shown, client.shown) == ([], ["Hi!"])


async def test_an_answer_that_is_cancelled_while_it_waits_says_nothing(scene: Scene) -> None:
    """The deadline came, or the session moved on again: no failure, no task left."""
    scene.speak()
    await scene.settled()
    scene.do(CancelTask())
    await soon(lambda: not scene.live.closing)
    scene.live.client = client = StubClient()
    await scene.settled()
    assert scene.reported == []
    assert client.shown == []


class Pieces:
    """A synthesiser that has everything at once, and never ends by itself."""

    def __init__(self, *, pcm: bytes, silent_first: int = 0) -> None:
        self.given = 0
        self._pcm = pcm
        self._silent_first = silent_first

    async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
        while True:
            self.given += 1
            yield SpeechChunk(b"" if self.given <= self._silent_first else self._pcm, 16_000)


@pytest.mark.parametrize("pcm", [b"", b"\x00\x00", bytes(2 * 32)], ids=["empty", "a sample", "two milliseconds"])
async def test_a_synthesiser_that_never_gets_anywhere_is_refused(pcm: bytes) -> None:
    """The stage fails in words; until then the event loop is everybody's."""
    pieces = Pieces(pcm=pcm)
    scene = Scene(text_to_speech=pieces)
    scene.live.handler = StubHandler()
    scene.speak()
    turns = 0
    async with asyncio.timeout(5):
        while ServiceFailed not in scene.kinds():
            turns += 1
            await asyncio.sleep(0)
    (failed,) = [event for event in scene.reported if isinstance(event, ServiceFailed)]
    assert f"text-to-speech sent {pieces.given} chunks for" in failed.error
    assert pieces.given <= 400
    assert turns >= pieces.given - 1
    assert scene.kinds().count(TtsChunkReady) <= pieces.given * bool(pcm)


async def test_a_few_chunks_without_audio_cost_the_answer_nothing() -> None:
    """They are passed over: nothing is reported of them and nothing is played."""

    class Some:
        async def synthesize(self, request: Request) -> AsyncGenerator[SpeechChunk, None]:
            for chunk in (SpeechChunk(b"", 16_000), CHUNK, SpeechChunk(b"", 16_000), CHUNK):
                yield chunk

    scene = Scene(text_to_speech=Some())
    scene.live.handler = StubHandler()
    scene.speak()
    chunks = await scene.spoken()
    assert [(event.index, event.duration_ms) for event in chunks] == [(0, 100), (1, 100)]
