"""The console's HTTP server: pages, and the JSON that they show. It changes nothing; it only reads."""

import asyncio
import json
import shlex
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from aiohttp import web
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from events.codec import BadEventError, encode
from events.envelope import Event
from events.recording import BadRecordingError, Header, Recording
from orchestrator.console.access import Access, ConsoleGuard
from orchestrator.console.drawing import drawn, facts
from orchestrator.console.experiments import BadChangeError, both, change_of, compared, policy_form, totals
from orchestrator.console.library import MOST_FILE_BYTES, Dropped, Library, NoSuchSessionError
from orchestrator.console.live import Followings, last_seen, stream
from orchestrator.gateway.access.pages import LOGIN
from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.gateway.origin import AllowedNames
from orchestrator.replay.comparison import Comparison
from orchestrator.replay.fold_on import UnsoundLogError
from orchestrator.replay.place import BadPlaceError, NoSuchEventError, event_at
from orchestrator.replay.redact import Redaction, redacted
from orchestrator.replay.why import as_json as why_json
from orchestrator.replay.why import why
from orchestrator.safe_text import one_line, safe_error
from projections.exports import FORMS, Form, exported
from projections.summary import BadQueryError, Summary, Wanted

STATIC = Path(__file__).parent / "static"
MOST_TRIED = 500
"""Limit for the sessions of one what-if over a selection."""
MOST_READERS = 16
"""Readers whose dropped files are kept; those of the one who came first are forgotten."""
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_STATUS: dict[type[Exception], int] = {
    BadQueryError: 400,
    BadPlaceError: 400,
    BadChangeError: 400,
    BadEventError: 422,
    BadRecordingError: 422,
    UnsoundLogError: 422,
    NoSuchSessionError: 404,
    NoSuchEventError: 404,
    OSError: 503,
    RedisError: 503,
    SQLAlchemyError: 503,
}
"""Errors that a reader can cause or meet → HTTP status."""
_QUOTING = (BadEventError, BadRecordingError, UnsoundLogError)
"""Errors whose message may quote a recording."""
_UNREADABLE = "this recording cannot be read; the reason may quote it, and this token does not allow to read words"
ACCESS = web.RequestKey("access", Access)
RequestHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Console:
    """Serves one library of conversations. `app()` is the aiohttp application."""

    def __init__(self, library: Library, guard: ConsoleGuard | None = None, names: AllowedNames | None = None) -> None:
        """`guard`: who may come in; None: everybody, so let only this machine connect."""
        self._library = library
        self._guard = guard or ConsoleGuard()
        self._dropped: OrderedDict[str, Dropped] = OrderedDict()
        """Reader → the files that they have dropped."""
        self._followings = Followings(library)
        self._names = names or AllowedNames(is_private=True)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=MOST_FILE_BYTES)
        key = "/api/sessions/{key}"
        app.add_routes(
            [
                *(web.get(path, self._page) for path in ("/", "/sessions/{key}", "/compare")),
                web.get("/api/facts", self._facts),
                web.get("/api/sessions", self._sessions),
                web.get(key, self._session),
                web.get(f"{key}/log", self._log),
                web.get(f"{key}/live", self._live),
                web.get(f"{key}/why", self._why),
                web.get(f"{key}/export", self._export),
                web.post(f"{key}/what-if", self._what_if),
                web.post("/api/what-if", self._what_if_all),
                web.post("/api/dropped", self._drop),
                web.get("/api/compare", self._compare),
                web.post(LOGIN, self._guard.login),
                web.static("/static", STATIC),
            ]
        )
        app.on_response_prepare.append(_protect)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: RequestHandler) -> web.StreamResponse:
        """Check who asks, and turn errors that a reader can cause into one sentence with a status."""
        if refusal := self._names.refusal(request.headers):
            return _problem(421, refusal)
        if request.method != "GET" and not self._names.may_connect(request):
            return _problem(403, "another page asked for this; only the console's own pages may")
        try:
            if request.path != LOGIN:
                request[ACCESS] = await self._guard.access(request)
            return await handler(request)
        except AccessRefused as refused:
            return self._guard.refusal(request, refused)
        except tuple(_STATUS) as error:
            status = _status(error)
            return _problem(status, _why(error, status, _access(request)))

    async def _page(self, _: web.Request) -> web.StreamResponse:
        return web.FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def _facts(self, request: web.Request) -> web.StreamResponse:
        return _json(facts() | {"policy": policy_form(), "reads_words": _access(request).reads_words})

    async def _sessions(self, request: web.Request) -> web.StreamResponse:
        found, cursor = await self._library.page(Wanted.from_query(request.query))
        unreadable = getattr(self._library, "unreadable", {})
        if not _access(request).reads_words:
            unreadable = {name: f"{name}: {_UNREADABLE}" for name in unreadable}
        return _json({"next": cursor, "sessions": [one.as_json() for one in found], "unreadable": unreadable})

    async def _session(self, request: web.Request) -> web.StreamResponse:
        key, log = await self._log_of(request)
        page = await asyncio.to_thread(drawn, log)
        home = self._home(request, key)
        about = {
            "commands": _commands(key, home.source(key)),
            "key": key,
            "source": home.source(key),
            "state": await home.state(key),
        }
        return _json(page | about)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        """The lines of `orch show --json`."""
        _, log = await self._log_of(request)
        return _text(b"".join(encode(event) + b"\n" for event in log), "application/x-ndjson")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        key, reads_words = request.match_info["key"], _access(request).reads_words
        async with self._followings.following(key, reads_words=reads_words) as following:
            return await stream(request, following, last_seen(request))

    async def _why(self, request: web.Request) -> web.StreamResponse:
        """The JSON of `orch why`, of the event at a place."""
        _, log = await self._log_of(request)
        event = event_at(log, request.query.get("at", ""))
        return _json(why_json(await asyncio.to_thread(why, log, event.version)))

    async def _export(self, request: web.Request) -> web.StreamResponse:
        key, log = await self._log_of(request)
        form, is_redacted = request.query.get("format", "jsonl"), request.query.get("redact") == "1"
        if form not in FORMS:
            raise BadQueryError(f"format={form[:40]}: write {', '.join(FORMS)}")
        recording = Recording(key, Header(reducer_version=_recorded_by(log)), tuple(map(encode, log)))
        redact: Redaction = "default" if is_redacted else "none"
        data = await asyncio.to_thread(lambda: exported(recording, cast("Form", form), redact=redact))
        ending = {"jsonl": "jsonl", "mermaid": "mmd", "otlp": "binpb"}.get(form, "json")
        name = "".join(one if one.isascii() and (one.isalnum() or one in "_-") else "-" for one in _stem(key))
        disposition = f'attachment; filename="{name[:80]}{".redacted" if is_redacted else ""}.{ending}"'
        return web.Response(body=data, headers={"Content-Disposition": disposition})

    async def _what_if(self, request: web.Request) -> web.StreamResponse:
        key, log = await self._log_of(request)
        change = change_of(await _body(request), log)
        source = self._home(request, key).source(key)
        return _json(await asyncio.to_thread(lambda: both(compared(log, change, source))))

    async def _what_if_all(self, request: web.Request) -> web.StreamResponse:
        """A what-if over the sessions of a list: a line of JSON for each session, and one for the sum. The line of a
        session that cannot be folded has the `problem`; such sessions are not in the sum.
        """
        body = await _body(request)
        change, wanted = change_of(body), Wanted.from_query(_query_of(body) | {"size": str(MOST_TRIED)})
        sessions, more = await self._library.page(wanted)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        try:
            async for line in totals(self._each(request, sessions, change)):
                await response.write(json.dumps(line | ({"has_more": bool(more)}), ensure_ascii=False).encode() + b"\n")
        except tuple(_STATUS) as error:
            problem = _why(error, 503, _access(request))
            await response.write(json.dumps({"problem": problem}).encode() + b"\n")
        return response

    async def _each(
        self, request: web.Request, sessions: list[Summary], change: Any
    ) -> AsyncIterator[tuple[str, Comparison | str]]:
        """Each session's comparison, or why the session cannot be compared. Raises BadChangeError, and the errors of an
        outage: they would meet every session.
        """
        for one in sessions:
            found: Comparison | str
            try:
                log = await self._readable(request, one.key)
                found = await asyncio.to_thread(compared, log, change, self._library.source(one.key))
            except (NoSuchSessionError, *_QUOTING) as error:
                found = _why(error, _status(error), _access(request))
            yield one.key, found

    async def _compare(self, request: web.Request) -> web.StreamResponse:
        one, other = request.query.get("a", ""), request.query.get("b", "")
        found = Comparison(f"{one} | {other}", await self._readable(request, one), await self._readable(request, other))
        return _json(await asyncio.to_thread(both, found))

    async def _drop(self, request: web.Request) -> web.StreamResponse:
        """Open a file that a reader dropped: kept in memory, forgotten with the process."""
        name = one_line(request.query.get("name", ""))[:100].replace("/", "_") or "recording.jsonl"
        data = await request.read()
        dropped = self._dropped.setdefault(_access(request).reader, Dropped())
        if len(self._dropped) > MOST_READERS:
            self._dropped.popitem(last=False)
        found = await asyncio.to_thread(dropped.open, name, data)
        return _json({"sessions": [one.as_json() for one in found]})

    async def _log_of(self, request: web.Request) -> tuple[str, list[Event]]:
        key = request.match_info["key"]
        return key, await self._readable(request, key)

    async def _readable(self, request: web.Request, key: str) -> list[Event]:
        """A session's log, redacted unless the reader may read words."""
        log = await self._home(request, key).log(key)
        return log if _access(request).reads_words else await asyncio.to_thread(lambda: list(redacted(log, "default")))

    def _home(self, request: web.Request, key: str) -> Library:
        is_dropped = key.startswith("dropped/")
        return self._dropped.get(_access(request).reader, Dropped()) if is_dropped else self._library


