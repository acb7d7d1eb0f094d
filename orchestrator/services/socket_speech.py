"""Speech-to-text port over a WebSocket: one connection for each microphone (the contract is in docs/services.md)."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from orchestrator.safe_text import one_line, safe_error, safe_url
from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import NO_HEADERS
from orchestrator.services.ports import NO_SPEAKER, Speaker, Transcript
from orchestrator.services.speech_wire import WireError

SAMPLE_RATE_HZ = 16_000
logger = logging.getLogger(__name__)

_PATH = "/transcribe"
_OPEN_WITHIN_S = 4.0
_CLOSE_WITHIN_S = 1.0
_PING_EVERY_S = 10.0
_MAX_MESSAGE_BYTES = 256 * 1024
_MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""Limit of unsent sound, about two minutes. Beyond it the service counts as overloaded."""
_QUOTED = 200


class SocketSpeechToText:
    """SpeechToTextPort over a WebSocket at `/transcribe`.

    It does not reconnect: a connection that breaks is reported through `on_error`, and orch opens another one.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, *, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """`url` is the base of the service (the path is added) or already ends in the path."""
        parts = urlsplit(url)
        base = parts.path.rstrip("/")
        self._url = urlunsplit(parts._replace(path=base if base.endswith(_PATH) else base + _PATH, fragment=""))
        self._name = f"speech-to-text at {safe_url(self._url)}"
        self._headers = dict(headers)
        self._session = session

    async def open(
        self,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
        speaker: Speaker = NO_SPEAKER,
    ) -> "SocketRecognizer":
        """Connect and say whose speech follows. Raises ServiceError unless the service is ready within four seconds."""
        try:
            async with asyncio.timeout(_OPEN_WITHIN_S):
                socket = await self._session.ws_connect(
                    self._url,
                    headers=self._headers,
                    heartbeat=_PING_EVERY_S,
                    max_msg_size=_MAX_MESSAGE_BYTES,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_WITHIN_S),
                )
                try:
                    await self._greet(socket, speaker)
                except BaseException:
                    await socket.close()
                    raise
        except aiohttp.WSServerHandshakeError as error:
            raise self._failed(f"status {error.status}: check the URL and the headers") from error
        except TimeoutError as error:
            raise self._failed(f"not ready within {_OPEN_WITHIN_S:g} s: is it overloaded?") from error
        except aiohttp.ClientConnectorError as error:
            raise self._failed(f"cannot connect ({error.os_error}): is the service running?") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failed("the connection broke", safe_error(error)) from error
        return SocketRecognizer(socket, self._name, on_transcript, on_error)

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse, speaker: Speaker) -> None:
        about = {"session_id": speaker.session_id, "language": speaker.language, "sample_rate_hz": SAMPLE_RATE_HZ}
        await socket.send_json({"type": "open", **about})
        kind = ""
        while kind != "ready":
            message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise self._failed("it closed the connection before it was ready")
            told = _told(message.data)
            if (kind := told["type"]) == "error":
                raise self._failed("it refused", one_line(str(told.get("error", "it does not say why")))[:_QUOTED])

    def _failed(self, problem: str, said: str = "") -> ServiceError:
        ours = f"{self._name}: {problem}"
        return ServiceError(f"{ours} ({said})" if said else ours, in_our_words=ours)


class SocketRecognizer:
    """Recogniser over one connection. Numbers its utterances, so that no result is taken for another utterance's."""

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        name: str,
        on_transcript: Callable[[Transcript], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._socket = socket
        self._name = name
        self._on_transcript = on_transcript
        self._on_error = on_error
        self._number = 0
        """Number of the last utterance."""
        self._is_open = False
        self._owed: deque[tuple[int, int]] = deque()
        """Number and time of `finish` (ns) of each utterance whose final has not arrived."""
        self._unsent: asyncio.Queue[bytes | str] = asyncio.Queue()
        self._unsent_bytes = 0
        self._is_over = False
        self._tasks = (asyncio.create_task(self._write()), asyncio.create_task(self._read()))

    def start(self) -> None:
        self._number += 1
        self._is_open = True
        self._tell("start")

    def feed(self, pcm: bytes) -> None:
        """Send sound. An overloaded service counts as broken."""
        if self._is_open and not self._is_over:
            self._unsent_bytes += len(pcm)
            if self._unsent_bytes > _MAX_UNSENT_BYTES:
                self._break(f"it takes no sound: {self._unsent_bytes // 1024} KiB wait")
            self._unsent.put_nowait(pcm)

    def finish(self) -> None:
        if self._is_open:
            self._is_open = False
            self._owed.append((self._number, time.perf_counter_ns()))
            self._tell("finish")

    def cancel(self) -> None:
        """Drop the open utterance; without one, drop the pending finals."""
        if self._is_open:
            self._is_open = False
            self._tell("cancel")
        else:
            self._owed.clear()

    async def close(self) -> None:
        """Close the connection. Ends within about a second, also when the service does not answer."""
        self._is_over = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    def _tell(self, kind: str) -> None:
        if not self._is_over:
            self._unsent.put_nowait(json.dumps({"type": kind, "utterance": self._number}))

    def _break(self, problem: str, said: str = "") -> None:
        """Report that this recogniser is broken, once. `said` may repeat the user's words: it is only logged, masked
        where the log is.
        """
        if not self._is_over:
            self._is_over = True
            ours = f"{self._name}: {problem}"
            if said:
                logger.warning("%s", ServiceError(f"{ours}: {said}", in_our_words=ours))
            self._on_error(ours[:500])

    async def _write(self) -> None:
        try:
            while True:
                piece = await self._unsent.get()
                if isinstance(piece, str):
                    await self._socket.send_str(piece)
                else:
                    await self._socket.send_bytes(piece)
                    self._unsent_bytes -= len(piece)
        except (aiohttp.ClientError, OSError) as error:
            self._break(f"the connection broke: {safe_error(error)}")

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                if message.type is aiohttp.WSMsgType.TEXT and not self._is_over:
                    self._take(_told(message.data))
        except (ServiceError, ValueError) as error:
            self._break(f"unreadable: {safe_error(error, mask=isinstance(error, ServiceError))}")
            return
        self._break(f"it closed the connection (code {self._socket.close_code})")

    def _take(self, told: Mapping[str, Any]) -> None:
        """Pass a result on. Types that the contract does not name are for later versions: ignored."""
        match told["type"]:
            case "partial" if told.get("utterance") == self._number and (self._is_open or self._owes(self._number)):
                is_complete = told.get("is_complete") is True
                self._on_transcript(Transcript(_text(told), is_final=False, is_complete=is_complete))
            case "final":
                self._final(told)
            case "error":
                self._break("it gave up", one_line(str(told.get("error", "it does not say why")))[:_QUOTED])

    def _owes(self, number: object) -> bool:
        """Whether the final of this utterance is still to come."""
        return any(number == owed for owed, _ in self._owed)

    def _final(self, told: Mapping[str, Any]) -> None:
        number = told.get("utterance")
        if not self._owes(number):
            return  # of an utterance that was cancelled
        due, finished_ns = self._owed.popleft()
        if number != due:
            self._break(f"the final of utterance {number} before that of {due}")
            return
        elapsed_us = (time.perf_counter_ns() - finished_ns) // 1000
        self._on_transcript(Transcript(_text(told), is_final=True, elapsed_us=elapsed_us))


def _told(data: str) -> Mapping[str, Any]:
    """A message of the service. Raises WireError, which quotes nothing."""
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise WireError("a message is not JSON") from None
    if not isinstance(told, Mapping) or not isinstance(told.get("type"), str):
        raise WireError("a message is no JSON object with a type")
    return told


def _text(told: Mapping[str, Any]) -> str:
    text = told.get("text")
    if not isinstance(text, str):
        raise WireError(f"a {told['type']} has no text")
    return text
