"""What each conversation of this node may send, over all its connections: reconnecting does not renew it."""

from orchestrator.gateway.fair_share import BURST, Share
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import Node
from orchestrator.token_bucket import TokenBucket

MOST_SHARES = 1_000
"""Shares kept for sessions that have left this node."""


class Shares:
    """The shares of one node, by session."""

    def __init__(self, node: Node, inputs_per_s: float) -> None:
        self._node = node
        self._inputs_per_s = inputs_per_s
        self._shares: dict[str, Share] = {}

    def of(self, live: LiveSession) -> Share:
        """The share of a session, with the turns that its grant allows."""
        share, per_minute = self._of(live.session_id), live.grant.turns_per_minute
        if per_minute and share.turns is None:
            share.turns = TokenBucket(per_minute / 60, per_minute)
        return share

    def may_connect(self, session_id: str) -> bool:
        """Whether one more connection to this session is within its rate."""
        return self._of(session_id).connections.take()

    def _of(self, session_id: str) -> Share:
        if len(self._shares) > 2 * len(self._node.sessions) + MOST_SHARES:
            here = {live.session_id for live in self._node.sessions}
            self._shares = {name: share for name, share in self._shares.items() if name in here}
        if session_id not in self._shares:
            self._shares[session_id] = Share(TokenBucket(self._inputs_per_s, BURST))
        return self._shares[session_id]
