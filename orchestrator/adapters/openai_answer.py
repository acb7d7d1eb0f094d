"""Answers by a language model with OpenAI's chat completions, which many local servers have, too."""

from collections.abc import AsyncGenerator, Mapping
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
                is_whole = False
                async with aclosing(read_lines(endpoint, response)) as lines:
                    async for line in lines:
                        if not line.startswith(_EVENT):
                            continue
                        if (data := line.removeprefix(_EVENT).strip()) == _END:
                            return
                        choice = _choice(endpoint, data)
                        is_whole |= bool(choice.get("finish_reason"))
                        if token := _token(choice):
                            yield token
                if is_whole:  # some servers end here, without [DONE]
                    return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise endpoint.lost(error) from error
        raise endpoint.error("the answer broke off: it has no [DONE]")

    def _messages(self, request: Request) -> list[dict[str, str]]:
        roles = {"agent": "assistant", "user": "user"}
        said = [{"role": roles[line.role], "content": line.text} for line in request.conversation if line.role in roles]
        begin = [{"role": "system", "content": self._instructions}] if self._instructions else []
        return [*begin, *said, {"role": "user", "content": request.text}]


def _choice(endpoint: Endpoint, data: bytes) -> Mapping[str, Any]:
    """The choice in an event of the stream; empty where it has none. Raises ServiceError."""
    document: Any = read_json(endpoint, data)
    if document.get("error") is not None:
        raise endpoint.error("the model failed", str(document["error"])[:200])
    try:
        choice = document["choices"][0] if document["choices"] else {}
    except (KeyError, IndexError, TypeError) as error:
        raise endpoint.error("an event of the stream has no choices") from error
    if not isinstance(choice, Mapping):
        raise endpoint.error("an event of the stream has no choices")
    return choice


def _token(choice: Mapping[str, Any]) -> str:
    """The text of a choice. Its delta may be missing; of a list of parts, only texts count: others may be thinking."""
    delta = choice.get("delta")
    content = delta.get("content") if isinstance(delta, Mapping) else None
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))
