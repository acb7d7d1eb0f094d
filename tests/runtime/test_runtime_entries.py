"""Entries of inboxes and ingresses: repetitions, events that belong to nobody, and things that are no events."""

import json
import logging
from typing import Any

import pytest

from events.codec import encode
from events.derived import CommandIssued, EventRejected, SessionEnded
from events.envelope import Event, Input
from events.inputs import (
    BargeIn,
    ClientConnected,
    ClientDisconnected,
    HandlerAttached,
    HandlerDetached,
    IntentResolved,
    PlaybackDone,
    RagAnswered,
    ServiceFailed,
    SessionCloseRequested,
    SessionOpened,
    SessionResumed,
    SpeechStarted,
    SttFinal,
    SttPartial,
    TimerFired,
    TtsChunkReady,
)
from orchestrator.runtime.live_session import LiveSession
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.policy import Policy
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.proxy import LossyProxy
from tests.runtime.support import Running, StubClient, a_session_on, soon


def line(session_id: str, **changes: Any) -> bytes:
    """An STT_PARTIAL as an outside producer writes it."""
    return json.dumps({"type": "STT_PARTIAL", "session_id": session_id, "text": "hel"} | changes).encode()


async def to_inbox(place: Place, session_id: str, entry: bytes | dict[str, bytes]) -> None:
    fields = entry if isinstance(entry, dict) else {"e": entry}
    await place.redis.xadd(place.keys.inbox(place.keys.shard_of(session_id)), fields)  # type: ignore[arg-type]


async def to_ingress(place: Place, entry: bytes | dict[str, bytes], number: int = 0) -> None:
    await place.redis.xadd(place.keys.ingress(number), entry if isinstance(entry, dict) else {"e": entry})  # type: ignore[arg-type]


async def goes_on(running: Running, session_id: str, turn: int = 1) -> None:
    """The session still answers."""
    running.node.report(SttFinal(session_id=session_id, text=f"turn {turn}", via="text"))
    await running.watch.phase(session_id, "LISTENING", turn + 1)


async def test_what_was_on_its_way_when_the_session_ended_is_no_dead_letter(running: Running, place: Place) -> None:
    """A goodbye in the milliseconds in which services answer: results, timers, connections and microphones of ours are
    late, not lost. What others say, and what somebody types, is kept.
    """
    live = await running.listening()
    about = {"session_id": live.session_id, "command_id": "c"}
    late: list[Input] = [
        IntentResolved(intent="greeting", **about),
        RagAnswered(answer="Hi!", **about),
        ServiceFailed(error="503", **about),
        TtsChunkReady(duration_ms=100, index=0, playback_id="answer-1", **about),
        PlaybackDone(confirmed_by="client", playback_id="answer-1", **about),
        TimerFired(target="answer_deadline", **about),
        SpeechStarted(session_id=live.session_id, handler_id="fastrtc_1"),
        SttFinal(session_id=live.session_id, handler_id="fastrtc_1", text="bye"),
        HandlerDetached(session_id=live.session_id, handler_id="fastrtc_1"),
        ClientDisconnected(session_id=live.session_id, client_id="browser-1"),
        ClientConnected(session_id=live.session_id, client_id="browser-2", event_id="c", producer="door"),
        BargeIn(session_id=live.session_id),
        SessionCloseRequested(session_id=live.session_id, reason="goodbye"),
    ]

    def say_all(_: LiveSession, event: Event) -> None:
        if isinstance(event, SessionEnded):
            for one in late:
                running.node.report(one)

    running.watch.on_commit = say_all
    running.node.report(SessionCloseRequested(session_id=live.session_id, reason="goodbye"))
    await soon(lambda: running.node.counters["late"] == len(late))
    assert running.node.counters["dead_letters"] == 0
    running.node.report(SttFinal(session_id=live.session_id, text="one more thing", via="text"))
    await to_inbox(place, live.session_id, line(live.session_id, producer="node-red", producer_seq=1))
    letters = await place.dead_letters(place.keys.unroutable(place.keys.shard_of(live.session_id)), 2)
    assert [json.loads(entry)["text"] for _, entry in letters] == ["one more thing", "hel"]


