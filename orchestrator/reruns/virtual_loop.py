"""An event loop in virtual time: it waits for sockets, threads and processes, and skips all other waiting.

An agent that sleeps for two seconds takes two seconds of virtual time, no real time. Computing takes no virtual time.
"""

import asyncio
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; `time()` is its virtual time in seconds. Close the loop after use."""

    def __init__(self) -> None:
        self._waiting = _Waiting()
        super().__init__(self._waiting)
        self._idle_sockets = len(self._waiting.get_map())  # the loop's own
        self._others = set(threading.enumerate())
        self._in_executor = 0
        self._waiting.is_real = self._has_outside_work

    def time(self) -> float:
        return self._waiting.now_s

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run a function in a thread of the executor. Meanwhile virtual time passes like real time."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executor += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: object) -> None:
        self._in_executor -= 1

    def _has_outside_work(self) -> bool:
        """Whether something outside of this loop may wake the loop: a socket, or a thread."""
        if self._in_executor or len(self._waiting.get_map()) > self._idle_sockets:
            return True
        new = (one for one in threading.enumerate() if one not in self._others)
        return any(not one.name.startswith("asyncio_") for one in new)  # idle threads of the loop's own executor


class _Waiting(selectors.DefaultSelector):
    """The selector of the loop. While the loop waits, virtual time passes like real time if a socket or thread may wake
    the loop. Otherwise virtual time jumps to the end of the wait.
    """

    now_s = 0.0
    is_real: Callable[[], bool] = staticmethod(lambda: True)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for at most `timeout` seconds of virtual time; None: wait without a limit."""
        if timeout is None or timeout <= 0 or self.is_real():
            began_s = time.monotonic()
            ready = super().select(timeout)
            if timeout is None or timeout > 0:
                self.now_s += time.monotonic() - began_s
            return ready
        if not (ready := super().select(0)):
            self.now_s += timeout
        return ready
