"""The WebSocket /orchestrate over a real server: who may connect, what is said, how it ends, how one comes back."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from events.derived import TurnStarted
from events.inputs import ClientDisconnected, SessionCloseRequested, SessionOpened, TtsComplete
from orchestrator.gateway.messages import LogMessage
from orchestrator.runtime.live_session import LiveSession
from orchestrator.session.policy import Policy
from tests.door import is_same, refused, resume_ids
from tests.gateway.conftest import Serve
from tests.gateway.talker import Service, Talker
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.proxy import LossyProxy
from tests.runtime.support import PATIENCE_S, StubHandler, a_session_on, soon

Connect = Callable[..., Awaitable[Talker]]


async def test_a_conversation_in_text_from_hello_to_goodbye(call: Connect, service: Service) -> None:
    """session and phases, transcript, reply and golden lines; then ended, and the server closes with 1000."""
    client = await call()
    session = await client.listening()
    assert client.kinds()[0] == "session"
    await client.say("text", text="hello")
    assert await client.until("transcript") == {"type": "transcript", "text": "hello", "is_final": True}
    reply = await client.until("reply")
    assert (reply["text"], reply["turn"]) == ("You said hello.", 1)
    await client.until("phase", phase="LISTENING", reason="playback_done")
    await client.say("goodbye")
    assert await client.closed() == 1000
    assert client.heard[-1] == {"type": "ended", "reason": "goodbye"}
    lines = [message["line"] for message in client.heard if message["type"] == "log"]
    assert lines == service.running.watch.golden(session["session_id"])
    await soon(lambda: not service.running.node.sessions)
    assert service.running.node.counters["dead_letters"] == 0


FOREIGN = (
    *("https://evil.example", "null", "http://[broken", "http://127.0.0.1:1", "", "file://", "localhost"),
    *("https://HERE", "ftp://HERE", "chrome-extension://HERE", "http://HERE/page", "http://HERE@evil.example"),
    *("http://evil@HERE", "http://HERE.evil.example", "http://evil.example http://HERE", "//HERE", "http://HERE:"),
)
"""HERE: the host and port that the server is asked under."""


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_page_from_elsewhere_is_refused(call: Connect, service: Service, origin: str) -> None:
    """1008, and no conversation was opened."""
    client = await call(headers={"Origin": origin.replace("HERE", urlsplit(service.url).netloc)})
    assert await client.closed() == 1008
    assert client.heard == []
    assert not service.running.node.sessions


async def test_our_own_page_and_configured_ones_are_welcome(serve: Serve, http: aiohttp.ClientSession) -> None:
    """The server's own address, and what is in allowed_origins."""
    service = await serve(allowed_origins=frozenset({"https://partner.example"}))
    for origin in (service.url, service.url.upper(), "https://partner.example", "https://partner.example:443"):
        client = Talker(await http.ws_connect(f"{service.url}/orchestrate", headers={"Origin": origin}))
        await client.listening()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "127.0.0.1.evil.example",
        "10.0.0.7:PORT",
        "localhost@evil.example",
        "",
        "[::1",
    ],
)
@pytest.mark.parametrize("path", ["/orchestrate", "/", "/metrics", "/readyz", "/static/style.css", "/nothing"])
async def test_a_request_that_was_meant_for_another_name_is_refused(
    http: aiohttp.ClientSession, service: Service, host: str, path: str
) -> None:
    """Whatever it asks for, and though its Origin agrees with its Host: so a rebound DNS name shows a visitor's browser
    nothing.
    """
    host = host.replace("PORT", str(urlsplit(service.url).port))
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", **upgrade}
    async with http.get(f"{service.url}{path}", headers=headers) as answer:
        assert answer.status == 421
        assert "ORCH_ALLOWED_HOSTS" in await answer.text()
    assert not service.running.node.sessions


async def test_names_of_the_service_are_welcome(serve: Serve, http: aiohttp.ClientSession) -> None:
    """Loopback names, and what is configured; any address in figures where others than this machine can connect."""
    private = await serve(allowed_hosts=["orch.example"], allowed_origins=["https://partner.example"])
    public = await serve(is_private=False)
    port = urlsplit(private.url).port
    names = ["localhost", f"LOCALHOST:{port}", "127.0.0.1", "127.8.8.8", "[::1]:80", "orch.example", "partner.example"]
    for service, host in [(private, name) for name in names] + [(public, "10.0.0.7"), (public, "[2001:db8::7]:8080")]:
        async with http.get(f"{service.url}/healthz", headers={"Host": host}) as answer:
            assert answer.status == 200, host


