"""Fair shares: how many shards and ingresses each node should own, and which nodes give surplus to which others.

Pure arithmetic over the members: all live nodes, in a table that each node reads from Redis (membership.py). Every node
computes the same result from the same table, so there is no leader and no election. Two nodes that see different tables
for a moment may move one shard too many; the lease of that shard still decides who owns it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A live node, as its last sign of life (heartbeat) describes it."""

    node: str
    age_ms: int
    """Time since the node joined, by the clock of Redis."""
    silent_ms: int
    """Time since the node's last sign of life (heartbeat), by the clock of Redis."""
    address: str
    owned: Mapping[str, int]
    """Kind ("shard" or "ingress") → how many of this kind the node owned at its last sign of life."""


def by_seniority(members: Sequence[Member]) -> list[Member]:
    """Sort nodes by the time they joined, oldest first. If the shards cannot be divided equally, the first nodes in
    this order get one shard more each. A new node comes last, so that its arrival makes no other node's share larger.
    """
    return sorted(members, key=lambda member: (-member.age_ms, member.node))


def fair_share(total: int, members: Sequence[Member], node: str) -> int:
    """Compute how many of `total` shards (or ingresses) a node should own; 0 if the node is not a member.

    The shares of all members differ by at most one and add up to `total`.
    """
    ranked = [member.node for member in by_seniority(members)]
    if node not in ranked:
        return 0
    return total // len(ranked) + (ranked.index(node) < total % len(ranked))


def heirs(count: int, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Choose new owners for `count` shards (or ingresses) that a leaving node hands over. Returns one member for each
    shard: the n-th member gets the n-th shard.

    Chooses for one shard after another: the member that is furthest below its fair share, counting the shards that it
    was given before. `kind`: "shard" or "ingress". `total`: the number of all shards.
    """
    owned = {member.node: member.owned.get(kind, 0) for member in members}
    shares = {member.node: fair_share(total, members, member.node) for member in members}
    chosen: list[Member] = []
    for _ in range(count if members else 0):
        chosen.append(max(members, key=lambda member: (shares[member.node] - owned[member.node], member.node)))
        owned[chosen[-1].node] += 1
    return chosen


def gifts(giver: str, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Choose new owners for the surplus of `giver`: the shards (or ingresses) that it owns above its fair share.
    Returns one member for each surplus shard.

    No member gets more than its share, as long as every node gives its surplus by this function. `kind`: "shard" or
    "ingress".
    """
    missing = {one.node: fair_share(total, members, one.node) - one.owned.get(kind, 0) for one in members}
    takers = [one for one in by_seniority(members) for _ in range(missing[one.node])]
    before = 0
    for one in by_seniority(members):
        surplus = max(0, -missing[one.node])
        if one.node == giver:
            return takers[before : before + surplus]
        before += surplus
    return []
