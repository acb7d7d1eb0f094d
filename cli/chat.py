"""`orch chat`: a text conversation with a running service, in the terminal."""

import asyncio
import io
import random
import sys
import threading
from contextlib import suppress
from urllib.parse import urljoin
from uuid import uuid4

import aiohttp

from cli.terminal import run as run_loop
from cli.terminal import say
from orchestrator.gateway import messages

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
MOVE_S = 0.1
"""At most, before a conversation that moved to another node is joined there."""
PATIENCE_S = 8.0
"""How long a lost conversation is looked for: a dead node keeps its lease for 2 s, and its heir may be busy."""
FINAL_CODES = {1000, 1008, 1009, 4404}


def run(url: str) -> int:
    try:
        return run_loop(_chat(url))
    except KeyboardInterrupt:
        return 0


async def _chat(url: str) -> int:
    async with aiohttp.ClientSession() as http:
        chat = Chat(http, url)
        try:
            await chat.connect(url)
        except aiohttp.ClientError as error:
            say(f"✗ no service at {url} ({error}); start one with: orch serve")
            return 2
        return await chat.run()


class Chat:
    """One conversation, over as many connections as it takes."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._home = self._place = self._asked = url
        """Where everybody is sent, where the conversation was last heard of, and where the connection goes to."""
        self._moved_to = ""
        self._ids: dict[str, str] = {}
        self._failures = 0
        self._lost_at = 0.0
        self._socket: aiohttp.ClientWebSocketResponse
        self._open = asyncio.Event()
        self._idle = asyncio.Event()
        """Set whenever it is the user's turn."""
        self._printed: set[str] = set()
        self._unacknowledged: dict[str, messages.TextInput] = {}
        """Lines by their message id: they are sent again after a reconnection."""

    async def connect(self, url: str) -> None:
        """Raises ClientError."""
        self._asked = url
        address = urljoin(f"{url.rstrip('/')}/", "orchestrate")
        self._socket = await self._http.ws_connect(address, params=self._ids, heartbeat=20)

    async def run(self) -> int:
        """Talk until the conversation is over or cannot be found any more; the exit code."""
        typing = asyncio.create_task(self._type())
        try:
            while not await self._show():
                self._open.clear()
                code = self._socket.close_code
                if not self._ids or code in FINAL_CODES or not await self._come_back():
                    say(f"✗ the service closed the connection (code {code}); come back with: orch chat")
                    return 1
        finally:
            await self._socket.close()
            typing.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await typing
        return 0

    async def _show(self) -> bool:
        """Print what the agent says until the connection closes; whether the conversation is over."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            match messages.parse_server_message(message.data):
                case messages.SessionReady() as session:
                    await self._joined(session)
                case messages.Ack(message_id=message_id):
                    self._unacknowledged.pop(message_id, None)
                case messages.PhaseChanged(phase="LISTENING"):
                    self._idle.set()
                case messages.Reply(playback_id=playback_id, text=text):
                    self._reply(playback_id, text)
                case messages.Moved(address=address):
                    self._moved_to = self._place = address
                case messages.ErrorReport(message=words):
                    say(f"! {words}")
                case messages.Ended(reason=reason):
                    say(f"the conversation is over ({reason})")
                    return True
        return False

    async def _joined(self, session: messages.SessionReady) -> None:
        if not self._ids:
            say(f"{session.session_id}: type and press return; an empty line or end of input says goodbye")
        self._ids = {"session_id": session.session_id, "resume_token": session.resume_token}
        self._place, self._failures = self._asked, 0
        self._open.set()
        for line in list(self._unacknowledged.values()):
            await self._send(line)

    def _reply(self, playback_id: str, text: str) -> None:
        """What is being said as we come back is told again."""
        if playback_id not in self._printed:
            self._printed.add(playback_id)
            print(text, flush=True)

    async def _come_back(self) -> bool:
        """To where the conversation has moved, at once; else with growing, random pauses, for a while."""
        now = asyncio.get_running_loop().time
        if not self._failures:
            self._lost_at = now()
        while now() - self._lost_at < PATIENCE_S:
            moved_to, self._moved_to = self._moved_to, ""
            longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures)
            pause_s = longest * random.uniform(0.5, 1)
            if moved_to and not self._failures:  # sent on a second time without having got in: like any failure
                pause_s = random.uniform(0, MOVE_S)
            self._failures += 1
            await asyncio.sleep(pause_s)
            try:
                await self.connect(moved_to or (self._place if self._failures % 2 else self._home))
            except aiohttp.ClientError:
                continue
            return True
        return False

    async def _type(self) -> None:
        """Send each line. Lines from a file wait for their turn, people need not."""
        patient = not sys.stdin.isatty()
        typed = _typed()
        await self._idle.wait()
        while text := await typed.get():
            self._idle.clear()
            line = messages.TextInput(text=text[: messages.MAX_TEXT_CHARS], message_id=uuid4().hex)
            self._unacknowledged[str(line.message_id)] = line
            await self._send(line)
            if patient:
                await self._idle.wait()
        await self._send(messages.Goodbye())

    async def _send(self, message: messages.ClientMessage) -> None:
        """Over the connection there is, or the next one."""
        while True:
            await self._open.wait()
            try:
                await self._socket.send_str(messages.encode(message))
            except ConnectionError:
                self._open.clear()
            else:
                return


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