async def test_the_same_event_published_twice_leaves_no_trace_but_a_counter(running: Running, place: Place) -> None:
    """Same producer and producer_seq: the second is no event."""
    live = await running.listening()
    twice = line(live.session_id, producer="stt-7", producer_seq=1)
    await to_inbox(place, live.session_id, twice)
    await to_inbox(place, live.session_id, twice)
    await soon(lambda: running.node.counters["duplicates"] == 1)
    await goes_on(running, live.session_id)
    assert len(running.watch.all(live.session_id, SttPartial)) == 1
    assert running.node.counters["dead_letters"] == 0


async def test_the_same_event_id_through_the_ingress_counts_once(running: Running, place: Place) -> None:
    """A producer without a sequence is recognised by its event ids."""
    live = await running.listening()
    for _ in range(2):
        await to_ingress(place, line(live.session_id, event_id="outside-1"))
    await soon(lambda: running.node.counters["duplicates"] == 1)
    await goes_on(running, live.session_id)
    assert len(running.watch.all(live.session_id, SttPartial)) == 1


async def test_an_event_without_any_id_counts_each_time_it_is_published(running: Running, place: Place) -> None:
    """Two entries are two events; each gets the id of its entry."""
    live = await running.listening()
    for _ in range(2):
        await to_ingress(place, line(live.session_id))
    await running.watch.event(live.session_id, SttPartial, 2)
    ids = {event.event_id for event in running.watch.all(live.session_id, SttPartial)}
    assert len(ids) == 2
    assert all(event_id.startswith("ingress 0:") for event_id in ids)


async def test_the_order_of_an_outside_producer_is_kept(running: Running, place: Place) -> None:
    """Fifty partials through one ingress arrive in their order."""
    live = await running.listening()
    for number in range(50):
        await to_ingress(place, line(live.session_id, text=str(number), producer="stt-7", producer_seq=number + 1))
    await running.watch.event(live.session_id, SttPartial, 50)
    texts = [event.text for event in running.watch.all(live.session_id, SttPartial)]
    assert texts == [str(number) for number in range(50)]


async def test_an_ingress_that_failed_once_goes_on_at_once(make_node: MakeNode, place: Place) -> None:
    """A connection that breaks while an event is routed costs no wait for the next look at the leases."""
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        running = await make_node(url=proxy.url, lease_ms=60_000)  # the next look is in 20 s
        live = await running.listening()
        proxy.lose_reply(b"SISMEMBER")
        await to_ingress(place, line(live.session_id))
        await running.watch.event(live.session_id, SttPartial)
        assert proxy.lost == 1
        await running.node.stop()


async def test_the_events_of_a_batch_are_routed_in_one_round_trip(make_node: MakeNode, place: Place) -> None:
    """A question to Redis for each of them would set the pace: their rate would be that of round trips."""
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        running = await make_node(url=proxy.url)
        live = await running.listening()
        proxy.count(b"SISMEMBER")
        async with place.redis.pipeline(transaction=True) as pipeline:
            for number in range(1, 41):
                pipeline.xadd(place.keys.ingress(0), {"e": line(live.session_id, producer="p", producer_seq=number)})
            await pipeline.execute()
        await running.watch.event(live.session_id, SttPartial, 40)
        assert proxy.requests == 1
        await running.node.stop()


