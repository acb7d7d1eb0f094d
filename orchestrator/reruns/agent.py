"""Runs the agent of today in virtual time, for the questions of a recording."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

from events.envelope import Result
from events.inputs import ServiceFailed
from events.journal import ToolReturned
from orchestrator.port_filling import enter, users_ports
from orchestrator.replay.asking import Given, Question, at_the_recorded_pace
from orchestrator.reruns.journal import Memory, RecordedJournal
from orchestrator.reruns.virtual_loop import VirtualLoop
from orchestrator.runtime.effects.answering import answer
from orchestrator.safe_text import named_error, safe_error
from orchestrator.services.failures import ServiceError
from orchestrator.services.ports import AnswerPort, Attempt, Request

LIMIT_S = 60.0
"""Limit of an answer in virtual seconds: an answer that takes longer never comes."""


class RunningAgent:
    """Runs an agent in an event loop of its own. Use it as a context manager; called with a question, it is an Agent of
    orchestrator.replay.

    The constructor raises TypeError if `agent` cannot answer questions. Entering the context raises ServiceError if the
    agent cannot be opened.
    """

    def __init__(
        self,
        agent: object,
        *,
        late_ms: int,
        asks_model: bool = False,
        runs_tools: bool = False,
        loop: VirtualLoop | None = None,
    ) -> None:
        self._port: AnswerPort = users_ports(answer=agent)["answer"][0]
        self._late_ms = late_ms
        self._asks_model = asks_model
        self._runs_tools = runs_tools
        self._memory = Memory()
        self._loop = loop or VirtualLoop()
        self._stack = AsyncExitStack()

    def __enter__(self) -> "RunningAgent":
        self._loop.run_until_complete(enter(self._port, self._stack))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._loop.run_until_complete(self._stack.aclose())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    def forget(self) -> None:
        """Forget results of tool calls. Call this before another recording, whose sessions may have the same ids."""
        self._memory.results.clear()

    def __call__(self, question: Question) -> Iterable[Given]:
        """Ask the agent a question. Returns the results of tool calls, then the other results at the recorded pace."""
        given = self._loop.run_until_complete(self._ask(question))
        returned = [one for one in given if isinstance(one[1], ToolReturned)]
        answers = (one for one in given if not isinstance(one[1], ToolReturned))
        return [*returned, *at_the_recorded_pace(answers, question, self._late_ms)]

    async def _ask(self, question: Question) -> list[Given]:
        command, given = question.command, list[Given]()
        began_s = self._loop.time()

        def say(kind: type[Result], **fields: Any) -> None:
            if kind is ToolReturned:
                given.append((round(fields["took_s"] * 1_000_000), fields["result"]))
                return
            after_us = round((self._loop.time() - began_s) * 1_000_000)
            given.append((after_us, kind(command_id=command.command_id, elapsed_us=after_us, **fields)))

        journal = RecordedJournal(question, say, self._memory, asks_model=self._asks_model, runs_tools=self._runs_tools)
        request = Request(
            str(command.payload["text"]),
            command.session_id,
            command.turn,
            command.idempotency_key,
            question.conversation,
            Attempt(question.said, journal=journal),
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                await answer(self._port.stream(request), request.attempt, question.language, say)
        except TimeoutError:
            pass  # it hangs: the deadlines of the policy decide, as they would in a call
        except ServiceError as error:
            say(ServiceFailed, error=safe_error(error))
        except Exception as error:  # noqa: BLE001 - an event, as in a call
            say(ServiceFailed, error=named_error(error))
        return given
