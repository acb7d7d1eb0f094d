"""A conversation that fails at each of its Redis commands: cut off, reply lost, process dead. Nothing lost or doubled.

A command is one of all that the node sends from its start to its stop: appends, commits, reads, leases, handshakes.
Each run of the tests takes a sample of the matrix, one of sixteen neighbouring commands; `CRASH_MATRIX=<seed>` takes
another one (the same seed, the same sample), and `CRASH_MATRIX=all pytest -n 2 tests/runtime/test_crash_matrix.py` all
of it, in some minutes.
"""

import asyncio
import logging
import os
import random
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from events.inputs import SessionResumed
from events.recording import steps
from orchestrator.runtime.redis.connection import connect, sha
from orchestrator.runtime.redis.keys import Keys
from tests.runtime.crash_points import FailingProxy, Fault, Kind
from tests.runtime.crash_story import POLICY, SCRIPT, Story, essence, handled
from tests.runtime.laws import check_laws

COMMANDS = 230
"""More than the conversation has."""
KINDS: tuple[Kind, ...] = ("cut", "lost", "crash", "late-crash")
ONE_OF = 16
SAMPLE = os.environ.get("CRASH_MATRIX", "0")
R = TypeVar("R")


def matrix() -> list[Fault]:
    """All of it, or one of sixteen neighbours each."""
    if SAMPLE == "all":
        return [Fault(kind, at) for kind in KINDS for at in range(COMMANDS)]
    chance = random.Random(SAMPLE)
    return [Fault(kind, at + chance.randrange(ONE_OF)) for kind in KINDS for at in range(0, COMMANDS, ONE_OF)]


@dataclass
class Outcome:
    """What a conversation left."""

    story: Story
    essence: list[tuple[str, dict[str, Any]]]
    commands: list[str]
    failed: str
    resumed: int


def in_a_process(life: Coroutine[Any, Any, R]) -> R:
    """A loop of its own. When it is left, nothing of what ran in it goes on: as when a process dies."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: None)  # a dead process says nothing
        return runner.run(life)


async def behind_a_proxy(story: Story, fault: Fault | None) -> FailingProxy:
    async with FailingProxy(story.url.removeprefix("unix://"), fault) as proxy:
        await story.live(proxy)
        return proxy


async def left(story: Story) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """What Redis holds in the end, which must obey the laws: gapless versions, a log that folds and replays."""
    async with connect(story.url) as redis:
        log = await story.log(redis)
        assert await check_laws(redis, story.keys) >= 1
        await handled(redis, story.keys, log)
        return essence(log), sum(isinstance(step[0], SessionResumed) for step in steps(log))


def conversation(url: str, fault: Fault | None) -> Outcome:
    """The whole of it, in a second process if the first one dies."""
    story = Story(url, Keys(shards=1, prefix=f"crash-{uuid4().hex[:8]}"))
    proxy = in_a_process(behind_a_proxy(story, fault))
    if proxy.crashed.is_set():
        in_a_process(behind_a_proxy(story, None))
    happened, resumed = in_a_process(left(story))
    return Outcome(story, happened, proxy.commands, proxy.failed, resumed)


async def nodes_of_streams(url: str, most: dict[str, int]) -> dict[str, int]:
    """Set how much one node of a stream may hold; returns what it was. 0: no limit."""
    async with connect(url) as redis:
        before = {name: int((await redis.config_get(name))[name]) for name in most}
        for name, value in most.items():
            await redis.config_set(name, value)
        return before


@pytest.fixture(scope="module")
def kept_inboxes(redis_url: str) -> Iterator[None]:
    """What is handled is trimmed by whole nodes of a stream; where everything is in one node, it stays to be read."""
    before = in_a_process(nodes_of_streams(redis_url, {"stream-node-max-bytes": 0, "stream-node-max-entries": 0}))
    yield
    in_a_process(nodes_of_streams(redis_url, before))


@pytest.fixture(scope="module")
def undisturbed(redis_url: str, kept_inboxes: None) -> Outcome:
    """The conversation without any fault."""
    return conversation(redis_url, None)


def test_the_conversation_is_whole_and_the_matrix_covers_it(undisturbed: Outcome) -> None:
    """Three turns, one of them interrupted, an end; and fewer commands than the matrix has rows."""
    names = [name for name, _ in undisturbed.essence]
    assert names.count("TurnStarted") == 3
    assert names.count("UserInterrupted") == 1
    assert names[-1] == "SessionEnded"
    assert undisturbed.story.shown() == [f"You said {words}." for words in SCRIPT if words]
    assert {"XADD", "XREAD", f"EVALSHA {sha('commit')}", f"EVALSHA {sha('acquire')}"} < set(undisturbed.commands)
    assert len(undisturbed.commands) < COMMANDS
    assert POLICY.interruption.pause_ms


@pytest.mark.parametrize("fault", matrix(), ids=lambda fault: f"{fault.kind}-{fault.at}")
def test_a_failure_at_any_command_changes_nothing_but_recovery(
    redis_url: str, undisturbed: Outcome, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """Accepted inputs are in the log once, the log has no gap, folds and replays, and tells the same conversation."""
    caplog.set_level(logging.CRITICAL, logger="orchestrator")
    outcome = conversation(redis_url, fault)
    assert outcome.essence == undisturbed.essence, f"differs after {fault.kind} at {outcome.failed}"
    assert outcome.story.shown() == undisturbed.story.shown()
    asked = outcome.story.asked()
    assert set(asked) == set(undisturbed.story.asked())
    for question, keys in asked.items():
        assert len(keys) == 1, f"{question} was asked again as if it were another question"
        assert keys.total() <= 1 + outcome.resumed, f"{question} was asked again without a reason"
    if fault.kind in ("cut", "lost"):
        assert outcome.resumed == 0, "a blip of the connection must not start answers anew"
