"""Answers that stream: spoken sentence by sentence while they are written, and cancelled in the middle."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from events.derived import AnswerEnded, UserInterrupted
from events.inputs import (
    AnswerText,
    BargeIn,
    HandlerAttached,
    PlaybackDone,
    PlaybackProgress,
    ServiceFailed,
    SessionResumed,
    SttFinal,
    TtsChunkReady,
)
from orchestrator.runtime.live_session import LiveSession
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Request, SpeechChunk, SpokenWord
from tests.runtime.conftest import MakeNode
from tests.runtime.support import End, Running, StubHandler, soon

SAMPLE_RATE_HZ = 16_000


class Model:
    """Writes an answer, a piece at a time, each when it is let."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.requests: list[Request] = []
        self.closed = 0
        self.is_broken = False

    def writes(self, *pieces: str | None) -> None:
        """The next pieces; None: the end."""
        for piece in pieces:
            self.pieces.put_nowait(piece)

    def breaks(self) -> None:
        """It raises in the place of the next piece."""
        self.is_broken = True
        self.pieces.put_nowait("")

    async def stream(self, request: Request) -> AsyncGenerator[str, None]:
        self.requests.append(request)
        try:
            while (piece := await self.pieces.get()) is not None:
                if self.is_broken:
                    raise ServiceError("Model.stream raised ValueError: it broke")
                yield piece
        finally:
            self.closed += 1


