"""Admission: one caller, whatever they send, never costs another their line, their turn or their answer."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from events.codec import encode
from events.derived import TurnStarted
from events.inputs import ClientConnected, SessionCloseRequested, SessionOpened, SttFinal, SttPartial
from orchestrator.gateway import control_channel, fair_share, lines, server
from orchestrator.session.policy import Greeting, Policy
from tests.door import is_same, joining
from tests.gateway.conftest import Serve
from tests.gateway.raw_socket import PING, PONG, TEXT, RawSocket, frame
from tests.gateway.talker import Service, Talker
from tests.runtime.conftest import Place
from tests.runtime.support import PATIENCE_S, soon

Connect = Callable[..., Awaitable[Talker]]
TYPED = json.dumps({"type": "text", "text": "x " * 900}).encode()


async def another(http: aiohttp.ClientSession, service: Service, **query: str) -> Talker:
    return Talker(await http.ws_connect(f"{service.url}/orchestrate", **joining(query)))


async def answered(client: Talker, last: str) -> None:
    """Until the answer to this: alone, or together with what was said just before."""
    while not (await client.until("reply"))["text"].endswith(last):
        pass


async def kept(place: Place) -> list[bytes]:
    """What Redis has of sessions, but for promises, which expire."""
    keys: list[bytes] = [key async for key in place.redis.scan_iter(f"{place.keys.prefix}:*")]
    of_sessions = [key for key in keys if b"session:" in key or key.endswith((b":inbox", b":feed", b":unroutable"))]
    for key in keys:
        if b":promised:" in key:
            assert await place.redis.ttl(key) > 0
    return of_sessions


NOTHING = {
    "nothing": b"",
    "a ping": frame(PING, b"p"),
    "no JSON": frame(TEXT, b"{"),
    "an interruption of nothing": frame(TEXT, b'{"type":"barge_in"}'),
    "heard nothing": frame(TEXT, b'{"type":"playback_done","playback_id":"x"}'),
    "no call": frame(TEXT, b'{"type":"webrtc_offer","sdp":"v=0"}'),
    "goodbye": frame(TEXT, b'{"type":"goodbye"}'),
    "half a message": frame(TEXT, b'{"type":"text",', is_final=False),
}


@pytest.mark.parametrize("what", NOTHING)
async def test_nothing_is_kept_of_a_caller_who_said_nothing(service: Service, place: Place, what: str) -> None:
    """Neither a log nor an inbox entry nor a dead letter, and no place among the sessions."""
    for _ in range(10):
        caller = await RawSocket.connect(service.url)
        assert await caller.opened() == 101
        caller.writer.write(NOTHING[what])
        await caller.writer.drain()
        if what == "goodbye":
            assert await caller.close_code() == 1000
        caller.abort()
    await soon(lambda: not service.running.node.sessions)
    assert await kept(place) == []
    assert not service.running.watch.events


async def test_a_conversation_is_opened_by_its_first_words(call: Connect, service: Service) -> None:
    """And only once, however many come at once; it has said that it listens before, and does not say it again."""
    client = await call()
    session = await client.listening()
    assert not service.running.watch.events
    for text in ("hello", "again"):
        await client.say("text", text=text)
    await answered(client, "again.")
    watch = service.running.watch
    assert [len(watch.all(session["session_id"], kind)) for kind in (SessionOpened, ClientConnected)] == [1, 1]
    before = client.kinds()[: client.kinds().index("transcript")]
    assert before.count("phase") == 1


async def test_an_outside_producer_may_be_the_first_to_speak(call: Connect, service: Service, place: Place) -> None:
    """The session is opened, and what the producer said comes after that, in order and once."""
    client = await call()
    session = await client.listening()
    for number, text in enumerate(("hello", "again"), 1):
        said = SttFinal(session_id=session["session_id"], text=text, producer="stt-7", producer_seq=number)
        await place.redis.xadd(place.keys.ingress(0), {"e": encode(said)})
    await answered(client, "again.")
    turns = service.running.watch.all(session["session_id"], TurnStarted)
    assert " ".join(turn.text for turn in turns).split().count("again") == 1
    assert service.running.node.counters["dead_letters"] == 0


async def test_nothing_of_an_outside_producer_is_lost_while_the_session_opens(
    call: Connect, service: Service, place: Place
) -> None:
    """Its events keep their order while the client speaks for the first time, too; all of them count, each once."""
    client = await call()
    session_id = (await client.listening())["session_id"]
    for number in range(1, 121):
        said = SttPartial(session_id=session_id, text=str(number), producer="stt-7", producer_seq=number)
        await place.redis.xadd(place.keys.ingress(0), {"e": encode(said)})
        if number == 3:
            await client.say("text", text="hello")
    watch = service.running.watch
    await watch.event(session_id, SttPartial, 120)
    assert [event.text for event in watch.all(session_id, SttPartial)] == [str(number) for number in range(1, 121)]
    await answered(client, "hello.")
    assert len(watch.all(session_id, SessionOpened)) == 1
    assert len(watch.all(session_id, ClientConnected)) == 1
    assert service.running.node.counters["dead_letters"] == 0


async def test_where_the_agent_speaks_first_it_greets_a_caller_who_stays(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    """A caller who leaves at once is kept nothing of, all the same."""
    service = await serve(policy=Policy(greeting=Greeting(text="Welcome.", wait_ms=100)))
    gone = await RawSocket.connect(service.url)
    assert await gone.opened() == 101
    gone.abort()
    client = await another(http, service)
    await client.until("reply", text="Welcome.")
    assert len(service.running.watch.events) == 1


async def test_a_caller_who_said_nothing_comes_back_to_the_same_promise(call: Connect, service: Service) -> None:
    """Within the usual time, as if something had been said; but not after a goodbye."""
    client = await call()
    session = await client.listening()
    await client.socket.close()
    await soon(lambda: not service.running.node.sessions)
    back = await call(session_id=session["session_id"], resume_token=session["resume_token"])
    assert is_same(await back.listening(), session)
    await back.say("goodbye")
    assert await back.closed() == 1000
    late = await call(session_id=session["session_id"], resume_token=session["resume_token"])
    assert await late.closed() == 4404


async def test_silent_callers_keep_nobody_out(serve: Serve, http: aiohttp.ClientSession) -> None:
    """All lines are held by callers who say nothing; each new caller gets the line of the oldest of them."""
    service = await serve(max_sessions=4)
    silent = []
    for _ in range(4):
        silent.append(await another(http, service))
        await silent[-1].listening()
    endings = [asyncio.create_task(one.closed()) for one in silent]
    callers = []
    for number in range(4):
        begun_s = time.monotonic()
        while True:
            caller = await another(http, service)
            first = await caller.socket.receive()
            if first.type is aiohttp.WSMsgType.TEXT:
                break
        assert time.monotonic() - begun_s < 2
        callers.append(caller)
        await caller.say("text", text="hello")
        await caller.until("reply", text="You said hello.")
        assert await endings[number] == 1000
        assert silent[number].heard[-1] == {"type": "ended", "reason": "nothing was said"}
    refused = await another(http, service)
    assert await refused.closed() == 1013, "callers who have spoken keep their lines"


async def test_silent_callers_are_ended(
    serve: Serve, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sooner where they hold more than half of the lines, and in any case; who has spoken stays."""
    monkeypatch.setattr(lines, "SILENT_IN_A_CROWD_S", 0.5)
    monkeypatch.setattr(lines, "SILENT_S", 1.5)
    service = await serve(max_sessions=4)
    speaks = await another(http, service)
    await speaks.spoken()
    silent = [await another(http, service) for _ in range(3)]
    begun_s = time.monotonic()
    assert await silent[0].closed() == 1000
    assert time.monotonic() - begun_s < 1.4
    assert await silent[1].closed() == 1000
    assert time.monotonic() - begun_s > 1.4
    await speaks.say("text", text="hello")
    await speaks.until("reply", text="You said hello.")


