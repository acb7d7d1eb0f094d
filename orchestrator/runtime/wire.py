"""One connection to Redis with nothing around it: commands out in one write, replies in, in order.

redis-py's client adds a pool, retries and metrics to each command, which cost more than the command on a path that
every event takes twice (docs/decisions/002). Its connection object alone does the protocol. Calls that come while one
is under way leave together after it: many shards at work share the round trips.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hiredis import pack_command
from redis.exceptions import ConnectionError as ConnectionLostError
from redis.exceptions import ResponseError

TIMEOUT_S = 10.0
"""A command that is not answered in this time has failed."""

Exchange = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


@dataclass(slots=True, eq=False)
class _Call:
    """What somebody wants, and what came of it."""

    commands: Sequence[tuple[Any, ...]]
    replies: list[Any] = field(default_factory=list)
    error: BaseException | None = None
    is_over: bool = False


class Wire:
    """Commands on one connection, in the order of the calls. What is lost is not sent again."""

    def __init__(
        self, make_connection: Callable[[], Any], connected: Callable[[Exchange], Awaitable[None]] | None = None
    ) -> None:
        """`connected` is awaited on each new connection before anything else goes out on it; what it raises, the call
        raises, and the commands were not sent.
        """
        self._connection = make_connection()
        self._connected = connected
        self._turn = asyncio.Lock()
        self._waiting: list[_Call] = []

    async def call(self, key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:  # noqa: ARG002 - see ClusterWire
        """The replies to commands that are all about `key` or its neighbours, errors of single commands among them as
        values. Raises RedisError or TimeoutError when the connection failed: then nobody knows what was done.
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
        """All calls that wait, in one write. When the connection fails, so do those that came meanwhile: whoever made
        them did not know of it, and may want something else now.
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
            is_cancelled = isinstance(error, asyncio.CancelledError)  # the one that speaks for all, which is its own
            failed = ConnectionLostError("the connection was given up") if is_cancelled else error
            calls, self._waiting = [*calls, *self._waiting], []
            for call in calls:
                call.error, call.is_over = failed, True
            await self._connection.disconnect(nowait=True)  # replies may still come: never read them as others'
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

    async def close(self) -> None:
        await self._connection.disconnect()
