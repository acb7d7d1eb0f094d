"""One of the processes of `orch serve --processes N`, as the supervisor (processes.py) sees it."""

import asyncio
import contextlib
import logging
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from orchestrator.siblings.lines import JsonLinesConnection
from orchestrator.siblings.siblings import Facts

logger = logging.getLogger(__name__)

STOP_S = 20.0
"""How long a process may take to hand over its calls and stop; then it is killed."""
LAST_WORDS_S = 1.0
"""What a process has said arrives within this time after its end."""
PROGRAM = "from cli.sibling import main; main()"


@dataclass(slots=True, eq=False)
class Child:
    """A process that runs, and what it has told."""

    number: int
    process: Process
    lines: JsonLinesConnection
    address: str = ""
    owned: dict[int, str] = field(default_factory=dict)
    error: str = ""
    is_asked: bool = False
    """Whether it was asked to stop."""
    killing: asyncio.TimerHandle | None = None

    def stop(self, leaving: Collection[str]) -> None:
        """Ask it to stop; `leaving`: addresses of all that stop with it."""
        self.is_asked = True
        self.lines.say(stop=[address for address in leaving if address])
        self._end_in_time()

    async def ended(self, listening: "asyncio.Task[None]") -> int:
        """Wait for the end of the process; returns its exit code. `listening` takes what it says, to its last word.

        A process of the user's that it has started may hold its connection open longer, so both ends are awaited.
        """
        exited = asyncio.create_task(self.process.wait())
        await asyncio.wait([listening, exited], return_when=asyncio.FIRST_COMPLETED)
        self._end_in_time()
        code = await exited
        await asyncio.wait([listening], timeout=LAST_WORDS_S)
        if self.killing is not None:
            self.killing.cancel()
        await self.lines.close()
        return code

    def _end_in_time(self) -> None:
        if self.killing is None:
            self.killing = asyncio.get_running_loop().call_later(STOP_S, self.kill, f"did not end within {STOP_S:g} s")

    def kill(self, why: str) -> None:
        logger.warning("process %d (pid %d) %s and is killed", self.number, self.process.pid, why)
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            self.process.kill()


async def spawn(facts: Facts) -> Child:
    """Start a process. Raises OSError."""
    ours, its = socket.socketpair()
    try:
        with its:
            inherited = [number for number in (facts.door, facts.operators, facts.loads, its.fileno()) if number >= 0]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", PROGRAM, str(its.fileno())),
                stdin=DEVNULL,
                pass_fds=inherited,
                start_new_session=True,  # Ctrl-C must reach only this process, which then ends all
            )
    except BaseException:
        ours.close()
        raise
    child = Child(facts.number, process, await JsonLinesConnection.over(ours))
    child.lines.say(**asdict(facts))
    return child
