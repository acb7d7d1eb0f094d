"""nginx and coturn as docs/deploy.md configures them, in the foreground, stopped by their process ids."""

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
START_S = 10.0
NGINX = """
user root;
error_log stderr;
pid nginx.pid;
events {{}}
http {{
    access_log access.log;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    {server}
}}
"""


def missing(*programs: str) -> str:
    """The programs that this machine lacks, for the reason of a skip; empty: it has all."""
    lacking = [name for name in programs if _found(name) is None]
    return (
        f"{', '.join(lacking)} missing (Debian: {' '.join(lacking)})".replace("turnserver", "coturn") if lacking else ""
    )


def configuration(language: str, changes: Mapping[str, str]) -> str:
    """The one example of the page in this language, for the machine of the test. Each changed value must be there."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for shown, used in changes.items():
        assert shown in found, f"docs/deploy.md does not show {shown!r} any more"
        found = found.replace(shown, used)
    return str(found)


@asynccontextmanager
async def nginx(folder: Path, changes: Mapping[str, str], host: str, port: int) -> AsyncIterator[Path]:
    """nginx with the page's server; yields the file of its access log."""
    file = _written(folder / "nginx.conf", NGINX.format(server=configuration("nginx", changes)))
    command = ("nginx", "-p", f"{folder}/", "-c", file, "-g", "daemon off;")
    async with running(command, host, port):
        yield folder / "access.log"


@asynccontextmanager
async def coturn(folder: Path, changes: Mapping[str, str], host: str, port: int) -> AsyncIterator[None]:
    """coturn with the page's configuration."""
    file = _written(folder / "turnserver.conf", configuration("conf", changes))
    files = ("--log-file", "stdout", "--pidfile", str(folder / "pid"), "--userdb", str(folder / "db"))
    async with running(("turnserver", "-c", file, *files), host, port):
        yield


@asynccontextmanager
async def running(command: tuple[str, ...], host: str, port: int) -> AsyncIterator[None]:
    """The program, once it accepts connections, until the block ends."""
    program = _found(command[0])
    assert program is not None
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, *command[1:], stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    assert process.stdout is not None
    words: list[str] = []
    reader = asyncio.create_task(_read(process.stdout, words))
    try:
        await _accepts(process, host, port, words)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reader


async def _accepts(process: asyncio.subprocess.Process, host: str, port: int, words: list[str]) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        assert process.returncode is None, "\n".join(words)
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            assert time.monotonic() < deadline_s, "\n".join(words)
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def _read(stream: asyncio.StreamReader, into: list[str]) -> None:
    async for raw in stream:
        into.append(raw.decode(errors="replace").rstrip())  # noqa: PERF401 - the list is read meanwhile


def _written(file: Path, text: str) -> str:
    """The name of a new file with this text, in a new folder."""
    file.parent.mkdir()
    file.write_text(text)
    return str(file)


def _found(program: str) -> str | None:
    return shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
