"""Fair shares: how many shards and ingresses each node should own, and which node gives its surplus to which.

Pure arithmetic over the table of members. Every node computes the same result from the same table, so there is no
leader and no election. Two nodes that see different tables for a moment may move one shard too many; its lease still
decides who owns it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has sent a sign of life."""

    node: str
    age_ms: int
    """Time since it joined, by the clock of Redis."""
    silent_ms: int
    """Time since its last sign of life, by the clock of Redis."""
    address: str
    owned: Mapping[str, int]
    """Kind ("shard" or "ingress") → how many of them the node owned at its last sign of life."""


def by_seniority(members: Sequence[Member]) -> list[Member]:
    """Sort nodes by the time they joined, oldest first. A new node comes last, so no other node's share grows with it
    and no handover is wasted.
    """
    return sorted(members, key=lambda member: (-member.age_ms, member.node))


def fair_share(total: int, members: Sequence[Member], node: str) -> int:
    """Compute how many of `total` shards (or ingresses) a node should own; 0 if the node is no member.

    The shares of all members differ by at most one and add up to `total`.
    """
    ranked = [member.node for member in by_seniority(members)]
    if node not in ranked:
        return 0
    return total // len(ranked) + (ranked.index(node) < total % len(ranked))


def heirs(count: int, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Choose the members that get the next `count` shards (or ingresses), one member for each, in order. Each goes to
    the member that is furthest below its share by then.
    """
    owned = {member.node: member.owned.get(kind, 0) for member in members}
    shares = {member.node: fair_share(total, members, member.node) for member in members}
    chosen: list[Member] = []
    for _ in range(count if members else 0):
        chosen.append(max(members, key=lambda member: (shares[member.node] - owned[member.node], member.node)))
        owned[chosen[-1].node] += 1
    return chosen


def gifts(giver: str, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Choose the members that get the shards (or ingresses) which `giver` owns above its share, one member for each.

    If every node gives its surplus by this function, no member gets more than its share.
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
