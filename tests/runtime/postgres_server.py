"""A real PostgreSQL of the tests' own, on a Unix socket in a private directory."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
from sqlalchemy.engine import URL

START_S = 60.0


def binaries() -> Path | None:
    """Where the newest server is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


class Postgres:
    """A server that runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def database(self) -> URL:
        """A database of one's own."""
        name = f"test_{uuid4().hex[:10]}"
        connection = await self._connected()
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return URL.create("postgresql+asyncpg", username="postgres", database=name, query={"host": str(self._folder)})

    async def _connected(self) -> asyncpg.Connection:
        return await asyncpg.connect(host=str(self._folder), user="postgres", database="postgres")

    async def until_ready(self) -> None:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    await (await self._connected()).close()
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.05)
                else:
                    return


@contextmanager
def postgres(binaries: Path) -> Iterator[Postgres]:
    """It refuses to run as root, so then it is another user's."""
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="orch-pg-"))
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        user=user, check=True, stdout=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
        user=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
    )  # fmt: skip
    try:
        asyncio.run(Postgres(folder).until_ready())
        yield Postgres(folder)
    finally:
        server.send_signal(2)  # SIGINT: close connections and stop
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
