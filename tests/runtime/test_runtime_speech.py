"""The Speak effect: words with their times, waiting for somebody who can hear, pausing and resuming."""

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import pytest

from events import inputs
from events.derived import CommandIssued
from events.envelope import Input
from events.inputs import PlaybackDone, PlaybackStarted, TtsChunkReady
from orchestrator.runtime.effects import Effects, Services
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.timers import Timers
from orchestrator.services.http_clients import open_session
from orchestrator.services.http_speech import HttpTextToSpeech
from orchestrator.services.ports import Request, SpeechChunk, SpokenWord
from orchestrator.services.reference.server import ReferenceServer
from orchestrator.services.reference.speech import EspeakSpeech
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
    """A real synthesis by espeak-ng, over real HTTP, into the events: every word once, each later than the last."""
    text = "We serve breakfast, soup, sandwiches and cake."
    stubs = Stubs()
    async with open_session() as http, ReferenceServer(stubs, stubs, EspeakSpeech()) as server:
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