class Voice:
    """Speaks each word of a text in 500 ms, and says when it begins."""

    def __init__(self) -> None:
        self.spoken: list[str] = []
        self.silent = ""
        """A text that it has no sound for."""

    async def synthesize(self, request: Request) -> AsyncIterator[SpeechChunk]:
        self.spoken.append(request.text)
        for number, word in enumerate(request.text.split() if request.text != self.silent else ()):
            yield SpeechChunk(bytes(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ, (SpokenWord(word, 500 * number),))


class Player(StubHandler):
    """A media connection whose playback advances when the test says so; a second of audio is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.written_ms = self.heard_ms = 0
        self._moved = asyncio.Event()

    def hears(self, ms: int) -> None:
        """The caller has heard so much of the answer."""
        assert self._progress is not None
        if self._start is not None:
            self._start()
            self._start = None
        self.heard_ms = ms
        self._progress(ms)
        self._moved.set()

    async def plays_to(self, ms: int) -> None:
        """The caller hears the answer up to here, at the pace at which it is written."""
        while self.heard_ms < ms:
            await soon(lambda: self.written_ms > self.heard_ms)
            self.hears(min(ms, self.written_ms))

    async def write(self, chunk: SpeechChunk) -> None:
        self.written_ms += chunk.duration_ms
        while self.written_ms > self.heard_ms + 1_000:
            self._moved.clear()
            await self._moved.wait()

    async def finish(self) -> End:
        while self.written_ms > self.heard_ms:
            self._moved.clear()
            await self._moved.wait()
        return End(position_ms=self.heard_ms)


async def in_a_call(running: Running) -> tuple[LiveSession, Model, Voice, Player]:
    live = await running.listening()
    model, voice, player = Model(), Voice(), Player()
    running.stubs.stream, running.stubs.synthesize = model.stream, voice.synthesize  # type: ignore[method-assign]
    live.handler = player
    running.node.report(HandlerAttached(session_id=live.session_id, handler_id=player.handler_id))
    running.node.report(SttFinal(session_id=live.session_id, text="tell me"))
    return live, model, voice, player


async def test_an_answer_is_spoken_while_it_is_written(running: Running) -> None:
    live, model, voice, player = await in_a_call(running)
    model.writes("We ", "are ", "open.")
    await running.watch.event(live.session_id, TtsChunkReady)
    assert voice.spoken == ["We are open."]
    model.writes(" Come", " in.", None)
    player.hears(600)
    await soon(lambda: voice.spoken[1:] == [" Come in."])
    player.hears(2_500)
    done = await running.watch.event(live.session_id, PlaybackDone)
    assert done.position_ms == 2_500
    await running.watch.phase(live.session_id, "LISTENING", 2)
    (ended,) = running.watch.all(live.session_id, AnswerEnded)
    assert (ended.heard_text, ended.heard_ms) == ("We are open. Come in.", 2_500)
    assert [event.text for event in running.watch.all(live.session_id, AnswerText)] == ["We are open.", " Come in."]


async def test_an_interruption_in_the_second_sentence_ends_the_request(running: Running) -> None:
    """The third is never synthesised, and the next question's conversation ends with the last word heard."""
    live, model, voice, player = await in_a_call(running)
    model.writes("One two three four.", " Five six seven eight nine ten.", " Eleven.")
    await running.watch.event(live.session_id, TtsChunkReady)
    await player.plays_to(2_600)
    await running.watch.event(live.session_id, TtsChunkReady, 6)
    running.node.report(BargeIn(session_id=live.session_id, position_ms=2_600))
    await running.watch.event(live.session_id, UserInterrupted)
    await soon(lambda: model.closed == 1)
    assert voice.spoken == ["One two three four.", " Five six seven eight nine ten."]
    running.node.report(SttFinal(session_id=live.session_id, text="what"))
    await soon(lambda: len(model.requests) == 2)
    assert [line.text for line in model.requests[1].conversation] == ["tell me", "One two three four. Five"]
    model.writes(None)


async def test_an_answer_that_breaks_off_ends_with_an_apology(running: Running) -> None:
    """What there is of it is heard."""
    live, model, voice, player = await in_a_call(running)
    model.writes("We are open.", " On Sundays")
    await running.watch.event(live.session_id, TtsChunkReady)
    model.breaks()
    await player.plays_to(1_500)
    await soon(lambda: len(voice.spoken) == 2)
    assert voice.spoken == ["We are open.", f" {live.state.policy.fallback.cut_off}"]
    assert running.watch.all(live.session_id, ServiceFailed)[0].error == "Model.stream raised ValueError: it broke"


async def test_another_node_goes_on_where_the_answer_was_heard(make_node: MakeNode) -> None:
    """The model is asked again; what is recorded of the answer is neither asked for nor spoken again."""
    first = await make_node(lease_ms=60_000)
    live, model, _, player = await in_a_call(first)
    model.writes("One two three four.", " Five six seven eight nine ten.")
    await player.plays_to(2_600)
    await first.watch.event(live.session_id, TtsChunkReady, 6)
    await soon(lambda: any(e.position_ms >= 2_500 for e in first.watch.all(live.session_id, PlaybackProgress)))
    await first.node.stop()
    assert model.closed == 1

    second = await make_node(lease_ms=300)
    again, other_voice, other_player = Model(), Voice(), Player()
    second.stubs.stream, second.stubs.synthesize = again.stream, other_voice.synthesize  # type: ignore[method-assign]
    await second.watch.event(live.session_id, SessionResumed)
    back = second.node.session(live.session_id)
    assert back is not None
    back.handler = other_player
    again.writes("One two three four.", " Five six seven eight nine ten. Eleven.", None)
    await other_player.plays_to(2_500)
    await second.watch.phase(live.session_id, "LISTENING", 1)
    assert other_voice.spoken == [" Five six seven eight nine ten.", " Eleven."]
    assert again.requests[0].idempotency_key == model.requests[0].idempotency_key
    assert [event.text for event in second.watch.all(live.session_id, AnswerText)] == [" Eleven."]
    (ended,) = second.watch.all(live.session_id, AnswerEnded)
    assert ended.heard_text == "One two three four. Five six seven eight nine ten. Eleven."


async def test_an_answer_is_shown_while_it_is_written(running: Running) -> None:
    """A conversation in text: each text when it is there; typed words interrupt, and what was shown was heard."""
    live = await running.listening()
    model = Model()
    running.stubs.stream = model.stream  # type: ignore[method-assign]
    running.node.report(SttFinal(session_id=live.session_id, text="tell me", via="text"))
    client = running.clients[0]
    model.writes("We are open.")
    await soon(lambda: client.shown == ["We are open."])
    model.writes(" Come in.")
    await soon(lambda: client.shown == ["We are open.", " Come in."])
    running.node.report(SttFinal(session_id=live.session_id, text="stop", via="text"))
    ended = await running.watch.event(live.session_id, AnswerEnded)
    assert (ended.outcome, ended.heard_text) == ("interrupted", "We are open. Come in.")
    await soon(lambda: model.closed == 1)
    model.writes("Bye.", None)
    await running.watch.event(live.session_id, AnswerEnded, outcome="finished")
    assert client.shown == ["We are open.", " Come in.", "Bye."]


async def test_a_call_that_comes_in_the_middle_hears_the_rest(running: Running) -> None:
    live = await running.listening()
    model, voice, player = Model(), Voice(), Player()
    running.stubs.stream, running.stubs.synthesize = model.stream, voice.synthesize  # type: ignore[method-assign]
    running.node.report(SttFinal(session_id=live.session_id, text="tell me", via="text"))
    model.writes("We are open.")
    await soon(lambda: running.clients[0].shown == ["We are open."])
    live.handler = player
    running.node.report(HandlerAttached(session_id=live.session_id, handler_id=player.handler_id))
    model.writes(" Come in.", None)
    await player.plays_to(1_000)
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert voice.spoken == [" Come in."]
    assert running.clients[0].shown == ["We are open."]


async def test_a_voice_that_fails_in_a_later_sentence_fails_when_it_is_due(running: Running) -> None:
    """When the caller has heard all of the sentences before it."""
    live, model, voice, player = await in_a_call(running)
    voice.silent = " Come in."
    model.writes("We are open.", " Come in.", None)
    await player.plays_to(1_500)
    failed = await running.watch.event(live.session_id, ServiceFailed)
    assert failed.error.startswith("text-to-speech gave no sound")
    await running.watch.phase(live.session_id, "LISTENING", 2)
    (ended,) = running.watch.all(live.session_id, AnswerEnded)
    assert ended.outcome == "failed"
    assert ended.heard_text == "We are open."
