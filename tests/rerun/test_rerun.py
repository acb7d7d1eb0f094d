"""Reruns of recordings: the same agent leads them as recorded, another one is found out."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event
from events.inputs import AnswerText
from events.journal import ToolCalled
from events.recording import parse
from orchestrator import Answer, Conversation, Request, ServiceError, rerun
from orchestrator.replay.exchanges import Exchange
from orchestrator.services.failures import ToolError
from orchestrator.services.journal import PendingToolCall

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
OTHER_ANSWERS = {
    # Their services failed, were late, or broke the contract of a port; the agent of the test does not.
    *("answer_breaks_off", "answer_down", "answers_stay_down", "both_down", "empty_answer"),
    *("model_that_falls_silent", "speaking_twice", "texts_out_of_order"),
}


def greets(text: str) -> str:
    return "Hi! How can I help?"


def log_of(file: Path) -> list[Event]:
    return [*parse(file.read_bytes(), file.name).events()]


async def never(key: str) -> str:
    raise AssertionError("a rerun runs no tool")


class AsRecorded:
    """An agent that says and calls again, in the same order, as it did in a recording."""

    def __init__(self, log: list[Event]) -> None:
        self._work: dict[str, dict[str, AnswerText | ToolCalled]] = defaultdict(dict)
        self._wholes: dict[str, str] = {}
        asked = {
            one.command_id: str(one.payload["text"])
            for one in log
            if isinstance(one, CommandIssued) and one.name == "AnswerQuestion"
        }
        for event in log:
            if isinstance(event, AnswerText) and event.command_id in asked:
                self._work[asked[event.command_id]][str(event.index)] = event
            elif isinstance(event, ToolCalled) and event.command_id in asked:
                self._work[asked[event.command_id]][event.call_id] = event
            elif isinstance(event, inputs.RagAnswered) and event.command_id in asked:
                self._wholes[asked[event.command_id]] = event.answer  # the last one counts: others are late

    async def stream(self, request: Request) -> AsyncIterator[str | Answer]:
        work = [*self._work[request.text].values()]
        for event in work:
            if isinstance(event, AnswerText):
                yield event.text
                continue
            with suppress(ToolError):
                await request.attempt.journal.call(
                    PendingToolCall(event.name, event.arguments, never, event.is_cancellable)
                )
        if not any(isinstance(event, AnswerText) for event in work):
            yield Answer(self._wholes.get(request.text, ""))


@pytest.mark.parametrize(
    "file",
    [one for one in sorted(FIXTURES.rglob("*.jsonl")) if one.stem not in OTHER_ANSWERS],
    ids=lambda one: one.stem,
)
def test_every_recording_is_led_again_by_an_agent_that_says_the_same(file: Path) -> None:
    """Calls that are lost and found, crashes, interruptions, pauses, two windows: the user is where they were."""
    log = log_of(file)
    rerun(log, AsRecorded(log)).check()


def test_the_same_answers_are_no_finding() -> None:
    call = rerun(FIXTURES / "normal_flow.jsonl", greets)
    call.check()
    assert call.says == ["Hi! How can I help?"]
    assert call.simulated == 0


def test_other_words_are_found_word_by_word() -> None:
    call = rerun(FIXTURES / "normal_flow.jsonl", lambda text: "Hi! What can I do?")
    assert [(one.kind, one.message) for one in call.findings] == [
        ("words", "Hi! [-How-] {+What+} can I [-help?-] {+do?+}")
    ]
    with pytest.raises(AssertionError, match=r"\{\+What\+\}"):
        call.check()


def test_a_judge_accepts_words_or_says_why_not() -> None:
    def judge(recorded: Exchange, today: Exchange) -> bool | str:
        return "Hi" in today.agent or f"it does not greet after {recorded.user!r}"

    rerun(FIXTURES / "normal_flow.jsonl", lambda text: "Hi there!", judge=judge).check()
    (finding,) = rerun(FIXTURES / "normal_flow.jsonl", lambda text: "What?", judge=judge).findings
    assert finding.message.endswith("(it does not greet after 'hello')")


async def test_a_test_may_be_a_coroutine() -> None:
    async def agent(text: str) -> str:
        await asyncio.sleep(0.1)
        return greets(text)

    rerun(FIXTURES / "normal_flow.jsonl", agent).check()


def test_an_agent_that_fails_or_hangs_is_found() -> None:
    def breaks(text: str) -> str:
        raise ServiceError("no model")

    async def hangs(text: str) -> str:
        await asyncio.Event().wait()
        return greets(text)

    (finding,) = rerun(FIXTURES / "normal_flow.jsonl", breaks).findings
    assert (finding.kind, finding.message) == ("failed", "the agent fails: no model")
    assert "answer_deadline" in rerun(FIXTURES / "normal_flow.jsonl", hangs).findings[0].message


def test_a_later_answer_is_interrupted_at_the_same_word() -> None:
    """The user interrupts after as much of it as in the recording."""
    log = log_of(FIXTURES / "barge_in.jsonl")

    class Late(AsRecorded):
        async def stream(self, request: Request) -> AsyncIterator[str | Answer]:
            await asyncio.sleep(1.5)
            async for piece in super().stream(request):
                yield piece

    call = rerun(log, Late(log))
    assert {one.kind for one in call.findings} == {"late"}
    recorded, today = call.pairs[0]
    assert recorded is not None
    assert today is not None
    assert (today.outcome, today.heard) == (recorded.outcome, recorded.heard) != ("finished", "")


def test_a_conversation_in_text_takes_no_time_to_read() -> None:
    """Answers that are shown have no length, so a longer one interrupts nothing."""
    file = FIXTURES / "real_text_conversation.jsonl"
    recorded = AsRecorded(log_of(file))

    async def longer(request: Request) -> AsyncIterator[str]:
        async for piece in recorded.stream(request):
            yield (piece.answer if isinstance(piece, Answer) else piece) + " And so on, and so on." * 20

    call = rerun(file, longer)
    assert {one.kind for one in call.findings} == {"words"}


def test_a_question_gets_the_conversation_as_it_was_heard() -> None:
    asked: list[Request] = []

    def agent(request: Request) -> str:
        asked.append(request)
        return greets(request.text)

    agent.__annotations__["request"] = Request
    call = Conversation.listening().at(1_000).says("hello").after(300).answers("Good morning!").speaks()
    call.after(2_000).played().after(1_000).says("and now").after(300).answers("Now?").speaks().after(2_000).played()
    rerun(call.log, agent)
    first, second = asked
    assert (first.text, first.session_id, first.turn) == ("hello", call.session_id, 1)
    assert first.idempotency_key == next(
        e.idempotency_key for e in call.log if getattr(e, "name", "") == "AnswerQuestion"
    )
    assert [(line.role, line.text) for line in second.conversation] == [
        ("user", "hello"),
        ("agent", "Hi! How can I help?"),
    ]


def test_the_transcript_is_for_a_golden_file(snapshot: SnapshotAssertion) -> None:
    log = log_of(FIXTURES / "barge_in.jsonl")
    assert rerun(log, AsRecorded(log)).transcript == snapshot
