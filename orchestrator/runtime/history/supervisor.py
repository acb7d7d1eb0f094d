"""Supervises the process that writes the SQL history: tells it the shards of this node, watches and restarts it."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import child_process
from orchestrator.runtime.counters import Counters
from orchestrator.runtime.redis.keys import Keys

logger = logging.getLogger(__name__)

TELL_EVERY_S = 0.25
SILENT_S = 3.0
"""The history process reports twice a second. After this many seconds without a report, it counts as stalled."""
STOP_S = 5.0
"""How long, in seconds, the history process may take to write its current batch and stop."""
FEWEST_S, MOST_S = 0.25, 30.0
"""Shortest and longest pause, in seconds, between an end of the history process and its next start. The pause doubles
each time, until the process has written to SQL.
"""
_MODULE = "orchestrator.runtime.history.process"


class HistoryKeeper:
    """Runs the process that writes the history of this node's shards to SQL, from `start` to `stop`.

    `owned` returns the shards that the node owns now: shard → fencing token.
    """

    def __init__(
        self,
        redis_url: str,
        keys: Keys,
        sql_url: str,
        data_dir: Path,
        owned: Callable[[], Mapping[int, str]],
        counters: Counters,
    ) -> None:
        """`sql_url` is the database's URL; empty: a SQLite file in `data_dir`."""
        self._where = {
            "redis": redis_url,
            "shards": keys.shards,
            "prefix": keys.prefix,
            "sql": sql_url,
            "data_dir": str(data_dir),
        }
        self._owned = owned
        self._counters = counters
        self.pid = 0
        """Process id; 0: no process is running."""
        self._lag_s = 0.0
        self._heard_s = 0.0
        self._has_spoken = False
        """Whether the running process has reported anything. Before its first report, it only loads its program."""
        self._pause_s = FEWEST_S
        self._task: asyncio.Task[None] | None = None

    @property
    def lag_s(self) -> float:
        """Estimated age of the oldest event missing in SQL, in seconds, as the history process last reported it. If
        that process has not reported for SILENT_S seconds, it is stalled or gone: the time since its last report is
        added.

        The true age may be greater: the report may be old, or the process may not have read a missing event yet.
        """
        silent_s = time.monotonic() - self._heard_s
        return self._lag_s if silent_s < SILENT_S else self._lag_s + silent_s

    async def start(self) -> None:
        self._heard_s = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="history")

    async def stop(self) -> None:
        """Stop the process. Events that are not written yet are written after the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Run the process. After each end and each error, start it again, with backoff."""
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
        """Run the process until it ends, and return its exit code. Raises OSError if the process cannot be started,
        ValueError if its output cannot be parsed.
        """
        process = await child_process.spawn(_MODULE, "PG*")  # it inherits PGPASSWORD and other variables of PostgreSQL
        its_input = process.stdin
        assert its_input is not None
        assert process.stdout is not None
        self.pid, self._has_spoken = process.pid, False
        telling = asyncio.create_task(self._tell(its_input), name="history:telling")
        telling.add_done_callback(lambda _: its_input.close())  # the process ends with its input
        try:
            async for line in process.stdout:
                self._hear(json.loads(line))
        finally:
            self.pid = 0
            telling.cancel()
            (told,) = await asyncio.gather(telling, return_exceptions=True)
            if not self._has_spoken and process.returncode is None:
                process.terminate()
            await child_process.end(process, "the process that keeps the history", STOP_S)
        if isinstance(told, Exception):  # not raised in `finally`, where it would replace a CancelledError
            raise told
        return process.returncode or 0

    async def _tell(self, its_input: asyncio.StreamWriter) -> None:
        """Send the process the addresses of Redis and SQL, then the owned shards: at first and after each change."""
        said: Mapping[int, str] | None = None
        its_input.write(_line(self._where))
        with contextlib.suppress(ConnectionError):  # the process has ended; _live_once sees the end of its output
            while True:
                if (owned := dict(self._owned())) != said:
                    its_input.write(_line(owned))
                    said = owned
                await its_input.drain()
                await asyncio.sleep(TELL_EVERY_S)

    def _hear(self, what: dict[str, Any]) -> None:
        self._heard_s = time.monotonic()
        self._has_spoken = True
        if "log" in what:
            logging.getLogger(what["logger"]).log(what["level"], "%s", what["log"], extra={"is_safe": True})
        else:
            self._lag_s = what["lag_s"]
            self._counters.update(what["counted"])
            if what["counted"].get("projected"):
                self._pause_s = FEWEST_S


def _line(what: Mapping[Any, object]) -> bytes:
    return json.dumps(what).encode() + b"\n"
