"""Handover: the order in which a node hands its shards and ingresses over, and to which nodes."""

from collections.abc import Mapping

from orchestrator.runtime.fleet.fair_share import Member, heirs
from orchestrator.runtime.fleet.holding import Holding

Gift = tuple[list[str], Member]
"""Names of shards or ingresses, and the node that gets them."""


def fewest_calls_first(running: Mapping[str, Holding], kind: str) -> list[str]:
    """Sort the names of a node's shards (or ingresses) by the number of their sessions."""
    mine = [(one.owner.calls, name) for name, one in running.items() if one.owner.lease.what.kind == kind]
    return [name for _, name in sorted(mine)]


def bequeath(
    running: Mapping[str, Holding], totals: Mapping[str, int], others: list[Member]
) -> tuple[list[Gift], list[Gift]]:
    """Choose new owners among `others` for all shards and ingresses of a leaving node. Returns two lists of (names, new
    owner): first the busy shards (with sessions) and the ingresses, one name each, so that no session waits for another
    shard; then the idle shards, one list of names for each new owner.

    `totals`: "shard" or "ingress" → how many there are of this kind in all.
    """
    busy: list[Gift] = []
    idle: dict[str, Gift] = {}
    for kind, total in totals.items():
        names = fewest_calls_first(running, kind)
        for name, heir in zip(names, heirs(len(names), kind, total, others), strict=False):
            if running[name].is_busy:
                busy.append(([name], heir))
            else:
                idle.setdefault(heir.node, ([], heir))[0].append(name)
    return busy, list(idle.values())
