"""Files of the embedded Redis: locks that name the process that holds them, and the append-only file."""

import asyncio
import fcntl
import logging
import os
from pathlib import Path
from typing import IO

from redis.asyncio import Redis

from orchestrator.private_files import open_private

logger = logging.getLogger(__name__)


def locked(path: Path) -> IO[str] | None:
    """Open and lock a file. The lock lasts until the file is closed here and in every process that inherited it.

    Returns None if another process holds the lock.
    """
    file = os.fdopen(open_private(path), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def holder(path: Path) -> int:
    """Read the id of the process that holds a lock from the lock file; 0: the process has not written its id."""
    process = path.read_text().partition(" ")[0]
    return int(process) if process.isdecimal() else 0


async def write_anew(socket: str, limit_s: float) -> None:
    """Rewrite the append-only file from the data that was loaded from it. Raises TimeoutError if Redis does not begin
    within `limit_s` seconds.

    If the file ends within a transaction, Redis drops the incomplete transaction from memory but leaves it in the file.
    At the next start, the commands of that transaction would become a part of the next transaction (seen with 6.2;
    `redis-check-aof --fix` handles it correctly).
    """
    logger.warning("Redis stopped in the middle of a write, which is gone; the append-only file is written anew")
    loop = asyncio.get_running_loop()
    async with Redis.from_url(f"unix://{socket}") as redis, asyncio.timeout(limit_s) as limit:
        await redis.bgrewriteaof()
        while (await redis.info("persistence"))["aof_rewrite_in_progress"]:
            limit.reschedule(loop.time() + limit_s)  # much data takes long: no limit while it is rewritten
            await asyncio.sleep(0.01)
