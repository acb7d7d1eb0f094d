"""Effects and timers: what commands do, what goes wrong in them, and what a cancelled one leaves behind."""

import asyncio
import gc
import warnings
from typing import Any

import pytest

from events.derived import CommandIssued, EventRejected, StateChanged
from events.envelope import Event
from events.inputs import (
    HandlerAttached,
    IntentResolved,
    PlaybackDone,
    PlaybackProgress,
    PlaybackStarted,
    RagAnswered,
    ServiceFailed,
    SessionCloseRequested,
    SpeechStarted,
    SpeechStopped,
    SttFinal,
    TimerFired,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.runtime.clock import SteadyClock, now_us
from orchestrator.runtime.effects.effects import Effects
from orchestrator.runtime.effects.timers import Timers
from orchestrator.runtime.live_session import CurrentTask, LiveSession
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Answer, Request
from orchestrator.session.policy import Deadlines, Filler, Interruption, Policy
from orchestrator.session.state import State
from tests.runtime.conftest import MakeNode
from tests.runtime.support import Running, StubClient, StubHandler, Stubs, soon


def issued(name: str, target: str = "", number: int = 1, **payload: Any) -> CommandIssued:
    """A command as the reducer issues it."""
    return CommandIssued(
        session_id="s", command_id=f"s/i/{number}/{name}", name=name, target=target, payload=payload, at_us=now_us()
    )


def timer(due_in_ms: int, number: int = 1) -> tuple[CommandIssued, int]:
    due_at_us = now_us() + due_in_ms * 1000
    return issued("StartTimer", "endpoint", number, due_at_us=due_at_us, timer="endpoint"), due_at_us


async def spoken(running: Running, handler: StubHandler) -> LiveSession:
    """A session with a handler, in which something was said."""
    live = await running.listening()
    live.handler = handler
    running.node.report(HandlerAttached(session_id=live.session_id, handler_id=handler.handler_id))
    running.node.report(SttFinal(session_id=live.session_id, text="hello"))
    return live


async def test_timers_never_fire_early_and_fire_in_their_order() -> None:
    """Each fires once, at its time or after it."""
    fired: list[tuple[str, int]] = []
    timers = Timers("s", lambda event: fired.append((event.command_id, now_us())))
    due = {}
    for number, delay in enumerate((30, 10, 20, 0)):
        command, due_at_us = timer(delay, number)
        due[command.command_id] = due_at_us
        timers.start(command, due_at_us)
    await soon(lambda: len(fired) == 4)
    assert all(at_us >= due[command_id] for command_id, at_us in fired)
    assert [command_id.split("/")[2] for command_id, _ in fired] == ["3", "1", "2", "0"]


async def test_a_timer_never_fires_before_its_time_is_shown() -> None:
    """The loop's clock says it is time, the clock of the log does not yet: the timer waits for the rest."""
    monotonic = [0]
    clock = SteadyClock(now_us(), lambda: monotonic[0])
    fired: list[int] = []
    timers = Timers("s", lambda event: fired.append(clock.now_us()), clock)
    command, due_at_us = timer(5)
    timers.start(command, due_at_us)
    await asyncio.sleep(0.02)
    assert not fired
    monotonic[0] = 60_000_000
    await soon(lambda: bool(fired))
    assert fired[0] >= due_at_us


async def test_cancelled_timers_do_not_fire_and_past_ones_fire_at_once() -> None:
    """Cancelling twice, or one that never was, is nothing."""
    fired: list[TimerFired] = []
    timers = Timers("s", fired.append)
    one, due = timer(1, 1)
    timers.start(one, due)
    timers.cancel(one.command_id)
    timers.cancel(one.command_id)
    past, _ = timer(-60_000, 2)
    timers.start(past, now_us() - 60_000_000)
    last, due = timer(5, 3)
    timers.start(last, due)
    await soon(lambda: len(fired) == 2)
    assert [event.command_id for event in fired] == [past.command_id, last.command_id]
    assert fired[0].target == "endpoint"


async def test_a_withdrawn_endpoint_never_fires_in_a_conversation(running: Running) -> None:
    """The user goes on speaking: the timer is cancelled, no TIMER_FIRED follows, not even a stale one."""
    live = await running.listening()
    for _ in range(3):
        running.node.report(SpeechStopped(session_id=live.session_id, duration_ms=500))
        running.node.report(SpeechStarted(session_id=live.session_id))
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert not running.watch.all(live.session_id, TimerFired)


@pytest.mark.parametrize(
    ("error", "words"),
    [(ServiceError("the shop is closed"), "the shop is closed"), (KeyError("drawer"), "KeyError: 'drawer'")],
)
@pytest.mark.parametrize("stage", ["intent", "answer", "speech"])
async def test_a_port_that_raises_is_an_event(running: Running, stage: str, error: Exception, words: str) -> None:
    """SERVICE_FAILED with the words, answering its command; the conversation goes on."""
    running.stubs.broken[stage] = error
    live = await spoken(running, StubHandler())
    failed = await running.watch.event(live.session_id, ServiceFailed)
    assert failed.error == words
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert not running.watch.all(live.session_id, EventRejected)


async def test_an_answer_that_is_too_long_is_a_failure_not_a_hang(running: Running) -> None:
    """What does not fit into an event is reported as SERVICE_FAILED."""

    async def answer(request: Request) -> Answer:
        return Answer("x" * 10_000)

    running.stubs.answer = answer  # type: ignore[method-assign]
    live = await running.listening()
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    failed = await running.watch.event(live.session_id, ServiceFailed)
    assert failed.error == "the answer has 10000 characters; at most 8000 are allowed"


async def test_half_a_character_is_an_event_all_the_same(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A lone surrogate in an answer is replaced; in the words of an exception, too: the failure is told."""
    caplog.set_level("CRITICAL", "orchestrator.runtime.effects.effects")  # pytest-xdist cannot send half a character

    async def answer(request: Request) -> Answer:
        if request.text == "hello":
            return Answer("half \ud83d")
        raise ValueError("half \ud83d")

    running.stubs.answer = answer  # type: ignore[method-assign]
    live = await running.listening()
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    assert (await running.watch.event(live.session_id, RagAnswered)).answer == "half �"
    await running.watch.phase(live.session_id, "LISTENING", 2)
    running.node.report(SttFinal(session_id=live.session_id, text="and then", via="text"))
    assert (await running.watch.event(live.session_id, ServiceFailed)).error == "ValueError: half �"


async def test_a_cancelled_stage_says_nothing(make_node: MakeNode) -> None:
    """The intent is late: it is cancelled, and no word of it comes later."""
    running = await make_node(policy=Policy(deadlines=Deadlines(intent_ms=20)))
    live = await running.listening()
    running.stubs.hold("intent")
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert running.stubs.cancelled == ["intent"]
    assert not running.watch.all(live.session_id, IntentResolved)
    assert not running.watch.all(live.session_id, ServiceFailed)
    assert not running.watch.all(live.session_id, EventRejected)


async def test_a_deadline_speaks_the_fallback(make_node: MakeNode) -> None:
    """The answer service never answers: its stage is cancelled, the fallback is said."""
    policy = Policy(deadlines=Deadlines(answer_ms=20))
    running = await make_node(policy=policy)
    live = await running.listening()
    running.stubs.hold("answer")
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    spoke = await running.watch.event(live.session_id, CommandIssued, name="Speak")
    assert spoke.payload["text"] == policy.fallback.answer
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert running.stubs.cancelled == ["answer"]


async def test_an_answer_waits_for_somebody_as_long_as_its_deadline_lets_it(make_node: MakeNode) -> None:
    """Neither handler nor client, and nobody comes: the deadline of speech ends the turn, and no failure is told."""
    running = await make_node(policy=Policy(deadlines=Deadlines(tts_ms=20)))
    live = await running.listening()
    live.client = None
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert running.watch.all(live.session_id, StateChanged)[-1].reason == "tts_deadline"
    assert not running.watch.all(live.session_id, ServiceFailed)
    await soon(lambda: not live.closing)


async def test_chunks_and_playback_are_reported_in_order(running: Running) -> None:
    """TTS_CHUNK_READY 0..n, PLAYBACK_STARTED with the first, TTS_COMPLETE, PLAYBACK_DONE."""
    live = await spoken(running, StubHandler())
    await running.watch.phase(live.session_id, "LISTENING", 2)
    kinds = (TtsChunkReady, PlaybackStarted, PlaybackProgress, TtsComplete, PlaybackDone)
    said: list[Event] = [event for event in running.watch.events[live.session_id] if isinstance(event, kinds)]
    assert [type(event) for event in said] == [
        *(TtsChunkReady, PlaybackStarted),
        *(TtsChunkReady, PlaybackProgress) * 2,
        *(TtsComplete, PlaybackDone),
    ]
    assert [event.index for event in said if isinstance(event, TtsChunkReady)] == [0, 1, 2]
    complete = running.watch.all(live.session_id, TtsComplete)[0]
    assert (complete.chunks, complete.duration_ms) == (3, 300)


async def test_stopping_a_playback_stops_its_stage_and_the_handler(make_node: MakeNode) -> None:
    """A filler that plays is stopped when the answer is there; the answer plays."""
    running = await make_node(policy=Policy(filler=Filler(text="One moment.")))
    running.stubs.hold("answer")
    handler = StubHandler(plays_to_the_end=False)
    live = await spoken(running, handler)
    await running.watch.event(live.session_id, TtsComplete, playback_id="filler-1")
    running.stubs.release("answer")
    await running.watch.event(live.session_id, TtsComplete, playback_id="answer-1")
    assert handler.told.index("stop filler-1") < handler.told.index("play answer-1")
    names = {task.get_name() for task in asyncio.all_tasks() if not task.cancelling()}
    assert f"{live.session_id}#0:filler-1" not in names
    assert f"{live.session_id}#0:answer-1" in names


async def test_the_end_of_a_session_ends_everything_of_it(make_node: MakeNode) -> None:
    """Goodbye in the middle of an answer: client and handler are closed, no task of the session is left."""
    running = await make_node(policy=Policy(interruption=Interruption(pause_ms=0)))
    handler = StubHandler(plays_to_the_end=False)
    live = await spoken(running, handler)
    await running.watch.event(live.session_id, TtsComplete)
    running.node.report(SessionCloseRequested(session_id=live.session_id, reason="goodbye"))
    await running.watch.phase(live.session_id, "ENDED")
    await soon(lambda: not live.closing)
    assert running.clients[0].ended == ["goodbye"]
    assert handler.closed
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(live.session_id)]


async def test_a_node_that_stops_waits_for_the_farewell_of_ended_sessions(running: Running) -> None:
    """The session is gone from the shard, but its client is still being told; stop waits for that."""
    told = asyncio.Event()

    class SlowClient(StubClient):
        async def close(self, reason: str) -> None:
            await told.wait()
            await super().close(reason)

    client = SlowClient()
    live = await running.listening(client)
    running.node.report(SessionCloseRequested(session_id=live.session_id, reason="goodbye"))
    await running.watch.phase(live.session_id, "ENDED")
    stopping = asyncio.create_task(running.node.stop())
    await soon(lambda: not running.node.shards)
    told.set()
    await stopping
    assert client.ended == ["goodbye"]


async def test_an_observer_that_breaks_stops_nothing(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """What was committed is performed all the same, and the log says what broke."""
    live = await running.listening()

    def breaks(live: LiveSession, event: Event) -> None:
        raise ZeroDivisionError

    running.watch.on_commit = breaks
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await soon(lambda: live.state.turn == 1 and live.state.phase == "LISTENING")
    assert "ZeroDivisionError" in caplog.text
    running.watch.on_commit = lambda live, event: None


async def test_a_stage_that_is_started_again_can_still_be_cancelled() -> None:
    """The end of the first must not forget the second of the same name."""
    current, ended = CurrentTask("s", 0), []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    current.start("answer", work("first"))
    await asyncio.sleep(0)
    current.cancel_stage("answer")
    current.start("answer", work("second"))
    await soon(lambda: ended == ["first"])
    current.cancel_stage("answer")
    await soon(lambda: ended == ["first", "second"])


async def test_a_stage_cancelled_before_it_began_leaves_no_warning() -> None:
    """Start and cancel within one batch: nothing was asked, nothing is left un-awaited."""
    stubs, reported = Stubs(), []
    live = LiveSession("s", State(session_id="s"), Timers("s", reported.append))
    effects = Effects(stubs.services(), reported.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        effects.perform(live, issued("ClassifyIntent", "intent", speculation=0, text="hello"))
        effects.perform(live, issued("CancelTask", number=2))
        await soon(lambda: not live.closing)
        gc.collect()
    assert not stubs.asked
    assert not reported


async def test_results_of_the_present_task_alone_count(running: Running) -> None:
    """Ten corrections in a row: one answer, that of the last words."""
    live = await running.listening()
    for number in range(10):
        running.node.report(SttFinal(session_id=live.session_id, text=f"word {number}", via="text"))
    await running.watch.event(live.session_id, CommandIssued, name="Speak")
    await soon(lambda: live.state.phase == "LISTENING" and live.state.turn >= 1 and not live.state.held_text)
    answers = [event.payload["text"] for event in running.watch.all(live.session_id, CommandIssued, name="Speak")]
    assert answers[-1] == "You said word 9."
    counted = [event for event in running.watch.all(live.session_id, RagAnswered) if event.cause]
    assert len(counted) == len(answers)
