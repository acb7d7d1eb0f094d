"""Leases: who owns a shard or an ingress, for how long, and under which token."""

from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from redis.asyncio import Redis

from orchestrator.runtime.connection import ask, evalsha, run_all
from orchestrator.runtime.keys import Keys

KEPT_MS = 500
"""How long something that is handed over is kept for its heir; one that died meanwhile keeps nobody waiting."""

Kind = Literal["shard", "ingress"]


@dataclass(frozen=True, slots=True)
class Ownable:
    """Something that one node owns at a time, by its keys."""

    kind: Kind
    name: str
    number: int
    stream: str
    lease: str
    owned: str
    sessions: str
    dead_letters: str


def shard(keys: Keys, number: int) -> Ownable:
    return Ownable(
        "shard",
        f"shard {number:02d}",
        number,
        keys.inbox(number),
        keys.lease(number),
        keys.shard(number),
        keys.sessions(number),
        keys.unroutable(number),
    )


def ingress(keys: Keys, number: int) -> Ownable:
    def name(part: str) -> str:
        return keys.ingress(number, part)

    return Ownable(
        "ingress",
        f"ingress {number}",
        number,
        name(""),
        name("lease"),
        name("owned"),
        name("sessions"),
        name("unroutable"),
    )


@dataclass(frozen=True, slots=True)
class Lease:
    """One acquisition: the token is the incarnation, unguessable and never used again."""

    what: Ownable
    token: str
    cursor: str
    sessions: tuple[str, ...]


async def acquire(redis: Redis, free: list[Ownable], lease_ms: int, address: str, node: str = "") -> list[Lease]:
    """Become the owner of what nobody else owns, and of what is kept for this node."""
    tokens = [uuid4().hex for _ in free]
    replies = await run_all(
        redis,
        [
            evalsha("acquire", [what.lease, what.owned, what.sessions], [token, lease_ms, address, node])
            for what, token in zip(free, tokens, strict=True)
        ],
    )
    return [
        Lease(what, token, reply[0].decode(), tuple(sorted(member.decode() for member in reply[1])))
        for what, token, reply in zip(free, tokens, replies, strict=True)
        if reply is not None and not isinstance(reply, Exception)
    ]


async def free(redis: Redis, wanted: list[Ownable]) -> list[Ownable]:
    """Which of them nobody holds now."""
    held = await run_all(redis, [("EXISTS", what.lease) for what in wanted])
    return [what for what, taken in zip(wanted, held, strict=True) if taken == 0]


async def address(redis: Redis, what: Ownable, node: str) -> str | None:
    """Where its owner is, or will be in a moment (empty: it does not say); None: it is free, or kept for `node`."""
    held, where = await ask(redis, [("GET", what.lease), ("HGET", what.owned, "address")])
    if held is None or held.decode() == f"for {node}":
        return None
    return where.decode() if where else ""


async def renew(redis: Redis, held: list[Lease], lease_ms: int) -> list[Lease]:
    """Keep them; returns those that are lost, and with them everything that was started under them.

    Of a master of a cluster that does not answer nothing is known: what it has is kept for now.
    """
    replies = await run_all(redis, [evalsha("renew", [one.what.lease], [one.token, lease_ms]) for one in held])
    return [one for one, renewed in zip(held, replies, strict=True) if renewed == 0]


async def release(redis: Redis, held: list[Lease], heir: str = "", address: str = "") -> None:
    """Give them back, so that others can take them at once; for a moment that is the heir alone, if one is named."""
    await run_all(
        redis,
        [evalsha("release", [one.what.lease, one.what.owned], [one.token, heir, KEPT_MS, address]) for one in held],
    )
