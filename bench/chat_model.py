"""A local server with OpenAI's streamed chat completions: tokens at the pace of a model. A process of its own.

Prints its address, then for each request `asked`, `token` (the first one), `sentence` (the end of the first one), and
`aborted` if the client goes away in the middle, each with nanoseconds of CLOCK_MONOTONIC, which processes share.
"""

import asyncio
import json
import sys
import time

from aiohttp import web

FIRST_S, TOKEN_S = 0.3, 0.03
WORDS = ["", "The", "shop", "is", "open", "every", "day", "from", "nine", "until", "six", "o'clock", "today."][1:]
SENTENCE = len(WORDS)
"""Tokens of a sentence."""
SAID = {0: "token", SENTENCE - 1: "sentence"}
ABOUT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "local"}


def tokens(count: int) -> list[str]:
    """Words, in sentences."""
    return [f" {WORDS[number % SENTENCE]}" for number in range(count)]


def say(name: str) -> None:
    print(f"{name} {time.monotonic_ns()}", flush=True)


async def completions(request: web.Request) -> web.StreamResponse:
    say("asked")
    asked = await request.json()
    count = int(asked.get("max_completion_tokens") or asked["max_tokens"])
    began_s = asyncio.get_running_loop().time()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    try:
        for number, token in enumerate(tokens(count)):
            due_s = began_s + FIRST_S + number * TOKEN_S
            await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
            chunk = ABOUT | {"choices": [{"index": 0, "delta": {"content": token}}]}
            if number in SAID:
                say(SAID[number])
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
    except (ConnectionError, asyncio.CancelledError):
        say("aborted")
        raise
    return response


async def main() -> None:
    application = web.Application()
    application.add_routes([web.post("/v1/chat/completions", completions)])
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("http://{}:{}/v1".format(*runner.addresses[0][:2]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
