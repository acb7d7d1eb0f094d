"""What all commands share on a terminal: data goes to standard output, words to standard error."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class UsageError(Exception):
    """The command line is wrong; the message says what to write instead."""


def say(words: str) -> None:
    """Words for people."""
    print(words, file=sys.stderr, flush=True)


def run(work: Coroutine[object, object, T]) -> T:
    """Run an event loop, the fast one where there is one."""
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
