"""Answers by a language model with OpenAI's chat completions, which many local servers have, too."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import aiohttp

from orchestrator.adapters.openai_endpoint import OpenAIEndpoint
from orchestrator.services.http_clients import Endpoint, read_json, read_lines
from orchestrator.services.ports import Request

_EVENT = b"data:"
_END = b"[DONE]"


class OpenAIAnswer(OpenAIEndpoint):
    """AnswerPort over `POST /chat/completions`: spoken while the model writes. It calls no tools; an agent that does is
    a pydantic-ai agent, or a function of yours (docs/services.md).

    ```python
    Orchestrator(answer=OpenAIAnswer("llama3", instructions="You are brief.", base_url="http://localhost:11434/v1"))
    ```

    An empty `base_url` or `api_key` is read from OPENAI_BASE_URL and OPENAI_API_KEY. `timeout_ms` bounds each wait for
    the next bytes.
    """

    def __init__(
        self,
        model: str = "gpt-4o-mini",
        *,
        instructions: str = "",
        base_url: str = "",
        api_key: str = "",
        timeout_ms: int = 15_000,
    ) -> None:
        super().__init__("/chat/completions", base_url, api_key, timeout_ms=timeout_ms, bounds_whole=False)
        self._model = model
        self._instructions = instructions

    async def stream(self, request: Request) -> AsyncGenerator[str, None]:
        """The tokens as they come. Raises ServiceError; closing the generator closes the request."""
        endpoint = self.endpoint
        body = {"json": {"model": self._model, "stream": True, "messages": self._messages(request)}}
        try:
            async with endpoint.send(lambda: body, is_repeatable=True) as response:
                if response.status != 200:
                    raise await endpoint.refused(response)
                async with aclosing(read_lines(endpoint, response)) as lines:
                    async for line in lines:
                        if not line.startswith(_EVENT):
                            continue
                        if (data := line.removeprefix(_EVENT).strip()) == _END:
                            return
                        if token := _token(endpoint, data):
                            yield token
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        raise endpoint.error("the answer broke off: it has no [DONE]")

    def _messages(self, request: Request) -> list[dict[str, str]]:
        roles = {"agent": "assistant", "user": "user"}
        said = [{"role": roles[line.role], "content": line.text} for line in request.conversation if line.role in roles]
        begin = [{"role": "system", "content": self._instructions}] if self._instructions else []
        return [*begin, *said, {"role": "user", "content": request.text}]


def _token(endpoint: Endpoint, data: bytes) -> str:
    """The text in an event of the stream. Raises ServiceError."""
    document: Any = read_json(endpoint, data)
    if "error" in document:
        raise endpoint.error("the model failed", str(document["error"])[:200])
    try:
        choices = document["choices"]
        return str(choices[0]["delta"].get("content") or "") if choices else ""
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise endpoint.error("an event of the stream has no choices[0].delta") from error
