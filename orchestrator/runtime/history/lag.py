"""The lag of the history: the age of the oldest event that SQL may lack, among the events of the owned shards.

The lag is computed when it is reported, and not by the task that writes to SQL: that task may be stuck.
"""

from collections.abc import Iterable, Mapping

from orchestrator.runtime.clock import monotonic_us, now_us
from orchestrator.runtime.history.feed import Feed


class Lag:
    """Computes the lag of the shards that this node owns. While a shard cannot be written to SQL, its lag grows."""

    def __init__(self) -> None:
        self._since_us: dict[int, int] = {}
        """Shard → since when SQL may lack events of the shard, in microseconds of the monotonic clock."""
        self._current_us: dict[int, int] = {}
        """Shard → when SQL last had all events of the shard, in microseconds of the monotonic clock. Events that SQL
        lacks are newer.
        """

    def behind(self, shard: int, since_us: int) -> None:
        """Record that events of the shard may be missing in SQL since `since_us` (microseconds since 1970)."""
        since_us = self._steady(shard, since_us)
        self._since_us[shard] = min(since_us, self._since_us.get(shard, since_us))

    def written(self, feed: Feed, last_us: int) -> None:
        """Record that a feed's batch is in SQL. `last_us`: time of the batch's last event, microseconds since 1970."""
        if feed.is_current:
            self._complete(feed.shard)
        else:
            self._since_us[feed.shard] = self._steady(feed.shard, last_us)

    def _complete(self, shard: int) -> None:
        self._since_us.pop(shard, None)
        self._current_us[shard] = monotonic_us()

    def _steady(self, shard: int, at_us: int) -> int:
        """Convert the time of an event of this shard, in microseconds since 1970, to the monotonic clock: now minus the
        age of the event by the wall clock.

        If the wall clock was set, event times may be hours off (docs/decisions/022). So the result is limited: no later
        than now, and no earlier than the moment when SQL last had all events of the shard.
        """
        now = monotonic_us()
        return max(now - max(0, now_us() - at_us), self._current_us.get(shard, 0))

    def seconds(self, owned: Iterable[int], feeds: Mapping[int, Feed]) -> float:
        """Return the lag in seconds: the age of the oldest event that SQL may lack, among the events of the owned
        shards. 0: SQL lacks no known event.

        `owned`: numbers of the shards that this node owns. `feeds`: shard → the Feed that reads it. If no feed of a
        shard is being read, unknown events may be missing: the lag of that shard then grows from the first call that
        finds this, or from an older event that is known to be missing.
        """
        mine = set(owned)
        for shard in mine:
            feed = feeds.get(shard)
            if feed is None or not feed.reads:
                self.behind(shard, now_us())
            elif feed.is_current:
                self._complete(shard)
        for shard in (self._since_us.keys() | self._current_us.keys()) - mine:
            self._since_us.pop(shard, None)
            self._current_us.pop(shard, None)
        now = monotonic_us()
        return (now - min(self._since_us.values(), default=now)) / 1e6
