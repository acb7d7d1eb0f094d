"""Runs the tool calls of a session's agent, and returns recorded results when the same question is asked again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from events.derived import CommandIssued
from events.envelope import Event
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.safe_text import named_error, safe_error
from orchestrator.services.failures import ServiceError, ToolError
from orchestrator.services.journal import Response, Work
from orchestrator.session.commands import RunTool
from orchestrator.session.digest import digest
from orchestrator.session.journal import Called, Journal
from orchestrator.session.state import State

if TYPE_CHECKING:
    from orchestrator.runtime.effects.speech import Say

logger = logging.getLogger(__name__)

MAX_RESPONSE_CHARACTERS = 32_000
"""Longer responses of a model are not recorded: if the question is asked again, so is the model."""
GONE = "the process that ran it is gone; whether it had an effect is not known"


class ToolCalls:
    """Runs the tool calls of one session, and holds their journal. The Python function that executes a call is given by
    the answer function that asked for the call.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.journal = Journal()
        self._functions: dict[str, asyncio.Future[Callable[[str], Awaitable[str]]]] = {}
        """Call id → its function, once the answer function has given it."""
        self._running: dict[str, tuple[RunTool, asyncio.Task[None]]] = {}
        self._waiting: set[asyncio.Future[None]] = set()

    def hear(self, events: Iterable[Event]) -> None:
        """Fold committed events into the journal, then let every waiting `until` check its condition again."""
        before = self.journal.question
        self.journal.hear(events)
        if self.journal.question != before:  # calls of an older question that never ran are over
            self._functions = {name: given for name, given in self._functions.items() if name in self.journal.calls}
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def close(self) -> None:
        """Cancel all that wait in `until`: the session is not here any more, so nothing of it will be committed."""
        for waiting in self._waiting:
            waiting.cancel()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the condition `is_so` is true. It is checked now and after each commit of events."""
        while not is_so():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def function(self, call_id: str) -> "asyncio.Future[Callable[[str], Awaitable[str]]]":
        """Return a future that resolves to the Python function which executes the call `call_id`, when `give` has
        provided that function.
        """
        return self._functions.setdefault(call_id, asyncio.get_running_loop().create_future())

    def give(self, call_id: str, function: Callable[[str], Awaitable[str]]) -> None:
        """Provide the Python function that executes a call, before or after the call is started. If the call has a
        function already, that one stays.
        """
        if not (given := self.function(call_id)).done():
            given.set_result(function)

    def start(self, command: RunTool, key: str, say: "Say") -> None:
        """Start a call in the background, and report TOOL_RETURNED at its end or at its time limit. After a takeover,
        this process does not have the tool's function yet: the call waits until the question is asked again, which
        brings the function. `key`: its idempotency key.
        """
        task = asyncio.create_task(self._run(command, key, say), name=f"{self.session_id}:{command.call_id}")
        self._running[command.call_id] = command, task
        task.add_done_callback(lambda _: self._ended(command.call_id))

    def _ended(self, call_id: str) -> None:
        del self._running[call_id]
        self._functions.pop(call_id, None)

    async def _run(self, command: RunTool, key: str, say: "Say") -> None:
        function = self.function(command.call_id)
        limit = asyncio.timeout(command.limit_ms / 1000)
        try:
            async with limit:
                result = await (await asyncio.shield(function))(key)
        except Exception as error:
            if limit.expired():
                problem = f"it took longer than {command.limit_ms} ms" if function.done() else GONE
            else:
                problem = safe_error(error) if isinstance(error, ServiceError) else named_error(error)
            told = problem if limit.expired() else error  # an error may quote the user: the log masks it
            logger.warning("[%s] tool %s failed: %s", self.session_id, command.tool, told, exc_info=error)
            say(ToolReturned, call_id=command.call_id, error=problem)
        else:
            say(ToolReturned, call_id=command.call_id, result=result)

    def cancel(self, call_id: str) -> None:
        """Cancel a running call, if it may be cancelled. Otherwise it runs to its end, although nobody waits for it."""
        if (running := self._running.get(call_id)) is not None and running[0].is_cancellable:
            running[1].cancel()

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The asyncio tasks of the calls that are running."""
        return [task for _, task in self._running.values()]


