"""The history as the service sees it: a process of its own, which is told what is ours, watched, and started again."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.engine import URL

from orchestrator import child_process
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.keys import Keys

logger = logging.getLogger(__name__)

TELL_EVERY_S = 0.25
SILENT_S = 3.0
"""It says something twice a second; who says nothing for so long stands still."""
STOP_S = 5.0
"""To write what it has in hand."""
FEWEST_S, MOST_S = 0.25, 30.0
"""Between an end and the next start; longer each time, until something was written."""
_MODULE = "orchestrator.runtime.history_process"


class HistoryKeeper:
    """Keeps the history of what is owned, for as long as it runs. `owned` says which shards, under which tokens."""

    def __init__(
        self, redis_url: str, keys: Keys, database: URL, owned: Callable[[], Mapping[int, str]], counters: Counters
    ) -> None:
        self._where = {
            "redis": redis_url,
            "shards": keys.shards,
            "prefix": keys.prefix,
            "database": database.render_as_string(hide_password=False),
        }
        self._owned = owned
        self._counters = counters
        self.pid = 0
        """Of the process; 0: there is none now."""
        self._lag_s = 0.0
        self._heard_s = 0.0
        self._pause_s = FEWEST_S
        self._task: asyncio.Task[None] | None = None

    @property
    def lag_s(self) -> float:
        """For how long something has been missing in SQL, at least; also while the process stands still or is gone."""
        silent_s = time.monotonic() - self._heard_s
        return self._lag_s if silent_s < SILENT_S else self._lag_s + silent_s

    async def start(self) -> None:
        self._heard_s = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="history")

    async def stop(self) -> None:
        """What is not written by now is written after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """It goes on whatever happens."""
        while True:
            try:
                code = await self._live_once()
                logger.warning("the process that keeps the history ended with %s and is started again", code)
            except (OSError, ValueError) as error:
                logger.warning("the process that keeps the history is started again: %s", error)
            except Exception:
                logger.exception("what keeps the history broke, and is started again")
            self._counters["projection_failures"] += 1
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(MOST_S, 2 * self._pause_s)

    async def _live_once(self) -> int:
        """From a start to an end; its exit code. Raises OSError, and ValueError for what we do not understand."""
        process = await child_process.spawn(_MODULE)
        its_input = process.stdin
        assert its_input is not None
        assert process.stdout is not None
        self.pid = process.pid
        telling = asyncio.create_task(self._tell(its_input), name="history:telling")
        telling.add_done_callback(lambda _: its_input.close())  # whereupon it ends
        try:
            async for line in process.stdout:
                self._hear(json.loads(line))
            code = await process.wait()
        finally:
            self.pid = 0
            telling.cancel()
            (told,) = await asyncio.gather(telling, return_exceptions=True)
            await child_process.end(process, "the process that keeps the history", STOP_S)
        if isinstance(told, Exception):  # not before: it would take the place of a cancellation
            raise told
        return code

    async def _tell(self, its_input: asyncio.StreamWriter) -> None:
        """Where to work; then, whenever it changes, what is ours."""
        said: Mapping[int, str] | None = None
        its_input.write(_line(self._where))
        with contextlib.suppress(ConnectionError):  # it has ended, as whoever reads its output learns
            while True:
                if (owned := dict(self._owned())) != said:
                    its_input.write(_line(owned))
                    said = owned
                await its_input.drain()
                await asyncio.sleep(TELL_EVERY_S)

    def _hear(self, what: dict[str, Any]) -> None:
        self._heard_s = time.monotonic()
        if "log" in what:
            logging.getLogger(what["logger"]).log(what["level"], "%s", what["log"])
        else:
            self._lag_s = what["lag_s"]
            self._counters.update(what["counted"])
            if what["counted"].get("projected"):
                self._pause_s = FEWEST_S


def _line(what: Mapping[Any, object]) -> bytes:
    return json.dumps(what).encode() + b"\n"
