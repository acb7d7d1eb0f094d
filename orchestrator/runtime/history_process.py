"""The process that keeps the history, as history.py starts it: `python -m orchestrator.runtime.history_process`.

Calls do not share their interpreter with it, and go first on the processor. It ends with its standard input.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
from typing import Any, TextIO

from sqlalchemy.engine import make_url

from orchestrator.runtime.counters import Counters
from orchestrator.runtime.keys import Keys
from orchestrator.runtime.projecting import Projecting
from projections.history.store import History

NICE = 10
TELL_EVERY_S = 0.5
MOST_LOG = 8_000
"""Characters of an entry of the log, which in JSON is one line of at most 64 KiB: what a database adds may be long."""


def say(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class ToTheService(logging.Handler):
    """The log of this process is a part of the service's."""

    def emit(self, record: logging.LogRecord) -> None:
        say(log=self.format(record)[:MOST_LOG], level=record.levelno, logger=record.name)


async def lines_of(file: TextIO) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


async def tell(projecting: Projecting, counters: Counters) -> None:
    """How far behind we are, and what is to be counted since it was told last; of the first that is written at once, so
    that whoever is killed soon after it is known to have written, and is started again without a long pause.
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
    """The first line says where, each other what is ours from now on."""
    told = await lines_of(sys.stdin)
    where: dict[str, Any] = json.loads(await told.readline())
    owned: dict[int, str] = {}
    counters = Counters()
    keys = Keys(where["shards"], where["prefix"])
    projecting = Projecting(where["redis"], keys, History(make_url(where["database"])), lambda: owned, counters)
    await projecting.start()
    telling = asyncio.create_task(tell(projecting, counters), name="telling")
    async for line in told:
        owned = {int(number): token for number, token in json.loads(line).items()}
    telling.cancel()
    await projecting.stop()


if __name__ == "__main__":
    os.nice(NICE)
    logging.basicConfig(level=logging.INFO, handlers=[ToTheService()], format="%(message)s")
    logging.getLogger("faststream").setLevel(logging.WARNING)
    asyncio.run(main())
