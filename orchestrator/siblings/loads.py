"""The loads of all processes of a service, in a file that they map into their memory. The least loaded one accepts."""

import mmap
import os
import struct
import tempfile
import time

_SLOT = struct.Struct("=dQ")
"""Of a process: when it told its load, by the monotonic clock of the machine, and the load."""
STALE_S = 0.5
"""A process that has told nothing within this time hangs or has ended: the others do not wait for it."""

LATE, FULL, UNREADY = 10**6, 10**8, 10**9
"""Added to the number of connections. A process whose event loop is late accepts after all others; after those a
process without a free line; last a process that is not ready.
"""


def make_loads(processes: int) -> int:
    """Make the file, which has no name, before any process starts; returns its descriptor."""
    with tempfile.TemporaryFile() as file:
        file.truncate(processes * _SLOT.size)
        return os.dup(file.fileno())


class Loads:
    """The loads of all in an open file, seen from process `number`, counted from 1."""

    def __init__(self, file: int, number: int) -> None:
        self._memory = mmap.mmap(file, 0)
        self._own = (number - 1) * _SLOT.size

    def tell(self, load: int) -> None:
        """Set the load of this process, and note that it lives."""
        _SLOT.pack_into(self._memory, self._own, time.monotonic(), load)

    def is_least(self) -> bool:
        """Whether no living process has less to do than this one."""
        _, own = _SLOT.unpack_from(self._memory, self._own)
        since_s = time.monotonic() - STALE_S
        return all(load >= own for told_s, load in _SLOT.iter_unpack(self._memory) if told_s >= since_s)

    def silent_s(self) -> float:
        """How long this process has told nothing; 0: it tells nothing, since it has not begun or has stopped."""
        told_s, _ = _SLOT.unpack_from(self._memory, self._own)
        return time.monotonic() - told_s if told_s else 0.0

    def leave(self) -> None:
        """Tell the others not to wait for this process any more."""
        _SLOT.pack_into(self._memory, self._own, 0.0, 0)
