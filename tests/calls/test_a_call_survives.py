"""A call goes on when the process that served it dies or leaves: its caller comes back by itself and hears the rest.

Two services share a Redis. How long it takes is measured by `python -m tests.chaos --only calls`.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from events.derived import TurnStarted
from events.inputs import RagAnswered, SessionResumed
from tests.calls.moving import Moving

pytestmark = [pytest.mark.calls, pytest.mark.chaos]


@pytest.fixture
async def moving(tmp_path: Path) -> AsyncIterator[Moving]:
    async with AsyncExitStack() as stack:
        yield await Moving.start(stack, tmp_path)


async def test_the_rest_of_an_answer_is_heard_after_its_process_was_killed(moving: Moving) -> None:
    """kill -9 while the agent speaks: it goes on where it was, to its end."""
    await moving.asked("what can you do")
    await moving.caller.peer.hears_agent(within_s=10)
    await moving.confirmed()
    await moving.kill_the_owner()
    await moving.heard_to_its_end()
    log = await moving.log()
    assert len([event for event in log if isinstance(event, TurnStarted)]) == 1
    assert len([event for event in log if isinstance(event, SessionResumed)]) == 1


async def test_a_question_is_answered_aloud_after_its_process_was_killed(moving: Moving) -> None:
    """kill -9 while the agent thinks: the question is asked again."""
    moving.caller.on_phase["THINKING"] = moving.kill_the_owner_now
    await moving.asked("what can you do", reply=False)
    await moving.heard_to_its_end()
    log = await moving.log()
    assert len([event for event in log if isinstance(event, SessionResumed)]) == 1
    assert len([event for event in log if isinstance(event, RagAnswered)]) >= 1


async def test_the_rest_of_an_answer_is_heard_after_its_process_was_drained(moving: Moving) -> None:
    """SIGTERM while the agent speaks: the call moves, and the process ends well."""
    await moving.asked("what can you do")
    await moving.caller.peer.hears_agent(within_s=10)
    assert await moving.drain_the_owner() == 0
    await moving.heard_to_its_end()
