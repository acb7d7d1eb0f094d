"""A client's barge_in: how much of the answer the user had heard, also in an answer that was resumed."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from events.derived import AnswerEnded
from events.inputs import BargeIn, HandlerAttached, HandlerDetached, PlaybackProgress, SttFinal
from orchestrator.runtime.live_session import LiveSession
from tests.gateway.talker import Service, Talker
from tests.runtime.support import soon
from tests.runtime.test_runtime_streaming import Player, Voice

Connect = Callable[..., Awaitable[Talker]]


async def resumed_answer(client: Talker, service: Service) -> tuple[LiveSession, str, int]:
    """The caller heard 2.5 s of an answer, lost the call, and has heard another second of it in a new call. Returns the
    session, the playback id, and where in the answer the new call began.
    """
    running, session_id = service.running, (await client.listening())["session_id"]
    running.stubs.synthesize = Voice().synthesize  # type: ignore[method-assign]
    live = running.node.session(session_id)
    assert live is not None
    running.node.begin(live)
    lost, found = Player(), Player()
    lost.handler_id, live.handler = "fastrtc_1", lost
    running.node.report(HandlerAttached(session_id=session_id, handler_id=lost.handler_id))
    running.node.report(SttFinal(session_id=session_id, text="one two three four five six seven eight nine ten"))
    reply = await client.until("reply")
    await lost.plays_to(2_500)
    await running.watch.event(session_id, PlaybackProgress, position_ms=2_500)
    live.handler = None
    running.node.report(HandlerDetached(session_id=session_id, handler_id=lost.handler_id, reason="lost"))
    await running.watch.event(session_id, HandlerDetached)
    (speak,) = live.state.outstanding("Speak")
    from_ms = int(str(speak.payload["from_ms"]))
    assert from_ms >= 2_500
    found.handler_id, live.handler = "fastrtc_2", found
    running.node.report(HandlerAttached(session_id=session_id, handler_id=found.handler_id))
    await soon(lambda: found.written_ms >= 1_000)
    found.hears(1_000)
    await running.watch.event(session_id, PlaybackProgress, position_ms=from_ms + 1_000)
    return live, reply["playback_id"], from_ms


@pytest.mark.parametrize("position_ms", [700, 0])
async def test_a_position_in_a_resumed_answer_counts_what_was_heard_before(
    call: Connect, service: Service, position_ms: int
) -> None:
    """The client counts from its latest playback_start; the log has the position in the whole answer."""
    client = await call()
    live, playback_id, from_ms = await resumed_answer(client, service)
    await client.say("barge_in", playback_id=playback_id, position_ms=position_ms)
    ended = await service.running.watch.event(live.session_id, AnswerEnded)
    assert (ended.outcome, ended.heard_ms) == ("interrupted", from_ms + position_ms)


UNTOLD: dict[str, dict[str, Any]] = {
    "no position": {},
    "another playback": {"playback_id": "answer-7", "position_ms": 700},
    "no playback": {"playback_id": None, "position_ms": 700},
    "a position a day long": {"position_ms": 24 * 3600 * 1000},
}


@pytest.mark.parametrize("case", UNTOLD)
async def test_other_positions_pass_as_they_are(call: Connect, service: Service, case: str) -> None:
    """A client that does not know the position leaves it to the service's estimate."""
    client = await call()
    live, playback_id, _ = await resumed_answer(client, service)
    message = {"playback_id": playback_id} | UNTOLD[case]
    await client.say("barge_in", **{name: value for name, value in message.items() if value is not None})
    event = await service.running.watch.event(live.session_id, BargeIn)
    assert event.position_ms == UNTOLD[case].get("position_ms", 0)
