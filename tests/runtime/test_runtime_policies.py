"""What policies ask of the runtime: speech outside of a turn, questions before one, and a playback that pauses."""

import asyncio

from events.derived import CommandIssued, ProcessingComplete, TurnStarted
from events.inputs import (
    HandlerAttached,
    IntentResolved,
    PlaybackDone,
    RagAnswered,
    SpeechStarted,
    SpeechStopped,
    SttFinal,
    SttPartial,
    TtsComplete,
)
from orchestrator.runtime.live_session import LiveSession
from orchestrator.session.policy import Endpointing, Goodbye, Greeting, Interruption, Policy, Speculation
from tests.runtime.conftest import MakeNode
from tests.runtime.support import Running, StubHandler

EARLY = Policy(speculation=Speculation(tries=2), endpointing=Endpointing(complete_ms=0, incomplete_ms=0))


async def with_a_voice(running: Running, handler: StubHandler) -> LiveSession:
    """A session whose client and handler are connected."""
    live = await running.listening()
    live.handler = handler
    running.node.report(HandlerAttached(session_id=live.session_id, handler_id=handler.handler_id))
    return live


def tasks_of(live: LiveSession) -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(f"{live.session_id}#")]


async def test_a_greeting_is_spoken_before_any_turn(make_node: MakeNode) -> None:
    """It goes through speech like an answer, and nothing of it runs when it was heard."""
    running = await make_node(policy=Policy(greeting=Greeting(text="Welcome.")))
    handler = StubHandler()
    live = await with_a_voice(running, handler)
    await running.watch.event(live.session_id, PlaybackDone, playback_id="greeting")
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert handler.told == ["microphone open", "microphone gated", "play greeting", "microphone open"]
    assert [request.text for stage, request in running.stubs.asked if stage == "speech"] == ["Welcome."]
    assert tasks_of(live) == []


async def test_the_last_words_are_heard_before_the_session_ends(make_node: MakeNode) -> None:
    """The intent that says goodbye: its answer is spoken, then client and handler are closed."""
    running = await make_node(policy=Policy(goodbye=Goodbye(intent="greeting")))
    handler = StubHandler()
    live = await with_a_voice(running, handler)
    running.node.report(SttFinal(session_id=live.session_id, text="goodbye"))
    await running.watch.phase(live.session_id, "ENDED")
    assert handler.told.index("play answer-1") < handler.told.index("microphone closed")
    done = await running.watch.event(live.session_id, PlaybackDone)
    assert done.playback_id == "answer-1"


async def test_a_guess_that_was_right_is_asked_once(make_node: MakeNode) -> None:
    """Both services answer before the final; the turn needs no further question, and its answer is there at once."""
    running = await make_node(policy=EARLY)
    live = await with_a_voice(running, StubHandler())
    for said in (SpeechStarted(), SttPartial(text="when are you open"), SpeechStopped()):
        running.node.report(said.model_copy(update={"session_id": live.session_id}))
    await running.watch.event(live.session_id, RagAnswered)
    await running.watch.event(live.session_id, IntentResolved)
    running.node.report(SttFinal(session_id=live.session_id, text="When are you open?"))
    complete = await running.watch.event(live.session_id, ProcessingComplete)
    assert complete.elapsed_us == 0
    assert [stage for stage, _ in running.stubs.asked][:2] == ["intent", "answer"]
    assert len(running.stubs.keys("answer")) == 1
    assert (await running.watch.event(live.session_id, TurnStarted)).speculation == 1


async def test_a_guess_that_was_wrong_is_cancelled(make_node: MakeNode) -> None:
    """Other words come: what was asked early is cancelled, and the turn asks for itself."""
    running = await make_node(policy=EARLY)
    running.stubs.hold("answer")
    live = await with_a_voice(running, StubHandler())
    for said in (SpeechStarted(), SttPartial(text="when are you"), SpeechStopped()):
        running.node.report(said.model_copy(update={"session_id": live.session_id}))
    await running.watch.event(live.session_id, CommandIssued, name="AnswerQuestion")
    await running.watch.event(live.session_id, IntentResolved)
    running.node.report(SttFinal(session_id=live.session_id, text="when are you open"))
    await running.watch.phase(live.session_id, "THINKING")
    running.stubs.release("answer")
    await running.watch.event(live.session_id, TtsComplete)
    assert running.stubs.cancelled == ["answer"]
    guess, turn = running.stubs.keys("answer")
    assert guess != turn


async def test_a_playback_pauses_and_goes_on(make_node: MakeNode) -> None:
    """Speech over the answer pauses it on the handler; when no words came, it goes on."""
    running = await make_node(policy=Policy(interruption=Interruption(min_speech_ms=60_000, false_ms=0)))
    handler = StubHandler(plays_to_the_end=False)
    live = await with_a_voice(running, handler)
    running.node.report(SttFinal(session_id=live.session_id, text="hello"))
    await running.watch.event(live.session_id, TtsComplete)
    for said in (SpeechStarted(), SpeechStopped()):
        running.node.report(said.model_copy(update={"session_id": live.session_id}))
    await running.watch.event(live.session_id, CommandIssued, name="ResumePlayback")
    assert handler.told[-2:] == ["pause answer-1", "resume answer-1"]
    assert live.state.phase == "SPEAKING"
