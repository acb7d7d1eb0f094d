"""A TURN server that gives no relay, or too late: the call goes on without one, and nothing is left of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from orchestrator.media.handler import MediaHandler
from orchestrator.media.ice import RELAY_S
from orchestrator.media.settings import MediaSettings
from tests.media.peer import CallPeer
from tests.media.stubs import RememberingSpeechToText


@dataclass
class Silent:
    """A TCP server that answers nothing, and knows who is connected."""

    port: int = 0
    came: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came.set()
        with contextlib.suppress(ConnectionError):
            while await reader.read(1_000):
                pass
        self.left.set()
        writer.close()


@pytest.fixture
async def silent() -> AsyncIterator[Silent]:
    server = Silent()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server


async def accept(peer: CallPeer, server: Silent) -> MediaHandler:
    relay = f"turn:127.0.0.1:{server.port}?transport=tcp"
    handler, answer = await MediaHandler.accept(
        await peer.offer(),
        handler_id="fastrtc_1",
        session_id="auto_session_1",
        stt=RememberingSpeechToText(),
        report=lambda _: None,
        tell_client=lambda _: None,
        settings=MediaSettings(ice_host_addresses=("127.0.0.1",), relay=relay, turn_secret="secret"),
    )
    await peer.answered(answer)
    return handler


async def test_a_call_waits_a_moment_for_a_relay_and_goes_on_without(
    silent: Silent, caplog: pytest.LogCaptureFixture
) -> None:
    peer = CallPeer()
    async with asyncio.timeout(RELAY_S + 3):
        handler = await accept(peer, silent)
    assert "no relay" in caplog.text
    await handler.close()
    await peer.close()
    async with asyncio.timeout(5):
        await silent.left.wait()


async def test_an_offer_that_is_given_up_leaves_no_relay(silent: Silent) -> None:
    """A page that is loaded anew offers again while its first offer waits for the TURN server."""
    peer = CallPeer()
    accepting = asyncio.create_task(accept(peer, silent))
    async with asyncio.timeout(5):
        await silent.came.wait()
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        await silent.left.wait()
    await peer.close()
