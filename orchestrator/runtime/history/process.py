"""The process that writes the SQL history. supervisor.py starts it: `python -m orchestrator.runtime.history.process`.

It is a separate process with a lower priority (nice), so that it does not slow down conversations. It ends when its
standard input is closed.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.projecting import Projecting
from orchestrator.runtime.redis.keys import Keys
from orchestrator.safe_log import SAFE_LOG
from projections.history.store import History, database_url

NICE = 10
TELL_EVERY_S = 0.5
MOST_LOG = 8_000
"""Limit on the characters of a log record: as JSON, it must fit one line of 64 KiB. Database errors may be longer."""


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class ToTheService(logging.Handler):
    """Sends the log records of this process to the service (its parent process), which writes them to its own log."""

    def emit(self, record: logging.LogRecord) -> None:
        say(log=self.format(record)[:MOST_LOG], level=record.levelno, logger=record.name)


async def lines_of(file: TextIO) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


async def tell(projecting: Projecting, counters: Counters) -> None:
    """Report to the supervisor, every TELL_EVERY_S seconds: the lag, and the counts since the last report.

    The first write to SQL is reported at once, because the report resets the supervisor's backoff: if this process is
    killed soon after the write, the supervisor restarts it without a long pause.
    """
    while True:
        say(lag_s=projecting.lag_s, counted=dict(counters))
        counters.clear()
        if projecting.has_written.is_set():
            await asyncio.sleep(TELL_EVERY_S)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(projecting.has_written.wait(), TELL_EVERY_S)


async def main() -> None:
    """Write the history until standard input ends. The first line of the input says where Redis and SQL are; each later
    line says which shards the node owns.
    """
    told = await lines_of(sys.stdin)
    where: dict[str, Any] = json.loads(await told.readline())
    owned: dict[int, str] = {}
    counters = Counters()
    keys = Keys(where["shards"], where["prefix"])
    database = database_url(where["sql"], Path(where["data_dir"]))
    projecting = Projecting(where["redis"], keys, History(database), lambda: owned, counters)
    await projecting.start()
    telling = asyncio.create_task(tell(projecting, counters), name="telling")
    async for line in told:
        owned = {int(number): token for number, token in json.loads(line).items()}
    telling.cancel()
    await projecting.stop()


if __name__ == "__main__":
    os.nice(NICE)
    to_the_service = ToTheService()
    to_the_service.addFilter(SAFE_LOG)
    logging.basicConfig(level=logging.INFO, handlers=[to_the_service], format="%(message)s")
    logging.getLogger("faststream").setLevel(logging.WARNING)
    asyncio.run(main())
