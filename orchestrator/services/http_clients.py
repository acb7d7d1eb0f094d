"""Intent and answer ports over HTTP: POST /intent and POST /query, whole or in lines (docs/services.md)."""

import json
from asyncio import IncompleteReadError
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import aiohttp

from orchestrator.safe_text import one_line, safe_error, safe_url
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Answer, Intent, Request, well_formed
from orchestrator.services.speech_wire import JSON_LINES
from orchestrator.services.told_tools import ToldCalls
from orchestrator.session.conversation import Line

IDEMPOTENCY_HEADER = "Idempotency-Key"

_CONNECT_TIMEOUT_S = 2.0
_CONNECTIONS_PER_HOST = 256
_KEEP_ALIVE_S = 75.0
_MAX_ANSWER_BYTES = 256 * 1024
_MAX_LINE_BYTES = 1024 * 1024
_MAX_QUOTED_CHARACTERS = 200
# Limits of the events (events/envelope.py). Checked here, so that the error names the service.
_MAX_TEXT_CHARACTERS = 8_000
_MAX_NAME_CHARACTERS = 500
_MAX_SOURCES = 50
_NOT_CUT_OFF = (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError, aiohttp.ServerFingerprintMismatch)
"""Connection failures that are not retried: no service listens, the service is slow, or its fingerprint is wrong."""
NO_HEADERS: Mapping[str, str] = {}
_ACCEPT = f"{JSON_LINES}, application/json;q=0.9"


def open_session() -> aiohttp.ClientSession:
    """Open the HTTP session that all clients share. Its connections stay open: a call costs well under a millisecond.

    The caller closes it (`async with`). Requires a running event loop.
    """
    connector = aiohttp.TCPConnector(
        limit=0, limit_per_host=_CONNECTIONS_PER_HOST, keepalive_timeout=_KEEP_ALIVE_S, ttl_dns_cache=60
    )
    # No cookies: a service is not a web page. For the same reason no redirects are followed.
    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(_refuse_redirect)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[tracing])


async def _refuse_redirect(*_: object) -> None:
    """`ws_connect` would follow a redirect, with the headers of the service it was meant for."""
    raise aiohttp.ClientError("it redirects to another address: configure that one")