class Asking(Protocol):
    """The live session whose question is being answered: its state and its tool calls."""

    state: State
    tools: ToolCalls


class QuestionJournal:
    """Runs and records the tool calls and model requests for one question. If a later attempt at the answer repeats
    them, it gets the recorded results (services/ports.py).
    """

    def __init__(self, live: Asking, issued: CommandIssued, say: "Say") -> None:
        self._live = live
        self._key = issued.idempotency_key
        self._prefix = digest(self._key.encode())[:8]
        self._say = say
        self._made: set[str] = set()
        """Ids of the calls that this attempt has made."""
        self._requests = 0
        """How often this attempt has asked the model."""

    def begin(self) -> None:
        """Begin a new attempt at the answer: its tool calls and its requests to the model are counted from zero."""
        self._made.clear()
        self._requests = 0

    async def call(self, work: Work) -> str:
        """Return the recorded result of a tool call; if there is none, run the call and record its result.

        Raises ToolError if the call failed, was refused or was cancelled.
        """
        tools = self._live.tools
        call_id = self._same_call(work) or self._id(work)
        tools.give(call_id, work.run)
        if call_id not in tools.journal.calls:
            await tools.until(self._is_asked_by_the_turn)
            self._say(
                ToolCalled,
                arguments=work.arguments,
                call_id=call_id,
                is_cancellable=work.is_cancellable,
                name=work.name,
            )
        await tools.until(lambda: self._outcome(call_id) != "open")
        call = tools.journal.calls[call_id]
        if call.outcome != "returned":
            raise ToolError(f"{work.name}: {call.error}", in_our_words=f"{work.name} {call.outcome}")
        return call.result

    def _outcome(self, call_id: str) -> str:
        call = self._live.tools.journal.calls.get(call_id)
        return call.outcome if call is not None else "open"

    def _same_call(self, work: Work) -> str:
        """Return the id of a call with the same name and arguments that an earlier, interrupted question has made and
        that still runs; empty: there is none.
        """

        def is_same(call: Called) -> bool:
            is_other = not call.call_id.startswith(self._prefix)
            return is_other and call.outcome == "open" and (call.name, call.arguments) == (work.name, work.arguments)

        return next((call.call_id for call in self._live.tools.journal.calls.values() if is_same(call)), "")

    def _id(self, work: Work) -> str:
        """Return the id of a call. If the answer function gave none, it is the id of a recorded call of this question
        with the same name and arguments, which this attempt has not made yet; otherwise a new id.

        An id never contains arguments, because traces and redacted exports show ids.
        """
        if work.call_id:
            return f"{self._prefix}/{work.call_id}"
        known = self._live.tools.journal.calls
        for call in known.values():
            is_same = (call.name, call.arguments) == (work.name, work.arguments)
            if is_same and call.call_id.startswith(self._prefix) and call.call_id not in self._made:
                self._made.add(call.call_id)
                return call.call_id
        ids = (f"{self._prefix}/{work.name}/{number}" for number in count(1))
        new = next(one for one in ids if one not in known and one not in self._made)
        self._made.add(new)
        return new

    def _is_asked_by_the_turn(self) -> bool:
        """Whether an open turn waits for this answer. A speculative question, asked before its turn, runs no tools."""
        state = self._live.state
        asked = state.outstanding("AnswerQuestion")
        return state.task is not None and any(command.idempotency_key == self._key for command in asked)

    async def respond(self, ask: Response, request: str) -> str:
        """Return the recorded response of the model to this attempt's next request; if there is none, call `ask` and
        record the response.

        Requests are matched by their order, not by `request` (a digest): a repeated attempt gets the same responses, so
        it asks for the same tools.
        """
        self._requests += 1
        call_id = f"{self._prefix}/model/{self._requests}"
        recorded = self._live.tools.journal.responses.get(call_id)
        if recorded is not None:
            return recorded
        began_ns = perf_counter_ns()
        response, reply = await ask()
        took_us = (perf_counter_ns() - began_ns) // 1000
        if len(response) <= MAX_RESPONSE_CHARACTERS:
            self._say(
                ModelResponded,
                call_id=call_id,
                input_tokens=reply.input_tokens,
                model=reply.model[:500],
                output_tokens=reply.output_tokens,
                request=request,
                response=response,
                took_us=took_us,
            )
        return response
