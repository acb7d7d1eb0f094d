"""What keeps the history, as in a service that is killed: `python -m … URL SHARDS PREFIX FOLDER`; says the pid."""

import asyncio
import sys
from pathlib import Path

from orchestrator.runtime.counters import Counters
from orchestrator.runtime.history.supervisor import HistoryKeeper
from orchestrator.runtime.redis.keys import Keys
from tests.runtime.history_support import everything
from tests.runtime.support import soon


async def main(url: str, shards: int, prefix: str, folder: Path) -> None:
    keys = Keys(shards, prefix)
    keeper = HistoryKeeper(url, keys, "", folder, lambda: everything(keys), Counters())
    await keeper.start()
    await soon(lambda: bool(keeper.pid))
    print(keeper.pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
