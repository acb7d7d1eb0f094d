"""`orch serve` as it is installed, with its own event loop, beside callers who flood it."""

from pathlib import Path

import pytest

from tests.calls.service import Caller, Service
from tests.cli.service import QUIET
from tests.gateway.raw_socket import PING, PONG, TEXT, RawSocket, frame


@pytest.mark.parametrize("flood", [frame(PING), frame(PONG, b"p" * 125), frame(TEXT, b'{"type":"barge_in"}')])
async def test_a_flood_is_cut_off_and_a_call_goes_on(tmp_path: Path, flood: bytes) -> None:
    """Counting frames, refusing and aborting work with uvloop's transports, too, which are no asyncio.Transport."""
    async with Service(tmp_path, **QUIET) as service, Caller(service, voice=False) as caller:
        early = await RawSocket.connect(service.url, early=frame(PING))
        assert await early.opened() == 400
        flooder = await RawSocket.connect(service.url, token=service.token())
        assert await flooder.opened() == 101
        flooder.writer.write(flood * 200)
        assert await flooder.close_code() == 1008
        await caller.send(type="text", text="hello")
        await caller.hears("reply")
