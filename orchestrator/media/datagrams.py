"""Filters the datagrams of a call: drops those of strangers, and limits the rate and queue of the caller's.

aioice alone queues every non-STUN datagram, from any sender, until it is read (docs/decisions/024).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from struct import error as StructError  # noqa: N812
from typing import Any

from aioice import stun
from aiortc import RTCPeerConnection

from orchestrator.media.aiortc_private import drain_records, ice_connections, override, require
from orchestrator.token_bucket import TokenBucket

DATAGRAMS_PER_S = 250
"""Rate limit; the bucket holds one second of it. Opus in frames of 10 ms plus RTCP needs about 105 per second."""
CHECKS_PER_S = 50
MOST_CHECKS = 100
"""Rate limit and burst of connectivity checks. Browsers make about 20 per second until they are connected."""
MOST_ADDRESSES = 32
"""Limit of addresses from which the caller has made checks."""
MOST_EARLY = 8
MOST_QUEUED = 64
"""Queue limits, in datagrams, before and after a candidate pair is nominated."""
LONGEST = 1_500
"""Longest datagram, in bytes, that libsrtp accepts."""
LONGEST_STUN = 600
"""A check has 150 bytes. aioice computes a checksum over all that comes before each FINGERPRINT of a message."""
CHECKS_OF_OURS = 1
"""Retransmissions of this server's own connectivity check. The sender of a check may have forged its address: the
answer plus this check send at most three times the bytes received. aioice's default of six retransmissions sends eight.
"""
ALIVE_S = 0.5
"""Longest gap between two datagrams of a caller that counts as none: a silent microphone sends one in 0.4 s."""
UNDER_WAY_S = 0.2
"""Speech on its way to a caller whose network goes away, there and back: better said twice than lost."""

_COOKIE = stun.COOKIE.to_bytes(4, "big")
_NEEDED = {"USERNAME", "PRIORITY", "MESSAGE-INTEGRITY", "FINGERPRINT"}
"""Attributes of every check (RFC 8445, 7.2.2). The answer to a shorter message would exceed three times its length."""
_ROLES = {"ICE-CONTROLLED", "ICE-CONTROLLING"}


class DatagramFilter:
    """Filters the datagrams of one aioice connection. Strangers get no answer. Drops are counted by reason."""

    def __init__(self, connection: Any, dropped: Counter[str]) -> None:
        self._connection = connection
        self._dropped = dropped
        self._checks = TokenBucket(CHECKS_PER_S, MOST_CHECKS)
        self._data = TokenBucket(DATAGRAMS_PER_S, DATAGRAMS_PER_S)
        self.last_at_s = 0.0
        """When the last datagram or check of the caller came (time.monotonic)."""
        override(connection, "data_received", lambda _: self._data_without_address)
        require(connection, "request_received", "_valid_username", "_queue", "_protocols")
        require(connection, "_nominated", "_remote_candidates", "_check_list")

    def watch_sockets(self) -> None:
        """Install the filter on the connection's sockets. Call after it has gathered candidates: they exist then."""
        for protocol in self._connection._protocols:
            override(protocol, "datagram_received", self._filtered(protocol))
            override(protocol, "request", _with_fewer_retransmissions)

    def _filtered(self, protocol: Any) -> Callable[[Any], Any]:
        return lambda _: partial(self._received, protocol)

    def _received(self, protocol: Any, data: bytes, address: tuple[Any, ...]) -> None:
        source = (address[0], address[1])
        is_stun = data[4:8] == _COOKIE and data[0] < 4
        if not data or len(data) > (LONGEST_STUN if is_stun else LONGEST):
            self._dropped["malformed"] += 1
        elif is_stun:
            self._received_stun(protocol, data, source)
        elif not self._is_callers(source):
            self._dropped["of strangers"] += 1
        elif self._connection._queue.qsize() >= (MOST_QUEUED if self._connection._nominated else MOST_EARLY):
            self._dropped["over the queue"] += 1
        elif not self._data.take():
            self._dropped["over the rate"] += 1
        else:
            self.last_at_s = time.monotonic()
            self._connection._queue.put_nowait((data, protocol.local_candidate.component))

    def _received_stun(self, protocol: Any, data: bytes, source: tuple[str, int]) -> None:
        try:
            message = stun.parse_message(data)
        except (ValueError, StructError):
            self._dropped["malformed"] += 1
            return
        if message.message_class in (stun.Class.RESPONSE, stun.Class.ERROR):
            if transaction := protocol.transactions.get(message.transaction_id):
                transaction.response_received(message, source)
        elif not self._is_check(message):
            self._dropped["of strangers"] += 1
        elif not self._checks.take():
            self._dropped["over the rate"] += 1
        else:
            self.last_at_s = time.monotonic()
            self._make_room_for(source)
            self._connection.request_received(message, source, protocol)

    def _is_check(self, message: stun.Message) -> bool:
        """Whether this is a check by the caller: only a receiver of this server's SDP answer knows the ICE password."""
        connection, given = self._connection, message.attributes
        return (
            message.message_class == stun.Class.REQUEST
            and message.message_method == stun.Method.BINDING
            and given.keys() >= _NEEDED
            and not _ROLES.isdisjoint(given)
            and connection._valid_username(given["USERNAME"])
            and message.check_message_integrity(connection.local_password.encode())
        )

    def _is_callers(self, source: tuple[str, int]) -> bool:
        """Whether a check came from this address. The nominated pair alone is too strict: a caller that changes its
        network sends from the new address first, and begins the DTLS handshake before this server's check is answered.
        """
        return any((one._network_host, one.port) == source for one in self._connection._remote_candidates)

    def _make_room_for(self, source: tuple[str, int]) -> None:
        """At MOST_ADDRESSES, forget every address except the nominated ones before a new one is added."""
        connection = self._connection
        if len(connection._remote_candidates) < MOST_ADDRESSES or self._is_callers(source):
            return
        kept = list(connection._nominated.values())
        for pair in connection._check_list:
            if pair not in kept and pair.task is not None:
                pair.task.cancel()
        connection._check_list[:] = [pair for pair in connection._check_list if pair in kept]
        connection._remote_candidates[:] = [pair.remote_candidate for pair in kept]

    def _data_without_address(self, data: bytes, component: int) -> None:
        """Drop a datagram that arrived before `watch_sockets`: the caller does not know the address yet."""
        del data, component
        self._dropped["of strangers"] += 1


