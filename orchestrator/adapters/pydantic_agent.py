"""A pydantic-ai `Agent` as the answer port: its text streams, and a question asked again repeats nothing recorded.

The extra `agents` brings pydantic-ai; each of its model providers is an extra of pydantic-ai's own.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pydantic import TypeAdapter
from pydantic_ai import AgentStreamEvent, RunContext, ToolReturn
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.exceptions import ModelRetry, ToolRetryError
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_core import to_json, to_jsonable_python

from orchestrator.safe_text import named_error
from orchestrator.services.failures import ServiceError, ToolError, is_cancelled
from orchestrator.services.journal import JournalPort, ModelReply, PendingToolCall
from orchestrator.services.once import as_json
from orchestrator.services.ports import Request
from orchestrator.session.conversation import Line
from orchestrator.session.digest import digest

_TOOL_RETURN: TypeAdapter[Any] = TypeAdapter(ToolReturn)


class PydanticAgent:
    """AnswerPort of a pydantic-ai `Agent` whose output is text; a port that gets an Agent makes one of it.

    The history of a run is the conversation as far as the user heard it, with its tool calls. A question that is asked
    again, also by a new owner after a crash, repeats no model request and no tool call whose result is recorded. An
    interruption ends the request of the model; a tool call that has begun runs to its end, and its result is recorded.
    A tool that raises fails to the model, which tells the user. Raises TypeError for an agent whose output is not text.

    ```python
    Orchestrator(answer=PydanticAgent(agent, deps=shop))  # without deps: Orchestrator(answer=agent)
    ```
    """

    def __init__(self, agent: AbstractAgent[Any, Any], *, deps: Any = None) -> None:
        if agent.output_type is not str:
            raise TypeError(
                f"{agent!r:.80} cannot be an answer service: its output_type is not str, so it cannot be spoken"
            )
        self._agent = agent
        self._deps = deps

    async def __aenter__(self) -> Self:
        await self._agent.__aenter__()  # connects its MCP servers
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._agent.__aexit__(kind, error, trace)

    async def stream(self, request: Request) -> AsyncGenerator[str, None]:
        """The texts of all responses, as they are written. Raises ServiceError. Closing ends the model's request."""
        texts: asyncio.Queue[str | None] = asyncio.Queue()  # an empty one: a tool is called, another response follows

        async def listen(_: RunContext[Any], events: AsyncIterable[AgentStreamEvent]) -> None:
            async for event in events:
                match event:
                    case (
                        PartStartEvent(part=TextPart(content=text))
                        | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
                    ) if text:
                        texts.put_nowait(text)
                    case FunctionToolCallEvent():
                        texts.put_nowait("")

        run = asyncio.create_task(
            self._agent.run(
                request.text,
                message_history=[message for line in request.conversation for message in _messages(line)],
                deps=self._deps,
                event_stream_handler=listen,
                capabilities=[_Journaled(request.attempt.journal)],
            )
        )
        run.add_done_callback(lambda _: texts.put_nowait(None))
        last, gap = "", ""
        try:
            while (text := await texts.get()) is not None:
                if text:
                    yield text if last[-1:].isspace() or text[0].isspace() else gap + text
                    last, gap = text, ""
                else:
                    request.attempt.speak_now()
                    gap = " " if last else ""  # models end no response with a blank
            await run
        except (asyncio.CancelledError, Exception) as error:
            if is_cancelled(error):
                raise
            raise ServiceError(
                f"the agent failed: {named_error(error)}"[:500], in_our_words="the agent failed"
            ) from error
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await run


_READ = ("part_kind", "content", "tool_name", "args")
"""The fields of a message's part that a model reads."""
STILL_RUNS = "This call is still running. Do not make it again; its result will follow."


def _messages(line: Line) -> list[ModelMessage]:
    if line.call is not None:
        call = line.call
        call_id = digest(call.call_id.encode())[:9]  # the one form that Mistral takes; others are less strict
        return [
            ModelResponse([ToolCallPart(call.name, call.arguments, call_id)]),
            ModelRequest([ToolReturnPart(call.name, _told(line.text, call.outcome), call_id)]),
        ]
    if line.role == "user":
        return [ModelRequest([UserPromptPart(line.text)])]
    return [ModelResponse([TextPart(line.text)])]


def _told(text: str, outcome: str) -> Any:
    """The result of an earlier call, in the words for the model."""
    if outcome == "open":
        return STILL_RUNS
    if outcome == "cancelled":
        return "The user went on before this call was over; it was cancelled."
    return _unwrapped(json.loads(text)) if outcome == "returned" else f"The call failed: {text}"


def _unwrapped(recorded: Any) -> Any:
    """The result of a recorded call. Calls of this port wrap it; those of a function or an HTTP service do not."""
    is_wrapped = isinstance(recorded, dict) and recorded.keys() == {"result"}
    return recorded["result"] if is_wrapped else recorded


def _digest(asked: Any) -> str:
    """A digest of a request to the model: the words and calls that it reads, and the tools that it may use."""
    messages = [
        (said["kind"], said.get("instructions"), [[part.get(name) for name in _READ] for part in said["parts"]])
        for said in ModelMessagesTypeAdapter.dump_python(asked.messages, mode="json")
    ]
    tools = [
        (tool.name, tool.description, tool.parameters_json_schema)
        for tool in asked.model_request_parameters.function_tools
    ]
    return digest(to_json((messages, tools, asked.model_settings), fallback=str))


class _Journaled(AbstractCapability[Any]):  # type: ignore[misc]  # of an extra: Any
    """Gives each model request and tool call of one run to the record of its question."""

    def __init__(self, journal: JournalPort) -> None:
        self._journal = journal

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="innermost")  # the agent's own capabilities see recorded results, too

    async def wrap_model_request(self, _: RunContext[Any], *, request_context: Any, handler: Any) -> ModelResponse:
        async def ask() -> tuple[str, ModelReply]:
            response: ModelResponse = await handler(request_context)
            usage = response.usage
            reply = ModelReply(None, response.model_name or "", usage.input_tokens, usage.output_tokens)
            return ModelMessagesTypeAdapter.dump_json([response]).decode(), reply

        recorded = await self._journal.respond(ask, _digest(request_context))
        (response,) = ModelMessagesTypeAdapter.validate_json(recorded)
        assert isinstance(response, ModelResponse)
        return response

    async def wrap_tool_execute(
        self, _: RunContext[Any], *, call: ToolCallPart, args: Any, handler: Any, **__: Any
    ) -> Any:
        async def execute(_key: str) -> str:
            return as_json(await outcome(), f"the result of {call.tool_name}")

        async def outcome() -> Any:
            try:
                result = await handler(args)
            except ToolRetryError as error:  # a ModelRetry of the tool's: the model reads it, and may call again
                return {"retry": str(error.tool_retry.content)}
            if isinstance(result, ToolReturn):
                return {"tool_return": _TOOL_RETURN.dump_python(result, mode="json")}
            return {"result": to_jsonable_python(result)}

        try:
            arguments = as_json(call.args_as_dict(), f"the arguments of {call.tool_name}")
            pending = PendingToolCall(call.tool_name, arguments, execute, call_id=call.tool_call_id)
            recorded = json.loads(await self._journal.call(pending))
        except ToolError as error:  # the model reads it, and tells the caller
            return f"The call failed: {error}"
        match recorded:
            case {"retry": message}:
                raise ModelRetry(message)
            case {"tool_return": result}:
                return _TOOL_RETURN.validate_python(result)
        return _unwrapped(recorded)
