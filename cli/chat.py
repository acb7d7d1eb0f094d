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
from yarl import URL

from cli.credentials import refusal, token_for
from cli.exits import UNUSABLE
from cli.terminal import UsageError, say, words
from cli.terminal import run as run_loop
from orchestrator.gateway import messages
from orchestrator.gateway.access.credentials import PROTOCOL
from orchestrator.setting_values import address

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0
MOVE_S = 0.1
"""Longest random delay before rejoining a conversation that moved to another node."""
PATIENCE_S = 20.0
"""How long to retry after a lost connection: the service restarts, or another node takes over."""
FINAL_CODES = {1000, 1008, 1009, 4404}
REFUSED = {400, 401, 403}
"""HTTP statuses of a service that does not let us in; asking again does not help."""


def run(url: str) -> int:
    try:
        url = address(url)
    except ValueError as error:
        raise UsageError(f"--url{error}") from None
    if not url:
        raise UsageError("--url is empty: give the address of the service, such as http://127.0.0.1:8080")
    try:
        return run_loop(_chat(url, token_for(url)))
    except KeyboardInterrupt:
        return 0


async def _chat(url: str, token: str) -> int:
    async with aiohttp.ClientSession() as http:
        chat = Chat(http, url, token)
        try:
            await chat.connect(url)
        except aiohttp.WSServerHandshakeError as error:
            say(f"✗ {refusal(error.status)}")
            return UNUSABLE
        except (aiohttp.ClientError, OSError) as error:
            say(f"✗ no service at {URL(url).with_user(None)} ({words(error)}); start one with: orch serve")
            return UNUSABLE
        return await chat.run()


