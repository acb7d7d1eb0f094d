"""A client that goes while something waits to be told: whoever waits for it learns whether it has left."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.gateway.client import QUEUE_MAX, WebSocketClient
from orchestrator.gateway.messages import CloseCode, LogMessage
from orchestrator.services.failures import ListenerGone

LINE = LogMessage(line="hello")


class Socket:
    """Sends while it may, and breaks when it is told to."""

    def __init__(self) -> None:
        self.may_send, self.sent, self.broken = asyncio.Event(), 0, False
        self.meanwhile: Callable[[], None] = lambda: None
        self.and_then: Callable[[], None] = lambda: None

    async def send_str(self, text: str) -> None:
        await self.may_send.wait()
        if self.broken:
            raise ConnectionResetError
        self.meanwhile()
        await asyncio.sleep(0)
        self.sent += 1
        asyncio.get_running_loop().call_soon(self.and_then)

    async def close(self, **_: Any) -> None:
        """There is nothing to close."""


@pytest.fixture
async def socket() -> Socket:
    return Socket()


@pytest.fixture
async def client(socket: Socket) -> WebSocketClient:
    return WebSocketClient(socket, lambda: None)  # type: ignore[arg-type]


async def shown(client: WebSocketClient) -> "asyncio.Task[None]":
    """A reply that waits behind two lines."""
    client.tell(LINE)
    client.tell(LINE)
    waiting = asyncio.create_task(client.show_reply("answer-1", "Hi!"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    return waiting


async def test_a_reply_is_shown_when_all_has_left(client: WebSocketClient, socket: Socket) -> None:
    """Also when the client goes before whoever waited has been woken."""
    waiting = await shown(client)
    socket.and_then = lambda: client.stop() if socket.sent == 2 else None
    socket.may_send.set()
    await asyncio.wait_for(waiting, 2)
    assert socket.sent == 2


async def test_what_is_told_meanwhile_is_not_waited_for(client: WebSocketClient, socket: Socket) -> None:
    """A client that is always told something is shown its answer all the same."""
    waiting = await shown(client)
    socket.meanwhile = lambda: client.tell(LINE)
    socket.may_send.set()
    await asyncio.wait_for(waiting, 2)


@pytest.mark.parametrize("how", ["breaks", "stops", "does not read"])
async def test_a_reply_that_did_not_leave_is_an_error(client: WebSocketClient, socket: Socket, how: str) -> None:
    """The connection breaks, is given up, or is full: nobody waits for ever."""
    waiting = await shown(client)
    if how == "breaks":
        socket.broken = True
        socket.may_send.set()
    elif how == "stops":
        client.stop()
    else:
        for _ in range(QUEUE_MAX):
            client.tell(LINE)
    with pytest.raises(ListenerGone, match="gone before it was shown"):
        await asyncio.wait_for(waiting, 2)
    with pytest.raises(ListenerGone, match="gone before it was shown"):
        await asyncio.wait_for(client.show_reply("answer-1", "Hi!"), 2)
    client.tell(LINE)
    await asyncio.wait_for(client.drop(CloseCode.NORMAL, ""), 2)
    assert socket.sent == 0
