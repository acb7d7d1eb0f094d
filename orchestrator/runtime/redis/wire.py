"""One bare connection to Redis: sends commands in one write and reads the replies in order.

Every event takes this path twice, and redis-py's client costs more than the command itself: it adds a pool, retries and
metrics (docs/decisions/002). So only redis-py's connection object is used, for the protocol. Calls that arrive during a
round trip are sent together in the next round trip: busy shards share round trips.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as ConnectionLostError
from redis.exceptions import RedisError, ResponseError

from orchestrator.teardown import end_within

TIMEOUT_S = 10.0
"""Timeout of one round trip, including the connect. Commands that wait in Redis (XREAD, BLPOP) must wait for less."""

Exchange = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]
"""Sends commands on one connection and returns their replies. If a command fails, its reply is the error."""


@dataclass(slots=True, eq=False)
class _Call:
    """One call of `Wire.call`: its commands, and their replies or the error of the connection."""

    commands: Sequence[tuple[Any, ...]]
    replies: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    is_over: bool = False


class RedisTimeoutError(RedisError, TimeoutError):
    """Redis did not answer within TIMEOUT_S. Also a RedisError, so that it is handled like a lost connection."""


def _in_words(error: BaseException) -> BaseException:
    """Return the error. A TimeoutError without a message is replaced by a RedisTimeoutError that names the timeout."""
    is_silent = isinstance(error, TimeoutError) and not str(error)
    return RedisTimeoutError(f"Redis does not answer within {TIMEOUT_S:g} s") if is_silent else error


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Limit one round trip to TIMEOUT_S. Raises RedisTimeoutError if the round trip takes longer."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield
    except TimeoutError as error:
        raise _in_words(error) from None


class Wire:
    """Sends commands on one connection, in the order in which `call` is called. Never retries."""

    def __init__(
        self, make_connection: Callable[[], Any], connected: Callable[[Exchange], Awaitable[None]] | None = None
    ) -> None:
        """`connected` is awaited on each new connection before the first command. If `connected` raises, the call
        raises the same error, and the call's commands are not sent.
        """
        self._connection = make_connection()
        self._connected = connected
        self._turn = asyncio.Lock()
        self._waiting: list[_Call] = []

    async def call(self, key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:  # noqa: ARG002 - see ClusterWire
        """Send commands on `key`, or on keys of the same master, and return their replies.

        If a command fails, its reply is the error. Raises RedisError or OSError if the connection fails: it is then
        unknown whether Redis has carried out the commands.
        """
        mine = _Call(commands)
        self._waiting.append(mine)
        async with self._turn:
            if not mine.is_over:
                await self._carry_out()
        if mine.error is not None:
            raise mine.error
        return mine.replies

    async def _carry_out(self) -> None:
        """Send all waiting calls in one write. If the connection fails, these calls fail, and so do the calls that came
        in meanwhile.

        A failed call is never sent on the next connection: Redis may have lost entries, and the inbox must append the
        lost entries before newer entries.
        """
        calls, self._waiting = self._waiting, []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if not self._connection.is_connected:
                    await self._connection.connect()
                    if self._connected is not None:
                        await self._connected(self._exchange)
                replies = iter(await self._exchange([command for call in calls for command in call.commands]))
        except BaseException as error:
            is_cancelled = isinstance(error, asyncio.CancelledError)  # only this caller is cancelled
            failed = ConnectionLostError("the connection was given up") if is_cancelled else _in_words(error)
            calls, self._waiting = [*calls, *self._waiting], []
            for call in calls:
                call.error, call.is_over = failed, True
            await self._connection.disconnect(nowait=True)  # late replies must never be read as replies to other calls
            if is_cancelled or not isinstance(error, Exception):
                raise
            return
        for call in calls:
            call.replies, call.is_over = list(islice(replies, len(call.commands))), True

    async def _exchange(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        connection = self._connection
        await connection.send_packed_command([pack_command(command) for command in commands], check_health=False)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies

    async def reconnect(self) -> None:
        """Close the connection as soon as no call is under way. The next call makes a new one, with `connected`."""
        async with self._turn:
            await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        await end_within("a connection to Redis", self._connection.disconnect())