class Chat:
    """One conversation, over as many connections as it takes."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http = http
        self._home = self._place = self._asked = url
        """The address given by the user, the conversation's last known address, and the one being connected to."""
        self._moved_to = ""
        self._token = token
        """Opens the conversation; empty: none is known."""
        self._ids: dict[str, str] = {}
        """Of the conversation, and the secret to come back to it."""
        self._failures = 0
        self._lost_at = 0.0
        self._socket: aiohttp.ClientWebSocketResponse
        self._open = asyncio.Event()
        self._idle = asyncio.Event()
        """Set while it is the user's turn."""
        self._printed: dict[str, str] = {}
        """Playback id → the printed part of its reply."""
        self._unacknowledged: dict[str, messages.TextMessage] = {}
        """Message id → line without acknowledgement, sent again after a reconnection."""

    async def connect(self, url: str) -> None:
        """Open the WebSocket of a node. Raises ClientError, OSError."""
        self._asked = url
        address = urljoin(f"{url.rstrip('/')}/", "orchestrate")
        resume = self._ids.get("resume_token")
        shown = [f"resume.{resume}"] if resume else [f"bearer.{self._token}"] if self._token else []
        ids = {"session_id": self._ids["session_id"]} if resume else {}
        protocols = [PROTOCOL, *shown]
        self._socket = await self._http.ws_connect(address, params=ids, protocols=protocols, heartbeat=20)

    async def run(self) -> int:
        """Talk until the conversation is over or cannot be found; returns the exit code."""
        typing = asyncio.create_task(self._type())
        try:
            while not await self._show():
                self._open.clear()
                code = self._socket.close_code
                if not self._ids or code in FINAL_CODES or not await self._come_back():
                    say(f"✗ the service closed the connection (code {code}); come back with: orch chat")
                    return UNUSABLE
        finally:
            await self._socket.close()
            typing.cancel()
            with suppress(asyncio.CancelledError, ConnectionError):
                await typing
        return 0

    async def _show(self) -> bool:
        """Print the agent's words until the connection closes. Returns whether the conversation is over."""
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            match messages.parse_server_message(message.data):
                case messages.SessionMessage() as session:
                    await self._joined(session)
                case messages.AckMessage(message_id=message_id):
                    self._unacknowledged.pop(message_id, None)
                case messages.PhaseMessage(phase="LISTENING"):
                    self._idle.set()
                case messages.ReplyMessage() | messages.ReplyMoreMessage() as reply:
                    self._reply(reply)
                case messages.MovedMessage(address=address):
                    self._moved_to = self._place = address
                case messages.ErrorMessage(message=report):
                    say(f"! {report}")
                case messages.EndedMessage(reason=reason):
                    say(f"the conversation is over ({reason})")
                    return True
        return False

    async def _joined(self, session: messages.SessionMessage) -> None:
        if not self._ids:
            say(f"{session.session_id}: type and press return; an empty line or end of input says goodbye")
        self._ids = {"session_id": session.session_id, "resume_token": session.resume_token}
        self._place, self._failures = self._asked, 0
        self._open.set()
        for line in list(self._unacknowledged.values()):
            await self._send(line)

    def _reply(self, reply: messages.ReplyMessage | messages.ReplyMoreMessage) -> None:
        """Print the new part of a reply: the server repeats the running reply after a reconnection."""
        playback_id = reply.playback_id
        printed = self._printed.get(playback_id, "")
        text = printed + reply.text if isinstance(reply, messages.ReplyMoreMessage) else reply.text
        if new := text.removeprefix(printed).strip():
            print(new, flush=True)
        self._printed[playback_id] = text

    async def _come_back(self) -> bool:
        """Reconnect: at once to the address the conversation moved to, else with random backoff until PATIENCE_S."""
        now = asyncio.get_running_loop().time
        if not self._failures:
            self._lost_at = now()
            if not self._moved_to:
                say(f"! the connection is lost; looking for the conversation for {PATIENCE_S:g} s (Ctrl-C ends)")
        while now() - self._lost_at < PATIENCE_S:
            moved_to, self._moved_to = self._moved_to, ""
            longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._failures)
            pause_s = longest * random.uniform(0.5, 1)
            if moved_to and not self._failures:  # a second move without a successful join counts as a failure
                pause_s = random.uniform(0, MOVE_S)
            self._failures += 1
            await asyncio.sleep(pause_s)
            try:
                await self.connect(moved_to or (self._place if self._failures % 2 else self._home))
            except aiohttp.WSServerHandshakeError as error:
                if error.status in REFUSED:
                    return False
            except (aiohttp.ClientError, OSError):
                continue
            else:
                return True
        return False

    async def _type(self) -> None:
        """Send each typed line. Lines from a file wait for the user's turn; lines from a terminal do not."""
        patient = not sys.stdin.isatty()
        typed = _typed()
        await self._idle.wait()
        while text := await typed.get():
            self._idle.clear()
            if (left_out := len(text) - messages.MAX_TEXT_CHARS) > 0:
                sent = f"{messages.MAX_TEXT_CHARS} characters are sent"
                say(f"! the line is too long: {sent}, the last {left_out} are not")
            line = messages.TextMessage(text=text[: messages.MAX_TEXT_CHARS], message_id=uuid4().hex)
            self._unacknowledged[str(line.message_id)] = line
            await self._send(line)
            if patient:
                await self._idle.wait()
        await self._send(messages.GoodbyeMessage())

    async def _send(self, message: messages.ClientMessage) -> None:
        """Send a message over the current connection, or over the next one if it fails."""
        while True:
            await self._open.wait()
            try:
                await self._socket.send_str(messages.encode(message))
            except ConnectionError:
                self._open.clear()
            else:
                return


def _typed() -> "asyncio.Queue[str]":
    """A queue of the typed lines, with an empty line at the end.

    They are read in a daemon thread from a separate unbuffered file: the command must be able to end while the user
    could still type, and a thread that holds sys.stdin's lock would abort the interpreter.
    """
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            try:
                with io.FileIO(sys.stdin.fileno(), closefd=False) as keyboard:
                    while raw := keyboard.readline():
                        loop.call_soon_threadsafe(lines.put_nowait, raw.decode(errors="replace").strip())
            except OSError as error:
                say(f"! standard input cannot be read ({error.strerror}); the conversation ends")
            loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, name="keyboard", daemon=True).start()
    return lines
