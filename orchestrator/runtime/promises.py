"""Promised sessions: a client has a session id and a token, and the session has no log until its first input.

Until then, every key of the session in Redis expires. One of these keys is the promise: with it, any node that owns the
session's shard can open the session, even if the node that made the promise is dead.
"""

import asyncio
from collections.abc import Callable, Sequence

from pydantic import ValidationError
from redis.asyncio import Redis

from events.envelope import Input
from events.inputs import ClientConnected
from orchestrator.grant import EVERYTHING, Grant
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.redis.connection import ask
from orchestrator.runtime.redis.keys import Keys

SEARCH_S = 2.0
FEWEST_PAUSE_S, MOST_PAUSE_S = 0.05, 0.4
KEPT_S = 90
"""How long a promise is kept, in seconds: longer than a silent client stays connected, and longer than a client may
take to reconnect (`reconnect_ms` of the policy, by default 60 s).
"""


def openings(live: LiveSession, opened: Input) -> list[Input]:
    """Return the first events of a promised session's log: `opened`, and CLIENT_CONNECTED if a client is connected.

    Two nodes may report these events: the client's node at the client's first input, and the shard's owner when it
    reads an event of an outside producer. The event ids are fixed, so that the reducer recognises the duplicates.
    """
    session_id = live.session_id
    said = [opened.replace(event_id=f"{session_id}:opened")]
    if live.client is not None:
        client_id = live.client.client_id
        connected = ClientConnected(session_id=session_id, client_id=client_id)
        said.append(connected.replace(event_id=f"{session_id}:{client_id}", producer="door"))
    return said


async def promise(redis: Redis, keys: Keys, session_id: str, grant: Grant) -> None:
    """Store in Redis, for KEPT_S seconds, that a client has this session's id and may open the session with this grant.
    Raises RedisError or TimeoutError.
    """
    await ask(
        redis,
        [("SET", keys.promised(session_id), grant.model_dump_json(exclude={"token_id", "expires_at_s"}), "EX", KEPT_S)],
    )


async def withdraw(redis: Redis, keys: Keys, session_id: str) -> None:
    """Delete the promise of a session: no node can open the session any more. Raises RedisError or TimeoutError."""
    await ask(redis, [("DEL", keys.promised(session_id))])


async def which_awaited(redis: Redis, keys: Keys, session_ids: Sequence[str]) -> dict[str, bool]:
    """Return session id → True if the session is live or promised (a client has its id, but it has no log yet), False
    otherwise.

    Raises RedisError or TimeoutError.
    """
    calls: list[tuple[str, ...]] = []
    for one in session_ids:
        # In this order: a session that opens between two of these commands counts as promised or as live.
        live = keys.sessions(keys.shard_of(one))
        calls += [("EXISTS", keys.promised(one)), ("EXISTS", keys.state(one)), ("SISMEMBER", live, one)]
    there = await ask(redis, calls)
    return {one: bool((there[3 * n] and not there[3 * n + 1]) or there[3 * n + 2]) for n, one in enumerate(session_ids)}


async def promised_grant(redis: Redis, keys: Keys, session_id: str) -> Grant | None:
    """Return the grant of a promised session (a client has its id, but it has no log yet). None for other sessions.

    Raises RedisError or TimeoutError.
    """
    promised, opened = await ask(redis, [("GET", keys.promised(session_id)), ("EXISTS", keys.state(session_id))])
    if promised is None or opened:
        return None
    try:
        return Grant.model_validate_json(promised)
    except ValidationError:  # promised by an older release, which had no grants
        return EVERYTHING


async def search(redis: Redis, keys: Keys, session_id: str, owns: Callable[[], bool]) -> Grant | None:
    """Return the grant of a promised session whose client comes back. None: the session's log has begun, or this node
    does not own the session's shard (`owns` returns False).

    The session may be opening just now. So while Redis has neither a promise nor a log of it, looks again with growing
    pauses. Raises TimeoutError after SEARCH_S seconds, and RedisError.
    """
    pause_s = FEWEST_PAUSE_S
    async with asyncio.timeout(SEARCH_S):
        while owns() and not await redis.exists(keys.state(session_id)):
            if (grant := await promised_grant(redis, keys, session_id)) is not None:
                return grant
            await asyncio.sleep(pause_s)
            pause_s = min(MOST_PAUSE_S, 2 * pause_s)
    return None
