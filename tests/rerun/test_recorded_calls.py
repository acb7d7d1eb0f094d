"""Twenty recorded calls: the agent that led them is found unchanged, and each planted change of it is found."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator import Policy, Request, rerun
from orchestrator.replay.rerun_report import Rerun
from tests.rerun.calls import STORIES, agent, answers, record


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return record(tmp_path_factory.mktemp("calls"))


def rerun_all(calls: list[Path], agent: object, policy: Policy | None = None) -> dict[str, Rerun]:
    found = {file.stem: rerun(file, agent, policy=policy) for file in calls}
    return {name: one for name, one in found.items() if one.findings}


def kinds(found: dict[str, Rerun]) -> set[str]:
    return {finding.kind for one in found.values() for finding in one.findings}


def test_an_unchanged_agent_leads_twenty_calls_as_recorded(calls: list[Path]) -> None:
    assert len(calls) == len(STORIES) == 20
    for file in calls:
        call = rerun(file, agent)
        call.check()
        assert call.simulated == 0
        assert [event.type for event in call.new] == [event.type for event in call.old]


def test_other_words_are_found_in_the_calls_that_hear_them(calls: list[Path]) -> None:
    async def earlier(request: Request) -> AsyncIterator[str]:
        for text in answers(request.text, len(request.conversation)):
            yield text.replace("From nine in the morning", "From eight in the morning")

    found = rerun_all(calls, earlier)
    assert {"hours", "many_turns", "interrupts_the_second_sentence"} <= found.keys()
    assert not {"hello", "cake", "hello_twice"} & found.keys()
    assert kinds(found) == {"words"}
    message = found["hours"].findings[0].message
    assert "From [-nine-] {+eight+} in the morning" in message


def test_a_slower_model_is_late(calls: list[Path]) -> None:
    async def slower(request: Request) -> AsyncIterator[str]:
        await asyncio.sleep(2)
        for text in answers(request.text, len(request.conversation)):
            yield text

    found = rerun_all(calls, slower)
    assert found.keys() == STORIES.keys()
    assert kinds(found) == {"late"}
    late = found["hours"].findings
    assert [one.message for one in late] == ["first sound after 900 → 2480 ms"]


def test_another_policy_is_found_by_what_it_changes(calls: list[Path]) -> None:
    found = rerun_all(calls, agent, Policy.model_validate({"interruption": {"min_words": 4}}))
    assert {"interrupts_the_first_sentence", "interrupts_twice"} <= found.keys()
    assert not {"hours", "hello", "never_interrupted"} & found.keys()
    assert "interrupted → finished" in [one.message for one in found["interrupts_twice"].findings]


def test_an_agent_that_always_says_the_same_is_heard_each_time() -> None:
    """A recorded result answers several commands then, and none of them is a duplicate."""
    call = rerun(Path("fixtures/real_text_conversation.jsonl"), lambda text: "Hi! How can I help?")
    assert {finding.kind for finding in call.findings} == {"words"}