class Endpoint:
    """One HTTP endpoint of a service: its URL, its timeouts, and the messages for its failures."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        path: str,
        *,
        timeout_ms: int,
        bounds_whole: bool = True,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        """`url` is the base of the service (the path is added) or already ends in the path.

        `timeout_ms` limits the whole exchange if `bounds_whole`, otherwise each wait for more bytes. `headers` go with
        each request; they may hold a secret, so no message contains them.
        """
        parts = _split(url)
        base = parts.path.rstrip("/")
        self._session = session
        self._headers = dict(headers)
        self.url = urlunsplit(parts._replace(path=base if base.endswith(path) else base + path, fragment=""))
        # The name stands in messages and logs: no credentials, no query.
        self.name = f"POST {safe_url(self.url)}"
        self._timeout_s = timeout_ms / 1000
        self._timeout = aiohttp.ClientTimeout(
            total=self._timeout_s if bounds_whole else None, connect=_CONNECT_TIMEOUT_S, sock_read=self._timeout_s
        )

    @asynccontextmanager
    async def post(
        self, request: Request, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send the request; yields the response once its header has arrived.

        A server may close a kept-alive connection just when the request is sent. If no answer came, the request is
        retried once over a new connection: the other kept connections may be dead as well. The idempotency key lets
        the server recognise the retry. Without a key there is no retry: the server might carry it out twice.
        """
        question: dict[str, object] = {"text": request.text, "session_id": request.session_id, "turn": request.turn}
        if request.conversation:
            question["conversation"] = [_told(line) for line in request.conversation]
        key = request.idempotency_key
        headers = {**headers, IDEMPOTENCY_HEADER: key} if key else headers
        async with self.send(lambda: {"json": question}, headers, is_repeatable=bool(key)) as response:
            yield response

    @asynccontextmanager
    async def send(
        self, body: Callable[[], Mapping[str, Any]], headers: Mapping[str, str] = NO_HEADERS, *, is_repeatable: bool
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a body, as keyword arguments of aiohttp's `post`; yields the response once its header has arrived.

        `is_repeatable`: retry once over a new connection if the connection was cut before any answer.
        """
        headers = {**self._headers, **headers}
        async with AsyncExitStack() as stack:
            try:
                response = await self._send(self._session, body(), headers)
            except aiohttp.ClientConnectionError as error:
                if not is_repeatable or isinstance(error, _NOT_CUT_OFF):
                    raise
                response = await self._send(await stack.enter_async_context(open_session()), body(), headers)
            async with response:
                yield response

    async def _send(
        self, session: aiohttp.ClientSession, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        return await session.post(self.url, **body, headers=headers, timeout=self._timeout, allow_redirects=False)

    def error(self, problem: str, said: str = "", hint: str = "") -> ServiceError:
        """Build the ServiceError. `said`, in brackets, quotes the service; `in_our_words` leaves it out."""
        quoted, hint = f" ({said})" if said else "", f": {hint}" if hint else ""
        ours = f"{self.name}: {problem}"
        return ServiceError(f"{ours}{quoted}{hint}"[:500], in_our_words=f"{ours}{hint}"[:500])

    def lost(self, error: Exception) -> ServiceError:
        """The ServiceError for a request without any answer."""
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return self.error(f"no connection within {_CONNECT_TIMEOUT_S:g} s: does a firewall drop its packets?")
        if isinstance(error, TimeoutError):
            return self.error(f"no answer within {self._timeout_s:g} s: is the service overloaded?")
        if isinstance(error, aiohttp.InvalidURL):  # its text quotes the URL, which may hold a password
            return self.error("the URL cannot be used: is the host a name or an address?")
        if isinstance(error, aiohttp.ClientConnectorError):
            return self.error(f"cannot connect ({error.os_error}): is the service running at this address?")
        return self.error(f"the connection broke: {type(error).__name__}", safe_error(error))

    async def refused(self, response: aiohttp.ClientResponse) -> ServiceError:
        """The ServiceError for a status other than 200. Quotes the response body, if there is one."""
        body = await read_bounded(response, _MAX_QUOTED_CHARACTERS * 4)
        hint = "check the URL" if response.status in (301, 302, 307, 308, 404, 405) else "see the service's log"
        return self.error(f"status {response.status}", _quote(body or b""), hint)


def _split(url: str) -> SplitResult:
    """The parts of a service's URL. Raises ValueError, whose message leaves out possible secrets."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.path:
            return parts
    except ValueError:  # a port that is no number, brackets that do not match
        pass
    raise ValueError(
        f"not an http(s) URL: {safe_url(url)!r}; write it as http://host:port/path, with / ? # @ in a password"
        " percent-encoded"
    )


async def read_bounded(response: aiohttp.ClientResponse, limit_bytes: int = _MAX_ANSWER_BYTES) -> bytes | None:
    """The body, or None when it is longer than the limit."""
    try:
        await response.content.readexactly(limit_bytes + 1)
    except IncompleteReadError as error:
        return error.partial
    return None


async def read_lines(endpoint: Endpoint, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The lines of a body as they arrive, without empty ones. Raises ServiceError for a line that is too long."""
    pending = bytearray()
    async for data in response.content.iter_any():
        pending += data
        *lines, rest = pending.split(b"\n")
        if max(map(len, (*lines, rest))) > _MAX_LINE_BYTES:
            raise endpoint.error("a line of more than 1 MiB")
        for line in lines:
            if line.strip():
                yield bytes(line)
        pending = bytearray(rest)
    if pending.strip():
        yield bytes(pending)


def read_json(endpoint: Endpoint, body: bytes | None) -> Mapping[str, Any]:
    """The JSON object of a body that `read_bounded` gave, or of a line. Raises ServiceError."""
    if body is None:
        raise endpoint.error(f"the answer is longer than {_MAX_ANSWER_BYTES // 1024} KiB")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:  # the latter: nested deeper than Python reads
        raise endpoint.error("the answer is not JSON", _quote(body)) from error
    if not isinstance(document, Mapping):
        raise endpoint.error("the answer is not a JSON object", _quote(body))
    return document


def _told(line: Line) -> dict[str, object]:
    """A line of the conversation; of a tool call, also which."""
    told: dict[str, object] = {"role": line.role, "text": line.text}
    if (call := line.call) is not None:
        arguments = json.loads(call.arguments)
        told["call"] = {"id": call.call_id, "name": call.name, "arguments": arguments, "outcome": call.outcome}
    return told


class _TextService:
    """An HTTP service that takes a text and answers with a JSON object."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        path: str,
        timeout_ms: int,
        headers: Mapping[str, str],
        *,
        bounds_whole: bool = True,
    ) -> None:
        self.endpoint = Endpoint(session, url, path, timeout_ms=timeout_ms, bounds_whole=bounds_whole, headers=headers)

    async def ask(self, request: Request) -> Mapping[str, Any]:
        endpoint = self.endpoint
        try:
            async with endpoint.post(request) as response:
                if response.status != 200:
                    raise await endpoint.refused(response)
                body = await read_bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        return read_json(endpoint, body)

    def text(self, document: Mapping[str, Any], key: str, limit: int) -> str:
        value = document.get(key)
        if not isinstance(value, str):
            raise self.endpoint.error(f"the answer has no text {key!r}", f"it has {sorted(document)[:10]}"[:200])
        if len(value) > limit:
            raise self.endpoint.error(f"{key!r} has {len(value)} characters; at most {limit} are allowed")
        return value


class HttpIntent:
    """IntentPort over `POST /intent {text, session_id, turn} -> {intent, confidence_permille?}`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        timeout_ms: int = 5_000,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self._service = _TextService(session, url, "/intent", timeout_ms, headers)

    async def classify(self, request: Request) -> Intent:
        """Raises ServiceError; cancelling closes the request."""
        return self.understood(await self._service.ask(request))

    def understood(self, document: Mapping[str, Any]) -> Intent:
        """The intent in the service's answer. Raises ServiceError."""
        return Intent(self._service.text(document, "intent", _MAX_NAME_CHARACTERS), self._confidence(document))

    def _confidence(self, document: Mapping[str, Any]) -> int:
        """The confidence in permille: from `confidence_permille`, else from `confidence` (0 to 1), else 0."""
        permille: object = document.get("confidence_permille")
        share: object = document.get("confidence")
        value = permille if permille is not None else share if share is not None else 0
        scale = 1 if permille is not None else 1000
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value * scale <= 1000:
            raise self._service.endpoint.error(
                f"a confidence that is not from 0 to {1000 // scale}", f"it is {_brief(value)!r}"
            )
        return round(value * scale)


class HttpAnswer:
    """AnswerPort over `POST /query {text, session_id, turn, conversation?}`: JSON lines, or `{answer, sources?}` whole.

    `timeout_ms` limits each wait for more bytes, not the whole: a streamed answer takes as long as the model writes.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        timeout_ms: int = 15_000,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self._service = _TextService(session, url, "/query", timeout_ms, headers, bounds_whole=False)

    async def stream(self, request: Request) -> AsyncGenerator[str | Answer, None]:
        """The answer as the service writes it. Raises ServiceError; closing the generator closes the request."""
        endpoint = self._service.endpoint
        try:
            async with endpoint.post(request, {"Accept": _ACCEPT}) as response, ToldCalls(request) as tools:
                if response.status != 200:
                    raise await endpoint.refused(response)
                if response.content_type != JSON_LINES:
                    yield self._whole(read_json(endpoint, await read_bounded(response)))
                    return
                async with aclosing(read_lines(endpoint, response)) as lines:
                    async for line in lines:
                        document = read_json(endpoint, line)
                        if await tools.take(document):
                            continue
                        piece = self._piece(document)
                        if isinstance(piece, Answer):
                            await tools.recorded()
                            yield piece
                            return
                        if piece is not None:
                            yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        raise endpoint.error("the answer broke off: its last line has no 'answer'")

    def _piece(self, line: Mapping[str, Any]) -> str | Answer | None:
        """A piece of the text, or the end of the answer; None for a line that says something else."""
        if isinstance(line.get("text"), str):
            return well_formed(line["text"])
        if line.get("error") is not None:
            raise self._service.endpoint.error("the service failed", _brief(line["error"])[:_MAX_QUOTED_CHARACTERS])
        return self._whole(line) if "answer" in line else None

    def _whole(self, document: Mapping[str, Any]) -> Answer:
        text = self._service.text(document, "answer", _MAX_TEXT_CHARACTERS)
        return Answer(text, self._sources(document.get("sources")))

    def _sources(self, value: object) -> tuple[str, ...]:
        """Names of the source documents. A source may be a text or an object with a name (see `_source_name`)."""
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._service.endpoint.error("'sources' is not a list")
        return tuple(_source_name(item)[:_MAX_NAME_CHARACTERS] for item in value[:_MAX_SOURCES])


def _source_name(item: object) -> str:
    if isinstance(item, Mapping):
        for key in ("source", "name", "title", "id", "url"):
            if isinstance(item.get(key), str):
                return str(item[key])
    return _brief(item)


def _brief(value: object) -> str:
    """A short text for a JSON value. A list or object is only named, not quoted."""
    if isinstance(value, str | float | bool) or value is None:
        return str(value)[:_MAX_NAME_CHARACTERS]
    if isinstance(value, int):
        return str(value) if value.bit_length() < 256 else "a very large number"
    return "an object" if isinstance(value, Mapping) else "a list"


def _quote(body: bytes) -> str:
    """The start of a response body for an error message: its `error` or `detail` text if it has one."""
    text = one_line(body.decode(errors="replace"))
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = text
    if isinstance(document, Mapping):
        said = document.get("error") or document.get("detail")
        said = said.get("message") if isinstance(said, Mapping) else said
        text = said if isinstance(said, str) and said else text
    return text[:_MAX_QUOTED_CHARACTERS]
