"""Intent and answer ports over HTTP: POST /intent and POST /query (the contract is in docs/services.md)."""

import json
from asyncio import IncompleteReadError
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from orchestrator.services.ports import Answer, Intent, Request, ServiceError

IDEMPOTENCY_HEADER = "Idempotency-Key"

_CONNECT_TIMEOUT_S = 2.0
_CONNECTIONS_PER_HOST = 256
_KEEP_ALIVE_S = 75.0
_MAX_ANSWER_BYTES = 256 * 1024
_MAX_QUOTED_CHARACTERS = 200
# What the events can carry (events/envelope.py): a longer value would be refused there, without saying by whom.
_MAX_TEXT_CHARACTERS = 8_000
_MAX_NAME_CHARACTERS = 500
_MAX_SOURCES = 50
_NO_HEADERS: Mapping[str, str] = {}


def open_session() -> aiohttp.ClientSession:
    """The one HTTP session that all clients share: connections are kept, so a call costs well under a millisecond.

    Whoever opens it closes it (`async with`). Call it with a running loop.
    """
    connector = aiohttp.TCPConnector(
        limit=0, limit_per_host=_CONNECTIONS_PER_HOST, keepalive_timeout=_KEEP_ALIVE_S, ttl_dns_cache=60
    )
    # No cookies and no automatic redirects: a service is an address, not a browser's page.
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class Endpoint:
    """One address of a service: where it is, how long it may take, and how its failures are told."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, path: str, *, timeout_ms: int, bounds_whole: bool = True
    ) -> None:
        """`url` is the base of the service (the path is added) or already ends in the path.

        The time is that of the whole exchange, or of each wait for more bytes.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"not an http(s) URL: {url!r}")
        base = parts.path.rstrip("/")
        self._session = session
        self.url = urlunsplit(parts._replace(path=base if base.endswith(path) else base + path, fragment=""))
        # The name is for messages and logs: no credentials, no query.
        self.name = f"POST {parts.scheme}://{parts.netloc.rpartition('@')[2]}{urlsplit(self.url).path}"
        self._timeout_s = timeout_ms / 1000
        self._timeout = aiohttp.ClientTimeout(
            total=self._timeout_s if bounds_whole else None, connect=_CONNECT_TIMEOUT_S, sock_read=self._timeout_s
        )

    async def post(self, request: Request, headers: Mapping[str, str] = _NO_HEADERS) -> aiohttp.ClientResponse:
        """Send the question; the response once its header is there, to be used with `async with`.

        A server may close a kept connection in the moment we use it. That says nothing about the question, so it is
        asked once more; the idempotency key tells a server that had seen it already.
        """
        question: dict[str, object] = {"text": request.text, "session_id": request.session_id, "turn": request.turn}
        if request.conversation:
            question["conversation"] = [{"role": line.role, "text": line.text} for line in request.conversation]
        if request.idempotency_key:
            headers = {**headers, IDEMPOTENCY_HEADER: request.idempotency_key}
        try:
            return await self._send(question, headers)
        except aiohttp.ServerDisconnectedError:
            return await self._send(question, headers)

    async def _send(self, question: Mapping[str, object], headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        return await self._session.post(
            self.url, json=question, headers=headers, timeout=self._timeout, allow_redirects=False
        )

    def error(self, problem: str) -> ServiceError:
        return ServiceError(f"{self.name}: {problem}"[:500])

    def lost(self, error: Exception) -> ServiceError:
        """What to say when there was no answer at all."""
        if isinstance(error, TimeoutError):
            return self.error(f"no answer within {self._timeout_s:g} s: is the service overloaded?")
        if isinstance(error, aiohttp.ClientConnectorError):
            return self.error(f"cannot connect ({error.os_error}): is the service running at this address?")
        return self.error(f"the connection broke ({type(error).__name__}: {error})")

    async def refused(self, response: aiohttp.ClientResponse) -> ServiceError:
        """What to say about an answer with a status other than 200, with the service's own words if it has any."""
        body = await read_bounded(response, _MAX_QUOTED_CHARACTERS * 4)
        said = _quote(body or b"")
        hint = "check the URL" if response.status in (301, 302, 307, 308, 404, 405) else "see the service's log"
        return self.error(f"status {response.status}{said}: {hint}")


async def read_bounded(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes | None:
    """The body, or None when it is longer than the limit."""
    try:
        await response.content.readexactly(limit_bytes + 1)
    except IncompleteReadError as error:
        return error.partial
    return None


class _TextService:
    """A service that is asked a text and answers a JSON object."""

    def __init__(self, session: aiohttp.ClientSession, url: str, path: str, timeout_ms: int) -> None:
        self.endpoint = Endpoint(session, url, path, timeout_ms=timeout_ms)

    async def ask(self, request: Request) -> Mapping[str, Any]:
        body = await self._post(request)
        try:
            document = json.loads(body)
        except ValueError as error:
            raise self.endpoint.error(f"the answer is not JSON{_quote(body)}") from error
        if not isinstance(document, Mapping):
            raise self.endpoint.error(f"the answer is not a JSON object{_quote(body)}")
        return document

    async def _post(self, request: Request) -> bytes:
        endpoint = self.endpoint
        try:
            async with await endpoint.post(request) as response:
                if response.status != 200:
                    raise await endpoint.refused(response)
                body = await read_bounded(response, _MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        if body is None:
            raise endpoint.error(f"the answer is longer than {_MAX_ANSWER_BYTES // 1024} KiB")
        return body

    def text(self, document: Mapping[str, Any], key: str, limit: int) -> str:
        value = document.get(key)
        if not isinstance(value, str):
            raise self.endpoint.error(f"the answer has no text {key!r}; it has {sorted(map(str, document))[:10]}")
        if len(value) > limit:
            raise self.endpoint.error(f"{key!r} has {len(value)} characters; at most {limit} are allowed")
        return value


class HttpIntent:
    """IntentPort over `POST /intent {text, session_id, turn} -> {intent, confidence_permille?}`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, timeout_ms: int = 5_000) -> None:
        self._service = _TextService(session, url, "/intent", timeout_ms)

    async def classify(self, request: Request) -> Intent:
        """Raises ServiceError; cancelling closes the request."""
        document = await self._service.ask(request)
        return Intent(self._service.text(document, "intent", _MAX_NAME_CHARACTERS), self._confidence(document))

    def _confidence(self, document: Mapping[str, Any]) -> int:
        """In permille; services that say `confidence` mean a share of one. Unsaid is 0."""
        permille: object = document.get("confidence_permille")
        share: object = document.get("confidence")
        value = permille if permille is not None else share if share is not None else 0
        scale = 1 if permille is not None else 1000
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value * scale <= 1000:
            raise self._service.endpoint.error(f"a confidence of {str(value)[:50]!r}; expected 0 to {1000 // scale}")
        return round(value * scale)


class HttpAnswer:
    """AnswerPort over `POST /query {text, session_id, turn, conversation?} -> {answer, sources?}`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, timeout_ms: int = 15_000) -> None:
        self._service = _TextService(session, url, "/query", timeout_ms)

    async def answer(self, request: Request) -> Answer:
        """Raises ServiceError; cancelling closes the request."""
        document = await self._service.ask(request)
        text = self._service.text(document, "answer", _MAX_TEXT_CHARACTERS)
        return Answer(text, self._sources(document.get("sources")))

    def _sources(self, value: object) -> tuple[str, ...]:
        """Names of documents; objects are taken by their name, as services that say more do."""
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
    return str(item)


def _quote(body: bytes) -> str:
    """The service's own words, or the start of them, to be put behind a message."""
    text = " ".join(body.decode(errors="replace").split())
    try:
        document = json.loads(text)
        said = document.get("error") or document.get("detail") or text if isinstance(document, Mapping) else text
    except ValueError:
        said = text
    return f" ({str(said)[:_MAX_QUOTED_CHARACTERS]})" if said else ""
