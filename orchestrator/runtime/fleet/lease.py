"""Leases: who owns a shard or an ingress, for how long, and under which fencing token."""

import logging
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from redis.asyncio import Redis

from orchestrator.runtime.clock import SteadyClock
from orchestrator.runtime.fleet import exchange
from orchestrator.runtime.redis.connection import ask, evalsha, run_all
from orchestrator.runtime.redis.keys import Keys

KEPT_MS = 500
"""How long, in ms, a released lease is reserved for its heir: the node to which the shard or ingress is handed over. If
the heir dies, the reservation expires, and any node may take the lease.
"""

SET_BACK = 2
"""If a lease still lasts longer than SET_BACK * `lease_ms`, the clock of Redis was set back after the lease was given.
The factor leaves room for nodes that were started with a longer `lease_ms`.
"""
_NO_KEY = -2
"""The reply of PTTL for a key that does not exist."""

logger = logging.getLogger(__name__)

Kind = Literal["shard", "ingress"]


@dataclass(frozen=True, slots=True)
class Ownable:
    """A shard or an ingress, with the names of its keys in Redis. One node owns it at a time."""

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
    """One acquisition of a shard or an ingress. `token` is the fencing token (the incarnation): unguessable and never
    reused. Read at the acquisition: `cursor`, the id of the stream's last handled entry; `sessions`, the ids of the
    live sessions.
    """

    what: Ownable
    token: str
    cursor: str
    sessions: tuple[str, ...]
    server_clock: SteadyClock
    """The clock of the Redis server, read at the acquisition."""


async def acquire(redis: Redis, free: list[Ownable], lease_ms: int, address: str, node: str = "") -> list[Lease]:
    """Acquire the leases of the shards and ingresses in `free`, and return the acquired leases. A lease that a node
    holds, or that is reserved for another node, is left out.

    `address`: where clients reach this node. `node`: name of this node; empty: reserved leases are left out, too.
    """
    tokens = [uuid4().hex for _ in free]
    replies = await run_all(
        redis,
        [
            evalsha("acquire", [what.lease, what.owned, what.sessions], [token, lease_ms, address, node])
            for what, token in zip(free, tokens, strict=True)
        ],
    )
    return [
        Lease(
            what,
            token,
            reply[0].decode(),
            tuple(sorted(member.decode() for member in reply[1])),
            SteadyClock(int(reply[2][0]) * 1_000_000 + int(reply[2][1])),
        )
        for what, token, reply in zip(free, tokens, replies, strict=True)
        if reply is not None and not isinstance(reply, Exception)
    ]


async def free(redis: Redis, wanted: list[Ownable], lease_ms: int) -> list[Ownable]:
    """Return the shards and ingresses of `wanted` that nobody holds now and that are not reserved for a node. Those on
    a cluster master that does not answer in time are left out.

    If the clock of Redis was set back, earlier leases would last too long: this function shortens them to `lease_ms`. A
    live owner renews its lease in time, so this does no harm to it. The sessions of a dead owner are then taken over no
    later than usual.
    """
    left_ms = await exchange.run_all(redis, [("PTTL", what.lease) for what in wanted], lease_ms)
    known = [(what, left) for what, left in zip(wanted, left_ms, strict=True) if isinstance(left, int)]
    if too_long := [what for what, left in known if left > SET_BACK * lease_ms]:
        logger.warning("the clock of Redis was set back; leases that would last too long are cut: %d", len(too_long))
        await exchange.run_all(redis, [("PEXPIRE", what.lease, lease_ms) for what in too_long], lease_ms)
    return [what for what, left in known if left == _NO_KEY]


async def address(redis: Redis, what: Ownable, node: str) -> str | None:
    """Read where clients reach the node that has a shard or ingress: its owner or, after a handover, the heir for which
    its lease is reserved. The owner may be this node.

    Empty: the owner or heir advertises no address. None: there is no owner and no heir, or this node is the heir.
    `node`: name of this node.
    """
    held, where = await ask(redis, [("GET", what.lease), ("HGET", what.owned, "address")])
    if held is None or held.decode() == f"for {node}":
        return None
    return where.decode() if where else ""


async def renew(redis: Redis, held: list[Lease], lease_ms: int) -> list[Lease]:
    """Renew the leases in `held`. Returns the leases that this node has lost; all work started under them must end.

    A lease on a cluster master that does not answer in time (exchange.py) counts as kept: nobody knows whether it is
    lost.
    """
    replies = await exchange.run_all(
        redis,
        [
            evalsha("renew", [one.what.lease, one.what.owned], [one.token, lease_ms, one.server_clock.now_us()])
            for one in held
        ],
        lease_ms,
    )
    return [one for one, renewed in zip(held, replies, strict=True) if renewed == 0]


async def release(redis: Redis, held: list[Lease], heir: str = "", address: str = "") -> None:
    """Release the leases in `held`, so that any node can take them at once. If `heir` names a node, only that node can
    take them for KEPT_MS, and clients are sent to `address`, the address of that node.
    """
    await run_all(
        redis,
        [evalsha("release", [one.what.lease, one.what.owned], [one.token, heir, KEPT_MS, address]) for one in held],
    )
