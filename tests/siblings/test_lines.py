"""Messages between the supervisor and its processes: those that cannot be read cost no others."""

import asyncio
import socket

import pytest

from orchestrator.siblings.lines import MOST_BYTES, JsonLinesConnection


@pytest.mark.parametrize(
    "broken", [b"{\n", b"\xff\n", b"[" * 100_000 + b"\n", b'{"page": "' + b"x" * MOST_BYTES + b'"}\n']
)
async def test_a_message_that_cannot_be_read_is_dropped_and_the_next_one_is_heard(
    broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a message, no UTF-8, nested too deeply, longer than the longest."""
    ours, its = socket.socketpair()
    lines = await JsonLinesConnection.over(ours)
    its.setblocking(False)
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(its, broken + b'{"stop": []}\n'))
    assert await lines.hear() == {"stop": []}
    await sending
    its.close()
    assert await lines.hear() is None
    assert "is dropped" in caplog.text
    assert len(caplog.text) < 5_000
    await lines.close()
