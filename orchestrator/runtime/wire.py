"""One connection to Redis with nothing around it: commands out in one write, replies in, in order.

redis-py's client adds a pool, retries and metrics to each command, which cost more than the command on a path that
every event takes twice (docs/decisions/002). Its connection object alone does the protocol.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hiredis import pack_command
from redis.exceptions import ResponseError

TIMEOUT_S = 10.0
"""A command that is not answered in this time has failed."""

Exchange = Callable[[Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


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

    async def call(self, key: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:  # noqa: ARG002 - see ClusterWire
        """The replies to commands that are all about `key` or its neighbours, errors of single commands among them as
        values. Raises RedisError or TimeoutError when the connection failed: then nobody knows what was done.
        """
        async with self._turn:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    if not self._connection.is_connected:
                        await self._connection.connect()
                        if self._connected is not None:
                            await self._connected(self._exchange)
                    return await self._exchange(commands)
            except BaseException:
                await self._connection.disconnect(nowait=True)  # replies may still come: never read them as others'
                raise

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