async def test_a_client_that_is_gone_before_it_is_answered_leaves_no_traceback(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of a busy node whose patience ended: its log would be full of them."""
    prepare, tried = web.WebSocketResponse.prepare, asyncio.Event()

    async def prepare_late(self: web.WebSocketResponse, request: web.Request) -> Any:
        await soon(lambda: request.transport is None or request.transport.is_closing())
        try:
            return await prepare(self, request)
        finally:
            tried.set()

    monkeypatch.setattr(web.WebSocketResponse, "prepare", prepare_late)
    url = urlsplit(service.url)
    _, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        b"GET /orchestrate HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await writer.drain()
    cast("asyncio.WriteTransport", writer.transport).abort()
    async with asyncio.timeout(PATIENCE_S):
        await tried.wait()
    await service.runner.cleanup()
    assert "Traceback" not in caplog.text


async def test_a_wrong_token_is_refused_before_the_websocket(
    call: Connect, service: Service, http: aiohttp.ClientSession
) -> None:
    """401 or 403, the same for each session; only the bearer of a right token learns that a session is over: 4404."""
    client = await call()
    session = await client.listening()
    tokens = ({}, {"resume_token": ""}, {"resume_token": "guess"}, {"resume_token": session["resume_token"][:-2]})
    for one in (session["session_id"], "auto_session_404"):
        shown = [{"session_id": one, **token} for token in tokens]
        assert [await refused(http, service.url, ids) for ids in shown] == [401] * 4
    foreign = {"session_id": "auto_session_404", "resume_token": session["resume_token"]}
    assert await refused(http, service.url, foreign) == 403
    assert await (await call(**resume_ids(service.running.node, "auto_session_404"))).closed() == 4404
    await client.say("text", text="still here")
    await client.until("reply")


async def test_all_lines_busy_is_said_with_1013(serve: Serve, http: aiohttp.ClientSession) -> None:
    """max_sessions conversations at once; the next is told to try again, and gets in when one has ended."""
    service = await serve(max_sessions=1)
    first = Talker(await http.ws_connect(f"{service.url}/orchestrate"))
    await first.listening()
    assert await Talker(await http.ws_connect(f"{service.url}/orchestrate")).closed() == 1013
    await first.say("goodbye")
    await first.closed()
    await Talker(await http.ws_connect(f"{service.url}/orchestrate")).listening()


async def test_a_client_that_lost_its_connection_comes_back(call: Connect, service: Service) -> None:
    """Same session, the phase as it is, and the conversation goes on."""
    client = await call()
    session = await client.spoken()
    await client.socket.close()
    await service.running.watch.event(session["session_id"], ClientDisconnected)
    back = await call(session_id=session["session_id"], resume_token=session["resume_token"])
    assert is_same(await back.until("session"), session)
    assert (await back.until("phase"))["phase"] == "LISTENING"
    await back.say("text", text="I am back")
    await back.until("reply", text="You said I am back.")


async def answered_while_away(call: Connect, service: Service, handler: StubHandler | None = None) -> Talker:
    """The client has come back; its connection broke before the answer was there. `handler`: it was in a call."""
    service.running.stubs.hold("answer")
    client = await call()
    session = await client.listening()
    live = service.running.node.session(session["session_id"])
    assert live is not None
    live.handler = handler
    await client.say("text", text="hello")
    await client.until("phase", phase="THINKING")
    await client.socket.close()
    await service.running.watch.event(session["session_id"], ClientDisconnected)
    service.running.stubs.release("answer")
    await service.running.watch.phase(session["session_id"], "SPEAKING")
    return await call(session_id=session["session_id"], resume_token=session["resume_token"])


async def test_an_answer_that_nobody_was_there_for_is_shown_to_the_client_that_comes_back(
    call: Connect, service: Service
) -> None:
    """It was committed while the client was away: it waits, and is told after the phase."""
    back = await answered_while_away(call, service)
    await back.until("phase", phase="LISTENING", reason="playback_done")
    replies = [(message["text"], message["turn"]) for message in back.heard if message["type"] == "reply"]
    assert replies == [("You said hello.", 1)]
    assert back.kinds()[:3] == ["session", "phase", "reply"]


async def test_an_answer_waits_for_the_call_of_a_client_that_was_in_one(call: Connect, service: Service) -> None:
    """It came while nobody was there. The client is back first; the answer is spoken in the call that follows."""
    back = await answered_while_away(call, service, StubHandler())
    await back.until("reply")
    (live,) = service.running.node.sessions
    live.handler = StubHandler()
    await service.running.watch.event(live.session_id, TtsComplete)


async def test_typed_words_with_an_id_count_once_however_often_they_come(call: Connect, service: Service) -> None:
    """They are acknowledged when they are in the log, and again to a client that comes back and may not know it."""
    client = await call()
    session = await client.listening()
    ids = {"session_id": session["session_id"], "resume_token": session["resume_token"]}
    await client.say("text", text="hello", message_id="mine-1")
    assert (await client.until("ack"))["message_id"] == "mine-1"
    await client.until("phase", phase="LISTENING", reason="playback_done")
    await client.socket.close()
    await service.running.watch.event(session["session_id"], ClientDisconnected)
    back = await call(**ids)
    await back.say("text", text="hello", message_id="mine-1")
    await back.say("text", text="again", message_id="mine-2")
    await back.until("ack", message_id="mine-2")
    await back.until("phase", phase="LISTENING", reason="playback_done")
    assert [message["message_id"] for message in back.heard if message["type"] == "ack"] == ["mine-1", "mine-2"]
    turns = service.running.watch.all(session["session_id"], TurnStarted)
    assert [turn.text for turn in turns] == ["hello", "again"]
    assert service.running.node.counters["duplicates"] == 1


async def test_a_second_connection_replaces_the_first(call: Connect, service: Service) -> None:
    """The first is closed with 1008 and says no more; the second's words count once."""
    first = await call()
    session = await first.listening()
    second = await call(session_id=session["session_id"], resume_token=session["resume_token"])
    await second.until("phase", phase="LISTENING")
    assert await first.closed() == 1008
    await second.say("text", text="hello")
    await second.until("reply")
    await second.until("phase", phase="LISTENING")
    watch = service.running.watch
    assert len(watch.all(session["session_id"], TurnStarted)) == 1
    assert not watch.all(session["session_id"], ClientDisconnected)


async def test_an_ended_conversation_cannot_be_rejoined(call: Connect) -> None:
    """4404, also with the right token."""
    client = await call()
    session = await client.listening()
    await client.say("goodbye")
    await client.closed()
    back = await call(session_id=session["session_id"], resume_token=session["resume_token"])
    assert await back.closed() == 4404


async def test_a_session_whose_shard_is_on_its_way_is_not_forgotten(
    call: Connect, service: Service, place: Place, http: aiohttp.ClientSession
) -> None:
    """While nobody here owns its shard: 1013 for whoever has the token, so that the client keeps both ids."""
    client = await call()
    session = await client.listening()
    number = place.keys.shard_of(session["session_id"])
    service.running.node.shards[number].lost.set()
    ids = {"session_id": session["session_id"], "resume_token": session["resume_token"]}
    assert await (await call(**ids)).closed() == 1013
    assert await refused(http, service.url, ids | {"resume_token": "guess"}) == 401


async def test_a_conversation_that_was_promised_and_not_yet_committed_is_waited_for(
    call: Connect, service: Service, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shard changed its owner just after the promise; its first event is still in the inbox of the next."""
    node, session_id = service.running.node, a_session_on(place.keys, 1)
    asked, promised = asyncio.Event(), node.promised

    async def noted(session_id: str) -> LiveSession | None:
        asked.set()
        return await promised(session_id)

    monkeypatch.setattr(node, "promised", noted)
    client = await call(**resume_ids(node, session_id))
    await asked.wait()
    node.report(SessionOpened(session_id=session_id, policy=Policy().recorded()))
    assert (await client.until("session"))["session_id"] == session_id


BAD = {
    "not JSON": ("{", "not valid JSON"),
    "a list": ("[]", "not a JSON object"),
    "no type": ("{}", "`type` is missing"),
    "unknown": ('{"type":"dance"}', "unknown type `dance`"),
    "missing": ('{"type":"text"}', "`text` is missing"),
    "empty": ('{"type":"text","text":""}', "`text`"),
    "too long": (json.dumps({"type": "text", "text": "x" * 2001}), "2000 characters"),
    "additional": ('{"type":"goodbye","now":true}', "`now` is no field"),
    "surrogate": ('{"type":"text","text":"\\ud800"}', "not valid JSON"),
    "position": ('{"type":"barge_in","position_ms":9007199254740991}', "`position_ms`"),
    "negative": ('{"type":"barge_in","position_ms":-1}', "`position_ms`"),
    "long id": (json.dumps({"type": "barge_in", "playback_id": "x" * 201}), "200 characters"),
    "no call": ('{"type":"webrtc_offer","sdp":"v=0"}', "the call could not be set up"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_message_is_answered_in_words(call: Connect, what: str) -> None:
    """An error message says what was wrong; the conversation goes on."""
    client = await call()
    await client.listening()
    raw, words = BAD[what]
    await client.socket.send_str(raw)
    error = await client.until("error")
    assert words in error["message"]
    assert len(error["message"]) < 500
    await client.say("text", text="hello")
    await client.until("reply")


async def test_too_many_bad_messages_end_the_connection(call: Connect, service: Service) -> None:
    """Ten are answered, then 1008; the session waits for the client."""
    client = await call()
    session = await client.spoken()
    for _ in range(12):
        await client.socket.send_str("{")
    assert await client.closed() == 1008
    assert client.kinds().count("error") in (10, 11)
    await service.running.watch.event(session["session_id"], ClientDisconnected)


async def test_a_flood_of_messages_ends_the_connection(call: Connect) -> None:
    """1008 after the burst, however fast they come."""
    client = await call()
    await client.listening()
    for _ in range(100):
        await client.say("barge_in")
    assert await client.closed() == 1008


@pytest.mark.parametrize(("send", "code"), [("x" * 140_000, 1009), (b"binary", 1008)])
async def test_messages_that_are_no_messages_end_the_connection(call: Connect, send: str | bytes, code: int) -> None:
    """Too big: 1009. Not text: 1008."""
    client = await call()
    await client.listening()
    await (client.socket.send_str(send) if isinstance(send, str) else client.socket.send_bytes(send))
    assert await client.closed() == code


async def test_a_client_that_does_not_read_is_disconnected(
    call: Connect, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is full: the connection is ended at once, nobody waits for it, the session goes on without."""
    client = await call()
    session = await client.spoken()
    live = service.running.node.session(session["session_id"])
    assert live is not None
    socket = client.socket.get_extra_info("socket")
    assert socket is not None
    client.socket._conn.transport.pause_reading()  # type: ignore[union-attr]
    async with asyncio.timeout(10):
        while live.client is not None:
            live.client.tell(LogMessage(line="x" * 20_000))  # type: ignore[attr-defined]
            await asyncio.sleep(0)
    await service.running.watch.event(session["session_id"], ClientDisconnected)
    assert service.running.node.session(session["session_id"]) is live


async def test_connections_leave_nothing_behind(call: Connect, service: Service) -> None:
    """Twenty clients come and go: no task of theirs runs on."""
    for number in range(20):
        client = await call()
        await client.listening()
        if number % 2:
            await client.say("goodbye")
            await client.closed()
        await client.socket.close()
    await soon(lambda: not [t for t in asyncio.all_tasks() if t.get_name().startswith(("client-", "auto_session"))])


async def test_a_service_that_stops_sends_everybody_away_at_once(call: Connect, service: Service) -> None:
    """1013 and a reason: clients come back to the next one. Nothing waits for connections that stay open."""
    clients = [await call() for _ in range(3)]
    for client in clients:
        await client.listening()
    stopping = asyncio.create_task(service.runner.cleanup())
    assert [await client.closed() for client in clients] == [1013] * 3
    await asyncio.wait_for(stopping, PATIENCE_S)  # the clients' own sockets are still open


async def test_an_operator_can_end_a_conversation(call: Connect, service: Service) -> None:
    """SESSION_CLOSE_REQUESTED from elsewhere: the client is told and closed."""
    client = await call()
    session = await client.listening()
    service.running.node.report(SessionCloseRequested(session_id=session["session_id"], reason="maintenance"))
    assert await client.closed() == 1000
    assert client.heard[-1] == {"type": "ended", "reason": "maintenance"}


async def test_health_is_about_the_process_and_readiness_about_calls(
    service: Service, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/healthz is 200 as long as there is a process, /readyz is 503 when Redis is away or the node has stopped."""
    async with http.get(f"{service.url}/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"alive": True})
    async with http.get(f"{service.url}/readyz") as answer:
        body = await answer.json()
        assert (answer.status, body["ready"], body["shards"], body["sessions"]) == (200, True, 4, 0)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    await service.running.node.stop()
    async with http.get(f"{service.url}/readyz") as answer:
        assert (answer.status, (await answer.json())["ready"]) == (503, False)
    async with http.get(f"{service.url}/healthz") as answer:
        assert answer.status == 200
    assert await Talker(await http.ws_connect(f"{service.url}/orchestrate")).closed() == 1013


async def test_readiness_is_503_while_redis_is_away(
    make_node: MakeNode, serve: Serve, place: Place, http: aiohttp.ClientSession
) -> None:
    """The node still owns its shards; without Redis it can take no call, and with Redis back it can again."""
    async with LossyProxy(place.url.removeprefix("unix://")) as proxy:
        service = await serve(redis_url=proxy.url)
        proxy.refuse = True
        proxy.cut()
        async with http.get(f"{service.url}/readyz") as answer:
            assert answer.status == 503
        proxy.refuse = False
        async with http.get(f"{service.url}/readyz") as answer:
            assert answer.status == 200
        await service.running.node.stop()