async def test_where_redis_cannot_say_whether_a_session_lives_nothing_is_routed(
    running: Running, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """An error among the answers is no yes: the event waits, and is judged when there is an answer."""
    live = await running.listening()
    own = place.keys.shard_of(live.session_id)
    unknown = next(f"nobody_{n}" for n in range(999) if place.keys.shard_of(f"nobody_{n}") != own)
    sessions = place.keys.sessions(place.keys.shard_of(unknown))
    await place.redis.set(sessions, "no set")
    async with place.redis.pipeline(transaction=True) as pipeline:
        pipeline.xadd(place.keys.ingress(0), {"e": line(live.session_id)})
        pipeline.xadd(place.keys.ingress(0), {"e": line(unknown)})
        await pipeline.execute()
    await soon(lambda: "WRONGTYPE" in caplog.text)
    await place.redis.delete(sessions)
    await soon(lambda: running.node.counters["dead_letters"] == 1)
    ((_, kept),) = await place.dead_letters(place.keys.ingress(0, "unroutable"))
    assert kept == line(unknown)
    assert len(running.watch.all(live.session_id, SttPartial)) == 1


async def test_an_event_for_an_unknown_session_is_a_dead_letter_of_the_ingress(
    running: Running, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Rule 3: an ERROR says which rules failed, and the entry is kept beside the reason."""
    live = await running.listening()
    entry = line("auto_session_404")
    await to_ingress(place, entry)
    await soon(lambda: running.node.counters["dead_letters"] == 1)
    await goes_on(running, live.session_id)
    ((reason, kept),) = await place.dead_letters(place.keys.ingress(0, "unroutable"))
    assert kept == entry
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    for words in ("rule 1", "rule 2", "auto_session_404", "STT_PARTIAL"):
        assert words in reason
        assert words in error.getMessage()


@pytest.mark.parametrize("address", ["session_id", "handler_id"])
async def test_an_event_that_names_a_handler_reaches_its_session(running: Running, place: Place, address: str) -> None:
    """Rule 2: the handler id stands in session_id, or alone in handler_id."""
    live = await running.listening()
    await running.node.register_handler("fastrtc_77", live.session_id)
    running.node.report(HandlerAttached(session_id=live.session_id, handler_id="fastrtc_77"))
    await to_ingress(place, json.dumps({"type": "STT_PARTIAL", "text": "hel", address: "fastrtc_77"}).encode())
    event = await running.watch.event(live.session_id, SttPartial)
    assert (event.session_id, event.handler_id) == (live.session_id, "fastrtc_77")


async def test_a_handler_that_was_forgotten_is_nobody(running: Running, place: Place) -> None:
    """After forget_handler rule 2 fails, too."""
    live = await running.listening()
    await running.node.register_handler("fastrtc_77", live.session_id)
    await running.node.forget_handler("fastrtc_77")
    await to_ingress(place, line("fastrtc_77"))
    await soon(lambda: running.node.counters["dead_letters"] == 1)
    ((reason, _),) = await place.dead_letters(place.keys.ingress(0, "unroutable"))
    assert "rule 2: fastrtc_77" in reason


HOPELESS: dict[str, tuple[bytes | dict[str, bytes], str]] = {
    "bad JSON": (b'{"type":', "not JSON"),
    "empty": (b"", ""),
    "a list": (b"[1,2]", "list"),
    "missing field": (b'{"type":"STT_PARTIAL","session_id":"SID"}', "text: Field required"),
    "additional field": (b'{"type":"STT_PARTIAL","session_id":"SID","text":"x","mood":1}', "mood"),
    "no field e": ({"event": b"{}"}, "no field e"),
    "unknown type": (b'{"type":"STT_GUESS","session_id":"SID"}', "unknown event type 'STT_GUESS'"),
    "derived event": (
        b'{"type":"TURN_STARTED","session_id":"SID","text":"x","via":"text"}',
        "said by the reducer, never by a producer",
    ),
    "1 MB of text": (b'{"type":"STT_PARTIAL","session_id":"SID","text":"' + b"x" * 2**20 + b'"}', "8000"),
    "invalid UTF-8": (b'{"type":"STT_PARTIAL","session_id":"SID","text":"\xff\xfe"}', "not JSON"),
    "lone surrogate": (b'{"type":"STT_PARTIAL","session_id":"SID","text":"\\ud800"}', "not JSON"),
    "a float": (b'{"type":"STT_PARTIAL","session_id":"SID","text":"x","observed_at_us":1.5}', "observed_at_us"),
    "deep nesting": (b'{"type":"STT_PARTIAL","session_id":"SID","text":' + b"[" * 5_000 + b"]" * 5_000 + b"}", ""),
    "newer schema": (
        b'{"type":"STT_PARTIAL","session_id":"SID","text":"x","schema_version":99}',
        "a newer orch wrote it",
    ),
}


@pytest.mark.parametrize("entrance", ["inbox", "ingress"])
@pytest.mark.parametrize("what", HOPELESS)
async def test_what_is_no_event_is_a_dead_letter_with_the_reason(
    running: Running, place: Place, what: str, entrance: str
) -> None:
    """Kept (cut to 4 kB) with the reason, counted, and the session goes on."""
    live = await running.listening()
    entry, words = HOPELESS[what]
    if isinstance(entry, bytes):
        entry = entry.replace(b"SID", live.session_id.encode())
    if entrance == "inbox":
        await to_inbox(place, live.session_id, entry)
        stream = place.keys.unroutable(place.keys.shard_of(live.session_id))
    else:
        await to_ingress(place, entry)
        stream = place.keys.ingress(0, "unroutable")
    await soon(lambda: running.node.counters["dead_letters"] == 1)
    await goes_on(running, live.session_id)
    ((reason, kept),) = await place.dead_letters(stream)
    assert words in reason
    assert len(kept) <= 4096
    assert not isinstance(entry, bytes) or entry.startswith(kept)


@pytest.mark.parametrize("policy", [{}, {"deadlines": {"answer_ms": "soon"}}, {"what": 1}])
async def test_a_session_with_a_policy_that_cannot_be_read_is_not_opened(
    running: Running, place: Place, policy: dict[str, Any]
) -> None:
    """A dead letter with the reason; no log, no live session under any name, and the id stays free."""
    session_id = a_session_on(place.keys, 2)
    if policy:
        await to_inbox(place, session_id, encode(SessionOpened(session_id=session_id, policy=policy)))
        await soon(lambda: running.node.counters["dead_letters"] == 1)
        ((reason, _),) = await place.dead_letters(place.keys.unroutable(2))
        assert "policy" in reason
        assert not running.node.sessions
        assert not await place.redis.exists(place.keys.log(session_id), place.keys.log(""))
    opened = SessionOpened(session_id=session_id, policy=Policy().recorded())
    await to_inbox(place, session_id, encode(opened))
    await running.watch.phase(session_id, "IDLE")


async def test_nothing_is_logged_before_a_session_is_opened(running: Running, place: Place) -> None:
    """An event that overtakes SESSION_OPENED is a dead letter, and the session opens all the same."""
    shard = running.node.shards[1]
    session_id = a_session_on(place.keys, 1)
    live = shard.newborn(session_id)
    running.node.report(SpeechStarted(session_id=session_id))
    await soon(lambda: running.node.counters["dead_letters"] == 1)
    running.node.report(SessionOpened(session_id=session_id, policy=Policy().recorded()))
    await running.watch.phase(session_id, "IDLE")
    assert live.state.phase == "IDLE"


async def test_a_session_of_a_node_that_died_at_once_waits_for_its_client(running: Running, place: Place) -> None:
    """It was opened and its client was there, but nobody lives who knows of it: the client has the usual time."""
    session_id = a_session_on(place.keys, 2)
    dead = {"session_id": session_id, "producer": "node-dead"}
    opened = SessionOpened(policy=Policy().recorded(), producer_seq=1, **dead)
    await to_inbox(place, session_id, encode(opened))
    await to_inbox(place, session_id, encode(ClientConnected(client_id="browser-1", producer_seq=2, **dead)))
    await running.watch.event(session_id, SessionResumed)
    await running.watch.event(session_id, CommandIssued, target="reconnect", name="StartTimer", number=2)
    live = running.node.session(session_id)
    assert live is not None
    assert (live.state.phase, live.state.client_id) == ("LISTENING", "")
    running.node.connect_client(live, StubClient("browser-1"))
    await running.watch.event(session_id, ClientConnected, client_id="browser-1", number=2)


async def test_a_takeover_of_an_owner_before_this_one_comes_too_late(running: Running, place: Place) -> None:
    """A node that stood still in the middle of its takeover goes on with it. Its word would take the client from the
    owner, and end the call as that of a client who never came back.
    """
    live = await running.listening()
    late = SessionResumed(
        session_id=live.session_id, producer="node-paused", producer_seq=1, reducer_version=REDUCER_VERSION
    )
    await to_inbox(place, live.session_id, encode(late))
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert live.state.client_id
    assert running.watch.all(live.session_id, SessionResumed) == []
    assert running.node.counters["late"] == 1


@pytest.mark.parametrize("kind", [SessionOpened, SessionResumed])
async def test_what_nodes_alone_say_is_refused_from_outside(running: Running, place: Place, kind: type[Input]) -> None:
    """SESSION_OPENED and SESSION_RESUMED through the ingress are dead letters."""
    live = await running.listening()
    fields = {"policy": {}} if kind is SessionOpened else {"reducer_version": "1"}
    await to_ingress(place, encode(kind(session_id=live.session_id, **fields)))
    await soon(lambda: running.node.counters["dead_letters"] == 1)
    ((reason, _),) = await place.dead_letters(place.keys.ingress(0, "unroutable"))
    assert "said by nodes alone" in reason


async def test_a_sequence_without_a_producer_is_refused(running: Running, place: Place) -> None:
    """Two nameless producers would otherwise count as one, and the second one's events vanish as repetitions."""
    live = await running.listening()
    for _ in range(2):
        await to_ingress(place, line(live.session_id, producer_seq=1))
    await soon(lambda: running.node.counters["dead_letters"] == 2)
    ((reason, _), _) = await place.dead_letters(place.keys.ingress(0, "unroutable"), 2)
    assert "producer_seq" in reason


async def test_what_a_producer_may_not_set_is_overwritten(running: Running, place: Place) -> None:
    """Version, epoch, turn, time, incarnation and hash are the owner's and the core's."""
    live = await running.listening()
    forged = {"version": 999, "epoch": 9, "turn": 9, "at_us": 1, "incarnation": "evil", "state_hash": "x", "cause": "y"}
    await to_ingress(place, line(live.session_id, event_id="outside-1", **forged))
    event = await running.watch.event(live.session_id, SttPartial)
    assert (event.epoch, event.turn, event.cause) == (0, 0, "")
    assert event.version < 999
    assert event.incarnation == running.node.shards[place.keys.shard_of(live.session_id)].lease.token


async def test_an_event_for_an_ended_session_is_a_dead_letter(running: Running, place: Place) -> None:
    """Also a second SESSION_OPENED: the id is taken for ever."""
    live = await running.listening()
    running.node.report(SessionCloseRequested(session_id=live.session_id))
    await running.watch.phase(live.session_id, "ENDED")
    await to_inbox(place, live.session_id, line(live.session_id))
    await to_inbox(
        place, live.session_id, encode(SessionOpened(session_id=live.session_id, policy=Policy().recorded()))
    )
    await soon(lambda: running.node.counters["dead_letters"] == 2)
    assert running.node.session(live.session_id) is None


async def test_a_rejected_input_is_recorded_and_counted(running: Running) -> None:
    """Nothing is playing, so a BARGE_IN has no effect; the log and a counter say so."""
    live = await running.listening()
    running.node.report(BargeIn(session_id=live.session_id))
    await running.watch.event(live.session_id, EventRejected)
    await soon(lambda: running.node.counters["rejected"] == 1)
