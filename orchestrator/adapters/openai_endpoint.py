"""One path of OpenAI's HTTP interface, which many local servers have, too."""

import os
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from orchestrator.safe_text import protect
from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import Endpoint, open_session

BASE_URL = "https://api.openai.com/v1"


class OpenAIEndpoint:
    """One path of the interface. `async with` opens its connections and closes them; a service does that itself."""

    def __init__(self, path: str, base_url: str, api_key: str, *, timeout_ms: int, bounds_whole: bool) -> None:
        """Empty arguments come from OPENAI_BASE_URL and OPENAI_API_KEY, as in OpenAI's own clients."""
        self._url = base_url or os.environ.get("OPENAI_BASE_URL") or BASE_URL
        api_key = api_key or os.environ.get("OPENAI_API_KEY", "")
        protect(api_key)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._path = path
        self._timeout_ms = timeout_ms
        self._bounds_whole = bounds_whole
        self._endpoint: Endpoint | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        session = await self._stack.enter_async_context(open_session())
        limits: Any = {"timeout_ms": self._timeout_ms, "bounds_whole": self._bounds_whole}
        self._endpoint = Endpoint(session, self._url, self._path, headers=self._headers, **limits)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._endpoint = None
        await self._stack.aclose()

    @property
    def endpoint(self) -> Endpoint:
        if self._endpoint is None:
            raise ServiceError(f"{type(self).__name__} is not open: use `async with`, or give it to Orchestrator")
        return self._endpoint
