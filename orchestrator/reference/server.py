"""The embedded HTTP server of the reference services: POST /intent, /query and /stream on loopback."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Self

from aiohttp import web

from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import Answer, IntentPort, Request, SpeechChunk, TextToSpeechPort, WholeAnswers
from orchestrator.services.speech_wire import JSON_LINES, RAW, SAMPLE_RATE_HEADER, encode_line
from orchestrator.services.text_functions import answer_port, whole_answer

_MAX_TEXT_CHARACTERS = 8_000
_MAX_BODY_BYTES = 4 * 1024 * 1024
"""A question and the 40 lines before it, each of the longest size, at twelve bytes of JSON per character."""


class ReferenceServer:
    """Serves intent, answer and text-to-speech ports over HTTP, on any free TCP port, within `async with`.

    The caller closes the ports: the server does not own them.
    """

    def __init__(self, intents: IntentPort, answers: WholeAnswers, speech: TextToSpeechPort) -> None:
        self._intents = intents
        self._answers = answer_port(answers)
        self._speech = speech
        application = web.Application(
            client_max_size=_MAX_BODY_BYTES, middlewares=[_errors_as_json], handler_args={"handler_cancellation": True}
        )
        application.router.add_post("/intent", self._intent)
        application.router.add_post("/query", self._query)
        application.router.add_post("/stream", self._stream)
        # No access log: it would contain users' words (`?text=`).
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        self.base_url = ""
        """Base URL of the server, without a slash at the end."""

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when no port is free."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        except OSError:
            await self._runner.cleanup()
            raise
        host, port = self._runner.addresses[0]
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop listening and end open requests."""
        await self._runner.cleanup()

    async def _intent(self, request: web.Request) -> web.Response:
        intent = await self._intents.classify(await _asked(request))
        return web.json_response({"intent": intent.intent, "confidence_permille": intent.confidence_permille})

    async def _query(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request)
        if JSON_LINES not in request.headers.get("Accept", ""):
            return web.json_response(_last_line(await whole_answer(self._answers, asked)))
        async with aclosing(self._answers.stream(asked)) as pieces:
            # As in _stream: a failure before the first piece can still become an error status.
            piece: str | Answer = await anext(pieces, Answer(""))
            response = web.StreamResponse()
            response.content_type = JSON_LINES
            await response.prepare(request)
            try:
                while isinstance(piece, str):
                    await _send_line(response, {"text": piece})
                    piece = await anext(pieces, Answer(""))
                await _send_line(response, _last_line(piece))
            except ServiceError as error:
                await _send_line(response, {"error": str(error)})
        await response.write_eof()
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request)
        as_lines = JSON_LINES in request.headers.get("Accept", "")
        async with aclosing(self._speech.synthesize(asked)) as chunks:
            # Wait for the first chunk before sending the status: a failure can still become an error status.
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
            raise  # raw sound has no place for an error: break the connection
        await _send_line(response, {"error": str(error)})


def _last_line(answer: Answer) -> Mapping[str, Any]:
    """The end of an answer in lines; also the body of an answer that comes whole."""
    return {"answer": answer.answer, "sources": list(answer.sources)}


async def _send_line(response: web.StreamResponse, line: Mapping[str, Any]) -> None:
    await response.write(json.dumps(line).encode() + b"\n")


async def _asked(request: web.Request) -> Request:
    """The request in a JSON body, or in ?text= of the query. Raises HTTPBadRequest that names the mistake.

    Ignores a `conversation` field: the reference services answer each question by itself.
    """
    document: Any = dict(request.query)
    body = await request.read()
    if body:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
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


@web.middleware
async def _errors_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer every failure with `{"error": ...}` and a matching status."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        return web.json_response({"error": error.text or error.reason}, status=error.status)
    except ServiceError as error:
        return web.json_response({"error": str(error)}, status=503)
    except ConnectionResetError:  # no error: the client left before the answer; nobody gets this
        return web.Response()
    return response
