"""`orch chat`: a text conversation with a running service, in the terminal."""

import asyncio
import io
import sys
import threading
from contextlib import suppress
from urllib.parse import urljoin

import aiohttp

from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.gateway import messages


def run(url: str) -> int:
    try:
        return run_loop(_chat(urljoin(url, "/orchestrate")))
    except KeyboardInterrupt:
        return 0


async def _chat(url: str) -> int:
    async with aiohttp.ClientSession() as http:
        try:
            socket = await http.ws_connect(url)
        except aiohttp.ClientError as error:
            say(f"✗ no service at {url} ({error}); start one with: orch serve")
            return 2
        async with socket:
            idle = asyncio.Event()
            typing = asyncio.create_task(_type(socket, idle))
            code = await _show(socket, idle)
            typing.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await typing
            return code


async def _show(socket: aiohttp.ClientWebSocketResponse, idle: asyncio.Event) -> int:
    """Print what the agent says until the conversation is over; `idle` is set whenever it is the user's turn."""
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue
        match messages.parse_server_message(message.data):
            case messages.SessionReady(session_id=session_id):
                say(f"{session_id}: type and press return; an empty line or end of input says goodbye")
            case messages.PhaseChanged(phase="LISTENING"):
                idle.set()
            case messages.Reply(text=text):
                print(text, flush=True)
            case messages.ErrorReport(message=words):
                say(f"! {words}")
            case messages.Ended(reason=reason):
                say(f"the conversation is over ({reason})")
                return 0
    say(f"✗ the service closed the connection (code {socket.close_code}); come back with: orch chat")
    return 1


async def _type(socket: aiohttp.ClientWebSocketResponse, idle: asyncio.Event) -> None:
    """Send each line. Lines from a file wait for their turn, people need not."""
    patient = not sys.stdin.isatty()
    typed = _typed()
    await idle.wait()
    while line := await typed.get():
        idle.clear()
        await socket.send_str(messages.encode(messages.TextInput(text=line[: messages.MAX_TEXT_CHARS])))
        if patient:
            await idle.wait()
    await socket.send_str(messages.encode(messages.Goodbye()))


def _typed() -> "asyncio.Queue[str]":
    """The lines that are typed, an empty one at the end.

    The thread that reads them is a daemon on an unbuffered file of its own: the command must be able to end while
    somebody could still type, and a thread that holds sys.stdin's lock would abort the interpreter.
    """
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        with io.FileIO(sys.stdin.fileno(), closefd=False) as keyboard, suppress(RuntimeError):  # the loop has ended
            while raw := keyboard.readline():
                loop.call_soon_threadsafe(lines.put_nowait, raw.decode(errors="replace").strip())
            loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, name="keyboard", daemon=True).start()
    return lines
