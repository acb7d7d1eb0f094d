"""The tool calls that an HTTP service tells of while it answers: it runs them itself, and orch records them."""

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

from orchestrator.services.failures import ServiceError, ToolError
from orchestrator.services.journal import PendingToolCall
from orchestrator.services.once import as_json
from orchestrator.services.ports import Request

_log = logging.getLogger(__name__)

_CUT_OFF = "the connection to the service ended before the call did; whether it had an effect is not known"
_NAME = re.compile(r"[\w.:/@+-]{1,100}")
"""Ids and names go where the users' words must not: traces, metrics, redacted recordings."""
_recording: set[asyncio.Task[None]] = set()


class ToldCalls:
    """The calls of one answer. Use it as an async context manager: at its end, open calls have failed. If it ends by an
    error, calls that wait to be recorded never are: nobody asks for this answer any more.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._open: dict[str, asyncio.Future[str]] = {}
        self._recording: list[asyncio.Task[None]] = []
        self._recorded: list[asyncio.Event] = []

    async def __aenter__(self) -> "ToldCalls":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for result in self._open.values():
            if not result.done():
                result.set_exception(ToolError(_CUT_OFF, in_our_words=_CUT_OFF))
                result.exception()  # somebody may wait for it, or nobody
        if kind is not None:
            for task in self._recording:
                task.cancel()

    async def take(self, line: Mapping[str, Any]) -> bool:
        """Take a line of the answer that tells of a tool. False: it does not. Raises ServiceError for a bad one."""
        if isinstance(called := line.get("tool_called"), Mapping):
            self._called(called)
        elif isinstance(returned := line.get("tool_returned"), Mapping):
            self._returned(returned)
        else:
            return False
        await asyncio.sleep(0)  # the fact is reported before the text that follows
        return True

    async def recorded(self) -> None:
        """Wait until the calls so far are recorded, or cannot be. The calls of a question that is asked early wait for
        its turn. So must the end of its answer: after it, the question is no longer outstanding, and no fact counts.
        """
        for recorded in self._recorded:
            await recorded.wait()

    def _called(self, told: Mapping[str, Any]) -> None:
        call_id, name = str(told.get("id", "")), str(told.get("name", ""))
        if not (_NAME.fullmatch(call_id) and _NAME.fullmatch(name)) or call_id in self._open:
            raise _bad("'tool_called' needs an 'id' of its own and a 'name', both of letters, digits and _.:/@+-")
        arguments = as_json(told.get("arguments", {}), f"the arguments of {name}")
        result = self._open[call_id] = asyncio.get_running_loop().create_future()
        self._request.attempt.speak_now()
        recorded = asyncio.Event()

        def run(_: str) -> asyncio.Future[str]:
            recorded.set()  # a call runs after the commit of its TOOL_CALLED
            # Shielded: the time limit of the record ends the wait, not the call, whose return may still come.
            return asyncio.shield(result)

        task = asyncio.create_task(self._record(PendingToolCall(name, arguments, run, call_id=call_id)))
        self._recording.append(task)
        self._recorded.append(recorded)
        task.add_done_callback(lambda _: recorded.set())
        _recording.add(task)
        task.add_done_callback(_recording.discard)

    async def _record(self, pending: PendingToolCall) -> None:
        try:
            await self._request.attempt.journal.call(pending)
        except ServiceError as error:
            _log.info("a tool call of the service is recorded as failed: %s", error)

    def _returned(self, told: Mapping[str, Any]) -> None:
        result = self._open.get(str(told.get("id", "")))
        if result is None or result.done():
            raise _bad("'tool_returned' names no open 'tool_called'")
        try:
            result.set_result(_result(told))
        except ToolError as error:
            result.set_exception(error)
            result.exception()  # it is read by the record


def _result(told: Mapping[str, Any]) -> str:
    if told.get("error") is not None:
        raise ToolError(str(told["error"])[:500])
    return as_json(told.get("result"), "the result of the tool")


def _bad(problem: str) -> ServiceError:
    return ServiceError(f"the service's line {problem}", in_our_words=f"the service's line {problem}")
