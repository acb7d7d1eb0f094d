"""Holding: a shard or an ingress whose lease this node has acquired, and the subscription that reads its stream."""

from dataclasses import dataclass

from orchestrator.runtime.fleet.owned import Owned
from orchestrator.runtime.redis.subscribers import Subscription


@dataclass(slots=True)
class Holding:
    """A shard or an ingress whose lease this node has acquired, and the subscription that reads its stream. The node
    renews the lease from the moment the Holding exists; `begin` starts the takeover and then the reading.
    """

    owner: Owned
    subscription: Subscription
    server: str
    """Run id of the Redis server when the lease was acquired. Redis makes a new run id at each start."""
    begun: bool = False
    """Whether the takeover is done: the live sessions of the shard are in this process."""

    @property
    def is_busy(self) -> bool:
        """Whether somebody may wait for it during a handover: a shard with sessions, or an ingress."""
        return self.owner.calls > 0 or self.owner.lease.what.kind == "ingress"

    async def begin(self) -> None:
        """Take over the live sessions of the shard (an ingress has none), then start to read its stream; if the lease
        is lost during the takeover, the stream is not read. Raises RedisError.
        """
        await self.owner.take_over()
        self.begun = True
        if not self.owner.lost.is_set():
            await self.subscription.start()
