"""The embedded HTTP server of the reference services: POST /intent, /query and /stream on loopback."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Self

from aiohttp import web

from orchestrator.services.ports import (
    AnswerPort,
    IntentPort,
    Request,
    ServiceError,
    SpeechChunk,
    TextToSpeechPort,
)
from orchestrator.services.speech_wire import JSON_LINES, RAW, SAMPLE_RATE_HEADER, encode_line

_log = logging.getLogger(__name__)

_MAX_TEXT_CHARACTERS = 8_000
_MAX_BODY_BYTES = 4 * 1024 * 1024
"""A question and the 40 lines before it, each as long as can be and in twelve bytes of JSON a character."""


class ReferenceServer:
    """Serves ports over HTTP; use `async with`, or start() and stop(). `port` 0 is any free one.

    The server owns nothing it serves: whoever made the ports closes them.
    """

    def __init__(
        self,
        intents: IntentPort,
        answers: AnswerPort,
        speech: TextToSpeechPort,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._intents = intents
        self._answers = answers
        self._speech = speech
        self._host = host
        self._port = port
        self._runner: web.AppRunner | None = None
        self.base_url = ""
        """Where it listens, without a slash at the end; empty while it does not."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> str:
        """Listen; the base URL. Raises OSError when the port is taken."""
        if self._runner is not None:
            return self.base_url
        # No access log: it would hold what people say (`?text=`).
        self._runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self.base_url

    async def stop(self) -> None:
        """Stop listening and end open requests; may be called twice."""
        runner, self._runner, self.base_url = self._runner, None, ""
        if runner is not None:
            await runner.cleanup()

    def application(self) -> web.Application:
        """The aiohttp application, to be served elsewhere."""
        application = web.Application(
            client_max_size=_MAX_BODY_BYTES, middlewares=[_errors_as_json], handler_args={"handler_cancellation": True}
        )
        application.router.add_post("/intent", self._intent)
        application.router.add_post("/query", self._query)
        application.router.add_post("/stream", self._stream)
        return application

    async def _intent(self, request: web.Request) -> web.Response:
        intent = await self._intents.classify(await _asked(request))
        return _json({"intent": intent.intent, "confidence_permille": intent.confidence_permille})

    async def _query(self, request: web.Request) -> web.Response:
        answer = await self._answers.answer(await _asked(request))
        return _json({"answer": answer.answer, "sources": list(answer.sources)})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request)
        as_lines = JSON_LINES in request.headers.get("Accept", "")
        async with aclosing(_generator(self._speech.synthesize(asked))) as chunks:
            # Waiting for the first chunk before the status: a failure can still be told as one.
            first = await anext(chunks, None)
            response = web.StreamResponse()
            if as_lines:
                response.content_type = JSON_LINES
            else:
                rate = first.sample_rate_hz if first else 16_000
                response.headers["Content-Type"] = f"{RAW};rate={rate};channels=1"
                response.headers[SAMPLE_RATE_HEADER] = str(rate)
            await response.prepare(request)
            if first is not None:
                await response.write(encode_line(first) if as_lines else first.pcm)
                await _send_rest(response, chunks, as_lines)
        await response.write_eof()
        return response


async def _send_rest(response: web.StreamResponse, chunks: AsyncIterator[SpeechChunk], as_lines: bool) -> None:
    try:
        async for chunk in chunks:
            await response.write(encode_line(chunk) if as_lines else chunk.pcm)
    except ServiceError as error:
        if not as_lines:
            raise  # the connection breaks off, which is all that raw sound can say
        await response.write(json.dumps({"error": str(error)}).encode() + b"\n")


async def _generator(chunks: AsyncIterator[SpeechChunk]) -> Any:
    """A port may give any async iterator; a generator around it can be closed."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if hasattr(chunks, "aclose"):
            await chunks.aclose()


async def _asked(request: web.Request) -> Request:
    """What the caller asks: a JSON body, or ?text= in the query. Raises HTTPBadRequest saying what is missing.

    A `conversation` in it is ignored: these services answer each question by itself.
    """
    document: Any = dict(request.query)
    body = await request.read()
    if body:
        try:
            document = json.loads(body)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from error
    if not isinstance(document, Mapping) or not isinstance(document.get("text"), str):
        raise web.HTTPBadRequest(text='expected {"text": "..."} as JSON body (or ?text=...)')
    if len(document["text"]) > _MAX_TEXT_CHARACTERS:
        raise web.HTTPBadRequest(text=f"the text is longer than {_MAX_TEXT_CHARACTERS} characters")
    turn = document.get("turn", 0)
    return Request(
        text=document["text"],
        session_id=str(document.get("session_id", "")),
        turn=turn if isinstance(turn, int) else 0,
        idempotency_key=request.headers.get("Idempotency-Key", ""),
    )


def _json(document: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(document).encode(), content_type="application/json", status=status)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every failure is an `{"error": ...}` with a fitting status."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return _json({"error": error.text or error.reason}, error.status)
    except ServiceError as error:
        return _json({"error": str(error)}, 503)
    return response
