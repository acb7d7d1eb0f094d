"""Speech-to-text over a WebSocket: against the service of docs/services.md, and against services that break."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import open_session
from orchestrator.services.ports import Speaker
from orchestrator.services.socket_speech import SocketRecognizer, SocketSpeechToText

PAGE = Path(__file__).parents[2] / "docs" / "services.md"

Peer = Callable[[web.WebSocketResponse], Awaitable[None]]
Connect = Callable[..., Awaitable["Ear"]]


class Ear:
    """A recogniser, and everything that it reported."""

    def __init__(self) -> None:
        self.recognizer: SocketRecognizer
        self.heard: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        self.errors: asyncio.Queue[str] = asyncio.Queue()

    async def next(self) -> tuple[str, bool]:
        async with asyncio.timeout(5):
            return await self.heard.get()

    async def error(self) -> str:
        async with asyncio.timeout(5):
            return await self.errors.get()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Any], Awaitable[str]]]:
    """Serve /transcribe with a handler; gives the base URL."""
    runners: list[web.AppRunner] = []

    async def start(handler: Any) -> str:
        application = web.Application()
        application.router.add_get("/transcribe", handler)
        runners.append(runner := web.AppRunner(application, access_log=None, shutdown_timeout=0.1))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return "ws://{}:{}".format(*runner.addresses[0][:2])

    yield start
    await asyncio.gather(*(runner.cleanup() for runner in runners))


@pytest.fixture
async def connect(http: aiohttp.ClientSession, serve: Callable[[Any], Awaitable[str]]) -> AsyncIterator[Connect]:
    """An Ear at a service that a function of its socket plays, after the greeting."""
    ears: list[Ear] = []

    async def to(peer: Peer) -> Ear:
        async def handler(request: web.Request) -> web.WebSocketResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            assert (await socket.receive_json())["type"] == "open"
            await socket.send_json({"type": "ready"})
            await peer(socket)
            return socket

        ears.append(ear := Ear())
        ear.recognizer = await SocketSpeechToText(http, await serve(handler)).open(
            lambda heard: ear.heard.put_nowait((heard.text, heard.is_final)), ear.errors.put_nowait
        )
        return ear

    yield to
    await asyncio.gather(*(ear.recognizer.close() for ear in ears))


async def test_the_service_of_the_page_hears_two_utterances(
    http: aiohttp.ClientSession, serve: Callable[[Any], Awaitable[str]]
) -> None:
    """It gets session, language and headers; partials and finals come back over the same connection."""
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "WSMsgType" in block
    ]
    names: dict[str, Any] = {"understand": lambda sound: bytes(sound).decode()}
    exec(code, names)
    opened: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        opened.append(request.headers["Authorization"])
        return await names["transcribe"](request)

    ear = Ear()
    port = SocketSpeechToText(http, await serve(handler), headers={"Authorization": "Bearer t"})
    ear.recognizer = await port.open(
        lambda heard: ear.heard.put_nowait((heard.text, heard.is_final)), ear.errors.put_nowait, Speaker("s1", "de-DE")
    )
    for words in (b"guten tag", b"und tsch\xc3\xbcs"):
        ear.recognizer.start()
        ear.recognizer.feed(words[:4])
        ear.recognizer.feed(words[4:])
        ear.recognizer.finish()
        assert await ear.next() == (words[:4].decode(), False)
        assert await ear.next() == (words.decode(), False)
        assert await ear.next() == (words.decode(), True)
    await ear.recognizer.close()
    assert (opened, ear.errors.empty()) == (["Bearer t"], True)


async def test_the_next_utterance_may_start_before_the_final(connect: Connect) -> None:
    """Results carry numbers: a late partial of the first is not taken for the second, finals come in order."""
    told: list[Any] = []

    async def peer(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.BINARY:
                continue
            told.append(message.json())
            if told[-1] == {"type": "finish", "utterance": 2}:
                for kind, number, text in (("partial", 1, "late"), ("final", 1, "one"), ("final", 2, "two")):
                    await socket.send_json({"type": kind, "utterance": number, "text": text})

    ear = await connect(peer)
    for _ in range(2):
        ear.recognizer.start()
        ear.recognizer.feed(b"\0\0")
        ear.recognizer.finish()
    assert [await ear.next(), await ear.next()] == [("one", True), ("two", True)]
    assert [one["type"] for one in told] == ["start", "finish", "start", "finish"]


async def test_a_cancelled_utterance_has_no_result(connect: Connect) -> None:
    """Also when the service did not know yet and answers it."""

    async def peer(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT and (told := message.json())["type"] in ("cancel", "finish"):
                await socket.send_json({"type": "final", "utterance": told["utterance"], "text": told["type"]})

    ear = await connect(peer)
    ear.recognizer.start()
    ear.recognizer.cancel()
    ear.recognizer.start()
    ear.recognizer.finish()
    assert await ear.next() == ("finish", True)
    assert ear.errors.empty()


async def test_a_late_partial_of_a_cancelled_utterance_is_not_heard(connect: Connect) -> None:
    """Also while the final of the utterance before it is still to come."""

    async def peer(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT and message.json()["type"] == "cancel":
                await socket.send_json({"type": "partial", "utterance": 2, "text": "dropped"})
                await socket.send_json({"type": "final", "utterance": 1, "text": "one"})

    ear = await connect(peer)
    ear.recognizer.start()
    ear.recognizer.finish()
    ear.recognizer.start()
    ear.recognizer.cancel()
    assert await ear.next() == ("one", True)


async def test_messages_of_later_versions_may_come_before_the_service_is_ready(
    http: aiohttp.ClientSession, serve: Callable[[Any], Awaitable[str]]
) -> None:
    """They are passed over, as they are afterwards."""

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        for kind in ("loading", "ready"):
            await socket.send_json({"type": kind})
        await socket.receive()
        return socket

    recognizer = await SocketSpeechToText(http, await serve(handler)).open(pytest.fail, pytest.fail)
    await recognizer.close()


async def _dies(socket: web.WebSocketResponse) -> None:
    await socket.close()


async def _gives_up(socket: web.WebSocketResponse) -> None:
    await socket.send_json({"type": "error", "error": "no words of the caller's"})
    await socket.receive()


async def _swaps(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is WSMsgType.TEXT and message.json() == {"type": "finish", "utterance": 2}:
            await socket.send_json({"type": "final", "utterance": 2, "text": "two"})


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (_dies, r"closed the connection \(code 1000\)"),
        (_gives_up, "it gave up$"),
        (_swaps, "the final of utterance 2 before that of 1"),
        (lambda socket: socket.send_str("{"), "a message is not JSON"),
        (lambda socket: socket.send_str("[]"), "a message is no JSON object with a type"),
    ],
)
async def test_a_service_that_breaks_is_reported_once(connect: Connect, peer: Peer, words: str) -> None:
    """In our own words: the service's may repeat the user's. Nothing follows."""
    ear = await connect(peer)
    for _ in range(2):
        ear.recognizer.start()
        ear.recognizer.feed(b"\0\0")
        ear.recognizer.finish()
    assert re.search(words, await ear.error())
    await ear.recognizer.close()
    assert ear.errors.empty()
    assert ear.heard.empty()


async def test_a_service_that_refuses_says_why(
    http: aiohttp.ClientSession, serve: Callable[[Any], Awaitable[str]]
) -> None:
    """By its status or its first message; the secret in the URL is not repeated."""

    async def refuses(request: web.Request) -> web.WebSocketResponse:
        if "key" not in request.query:
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        await socket.send_json({"type": "error", "error": "no such language"})
        return socket

    url = await serve(refuses)
    for asked, words in ((url, "status 401"), (f"{url}?key=t0ken-of-ours", r"it refused \(no such language\)")):
        with pytest.raises(ServiceError, match=words) as caught:
            await SocketSpeechToText(http, asked).open(pytest.fail, pytest.fail)
        assert "t0ken" not in str(caught.value)
    with pytest.raises(ServiceError, match="cannot connect"):
        await SocketSpeechToText(http, "ws://127.0.0.1:1").open(pytest.fail, pytest.fail)


async def test_a_redirect_is_not_followed(serve: Callable[[Any], Awaitable[str]]) -> None:
    """The headers and the caller's sound are for the service that was configured, and for nobody else."""
    reached: list[web.Request] = []

    async def elsewhere(request: web.Request) -> web.WebSocketResponse:
        reached.append(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        return socket

    target = (await serve(elsewhere)).replace("ws", "http", 1)

    async def redirects(request: web.Request) -> web.Response:
        raise web.HTTPFound(target)

    async with open_session() as http:
        port = SocketSpeechToText(http, await serve(redirects), headers={"X-Api-Key": "t0ken-of-ours"})
        with pytest.raises(ServiceError, match="redirects to another address"):
            await port.open(pytest.fail, pytest.fail)
    assert reached == []


async def test_a_service_that_is_never_ready_is_given_up(
    http: aiohttp.ClientSession, serve: Callable[[Any], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within its time, and the connection is closed."""
    gone = asyncio.Event()

    async def silent(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        gone.set()
        return socket

    monkeypatch.setattr("orchestrator.services.socket_speech._OPEN_WITHIN_S", 0.1)
    with pytest.raises(ServiceError, match=r"not ready within 0\.1 s"):
        await SocketSpeechToText(http, await serve(silent)).open(pytest.fail, pytest.fail)
    await asyncio.wait_for(gone.wait(), 5)


async def test_a_service_that_takes_no_sound_is_reported(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the sound fills the memory."""
    monkeypatch.setattr("orchestrator.services.socket_speech._MAX_UNSENT_BYTES", 1024)
    ear = await connect(lambda socket: asyncio.Event().wait())
    ear.recognizer.start()
    ear.recognizer.feed(bytes(2048))
    assert re.search("takes no sound: 2 KiB wait", await ear.error())
