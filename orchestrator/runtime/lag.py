"""How far the history is behind: since when something of an owned shard may be missing in it.

It is asked by whoever shows metrics, not told by the task that projects: that may be what stands still.
"""

from collections.abc import Iterable, Mapping

from orchestrator.runtime.clock import now_us
from orchestrator.runtime.feed import Feed


class Lag:
    """Of the shards that this node owns. A shard that is tried again and again is behind all the while."""

    def __init__(self) -> None:
        self._since_us: dict[int, int] = {}

    def behind(self, shard: int, since_us: int) -> None:
        """Something that was committed then is not written yet."""
        self._since_us[shard] = min(since_us, self._since_us.get(shard, since_us))

    def written(self, feed: Feed, last_us: int) -> None:
        """All of its batch, the last event of which was committed then."""
        if feed.is_current:
            self._since_us.pop(feed.shard, None)
        else:
            self._since_us[feed.shard] = last_us

    def seconds(self, owned: Iterable[int], feeds: Mapping[int, Feed]) -> float:
        """The age of what is missing for longest; 0: nothing is."""
        now, mine = now_us(), set(owned)
        for shard in mine:
            feed = feeds.get(shard)
            if feed is None or not feed.reads:
                self.behind(shard, now)
            elif feed.is_current:
                self._since_us.pop(shard, None)
        for shard in self._since_us.keys() - mine:
            del self._since_us[shard]
        return max(0, now - min(self._since_us.values(), default=now)) / 1e6
