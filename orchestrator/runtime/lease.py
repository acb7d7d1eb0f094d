"""Leases: who owns a shard or an ingress, for how long, and under which token."""

from dataclasses import dataclass
from uuid import uuid4

from redis.asyncio import Redis

from orchestrator.runtime.connection import evalsha, run_all
from orchestrator.runtime.keys import Keys


@dataclass(frozen=True, slots=True)
class Ownable:
    """Something that one node owns at a time, by its keys."""

    name: str
    number: int
    stream: str
    lease: str
    owned: str
    sessions: str
    dead_letters: str


def shard(keys: Keys, number: int) -> Ownable:
    return Ownable(
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
        f"ingress {number}", number, name(""), name("lease"), name("owned"), name("sessions"), name("unroutable")
    )


@dataclass(frozen=True, slots=True)
class Lease:
    """One acquisition: the token is the incarnation, unguessable and never used again."""

    what: Ownable
    token: str
    cursor: str
    sessions: tuple[str, ...]


async def acquire(redis: Redis, free: list[Ownable], lease_ms: int, address: str) -> list[Lease]:
    """Become the owner of what nobody else owns."""
    tokens = [uuid4().hex for _ in free]
    replies = await run_all(
        redis,
        [
            evalsha("acquire", [what.lease, what.owned, what.sessions], [token, lease_ms, address])
            for what, token in zip(free, tokens, strict=True)
        ],
    )
    return [
        Lease(what, token, reply[0].decode(), tuple(sorted(member.decode() for member in reply[1])))
        for what, token, reply in zip(free, tokens, replies, strict=True)
        if reply is not None
    ]


async def renew(redis: Redis, held: list[Lease], lease_ms: int) -> list[Lease]:
    """Keep them; returns those that are lost, and with them everything that was started under them."""
    replies = await run_all(redis, [evalsha("renew", [one.what.lease], [one.token, lease_ms]) for one in held])
    return [one for one, renewed in zip(held, replies, strict=True) if not renewed]


async def release(redis: Redis, held: list[Lease]) -> None:
    """Give them back, so that others can take them at once."""
    await run_all(redis, [evalsha("release", [one.what.lease, one.what.owned], [one.token]) for one in held])