async def test_callers_who_went_away_keep_nobody_out(serve: Serve, http: aiohttp.ClientSession) -> None:
    """They have spoken, and their sessions wait for them without a line; whoever of them comes back gets one."""
    service = await serve(max_sessions=2)
    sessions = []
    for _ in range(6):
        caller = await another(http, service)
        sessions.append(await caller.spoken())
        await caller.socket.close()
    back = []
    for ids in sessions[:4]:
        back.append(await another(http, service, session_id=ids["session_id"], resume_token=ids["resume_token"]))
        await back[-1].until("session")
    assert await (await another(http, service)).closed() == 1013


async def test_no_more_than_some_wait_for_their_callers(
    serve: Serve, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who have been away for longest are ended."""
    monkeypatch.setattr(lines, "AWAY", 1)
    service = await serve(max_sessions=2)
    sessions = []
    for _ in range(4):
        caller = await another(http, service)
        sessions.append((await caller.spoken())["session_id"])
        await caller.socket.close()
    await soon(lambda: {live.session_id for live in service.running.node.sessions} == set(sessions[2:]))


FLOODS = {
    "pings": frame(PING, b"p" * 125),
    "empty pings": frame(PING),
    "pongs": frame(PONG, b"p"),
    "empty fragments": frame(0, is_final=False),
    "messages": frame(TEXT, b'{"type":"barge_in"}'),
    "typed words": frame(TEXT, TYPED),
}


@pytest.mark.parametrize("what", FLOODS)
async def test_a_flood_of_any_frames_ends_the_connection(service: Service, what: str) -> None:
    """Pings and fragments count like messages: 1008, after at most as many as a second may have."""
    flooder = await RawSocket.connect(service.url)
    assert await flooder.opened() == 101
    if what == "empty fragments":
        flooder.writer.write(frame(TEXT, b"{", is_final=False))
    flooder.writer.write(FLOODS[what] * 200)
    assert await flooder.close_code() == 1008
    assert service.running.node.counters["clients_dropped"] == 1


async def test_frames_before_the_answer_to_the_handshake_are_refused(service: Service) -> None:
    """They would be read without being counted."""
    early = await RawSocket.connect(service.url, early=frame(PING) * 3)
    assert await early.opened() == 400


async def test_a_frame_cut_at_any_byte_is_counted_once(call: Connect, service: Service) -> None:
    """Headers arrive in pieces, too, and payloads look like headers."""
    slow = await RawSocket.connect(service.url)
    assert await slow.opened() == 101
    for at in range(2, 40):
        message = frame(TEXT, json.dumps({"type": "text", "text": f"\x81\x05 {'y' * 120}"}).encode())
        for part in (message[:at], message[at:]):
            slow.writer.write(part)
            await slow.writer.drain()
            await asyncio.sleep(0.02)
    assert service.running.node.counters["clients_dropped"] == 0
    slow.abort()


async def flood(url: str, seconds: float, per_s: float, message: bytes) -> int:
    """Send at this rate, reading what comes, until the time or the connection is over; returns how many were sent."""
    socket = await RawSocket.connect(url)
    await socket.opened()
    reading = asyncio.create_task(socket.close_code())
    sent, begun_s = 0, time.monotonic()
    while time.monotonic() - begun_s < seconds and not reading.done():
        socket.writer.write(frame(TEXT, message))
        sent += 1
        await asyncio.sleep(1 / per_s)
    socket.abort()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return sent


async def turns_of(good: Talker, seconds: float) -> int:
    """Say something, wait for the answer, and so on; the number of answers."""
    answered, begun_s = 0, time.monotonic()
    while time.monotonic() - begun_s < seconds:
        await good.say("text", text="hello")
        await good.until("reply", text="You said hello.")
        await good.until("phase", phase="LISTENING", reason="playback_done")
        answered += 1
        await asyncio.sleep(0.2)
    return answered


@pytest.mark.parametrize("message", [TYPED, b'{"type":"barge_in"}', b'{"type":"text","text":"x"}'])
async def test_many_callers_at_the_permitted_rate_do_not_slow_down_another(
    serve: Serve, http: aiohttp.ClientSession, message: bytes
) -> None:
    """18 of them send 25 messages a second each. They wait for their share, or are closed; a caller who takes turns is
    answered, no lease is lost, and the node handles no more than its share for all; bench/hostile.py measures delay.
    """
    service = await serve(max_sessions=20)
    good = await another(http, service)
    await good.spoken()
    shards, seconds = set(service.running.node.shards), 6.0
    flooding = [asyncio.create_task(flood(service.url, seconds, 25, message)) for _ in range(18)]
    answered = await turns_of(good, seconds - 1)
    sent = sum(await asyncio.gather(*flooding))
    assert answered, "each turn waits for its answer"
    assert set(service.running.node.shards) == shards
    assert service.running.node.counters["take_overs"] == 0
    handled = service.running.node.counters["inputs"]
    assert sent > 1_000 or service.running.node.counters["clients_dropped"], "it was a flood"
    turns = sum(len(service.running.watch.all(name, TurnStarted)) for name in service.running.watch.events)
    assert turns < 2 * (fair_share.PER_LINE_PER_S * 20 * 1.5 + fair_share.HASTY_PER_S * seconds), f"{handled} inputs"


async def test_who_comes_back_gets_no_more_than_who_stays(call: Connect, service: Service) -> None:
    """The share is the session's: a new connection brings no new one, and there may not be many of them."""
    client = await call()
    ids = await client.spoken()
    codes = []
    for _ in range(3 * fair_share.BURST):
        back = await call(session_id=ids["session_id"], resume_token=ids["resume_token"])
        first = await back.socket.receive()
        codes.append(first.data if first.type is aiohttp.WSMsgType.CLOSE else 0)
    assert codes.count(1013) >= fair_share.BURST
    assert len(service.running.watch.all(ids["session_id"], ClientConnected)) <= 2 * fair_share.BURST


async def test_a_silent_caller_who_comes_back_is_still_silent(
    serve: Serve, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a line would be held for ever by who reconnects once, before a word, and then only answers pings."""
    monkeypatch.setattr(lines, "SILENT_S", 1.0)
    service = await serve(max_sessions=4)
    first = await another(http, service)
    ids = await first.listening()
    back = await another(http, service, session_id=ids["session_id"], resume_token=ids["resume_token"])
    await back.until("session")
    assert await first.closed() == 1008
    assert await back.closed() == 1000
    assert back.heard[-1] == {"type": "ended", "reason": "nothing was said"}


async def test_a_goodbye_counts_once(service: Service) -> None:
    """Each would be an input and its rejection in a log that is kept: 59 of them fit in one packet."""
    socket = await RawSocket.connect(service.url)
    await socket.opened()
    goodbyes = frame(TEXT, b'{"type":"goodbye"}') * 25
    socket.writer.write(frame(TEXT, b'{"type":"text","text":"hello"}') + goodbyes)
    assert await socket.close_code() == 1000
    ((_, log),) = service.running.watch.events.items()
    assert sum(isinstance(event, SessionCloseRequested) for event in log) == 1


async def test_who_comes_back_too_often_waits_then_is_refused(
    serve: Serve, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one address, whatever the session: each return is some questions to Redis."""
    monkeypatch.setattr(server, "RETURNS", 0.05)
    service = await serve(max_sessions=20)
    caller = await another(http, service)
    ids = await caller.spoken()

    async def comes_back() -> int:
        try:
            await another(http, service, session_id=ids["session_id"], resume_token=ids["resume_token"])
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status
        return 101

    assert set(await asyncio.gather(*(comes_back() for _ in range(8)))) == {101, 429}


async def test_who_opens_too_many_waits_then_is_refused(serve: Serve, http: aiohttp.ClientSession) -> None:
    """By address: 429 before anything is made of the connection, and a newcomer gets in soon after."""
    service = await serve(max_sessions=20)

    async def opens() -> int:
        socket = await RawSocket.connect(service.url)
        try:
            return await socket.opened()
        finally:
            socket.abort()

    codes = await asyncio.gather(*(opens() for _ in range(150)))
    assert codes.count(429) > 50
    assert codes.count(101) <= 20 + 20 + 20 * 4
    begun_s = time.monotonic()
    await (await another(http, service)).listening()
    assert time.monotonic() - begun_s < 2


async def test_a_conversation_that_grows_without_end_is_ended(
    call: Connect, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told why; another conversation is a new quota."""
    monkeypatch.setattr(control_channel, "MOST_TYPED_CHARS", 1_000)
    client = await call()
    await client.listening()
    await client.say("text", text="x" * 600)
    await client.until("reply")
    await client.say("text", text="y" * 600)
    error = await client.until("error", code="quota")
    assert "too long" in error["message"]
    assert await client.closed() == 1000
    assert client.heard[-1] == {"type": "ended", "reason": "quota"}
    await (await call()).spoken()


async def test_a_conversation_of_too_many_events_is_ended_whatever_comes(
    call: Connect, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by interruptions of nothing, each of which is stored."""
    monkeypatch.setattr(control_channel, "MOST_EVENTS", 60)
    client = await call()
    await client.spoken()
    sending = asyncio.create_task(sent_forever(client))
    assert await client.closed() == 1000
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert client.heard[-1] == {"type": "ended", "reason": "quota"}


async def sent_forever(client: Talker) -> None:
    while True:
        await client.say("barge_in")
        await asyncio.sleep(0.1)


async def test_what_waits_of_one_caller_is_bounded_in_bytes(call: Connect, service: Service) -> None:
    """Long offers that wait for their turn are more than as many short words."""
    client = await call()
    await client.listening()
    for _ in range(fair_share.BURST + 10):
        await client.socket.send_str(json.dumps({"type": "webrtc_offer", "sdp": "v" * 60_000}))
    assert await client.closed() == 1008


async def test_an_address_that_asks_for_pages_without_end_waits(service: Service, http: aiohttp.ClientSession) -> None:
    """429, while a conversation goes on."""

    async def ask() -> int:
        async with http.get(f"{service.url}/healthz") as answer:
            return answer.status

    async with asyncio.timeout(PATIENCE_S):
        statuses = await asyncio.gather(*(ask() for _ in range(200)))
    assert set(statuses) == {200, 429}
    assert statuses.count(200) < 130


async def test_no_task_is_left_of_callers_who_were_refused(service: Service) -> None:
    """Whatever way they were."""

    def ours() -> set[str]:
        return {
            task.get_name() for task in asyncio.all_tasks() if "client-" in task.get_name() or ":m" in task.get_name()
        }

    for what in (*FLOODS.values(), *NOTHING.values()):
        caller = await RawSocket.connect(service.url)
        await caller.opened()
        caller.writer.write(what * 100)
        await asyncio.sleep(0)
        caller.abort()
    await soon(lambda: not ours())
