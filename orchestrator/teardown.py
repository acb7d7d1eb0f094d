"""Ends what belongs to a library or a service within a time limit: nothing foreign keeps a call, a node or an exit."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable
from typing import Any

logger = logging.getLogger(__name__)

END_S = 2.0
"""How long one part may take to end."""
STUCK = "stuck_teardowns"
"""The counter of parts that did not."""

_abandoned: set["asyncio.Future[Any]"] = set()
"""Parts that were cancelled and have not ended yet; asyncio itself holds tasks weakly."""


async def end_within(
    what: str, ending: Awaitable[Any], *, within_s: float = END_S, counters: Counter[str] | None = None
) -> bool:
    """Await the end of one part; True when it ended well and in time.

    A part that takes longer is cancelled, counted, named in one log line and waited for no more. A part that raises is
    logged. Neither keeps the caller from ending the rest.
    """
    task = asyncio.ensure_future(ending)
    try:
        await asyncio.wait({task}, timeout=within_s)
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not task.done():
        _abandon(task)
        if counters is not None:
            counters[STUCK] += 1
        logger.error("%s did not end within %g s; going on without it", what, within_s)
        return False
    if task.cancelled():
        return False
    if (error := task.exception()) is not None:
        logger.error("%s broke while it was ended", what, exc_info=error)
        return False
    return True


def _abandon(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)


def _forget(task: "asyncio.Future[Any]") -> None:
    _abandoned.discard(task)
    if not task.cancelled():
        task.exception()  # it came too late for anybody to act on it
