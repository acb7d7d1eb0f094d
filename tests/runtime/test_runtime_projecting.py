"""The history is kept while calls go on: what SQL has equals what the logs say, whatever happens in between."""

from pathlib import Path

from tests.runtime.conftest import Place
from tests.runtime.history_support import caught_up, from_redis, rows, sqlite, started, talk
from tests.runtime.support import Running


async def test_what_is_projected_live_equals_a_rebuild_from_zero(
    running: Running, place: Place, tmp_path: Path
) -> None:
    """Row for row; a session that goes on over a stop of the projection is no exception."""
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    for _ in range(3):
        await talk(running)
    await caught_up(place.redis, place.keys)
    assert await rows(sqlite(tmp_path)) == await from_redis(place.redis, place.keys)
    assert projecting.lag_s == 0
    await projecting.stop()
    await talk(running, ends=False)
    projecting = await started(place.url, place.keys, sqlite(tmp_path))
    await caught_up(place.redis, place.keys)
    assert await rows(sqlite(tmp_path)) == await from_redis(place.redis, place.keys)
    await projecting.stop()
