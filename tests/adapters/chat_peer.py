"""A local server with OpenAI's chat completions over real HTTP and SSE, written from its public reference."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Says = str | tuple[str, dict[str, Any]]
"""A text; or the name of a tool and its arguments."""


def answers_orders(messages: list[dict[str, Any]]) -> list[Says]:
    """Looks up an order by the tool `order_status`, and says what it returned."""
    last = messages[-1]
    if last["role"] == "tool":
        return [f"Your order is {last['content']}. It arrives on Monday."]
    if "order" in str(last["content"]):
        return ["One moment.", ("order_status", {"order_id": "A17"})]
    return ["Hello. How can I help?"]


@dataclass
class ChatPeer:
    """What it was asked, and what it says."""

    says: Callable[[list[dict[str, Any]]], list[Says]] = answers_orders
    token_s: float = 0.0
    """Pause before each token."""
    stops_after: int = -1
    """Tokens of a response after which it waits until `goes_on`; -1: never."""
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[dict[str, Any]] = field(default_factory=list)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client went away in the middle of a response."""

    def app(self) -> web.Application:
        application = web.Application()
        application.add_routes([web.post("/v1/chat/completions", self.completions)])
        return application

    @property
    def roles(self) -> list[list[str]]:
        """The roles of the messages of each request."""
        return [[message["role"] for message in asked["messages"]] for asked in self.asked]

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.asked.append(asked)
        said = self.says(asked["messages"])
        if not asked.get("stream"):
            return web.json_response(_whole(said))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number, delta in enumerate(_deltas(said)):
                if number == self.stops_after:
                    await self.goes_on.wait()
                await asyncio.sleep(self.token_s)
                await response.write(f"data: {json.dumps(_chunk(delta))}\n\n".encode())
            reason = "tool_calls" if any(not isinstance(part, str) for part in said) else "stop"
            await response.write(f"data: {json.dumps(_chunk({}, reason))}\n\ndata: [DONE]\n\n".encode())
        except (ConnectionError, asyncio.CancelledError):
            self.aborted.set()
            raise
        return response


def _deltas(said: list[Says]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for part in said:
        if isinstance(part, str):
            words = part.split(" ")
            tokens = [word + " " for word in words[:-1]] + words[-1:]
            found += [{"content": token} for token in tokens if token]
        else:
            found += [{"tool_calls": [{"index": 0, **call}]} for call in _in_pieces(*part)]
    return found


def _in_pieces(name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    text = json.dumps(arguments)
    first = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    return [first, *({"function": {"arguments": text[at : at + 6]}} for at in range(0, len(text), 6))]


def _chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "local", "choices": [choice]}


def _whole(said: list[Says]) -> dict[str, Any]:
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": part[0], "arguments": json.dumps(part[1])}}
        for part in said
        if not isinstance(part, str)
    ]
    text = "".join(part for part in said if isinstance(part, str))
    message = {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "local", "choices": [choice]}
