"""Gives the tests of the core conversations whose laws are checked when the test is over."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from events.derived import Phase
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

Converse = Callable[..., Conversation]


@pytest.fixture
def converse() -> Iterator[Converse]:
    """`converse("SPEAKING", filler={"text": "…"})`: a conversation in that phase, under that policy."""
    started = []

    def start(phase: Phase = "LISTENING", session_id: str = "auto_session_12345", **policy: Any) -> Conversation:
        call = Conversation.in_phase(phase, session_id, policy=Policy.model_validate(policy))
        started.append(call)
        return call

    yield start
    for call in started:
        call.check()
