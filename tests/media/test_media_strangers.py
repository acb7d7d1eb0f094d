"""Datagrams that no caller of ours sent: they cost nothing, are answered to nobody, and end no call."""

import asyncio
import re
import socket
import zlib
from collections.abc import Callable, Iterator

import pytest
from aioice import stun

from orchestrator.media.aiortc_private import ice_connections
from orchestrator.media.datagrams import LONGEST_STUN
from tests.media.peer import CallPeer
from tests.media.stubs import Call, connect
from tests.media.test_media_connection import ON_LOOPBACK, accept

QUIET_S = 0.2
GARBAGE = (b"", b"\x00", b"\xff" * 1_400, b"\x80\x60" + bytes(40), b"\x16\xfe\xfd" + bytes(60), b"\x81\xc9" + bytes(30))
BINDING = b"\x00\x01\x00\x08" + stun.COOKIE.to_bytes(4, "big") + bytes(12)
"""The start of a check; one attribute of eight bytes follows."""
BROKEN_CHECKS = (BINDING + b"\x00\x24\x00\x02\x00\x01\x00\x00", BINDING + b"\x00\x06\x00\x04\xff\xff\xff\xff")


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.setblocking(False)
        own.bind(("127.0.0.1", 0))
        yield own


def kept(handler) -> int:
    (connection,) = ice_connections(handler._peer)
    return connection._queue.qsize()


def port_of(answer: str) -> int:
    return int(re.search(r"^m=audio (\d+)", answer, re.MULTILINE)[1])


async def until(true: Callable[[], bool]) -> None:
    """Wait for what only the event loop brings about."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def looked_at(handler, count: int) -> None:
    """Wait until the handler has read so many datagrams and dropped them."""
    await until(lambda: handler._dropped.total() >= count)


async def received_by(own: socket.socket, quiet_s: float = QUIET_S) -> list[bytes]:
    """All that comes until nothing has come for a while."""
    got = []
    while True:
        try:
            async with asyncio.timeout(quiet_s):
                got.append(await asyncio.get_running_loop().sock_recv(own, 65_536))
        except TimeoutError:
            return got


def with_many_fingerprints(length: int) -> bytes:
    """A STUN message of so many FINGERPRINTs, each of them right: aioice checks each over all that comes before it."""
    message = bytearray(BINDING)
    while len(message) < length:
        message[2:4] = (len(message) + 8 - 20).to_bytes(2, "big")
        crc = zlib.crc32(message) ^ 0x5354554E
        message += b"\x80\x28\x00\x04" + crc.to_bytes(4, "big")
    return bytes(message)


async def test_a_long_stun_message_is_not_read(call: Call, stranger: socket.socket, monkeypatch) -> None:
    """A stranger needs no key for it, and 64 KB of it would take the event loop 80 ms."""
    read: list[int] = []
    parse = stun.parse_message
    monkeypatch.setattr(stun, "parse_message", lambda data, *key: read.append(len(data)) or parse(data, *key))
    port = call.handler._transceiver.receiver.transport.transport.iceGatherer.getLocalCandidates()[0].port
    before = call.handler._dropped["malformed"]
    for length in (LONGEST_STUN + 100, 1_400, 60_000):
        stranger.sendto(with_many_fingerprints(length), ("127.0.0.1", port))
    await until(lambda: call.handler._dropped["malformed"] >= before + 3)
    assert max(read, default=0) <= LONGEST_STUN


async def test_before_the_caller_is_there_nothing_of_strangers_is_kept(stranger: socket.socket) -> None:
    """Whatever is sent to the port of the answer, and none of it is answered."""
    peer = CallPeer()
    handler, answer = await accept(await peer.offer(), ON_LOOPBACK)
    try:
        for n in range(300):
            stranger.sendto((GARBAGE + BROKEN_CHECKS)[n % 8], ("127.0.0.1", port_of(answer)))
            await asyncio.sleep(0)
        await looked_at(handler, 300)
        assert kept(handler) == 0
        assert await received_by(stranger) == []
        await peer.answered(answer)
    finally:
        await handler.close()
        await peer.close()


async def test_during_a_call_datagrams_of_strangers_do_not_reach_it(
    call: Call, sentence: bytes, stranger: socket.socket
) -> None:
    """Neither what looks like media nor what nobody could read: the call goes on, and the caller is heard."""
    (connection,) = ice_connections(call.handler._peer)
    port = connection.local_candidates[0].port
    for n in range(300):
        stranger.sendto((GARBAGE + BROKEN_CHECKS)[n % 8], ("127.0.0.1", port))
        await asyncio.sleep(0)
    await looked_at(call.handler, 300)
    assert await received_by(stranger) == []
    await call.peer.say(sentence)
    await call.reported("SPEECH_STARTED")
    assert "HANDLER_DETACHED" not in call.types()


async def test_what_the_caller_itself_sends_cannot_end_the_reader(call: Call, sentence: bytes) -> None:
    """From the nominated address, so nobody can tell it from the caller's: empty, too long for SRTP, not encrypted."""
    (connection,) = ice_connections(call.peer.connection)
    for data in (*GARBAGE, b"\x80" * 1_501, b"\x90" * 60_000):
        await connection.send(data)
    await call.peer.say(sentence)
    await call.reported("SPEECH_STARTED")
    assert "HANDLER_DETACHED" not in call.types()