def _access(request: web.Request) -> Access:
    return request[ACCESS]


def _status(error: Exception) -> int:
    return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def _why(error: Exception, status: int, to: Access) -> str:
    """The message of an error, without what this reader may not read."""
    if isinstance(error, _QUOTING) and not to.reads_words:
        return _UNREADABLE
    return str(error) if status < 500 else safe_error(error)


def _commands(key: str, source: str) -> list[str]:
    """What to type to make a test of a session."""
    name = "".join(one if one.isascii() and one.isalnum() else "_" for one in _stem(key))[:60]
    return [
        f"orch export {shlex.quote(source.removeprefix('dropped/'))} -o {name}.jsonl",
        f'orch import {name}.jsonl --as-fixture {name} --story "What went wrong, in a sentence."',
        "pytest -q tests/recordings --snapshot-update",
    ]


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".jsonl") or "session"


def _recorded_by(log: list[Event]) -> str:
    return str(getattr(log[0], "reducer_version", ""))


async def _body(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except ValueError as error:
        raise BadChangeError("the request is no JSON") from error


def _query_of(body: Any) -> dict[str, str]:
    """The filters in the body of a request. Raises BadQueryError."""
    query = body.get("query", {}) if isinstance(body, dict) else {}
    if not isinstance(query, dict) or not all(isinstance(text, str) for text in query.values()):
        raise BadQueryError("write query as an object of texts")
    return query


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


def _problem(status: int, words: str) -> web.Response:
    return web.json_response({"problem": one_line(words)}, status=status)


def _json(value: Any) -> web.Response:
    return _text(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), "application/json")


def _text(data: bytes, kind: str) -> web.Response:
    response = web.Response(body=data, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-store"})
    response.enable_compression()
    return response
