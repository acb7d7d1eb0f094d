"""The journal of a question in a rerun: tool results and model responses come from the recording, if it has them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.replay.asking import Question
from orchestrator.safe_text import named_error, safe_error
from orchestrator.services.failures import ServiceError, ToolError, is_cancelled
from orchestrator.services.journal import PendingToolCall, Response
from orchestrator.session.digest import digest

Say = Callable[..., None]
"""Reports a result of the agent, given the result's type and its fields."""
NOT_RECORDED = "the recording has no such call"


@dataclass(frozen=True, slots=True)
class Memory:
    """Results of tool calls in earlier attempts. Key: (idempotency key of the question, "NAME ARGUMENTS NUMBER")."""

    results: dict[tuple[str, str], ToolReturned] = field(default_factory=dict)


class RecordedJournal:
    """The journal of one attempt at a question: it answers the agent's tool calls and model requests.

    asks_model: always ask the model; otherwise only for a request that the recording does not have.
    runs_tools: run the tools; otherwise their calls get the recorded results.
    """

    def __init__(self, question: Question, say: Say, memory: Memory, *, asks_model: bool, runs_tools: bool) -> None:
        self._question = question
        self._say = say
        self._memory = memory
        self._asks_model = asks_model
        self._runs_tools = runs_tools
        self._began_s = asyncio.get_running_loop().time()
        self._numbers: dict[str, int] = {}
        self._responses = [(us, one) for us, one in question.recorded if isinstance(one, ModelResponded)]

    def begin(self) -> None:
        """Count the calls from one again, because another provider is asked now."""
        self._numbers.clear()

    async def call(self, pending: PendingToolCall) -> str:
        """Return the result of a tool call: the recorded result, after the recorded duration; with `runs_tools`, the
        result of the tool itself. Raises ToolError if the call failed. Without `runs_tools`, also if the recording has
        no such call.
        """
        name = f"{pending.name} {pending.arguments}"
        self._numbers[name] = self._numbers.get(name, 0) + 1
        key = self._question.command.idempotency_key, f"{name} {self._numbers[name]}"
        result = self._memory.results.get(key)
        if result is None:
            result = self._memory.results[key] = await self._first(pending, digest(repr(key).encode())[:8])
        if result.error:
            raise ToolError(f"{pending.name}: {result.error}", in_our_words=f"{pending.name} failed")
        return result.result

    async def _first(self, pending: PendingToolCall, new_id: str) -> ToolReturned:
        """Report a tool call that this rerun makes for the first time, and its result. Returns the result."""
        recorded = self._question.tools.take(pending.name, pending.arguments)
        call_id = recorded.called.call_id if recorded is not None else f"{new_id}/{pending.name}"
        self._say(
            ToolCalled,
            arguments=pending.arguments,
            call_id=call_id,
            is_cancellable=pending.is_cancellable,
            name=pending.name,
        )
        began_s = asyncio.get_running_loop().time()
        if self._runs_tools:
            result = await _run(pending, call_id)
        elif recorded is None or recorded.returned is None:
            result = ToolReturned(call_id=call_id, command_id="", error=NOT_RECORDED)
        else:
            await asyncio.sleep(recorded.took_us / 1_000_000)
            result = recorded.returned
        self._say(ToolReturned, took_s=asyncio.get_running_loop().time() - began_s, result=result)
        return result

    async def respond(self, ask: Response, request: str) -> str:
        """Return the recorded response to the same request, at its recorded time; if there is none, ask the model."""
        number = self._numbers["model"] = self._numbers.get("model", 0) + 1
        recorded = self._responses[number - 1 : number]
        if recorded and not self._asks_model and request and recorded[0][1].request == request:
            after_us, then = recorded[0]
            left_s = self._began_s + after_us / 1_000_000 - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, left_s))
            response, facts = then.response, _facts(then)
        else:
            response, reply = await ask()
            facts = {
                "model": reply.model[:500],
                "input_tokens": reply.input_tokens,
                "output_tokens": reply.output_tokens,
            }
        self._say(ModelResponded, call_id=f"model/{number}", request=request, response=response, **facts)
        return response


async def _run(pending: PendingToolCall, call_id: str) -> ToolReturned:
    try:
        return ToolReturned(call_id=call_id, command_id="", result=await pending.run(""))
    except ServiceError as error:
        return ToolReturned(call_id=call_id, command_id="", error=safe_error(error))
    except (asyncio.CancelledError, Exception) as error:
        if is_cancelled(error):
            raise
        return ToolReturned(call_id=call_id, command_id="", error=named_error(error))


def _facts(event: ModelResponded) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("model", "input_tokens", "output_tokens")}
