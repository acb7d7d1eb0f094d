"""The console beside `orch serve`: a process of its own, started when somebody first asks for it."""

import asyncio
from asyncio.subprocess import Process

from orchestrator.child_process import end, spawn
from orchestrator.settings import Settings

START_S = 20.0
END_S = 3.0
HIGHEST_PORT = 65_535
MODULE = "cli.console"


class ConsoleProcess:
    """Starts the console on demand, and again if it has ended; `async with` ends it.

    >>> async with ConsoleProcess(settings) as console: url = await console.url()
    """

    def __init__(self, settings: Settings) -> None:
        """`settings` are those of the service, also where its program has set them: the console asks for the same
        tokens and reads the same sessions. The port after the service's is tried first, so that links stay valid from
        one start to the next.
        """
        self._settings = settings
        self._process: Process | None = None
        self._url = ""
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> "ConsoleProcess":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            await end(self._process, "the console", END_S)

    async def url(self) -> str:
        """The console's URL; starts it if it does not run. Raises OSError if it cannot start."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                self._url = await self._start()
            return self._url

    async def _start(self) -> str:
        variables = self._settings.to_environment()
        self._process = process = await spawn(MODULE, "PG*", variables=variables)  # PGPASSWORD and the like
        assert process.stdin is not None, "it was spawned with pipes"
        assert process.stdout is not None, "it was spawned with pipes"
        port = self._settings.port
        process.stdin.write(b"%d\n" % (port + 1 if 0 < port < HIGHEST_PORT else 0))
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            await end(process, "the console", END_S)
            raise OSError("it did not start; the log of the service says why")
        return line.decode().strip()