def filter_datagrams(peer: RTCPeerConnection, dropped: Counter[str]) -> list[DatagramFilter]:
    """One filter per ICE connection. Call before the peer gathers candidates; then call `watch_sockets` on each."""
    for transceiver in peer.getTransceivers():
        override(transceiver.receiver.transport.transport, "_recv", _with_a_turn_for_others)
        drain_records(transceiver.receiver.transport)
    return [DatagramFilter(connection, dropped) for connection in ice_connections(peer)]


def last_datagram_s(filters: Iterable[DatagramFilter]) -> float:
    """When the last datagram of the caller came (time.monotonic); 0: none has."""
    return max((one.last_at_s for one in filters), default=0.0)


def unheard_ms(filters: Iterable[DatagramFilter]) -> int:
    """How long the caller has not heard this server, in ms: since its last datagram, and speech under way then."""
    last_s = last_datagram_s(filters)
    gap_s = time.monotonic() - last_s if last_s else 0.0
    return int((gap_s + UNDER_WAY_S) * 1000) if gap_s > ALIVE_S else 0


def _with_a_turn_for_others(receive: Callable[[], Awaitable[bytes]]) -> Callable[[], Awaitable[bytes]]:
    """Yield to other tasks between two datagrams: aiortc would read on until its queue is empty."""

    async def receive_fairly() -> bytes:
        await asyncio.sleep(0)
        return await receive()

    return receive_fairly


def _with_fewer_retransmissions(request: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def ask(
        message: stun.Message,
        addr: tuple[str, int],
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> Any:
        is_check = integrity_key is not None and retransmissions is None
        most = CHECKS_OF_OURS if is_check else retransmissions
        return await request(message, addr, integrity_key=integrity_key, retransmissions=most)

    return ask
