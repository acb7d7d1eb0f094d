"""A service that fails in every way there is, and repeats in each what it was asked and what it was sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Raw = Callable[[str], bytes]


def _http(status: int, body: str, headers: str = "") -> bytes:
    encoded = body.encode()
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(encoded)}\r\n{headers}\r\n".encode() + encoded


def _ok(document: object, kind: str = "application/json") -> bytes:
    return _http(200, json.dumps(document, ensure_ascii=False), f"Content-Type: {kind}\r\n")


def _tool(call_id: str, name: str, called: object, **returned: object) -> bytes:
    """A tool call, after which the answer breaks off."""
    lines = (
        {"tool_called": {"id": call_id, "name": name, "arguments": called}},
        {"tool_returned": {"id": call_id, **returned}},
    )
    body = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    return _http(200, body, "Content-Type: application/x-ndjson\r\n")


def _words(echo: str) -> str:
    """Without the service's own address and headers: a tool's contents are recorded as they are."""
    return echo.partition(" /")[0]


FAILURES: dict[str, Raw] = {
    "refuses": lambda echo: _http(500, json.dumps({"error": f"cannot answer {echo}"})),
    "refuses in text": lambda echo: _http(503, f"<h1>{echo}</h1>"),
    "refuses with detail": lambda echo: _http(422, json.dumps({"detail": [{"input": echo}]})),
    "wants a login": lambda echo: _http(401, echo, f"WWW-Authenticate: Basic realm={json.dumps(echo)}\r\n"),
    "redirects": lambda echo: _http(302, echo, "Location: http://127.0.0.1:1/elsewhere\r\n"),
    "is not JSON": lambda echo: _http(200, f"{{{echo}"),
    "is a list": lambda echo: _ok([echo]),
    "is nested": lambda echo: _http(200, "[" * 20_000 + echo),
    "has other keys": lambda echo: _ok({echo: echo}),
    "has another type": lambda echo: _ok({"intent": {"it": echo}, "answer": [echo], "pcm": 1}),
    "is sure in words": lambda echo: _ok({"intent": "a", "confidence": echo, "answer": None}),
    "is too long": lambda echo: _ok({"intent": echo * 600, "answer": echo * 600}),
    "breaks off": lambda echo: b"HTTP/1.1 200 X\r\nContent-Length: 9999\r\n\r\n" + echo.encode(),
    "is no HTTP": lambda echo: echo.encode() + b"\r\n\r\n",
    "has a bad status": lambda echo: b"HTTP/1.1 " + echo.encode() + b"\r\n\r\n",
    "has a bad header": lambda echo: b"HTTP/1.1 200 OK\r\n" + echo.encode() + b"\r\n\r\n",
    "closes": lambda _: b"",
    "names a tool by it": lambda echo: _tool("c1", echo, {}),
    "numbers a call by it": lambda echo: _tool(echo, "book", {}),
    "asks a tool": lambda echo: _tool("c1", "book", {_words(echo): [_words(echo)]}, result={_words(echo): 1}),
    "asks a tool in vain": lambda echo: _tool("c1", "book", _words(echo), error=_words(echo)),
    "gives up": lambda echo: _ok({"error": f"no voice for {echo}"}, "application/x-ndjson"),
    "speaks in another way": lambda echo: _http(200, echo, f"Content-Type: text/{echo.replace(' ', '-')}\r\n"),
    "speaks without a rate": lambda echo: _http(
        200, echo, "Content-Type: audio/L16\r\nX-Sample-Rate: " + echo + "\r\n"
    ),
}


@asynccontextmanager
async def failing(how: Callable[[str, str], str]) -> AsyncIterator[str]:
    """The address of such a service. `how(path, text)` names the failure; empty: it answers."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length:")[2].split()[0])
            text = json.loads(await reader.readexactly(length))["text"]
            target, headers = head.split()[1], head.partition("\r\n")[2]
            echo = " ".join(f"{text} {target} {headers}".split())
            failure = how(target, text)
            writer.write(FAILURES[failure](echo) if failure else _ok({"intent": "greeting", "answer": "Yes."}))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):  # it was asked nothing
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
