"""Runs the tool calls of a session's agent, and returns recorded results when the same question is asked again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import chain, count
from time import perf_counter_ns
from typing import TYPE_CHECKING, Protocol

from events.derived import CommandIssued
from events.envelope import Event
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.safe_text import named_error, safe_error
from orchestrator.services.failures import ServiceError, ToolError, is_cancelled
from orchestrator.services.journal import PendingToolCall, Response
from orchestrator.session.commands import RunTool
from orchestrator.session.digest import digest
from orchestrator.session.journal import Called, Journal
from orchestrator.session.state import State

if TYPE_CHECKING:
    from orchestrator.runtime.effects.speech import Say

logger = logging.getLogger(__name__)

MAX_RESPONSE_CHARACTERS = 32_000
"""Longest response of the model that is recorded, in characters. A longer response is used but not recorded: a later
attempt at the answer asks the model again.
"""
GONE = "the process that ran it is gone; whether it had an effect is not known"


class ToolCalls:
    """Runs the tool calls of one session, and holds their journal. The answer function (the agent's code) requests each
    tool call, and provides the Python function that executes the tool.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.journal = Journal()
        self._functions: dict[str, asyncio.Future[Callable[[str], Awaitable[str]]]] = {}
        """Call id → a future of the Python function that executes the call; `give` resolves it."""
        self._running: dict[str, tuple[RunTool, asyncio.Task[None]]] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_closed = False

    def hear(self, events: Iterable[Event]) -> None:
        """Fold committed events into the journal, then let every waiting `until` check its condition again."""
        before = self.journal.question
        self.journal.hear(events)
        if self.journal.question != before:  # forget the functions of an older question's calls that never ran
            self._functions = {name: given for name, given in self._functions.items() if name in self.journal.calls}
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def close(self) -> None:
        """Cancel all coroutines that wait in `until`: the session leaves this process, so no commit would wake them."""
        self._is_closed = True
        for waiting in self._waiting:
            waiting.cancel()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the condition `is_so` is true. The condition is checked now and after each commit of events."""
        while not is_so():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)

    def function(self, call_id: str) -> "asyncio.Future[Callable[[str], Awaitable[str]]]":
        """Return a future of the Python function that executes the call `call_id`. `give` resolves the future."""
        return self._functions.setdefault(call_id, asyncio.get_running_loop().create_future())

    def give(self, call_id: str, function: Callable[[str], Awaitable[str]]) -> None:
        """Provide the Python function that executes a call, before or after the start of the call. A call that has a
        function already keeps that function.
        """
        if not (given := self.function(call_id)).done():
            given.set_result(function)

    def start(self, command: RunTool, key: str, say: "Say") -> None:
        """Start a call in the background. Report TOOL_RETURNED when the call ends or its time limit has passed. `key`:
        the idempotency key of the call.

        After a takeover, this process does not have the tool's function yet. The call waits until the question is asked
        again: the answer function then provides the tool's function.

        If the journal names an equal call of an earlier question (`Called.same_as`), the tool's function does not run:
        the new call waits for the result of the earlier call.
        """
        called = self.journal.calls.get(command.call_id)
        if called is not None and called.same_as:
            self.give(command.call_id, partial(self._result_of, called.same_as))
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
        except (asyncio.CancelledError, Exception) as error:
            if is_cancelled(error) or (self._is_closed and isinstance(error, asyncio.CancelledError)):
                raise  # the session goes on under another owner, which runs the call again
            if limit.expired():
                problem = f"it took longer than {command.limit_ms} ms" if function.done() else GONE
            else:
                problem = safe_error(error) if isinstance(error, ServiceError) else named_error(error)
            told = problem if limit.expired() else error  # the error itself: SafeLog masks the user's words in it
            logger.warning("[%s] tool %s failed: %s", self.session_id, command.tool, told, exc_info=error)
            say(ToolReturned, call_id=command.call_id, error=problem)
        else:
            say(ToolReturned, call_id=command.call_id, result=result)

    async def over(self, call_id: str) -> Called:
        """Wait until a call is over (returned, failed, cancelled or refused), and return the call. A call that is not
        in the journal yet is not over.
        """
        await self.until(lambda: call_id in self.journal.calls and self.journal.calls[call_id].outcome != "open")
        return self.journal.calls[call_id]

    async def _result_of(self, earlier: str, _key: str) -> str:
        """Wait for the result of the tool call with the id `earlier`, and return the result. Raises ToolError if that
        tool call failed, was cancelled, or is not in the journal.

        Runs in place of the tool's function, for a call that reuses the result of an equal call (`Called.same_as`).
        `_key`: the idempotency key, which every tool function gets; not used here.
        """
        call = await self.over(earlier) if earlier in self.journal.calls else None
        if call is None or call.outcome != "returned":
            raise ToolError(call.error if call is not None else GONE, in_our_words="the same call before it failed")
        return call.result

    def cancel(self, call_id: str) -> None:
        """Cancel a call if it is running and was declared `cancellable` when the answer function made it by
        `Request.once`. Any other running call runs to its end, although nobody waits for its result.
        """
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
    """Runs and records the tool calls and model requests for one question. When a later attempt at the answer repeats a
    call or a request, that attempt gets the recorded result (services/ports.py).
    """

    def __init__(self, live: Asking, issued: CommandIssued, say: "Say") -> None:
        self._live = live
        self._key = issued.idempotency_key
        self._prefix = digest(self._key.encode())[:8]
        self._say = say
        self._made: set[str] = set()
        """Ids of the tool calls that this attempt must not use again: its own, and those of earlier questions whose
        results it has reused.
        """
        self._requests = 0
        """Number of requests to the model in this attempt, including those that got a recorded response."""
        self._provider = 1

    def begin(self) -> None:
        """Begin a new attempt at the answer. Its n-th request to the model gets the n-th recorded response. A tool call
        that the attempt repeats gets the recorded result.
        """
        self._made.clear()
        self._requests = 0

    def begin_provider(self, number: int) -> None:
        """Begin a new attempt with the answer service `number`; 1 is the first choice. The attempt gets no model
        responses that were recorded with other answer services: these may have another format, or ask for tools that
        this service lacks.
        """
        self.begin()
        self._provider = number

    async def call(self, pending: PendingToolCall) -> str:
        """Return the recorded result of a tool call. If none is recorded, run the call and record its result.

        Raises ToolError if the call failed, was refused or was cancelled.
        """
        tools, earlier = self._live.tools, self._same_call(pending)
        call_id = self._id(pending)
        if (known := tools.journal.calls.get(call_id)) is not None:
            earlier = known.same_as
        tools.give(earlier or call_id, pending.run)  # after a takeover, an earlier call has no function either
        if known is None:
            await tools.until(self._is_asked_by_the_turn)
            self._say(
                ToolCalled,
                arguments=pending.arguments,
                call_id=call_id,
                is_cancellable=pending.is_cancellable,
                name=pending.name,
                same_as=earlier,
            )
        call = await tools.over(call_id)
        if call.outcome != "returned":
            raise ToolError(f"{pending.name}: {call.error}", in_our_words=f"{pending.name} {call.outcome}")
        return call.result

    def _same_call(self, pending: PendingToolCall) -> str:
        """Return the id of a tool call of an earlier question whose result this call can use; empty: there is none.

        That tool call has the same name and arguments. It was open when this question was asked, and has not failed or
        been cancelled since. Its result is used only once in each attempt.
        """
        for call in self._live.tools.journal.calls.values():
            is_earlier = not call.same_as and not call.call_id.startswith(self._prefix)
            is_usable = call.outcome in ("open", "returned") and call.call_id not in self._made
            if is_earlier and is_usable and _asks_the_same(call, pending):
                self._made.add(call.call_id)
                return call.call_id
        return ""

    def _id(self, pending: PendingToolCall) -> str:
        """Return the id of a tool call. It begins with a digest that names the question; the first rule that applies
        gives the rest:

        1. The answer function has given an id: that id. Some models give several calls of a question the same id: later
           calls then get `~2`, `~3` at the end.
        2. This question has a recorded call with the same name and arguments, and this attempt has not repeated that
           call yet: the id of the recorded call.
        3. Otherwise a new id, from the tool's name and a number. It never contains arguments, because traces and
           redacted exports show ids.
        """
        known = self._live.tools.journal.calls
        same = {name for name, call in known.items() if _asks_the_same(call, pending)} - self._made
        if pending.call_id:
            first = [f"{self._prefix}/{pending.call_id}"]
            more = (f"{first[0]}~{number}" for number in count(2))
        else:
            first = [name for name in known if name in same and name.startswith(self._prefix)]
            more = (f"{self._prefix}/{pending.name}/{number}" for number in count(1))
        ids = chain(first, more)
        new = next(one for one in ids if one in same or (one not in known and one not in self._made))
        self._made.add(new)
        return new

    def _is_asked_by_the_turn(self) -> bool:
        """Whether an open turn waits for the answer to this question. A question may be asked early, before its turn is
        open (speculation): its tools must not run yet.
        """
        state = self._live.state
        asked = state.outstanding("AnswerQuestion")
        return state.task is not None and any(command.idempotency_key == self._key for command in asked)

    async def respond(self, ask: Response, request: str) -> str:
        """Return the recorded response of the model to this attempt's next request. If there is none, call `ask`, which
        asks the model, and record the response (unless it is longer than MAX_RESPONSE_CHARACTERS).

        The n-th request to the model gets the response that was recorded for the n-th request of an earlier attempt
        with the same answer service. `request`: digest of the request to the model. It is recorded but never compared:
        a prompt may contain the current time.
        """
        self._requests += 1
        call_id = f"{self._prefix}/model/{self._requests}"
        if self._provider > 1:
            call_id += f"#{self._provider}"
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


def _asks_the_same(call: Called, pending: PendingToolCall) -> bool:
    return (call.name, call.arguments) == (pending.name, pending.arguments)
