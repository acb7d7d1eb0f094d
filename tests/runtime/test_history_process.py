"""The history is kept by a process beside the service, which is watched from there."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history import supervisor as history
from orchestrator.runtime.history.supervisor import HistoryKeeper
from tests.runtime.conftest import Place
from tests.runtime.history_support import caught_up, everything, from_redis, rows, sqlite, talk
from tests.runtime.support import PATIENCE_S, Running, soon, soon_in_redis

Owned = Callable[[], Mapping[int, str]]


@asynccontextmanager
async def keeping(place: Place, folder: Path, owned: Owned | None = None) -> AsyncIterator[HistoryKeeper]:
    """Of all shards, if nothing else is said."""
    owned = owned or (lambda: everything(place.keys))
    keeper = HistoryKeeper(place.url, place.keys, "", folder, owned, Counters())
    await keeper.start()
    try:
        yield keeper
    finally:
        await keeper.stop()


@pytest.fixture
async def keeper(place: Place, tmp_path: Path) -> AsyncIterator[HistoryKeeper]:
    async with keeping(place, tmp_path) as keeper:
        yield keeper


def is_alive(pid: int) -> bool:
    """One that nobody has waited for yet is not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


async def test_it_counts_what_its_process_wrote(
    keeper: HistoryKeeper, running: Running, place: Place, tmp_path: Path
) -> None:
    """Each event once, and the process is gone with it."""
    await talk(running)
    await caught_up(place.redis, place.keys)
    found = await rows(sqlite(tmp_path))
    await soon(lambda: keeper._counters["projected"] == len(found["events"]) > 0)
    assert found == await from_redis(place.redis, place.keys)
    pid = keeper.pid
    await keeper.stop()
    assert not is_alive(pid)


async def test_it_goes_on_when_it_could_not_say_what_is_ours(
    running: Running, place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that hears no more of what is ours would go on with what was, without a word."""
    asked = 0

    def owned() -> dict[int, str]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise RuntimeError("planted")
        return everything(place.keys)

    async with keeping(place, tmp_path, owned):
        await soon(lambda: "planted" in caplog.text)
        await talk(running)
        await caught_up(place.redis, place.keys)


async def test_it_can_be_stopped_while_a_process_that_hears_nothing_more_ends(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had failed before does not take the place of the end."""
    asked = 0

    def owned() -> dict[int, str]:
        nonlocal asked
        asked += 1
        if asked == 1:
            return everything(place.keys)
        os.kill(keeper.pid, signal.SIGSTOP)  # so it takes until it is killed
        raise RuntimeError("planted")

    monkeypatch.setattr(history, "STOP_S", 0.2)
    async with keeping(place, tmp_path, owned) as keeper:
        await soon(lambda: asked > 1)
        async with asyncio.timeout(PATIENCE_S):
            await keeper.stop()


async def test_a_process_that_is_killed_when_it_has_written_is_started_again_soon(
    keeper: HistoryKeeper, running: Running, place: Place
) -> None:
    """However often it broke before: a pause that grows is for one that cannot write."""
    keeper._pause_s = history.MOST_S
    talking = asyncio.create_task(talk(running))
    await soon_in_redis(lambda: has_moved(place))
    os.kill(keeper.pid, signal.SIGKILL)
    await soon(lambda: keeper._pause_s < 1)
    await talking
    await caught_up(place.redis, place.keys)


async def has_moved(place: Place) -> bool:
    """Whether any published position is beyond the beginning."""
    found = [await place.redis.hgetall(place.keys.positions(number)) for number in range(place.keys.shards)]
    return any(int(at) for positions in found for at in positions.values())


async def test_what_lies_where_the_service_was_started_is_not_taken_for_ours(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: Running
) -> None:
    """A folder with modules that are called like ours is no hindrance."""
    for name in ("events", "projections"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    monkeypatch.chdir(tmp_path)
    async with keeping(place, tmp_path):
        await talk(running)
        await caught_up(place.redis, place.keys)


async def test_a_process_that_stands_still_is_further_and_further_behind(keeper: HistoryKeeper) -> None:
    """Nobody asks it how far behind it is."""
    await soon(lambda: bool(keeper.pid) and not keeper.lag_s)
    os.kill(keeper.pid, signal.SIGSTOP)
    await soon(lambda: keeper.lag_s > 0)
    first = keeper.lag_s
    await soon(lambda: keeper.lag_s > first)
    os.kill(keeper.pid, signal.SIGCONT)
    await soon(lambda: not keeper.lag_s)


async def test_it_says_in_the_log_of_the_service_why_it_cannot_go_on(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And goes on by itself when it can."""
    (tmp_path / "history.db").mkdir()
    async with keeping(place, tmp_path) as keeper:
        with caplog.at_level(logging.WARNING):
            await soon(lambda: "the history cannot be kept now" in caplog.text)
        await soon(lambda: keeper._counters["projection_failures"] > 0)


async def test_it_does_not_outlive_a_service_that_is_killed(place: Place, tmp_path: Path) -> None:
    """Its input ends then."""
    where = (place.url, str(place.keys.shards), place.keys.prefix, str(tmp_path))
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.runtime.keeper_process", *where),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    assert service.stdout is not None
    pid = int(await service.stdout.readline())
    assert is_alive(pid)
    service.kill()
    await service.wait()
    await soon(lambda: not is_alive(pid))
