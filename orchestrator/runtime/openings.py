"""Keeps in Redis which session a token opened, how many a subject has, and which resume tokens were used."""

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
"""How long the list of a subject is kept after its last opening; no conversation is longer."""
REJOINED_S = 24 * 3600
"""As long as a resume token lives: then all older ones have expired, too."""


class SpentError(RuntimeError):
    """A grant opens no further session; the message says why."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A session that is promised to a client, and the number of the resume token that the client gets."""

    session_id: str
    number: int = 1


async def reserve(
    redis: Redis, keys: Keys, grant: Grant, new_id: str, here: Callable[[str], LiveSession | None]
) -> Reserved:
    """Promise a session to the bearer of a grant, before its client is accepted: `new_id`, or the session to which its
    token was bound when it was shown before. `here` finds a session in this process. Raises SpentError, RedisError or
    TimeoutError.
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
    """Bind a token to the session that it opens. Returns that session: another one if the token was shown before."""
    if not grant.token_id:
        return session_id
    life_s = max(1, math.ceil(grant.expires_at_s - time.time()))
    key = keys.token(grant.token_id)
    _, bound = await ask(redis, [("SET", key, session_id, "NX", "EX", life_s), ("GET", key)])
    return bytes(bound or session_id.encode()).decode()


async def _is_within_limit(redis: Redis, keys: Keys, grant: Grant, session_id: str) -> bool:
    """Count a session among those of its subject. False, and it is not counted: the subject has as many as it may.

    The list has an order that all nodes see, so of two openings at once the earlier one is within the limit.
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
    """Use a resume token of a session by its number; from then on older ones are refused. False: it is an older one.
    Raises RedisError or TimeoutError.
    """
    key = keys.rejoined(session_id)
    calls = [("ZADD", key, "GT", number, "used"), ("ZSCORE", key, "used"), ("EXPIRE", key, REJOINED_S)]
    _, used, _ = await ask(redis, calls)
    return float(used) <= number
