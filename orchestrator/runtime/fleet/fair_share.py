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
    """Kind → how many it owned at its last sign of life."""


def by_seniority(members: Sequence[Member]) -> list[Member]:
    """Oldest first. A new node takes the last rank, so no other share grows and no handover is wasted."""
    return sorted(members, key=lambda member: (-member.age_ms, member.node))


def fair_share(total: int, members: Sequence[Member], node: str) -> int:
    """How many things a node should own; 0 if it is no member. Shares differ by at most one and add up to `total`."""
    ranked = [member.node for member in by_seniority(members)]
    if node not in ranked:
        return 0
    return total // len(ranked) + (ranked.index(node) < total % len(ranked))


def heirs(count: int, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Who gets the next `count` things of a kind, in order: each time the member furthest below its share."""
    owned = {member.node: member.owned.get(kind, 0) for member in members}
    shares = {member.node: fair_share(total, members, member.node) for member in members}
    chosen: list[Member] = []
    for _ in range(count if members else 0):
        chosen.append(max(members, key=lambda member: (shares[member.node] - owned[member.node], member.node)))
        owned[chosen[-1].node] += 1
    return chosen


def gifts(giver: str, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Who gets the surplus of `giver`, one member per thing. All givers together lift no member above its share."""
    missing = {one.node: fair_share(total, members, one.node) - one.owned.get(kind, 0) for one in members}
    takers = [one for one in by_seniority(members) for _ in range(missing[one.node])]
    before = 0
    for one in by_seniority(members):
        surplus = max(0, -missing[one.node])
        if one.node == giver:
            return takers[before : before + surplus]
        before += surplus
    return []