async def test_addresses_in_an_offer_are_not_sent_to(stranger: socket.socket) -> None:
    """An offer names a victim 600 times; it gets nothing, while a caller that makes checks of its own is connected."""
    victim = stranger.getsockname()[1]
    named = "".join(f"a=candidate:{n} 1 udp {2**31 - n} 127.0.0.1 {victim} typ host\r\n" for n in range(600))
    peer = CallPeer()
    handler, answer = await accept(await peer.offer() + named, ON_LOOPBACK)
    try:
        await peer.answered(answer)
        assert await received_by(stranger, 1.0) == []
    finally:
        await handler.close()
        await peer.close()


async def test_a_forged_check_gets_at_most_three_times_its_length(stranger: socket.socket) -> None:
    """Its sender has the password, and may have written the address of somebody else into the packet."""
    call = await connect(answer=False)
    try:
        (ours,) = ice_connections(call.handler._peer)
        (theirs,) = ice_connections(call.peer.connection)
        check = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        check.attributes |= {
            "USERNAME": f"{ours.local_username}:{theirs.local_username}",
            "PRIORITY": 1,
            "ICE-CONTROLLING": 1,
        }
        check.add_message_integrity(ours.local_password.encode())
        stranger.sendto(bytes(check), ("127.0.0.1", ours.local_candidates[0].port))
        got = await received_by(stranger, 1.6)  # retransmissions come after 0.5 s, and 1 s after that
        assert len(got) >= 2
        assert sum(map(len, got)) <= 3 * len(bytes(check))
    finally:
        await call.handler.close()
        await call.peer.close()


async def test_a_caller_with_many_addresses_leaves_a_bounded_number_behind(call: Call) -> None:
    """Each check of a new address is an address to check; those that lead nowhere make room."""
    (ours,) = ice_connections(call.handler._peer)
    (theirs,) = ice_connections(call.peer.connection)
    (nominated,) = ours._nominated.values()
    for n in range(60):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            check = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
            check.attributes |= {
                "USERNAME": f"{ours.local_username}:{theirs.local_username}",
                "PRIORITY": n,
                "ICE-CONTROLLING": 1,
            }
            check.add_message_integrity(ours.local_password.encode())
            other.sendto(bytes(check), ("127.0.0.1", ours.local_candidates[0].port))
            await asyncio.sleep(0)
    await until(lambda: any(one.priority == 59 for one in ours._remote_candidates))
    assert len(ours._remote_candidates) <= 32
    assert len(ours._check_list) <= 33
    assert nominated in ours._nominated.values()
