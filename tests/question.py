"""One question with its record: the pure core and the runtime's tool calls, with neither Redis nor a node between."""

import asyncio
from typing import Any

from events.derived import CommandIssued
from events.envelope import Result
from orchestrator.runtime.effects.tool_calls import QuestionJournal, ToolCalls
from orchestrator.services.ports import Attempt, Request
from orchestrator.session.commands import RunTool, read
from orchestrator.session.conversation import ConversationSoFar, Line
from orchestrator.session.policy import Policy
from orchestrator.session.state import State
from orchestrator.testing.conversation import Conversation


class Asked:
    """A turn that waits for its answer. Attempts at it share its record, also after a crash of their node."""

    def __init__(self, text: str = "hello", **policy: Any) -> None:
        self.talk = Conversation.listening(policy=Policy.model_validate(policy)).says(text)
        self.tools = ToolCalls(self.talk.session_id)
        self.tools.hear(self.talk.log)

    @property
    def state(self) -> State:
        return self.talk.state

    def request(self) -> Request:
        """The request of the next attempt."""
        issued = self.talk.outstanding("AnswerQuestion")
        journal = QuestionJournal(self, issued, self._saying(issued))
        return Request(
            str(issued.payload["text"]),
            issued.session_id,
            issued.turn,
            issued.idempotency_key,
            self.lines(int(str(issued.payload["conversation_to"]))),
            Attempt(self.state.texts, journal=journal),
        )

    def lines(self, to: int = 10_000) -> tuple[Line, ...]:
        so_far = ConversationSoFar()
        so_far.hear(self.talk.log)
        return so_far.until(to)

    def does(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Something happens in the conversation, by the method of Conversation with this name."""
        getattr(self.talk, name)(*args, **kwargs)
        self._perform()

    def crashes(self) -> None:
        """The node is gone, with its calls; another one resumes the session."""
        for task in self.tools.running:
            task.cancel()
        self.tools = ToolCalls(self.talk.session_id)
        self.tools.hear(self.talk.log)
        self.does("resumes", f"incarnation-{len(self.talk.steps)}")

    def names(self) -> list[str]:
        """The types of the facts about tools and models, in order."""
        return [event.type for event in self.talk.log if event.type[:5] in ("TOOL_", "MODEL")]  # type: ignore[attr-defined]

    def _saying(self, issued: CommandIssued) -> Any:
        def say(kind: type[Result], **fields: Any) -> None:
            asyncio.get_running_loop().call_soon(self._says, kind, {"command_id": issued.command_id, **fields})

        return say

    def _says(self, kind: type[Result], fields: dict[str, Any]) -> None:
        self.talk.input(kind, **fields)
        self._perform()

    def _perform(self) -> None:
        step = self.talk.steps[-1]
        self.tools.hear(step.events)
        for issued in step.commands:
            if isinstance(command := read(issued), RunTool):
                self.tools.start(command, issued.idempotency_key, self._saying(issued))
            elif issued.name == "CancelStage":
                self.tools.cancel(str(issued.payload["stage_name"]))
