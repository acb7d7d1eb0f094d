"""Projecting in a process of its own, to be killed: `python -m … URL PREFIX SHARDS DATABASE`."""

import asyncio
import logging
import sys

from sqlalchemy.engine import make_url

from orchestrator.runtime.keys import Keys
from tests.runtime.history_support import started


async def main(url: str, prefix: str, shards: int, database: str) -> None:
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("faststream").setLevel(logging.WARNING)
    await started(url, Keys(shards, prefix), make_url(database))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
