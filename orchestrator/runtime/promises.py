"""Promised sessions: a client gets a session id and a token, and the session has no log until its first input.

Redis holds only a key that expires. With this key another node can keep the promise when this node dies, and an event
of an outside producer can open the session.
"""

from collections.abc import Sequence

from pydantic import ValidationError
from redis.asyncio import Redis

from events.envelope import Input
from events.inputs import ClientConnected
from orchestrator.grant import EVERYTHING, Grant
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.redis.connection import ask
from orchestrator.runtime.redis.keys import Keys

KEPT_S = 90
"""Longer than a silent client stays connected, and as long as the service waits for a client to reconnect."""


def openings(live: LiveSession, opened: Input) -> list[Input]:
    """The first events of a promised session's log.

    Their ids are fixed, so that duplicates are recognised: two nodes may report them, the node of the client at its
    first input, and the node that reads an event of an outside producer.
    """
    session_id = live.session_id
    said = [opened.model_copy(update={"event_id": f"{session_id}:opened"})]
    if live.client is not None:
        client_id = live.client.client_id
        connected = ClientConnected(session_id=session_id, client_id=client_id)
        said.append(connected.model_copy(update={"event_id": f"{session_id}:{client_id}", "producer": "door"}))
    return said


async def promise(redis: Redis, keys: Keys, session_id: str, grant: Grant) -> None:
    """Promise a session for KEPT_S seconds. Raises RedisError or TimeoutError."""
    await ask(
        redis,
        [("SET", keys.promised(session_id), grant.model_dump_json(exclude={"token_id", "expires_at_s"}), "EX", KEPT_S)],
    )


async def withdraw(redis: Redis, keys: Keys, session_id: str) -> None:
    """Withdraw a promise: the session can no longer be opened. Raises RedisError or TimeoutError."""
    await ask(redis, [("DEL", keys.promised(session_id))])


async def which_awaited(redis: Redis, keys: Keys, session_ids: Sequence[str]) -> dict[str, bool]:
    """Session id → whether it is promised or already live. Raises RedisError or TimeoutError."""
    calls: list[tuple[str, ...]] = []
    for one in session_ids:  # in this order: a session that is opened meanwhile counts as promised or as live
        live = keys.sessions(keys.shard_of(one))
        calls += [("EXISTS", keys.promised(one)), ("EXISTS", keys.state(one)), ("SISMEMBER", live, one)]
    there = await ask(redis, calls)
    return {one: bool((there[3 * n] and not there[3 * n + 1]) or there[3 * n + 2]) for n, one in enumerate(session_ids)}


async def promised_grant(redis: Redis, keys: Keys, session_id: str) -> Grant | None:
    """The grant of a session that is promised and not opened; None: it is not. Raises RedisError or TimeoutError."""
    promised, opened = await ask(redis, [("GET", keys.promised(session_id)), ("EXISTS", keys.state(session_id))])
    if promised is None or opened:
        return None
    try:
        return Grant.model_validate_json(promised)
    except ValidationError:  # promised by a program of before there were grants
        return EVERYTHING
