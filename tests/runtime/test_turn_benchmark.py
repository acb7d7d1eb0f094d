"""The benchmark of a turn runs, and each turn passes all its stations."""

from bench.turn_latency import JOIN, measure_hops, measure_turns


async def test_a_turn_passes_all_stations(redis_url: str) -> None:
    rows = await measure_turns(redis_url, 2)
    stations = {"turn committed", "services asked", "answer committed", "speech asked", "first audio", JOIN}
    assert [set(row) for row in rows] == [stations, stations]
    assert len(await measure_hops(redis_url, 2)) == 2
