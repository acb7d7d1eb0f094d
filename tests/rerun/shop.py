"""A shop whose agent asks a model over HTTP and calls tools, its model, and twenty recorded conversations with it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from events.codec import encode
from events.inputs import SttFinal
from events.recording import Header, dump
from orchestrator import ModelReply, Request, ToolError
from orchestrator.runtime.node import Node
from orchestrator.session import REDUCER_VERSION
from orchestrator.session.policy import Policy
from tests.runtime.support import StubClient, Stubs, Watch

STOCK = {"tea": 12, "cake": 0}


class Model:
    """A language model over HTTP. It looks things up by a tool before it speaks of them."""

    def __init__(self) -> None:
        self.asked = 0
        self.pause_s = 0.0

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve in a thread of its own: a rerun keeps the loop of its test waiting. The address."""
        loop, application = asyncio.new_event_loop(), web.Application()
        application.add_routes([web.post("/chat", self.chat)])
        runner = web.AppRunner(application)
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        def run(work: Coroutine[Any, Any, None]) -> None:
            asyncio.run_coroutine_threadsafe(work, loop).result(10)

        run(runner.setup())
        run(web.TCPSite(runner, "127.0.0.1", 0).start())
        yield "http://{}:{}/chat".format(*runner.addresses[0][:2])
        run(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def chat(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(self.pause_s)
        messages = (await request.json())["messages"]
        return web.json_response({"reply": self._reply(messages), "tokens": len(messages)})

    def _reply(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        words = [message["text"] for message in messages if message["role"] == "user"][-1].split()
        known = {message["about"]: message["text"] for message in messages if message["role"] == "tool"}
        for thing in (word for word in words if word in STOCK):
            if thing not in known:
                return {"tool": "stock", "arguments": {"thing": thing}}
        if "order" in words and "order" not in known:
            return {"tool": "order", "arguments": {"thing": words[-1], "pieces": 2}}
        polite = ", dear customer" if "polite" in messages[0]["text"] else ""
        said = " ".join(f"{about}: {text}." for about, text in known.items())
        return {"text": f"{said or 'We sell tea and cake.'} Anything else{polite}?"}


class Shop:
    """The agent. Its changes are those that somebody may make by mistake."""

    def __init__(self, url: str, *, prompt: str = "You are brief.", shouts: bool = False, breaks: bool = False) -> None:
        self.ran: list[str] = []
        self._url = url
        self._prompt = prompt
        self._shouts = shouts
        self._breaks = breaks

    async def answer(self, request: Request) -> AsyncIterator[str]:
        messages: list[dict[str, Any]] = [{"role": "system", "text": self._prompt}]
        messages += [{"role": line.role, "text": line.text} for line in request.conversation if line.call is None]
        messages.append({"role": "user", "text": request.text})
        while (reply := (await request.ask_model(self._ask, messages)))["tool"]:
            name, arguments = reply["tool"], reply["arguments"]
            about = "order" if name == "order" else arguments["thing"]
            if self._shouts:
                arguments = arguments | {"thing": arguments["thing"].upper()}
            try:
                text = await request.once(name, getattr(self, name), **arguments)
            except ToolError as error:
                text = f"failed ({error})"
            messages.append({"role": "tool", "about": about, "text": str(text)})
        yield reply["text"]

    async def _ask(self, messages: list[dict[str, Any]]) -> ModelReply:
        async with aiohttp.ClientSession() as http, http.post(self._url, json={"messages": messages}) as response:
            said = await response.json()
        return ModelReply({"tool": "", **said["reply"]}, "local", said["tokens"], 1)

    def stock(self, thing: str) -> int:
        """How many pieces there are."""
        self.ran.append(f"stock {thing}")
        if self._breaks:
            raise OSError("the stock is locked")
        return STOCK[thing]

    async def order(self, thing: str, pieces: int) -> dict[str, object]:
        """Order something."""
        self.ran.append(f"order {thing}")
        return {"ordered": thing, "pieces": pieces}


CONVERSATIONS: dict[str, tuple[str, ...]] = {
    "hello": ("hello",),
    "tea": ("is there tea",),
    "cake": ("is there cake",),
    "both": ("tea or cake",),
    "order": ("please order tea",),
    "hello_tea": ("hello", "tea then"),
    "tea_twice": ("tea", "and tea again"),
    "tea_cake": ("tea", "cake"),
    "cake_hello": ("cake", "hello again"),
    "order_twice": ("order tea", "order cake"),
    "three": ("hello", "tea", "order tea"),
    "many": ("tea", "cake", "tea or cake", "order cake"),
}
POLICIES: dict[str, dict[str, Any]] = {"plain": {}, "no_intent": {"intent": {"skip": True}}}


async def record(folder: Path, redis_url: str, shop: Shop) -> list[Path]:
    """Lead twenty conversations in text on a real node; returns their recordings."""
    found = []
    names = [(name, policy) for policy in POLICIES for name in CONVERSATIONS][:20]
    for policy in POLICIES:
        stubs, watch = Stubs(), Watch()
        stubs.stream = shop.answer  # type: ignore[method-assign, assignment]
        node = Node(redis_url, stubs.services(), observer=watch, policy=Policy.model_validate(POLICIES[policy]))
        await node.start()
        try:
            for name in (name for name, kind in names if kind == policy):
                live = node.open_session(StubClient())
                await watch.phase(live.session_id, "LISTENING", 1)
                for number, words in enumerate(CONVERSATIONS[name], 2):
                    node.report(SttFinal(session_id=live.session_id, text=words, via="text"))
                    await watch.phase(live.session_id, "LISTENING", number)
                log = await node.read_log(live.session_id)
                found.append(folder / f"{name}_{policy}.jsonl")
                header = Header(reducer_version=REDUCER_VERSION, story=json.dumps(CONVERSATIONS[name]))
                found[-1].write_bytes(dump(header, map(encode, log)))
        finally:
            await node.stop()
    return found
