"""Keeps in Redis which session a caller's token opens, how many sessions a caller has, and the used resume tokens.

A resume token is given to the client of a session. The client shows it when it reconnects to that session.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis

from orchestrator.grant import Grant
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.promises import promise, which_awaited, withdraw
from orchestrator.runtime.redis.connection import ask
from orchestrator.runtime.redis.keys import Keys

SUBJECT_S = 7 * 24 * 3600
"""How long, in seconds, Redis keeps the list of a caller's sessions after the last addition. It keeps the session id
that a token opens for the same time, if the token never expires. No conversation lasts longer.
"""
REJOINED_S = 24 * 3600
"""How long, in seconds, Redis keeps the number of a session's last used resume token. A resume token is valid for the
same time: when the number is deleted, all tokens with lower numbers have expired.
"""


class SpentError(RuntimeError):
    """A caller's grant (what the caller's token allows) opens no further session; the message says why."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A session id that is reserved for a client, and the number of the client's resume token for that session."""

    session_id: str
    number: int = 1


async def reserve(
    redis: Redis, keys: Keys, grant: Grant, new_id: str, here: Callable[[str], LiveSession | None]
) -> Reserved:
    """Reserve a session id for a caller, before the caller's client is connected.

    The id is `new_id`; but if the grant's token was shown before, the id is the one bound to that token. Raises
    SpentError if the session with the bound id is open already, or if the grant allows no further session. Raises
    RedisError or TimeoutError.

    `here`: session id → live session in this process. A session may be open here before its log is in Redis.
    """
    session_id, number = await _bound(redis, keys, grant, new_id), 1
    if session_id != new_id:
        live = here(session_id)
        opened, used = await ask(
            redis, [("EXISTS", keys.state(session_id)), ("ZSCORE", keys.rejoined(session_id), "used")]
        )
        if opened or (live is not None and live.open is None):
            raise SpentError("this token has opened its conversation; come back to it with its resume token")
        number = int(float(used or 0)) + 1
    await promise(redis, keys, session_id, grant)
    if not await _is_within_limit(redis, keys, grant, session_id):
        await withdraw(redis, keys, session_id)
        raise SpentError(f"you have {grant.sessions} conversations, as many as you may; end one first")
    return Reserved(session_id, number)


async def _bound(redis: Redis, keys: Keys, grant: Grant, session_id: str) -> str:
    """Bind the grant's token to this session, unless the token is bound to a session already. Returns the id of the
    session to which the token is bound. A grant without a token id is bound to nothing: returns `session_id`.
    """
    if not grant.token_id:
        return session_id
    life_s = max(1, math.ceil(grant.expires_at_s - time.time())) if grant.expires_at_s else SUBJECT_S
    key = keys.token(grant.token_id)
    _, bound = await ask(redis, [("SET", key, session_id, "NX", "EX", life_s), ("GET", key)])
    return bytes(bound or session_id.encode()).decode()


async def _is_within_limit(redis: Redis, keys: Keys, grant: Grant, session_id: str) -> bool:
    """Add a session to the list of the caller's sessions in Redis, if the grant allows one more session. Returns False,
    and leaves the session out, if the caller already has as many sessions as the grant allows. If the grant has no
    limit or no subject, only returns True.

    All nodes see the list in the same order. So if a caller opens two sessions at once and may have only one, the first
    in the list is allowed.
    """
    if not grant.sessions or not grant.subject:
        return True
    key = keys.of_subject(grant.subject)
    push = [("LREM", key, 0, session_id), ("RPUSH", key, session_id), ("EXPIRE", key, SUBJECT_S)]
    *_, found = await ask(redis, [*push, ("LRANGE", key, 0, -1)])
    known = [bytes(one).decode() for one in found]
    before = known[: known.index(session_id)] if session_id in known else []
    is_there = await which_awaited(redis, keys, before) if before else {}
    is_within = sum(is_there.values()) < grant.sessions
    gone = [one for one, there in is_there.items() if not there] + ([] if is_within else [session_id])
    if gone:
        await ask(redis, [("LREM", key, 0, one) for one in gone])
    return is_within


async def use(redis: Redis, keys: Keys, session_id: str, number: int) -> bool:
    """Record that a client uses the session's resume token with this number: tokens with lower numbers are refused from
    now on. Returns False if a token with a higher number was used before. Raises RedisError or TimeoutError.
    """
    key = keys.rejoined(session_id)
    calls = [("ZADD", key, "GT", number, "used"), ("ZSCORE", key, "used"), ("EXPIRE", key, REJOINED_S)]
    _, used, _ = await ask(redis, calls)
    return float(used) <= number
