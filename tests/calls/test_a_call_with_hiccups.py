"""A connection that goes and comes back while the agent speaks costs nobody the answer: it goes on where it was heard.

A real process with its own services, real WebSockets, real WebRTC.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from events.derived import AnswerEnded, CommandIssued
from events.envelope import Event
from events.inputs import PlaybackDone, ServiceFailed
from tests.calls.checks import exported
from tests.calls.service import Caller, Service
from tests.door import joining
from tests.media.peer import CallPeer

pytestmark = pytest.mark.calls

AWAY_S = 0.03
HEARD_S = 0.6
"""How much of the answer is heard between two hiccups."""


class Unsteady(Caller):
    """Loses one connection after the other, and is back at once."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.peers = [self.peer]

    async def __aenter__(self) -> "Unsteady":
        await super().__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        for peer in self.peers[:-1]:
            await peer.close()
        await super().__aexit__(*details)

    async def hears_some(self, after_s: float) -> None:
        first = await self.peer.hears_agent(within_s=10, after_s=after_s)
        await self.peer.hears_agent(within_s=10, after_s=first.at_s + HEARD_S)

    async def calls_again(self) -> None:
        """Offer a new call; the old one, if it still carries audio, goes when the answer is there."""
        self.peer = CallPeer()
        self.peers.append(self.peer)
        await self.send(type="webrtc_offer", sdp=await self.peer.offer())
        await self.peer.answered((await self.hears("webrtc_answer"))["sdp"])

    async def loses_the_websocket(self) -> None:
        transport: Any = self._socket._response.connection.transport
        transport.abort()
        await self._reader
        await asyncio.sleep(AWAY_S)
        await self._connects()
        await self.calls_again()

    async def is_replaced(self) -> None:
        """By another connection: a reloaded page whose old connection is not known to be gone."""
        reader = self._reader
        await self._connects()
        await reader
        await self.calls_again()

    async def loses_the_media(self) -> None:
        await self.peer.close()
        await asyncio.sleep(AWAY_S)
        await self.calls_again()

    async def offers_again(self) -> None:
        await self.calls_again()

    async def loses_the_websocket_and_types(self) -> None:
        """It comes back without a call: the answer is shown."""
        transport: Any = self._socket._response.connection.transport
        transport.abort()
        await self._reader
        await self._connects()

    async def _connects(self) -> None:
        """With the resume token that the last connection got: the one before it has ended by then."""
        ids = {"session_id": self.session_id, "resume_token": self.shown[-1]}
        self._socket = await self._http.ws_connect(f"{self._url}/orchestrate", **joining(ids))
        self._reader = asyncio.create_task(self._read())
        await self.hears("session")


HICCUPS = ("loses_the_websocket", "is_replaced", "loses_the_media", "offers_again")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with Service(tmp_path / "data") as running:
        yield running


async def a_call_with(service: Service, *hiccups: str) -> list[Event]:
    """An answer that is broken off by each of these; its log."""
    async with Unsteady(service) as caller:
        await caller.hears("phase", phase="LISTENING")
        began_s = time.monotonic()
        await caller.send(type="text", text="what can you do")
        for hiccup in hiccups:
            await caller.hears_some(began_s)
            began_s = time.monotonic()
            await getattr(caller, hiccup)()
        await caller.hears("phase", phase="LISTENING", reason="playback_done")
        assert not [line for line in service.words if "Traceback" in line]
        return await exported(service, caller.session_id)


def rest_was_spoken(log: list[Event], times: int) -> None:
    """No service failed, the answer was heard to its end, and each rest began further on."""
    assert not [event.error for event in log if isinstance(event, ServiceFailed)]
    (ended,) = [event for event in log if isinstance(event, AnswerEnded)]
    assert ended.outcome == "finished"
    spoken = [event.payload["from_ms"] for event in log if isinstance(event, CommandIssued) and event.name == "Speak"]
    assert len(spoken) == times + 1
    assert all(later >= earlier + 1000 * HEARD_S / 2 for earlier, later in pairwise(spoken)), spoken
    (done,) = [event for event in log if isinstance(event, PlaybackDone)]
    assert done.confirmed_by == "client"


async def test_the_rest_of_an_answer_is_heard_after_many_breaks(service: Service) -> None:
    """Of every kind, and more of them than failures of a service end a conversation."""
    breaks = (*HICCUPS, "loses_the_websocket")
    rest_was_spoken(await a_call_with(service, *breaks), len(breaks))


async def test_the_rest_of_an_answer_is_shown_to_a_client_that_comes_back_without_a_call(service: Service) -> None:
    """Its call is waited for a little."""
    log = await a_call_with(service, "loses_the_websocket_and_types")
    assert not [event.error for event in log if isinstance(event, ServiceFailed)]
    (ended,) = [event for event in log if isinstance(event, AnswerEnded)]
    assert ended.outcome == "finished"
