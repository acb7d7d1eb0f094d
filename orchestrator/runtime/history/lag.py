"""The lag of the history: since when events of an owned shard may be missing in SQL.

The metrics compute the lag when they need it. The projecting task does not report it, since that task may be stuck.
"""

from collections.abc import Iterable, Mapping

from orchestrator.runtime.clock import monotonic_us, now_us
from orchestrator.runtime.history.feed import Feed


class Lag:
    """Computes the lag of the shards that this node owns. The lag of a failing shard grows until a retry succeeds."""

    def __init__(self) -> None:
        self._since_us: dict[int, int] = {}
        """Since when each shard has been behind, by the monotonic clock."""
        self._current_us: dict[int, int] = {}
        """When SQL last had all events of each shard, by the monotonic clock. Missing events are newer."""

    def behind(self, shard: int, since_us: int) -> None:
        """Note that an event of the shard, committed at `since_us`, is not written to SQL yet."""
        since_us = self._steady(shard, since_us)
        self._since_us[shard] = min(since_us, self._since_us.get(shard, since_us))

    def written(self, feed: Feed, last_us: int) -> None:
        """Note that the feed's batch is written; its last event was committed at `last_us`."""
        if feed.is_current:
            self._complete(feed.shard)
        else:
            self._since_us[feed.shard] = self._steady(feed.shard, last_us)

    def _complete(self, shard: int) -> None:
        self._since_us.pop(shard, None)
        self._current_us[shard] = monotonic_us()

    def _steady(self, shard: int, at_us: int) -> int:
        """Convert the time of an event to the monotonic clock. The result is limited: it is not in the future, and not
        before the shard was last complete in SQL, because the time in a log may be far from the wall clock.
        """
        now = monotonic_us()
        return max(now - max(0, now_us() - at_us), self._current_us.get(shard, 0))

    def seconds(self, owned: Iterable[int], feeds: Mapping[int, Feed]) -> float:
        """Compute the age of the oldest event that is missing in SQL, in seconds; 0: no event is missing.

        `owned`: the shards of this node. `feeds`: shard → its feed, if it is being read.
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
