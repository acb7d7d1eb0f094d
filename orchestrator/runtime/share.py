"""Fair shares: how much each node ought to own, and who gives what to whom. Pure arithmetic over what all nodes see.

Every node computes the same from the same table of members, so nobody has to be asked or elected. Two nodes that see
different tables for a moment may move a shard too many; who owns it is decided by its lease all the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """A node that has shown a sign of life."""

    node: str
    age_ms: int
    """Since it came, by the clock of Redis."""
    silent_ms: int
    """Since its last sign of life."""
    address: str
    owned: Mapping[str, int]
    """How much of each kind it owned then."""


def by_seniority(members: Sequence[Member]) -> list[Member]:
    """Oldest first: a node that comes takes the last rank, so nobody's share grows and none is given in vain."""
    return sorted(members, key=lambda member: (-member.age_ms, member.node))


def fair_share(total: int, members: Sequence[Member], node: str) -> int:
    """What a node ought to own; the shares differ by one at most and add up to the total. 0: it is no member."""
    ranked = [member.node for member in by_seniority(members)]
    if node not in ranked:
        return 0
    return total // len(ranked) + (ranked.index(node) < total % len(ranked))


def heirs(count: int, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Who gets the next `count` things of a kind, one after the other: always the one that misses most."""
    owned = {member.node: member.owned.get(kind, 0) for member in members}
    shares = {member.node: fair_share(total, members, member.node) for member in members}
    chosen: list[Member] = []
    for _ in range(count if members else 0):
        chosen.append(max(members, key=lambda member: (shares[member.node] - owned[member.node], member.node)))
        owned[chosen[-1].node] += 1
    return chosen


def gifts(giver: str, kind: str, total: int, members: Sequence[Member]) -> list[Member]:
    """Who gets what `giver` owns beyond its share. All givers together give nobody more than it misses."""
    missing = {one.node: fair_share(total, members, one.node) - one.owned.get(kind, 0) for one in members}
    takers = [one for one in by_seniority(members) for _ in range(missing[one.node])]
    before = 0
    for one in by_seniority(members):
        surplus = max(0, -missing[one.node])
        if one.node == giver:
            return takers[before : before + surplus]
        before += surplus
    return []
