"""The record of the agent's work on a question, folded from the log."""

import pytest

from events.derived import CommandIssued
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.session.journal import Called, Journal
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation


def recorded(call: Conversation) -> Journal:
    journal = Journal()
    journal.hear(call.log)
    return journal


def thinking(**policy: object) -> Conversation:
    return Conversation.in_phase("THINKING", policy=Policy.model_validate(policy))


def test_a_new_journal_has_no_question() -> None:
    assert Journal().question == ""
    assert Journal("a question").question == "a question"


@pytest.mark.parametrize("outcome", ["open", "refused"])
def test_a_call_is_recorded_as_it_was_asked(outcome: str) -> None:
    call = thinking(tools={"calls": int(outcome == "open")})
    call.input(ToolCalled, call_id="book/1", name="book", arguments='{"day":"Monday"}')
    (made,) = recorded(call).calls.values()
    error = "" if outcome == "open" else "more than 0 tool calls for one question"
    assert made == Called("book/1", "book", '{"day":"Monday"}', outcome, "", error)  # type: ignore[arg-type]


def test_a_run_tool_of_another_cause_is_no_call() -> None:
    """Issued again by a new owner: the call is known, and its record stays."""
    call = thinking().calls("book")
    (issued,) = (event for event in call.log if isinstance(event, CommandIssued) and event.name == "RunTool")
    journal = Journal()
    journal.hear([issued])
    assert journal.calls == {}
    journal.hear(call.log)
    journal.hear([issued.replace(cause="another", target="search/1")])
    assert [*journal.calls] == ["book/1"]


def test_a_call_is_open_until_its_result() -> None:
    call = thinking().calls("book").calls("search")
    assert {one.outcome for one in recorded(call).calls.values()} == {"open"}
    calls = recorded(call.returns("7").returns(error="no table")).calls
    assert [(one.outcome, one.result, one.error) for one in calls.values()] == [
        ("failed", "", "no table"),
        ("returned", "7", ""),
    ]


def test_a_call_is_kept_while_a_later_one_waits_for_it() -> None:
    """The next question is asked in the moment between the two results."""
    call = thinking(thinking={"more_words": "supersede"}).calls("book", "a/1").says("please")
    call.input(ToolCalled, call_id="b/1", name="book", arguments="{}", same_as="a/1")
    first = call.outstanding("RunTool", "a/1")
    call.input(ToolReturned, command_id=first.command_id, call_id="a/1", result="7").says("quickly")
    kept = recorded(call).calls
    assert (kept["a/1"].outcome, kept["b/1"].outcome, kept["b/1"].same_as) == ("returned", "open", "a/1")


def test_a_refused_call_has_the_reason() -> None:
    """A refusal of a call that runs already changes nothing."""
    call = thinking(tools={"calls": 1}).calls("book").calls("search")
    calls = recorded(call).calls
    assert (calls["search/1"].outcome, calls["search/1"].error) == (
        "refused",
        "more than 1 tool calls for one question",
    )
    assert recorded(thinking().calls("book").calls("book", "book/1")).calls["book/1"].outcome == "open"


def test_a_withdrawn_call_is_cancelled() -> None:
    """With the words that its agent would get."""
    call = thinking(thinking={"more_words": "supersede"}).calls("book", is_cancellable=True)
    journal = Journal()
    journal.hear(call.log)
    journal.hear(call.says("never mind").last[:-4])
    cancelled = journal.calls["book/1"]
    assert (cancelled.outcome, cancelled.error) == ("cancelled", "the user went on without it")


def test_a_new_question_forgets_what_is_over() -> None:
    """Calls that are open stay."""
    call = thinking().calls("book").calls("search").returns("7")
    call.input(ModelResponded, call_id="model/1", response='{"x":1}')
    journal = recorded(call)
    assert journal.responses == {"model/1": '{"x":1}'}
    journal.hear(call.says("and tomorrow").last)
    assert ([*journal.calls], journal.responses) == (["book/1"], {})
    assert journal.question == call.outstanding("AnswerQuestion").idempotency_key


def test_a_question_asked_again_keeps_its_record() -> None:
    """By a new owner."""
    call = thinking().calls("book").returns("7")
    journal = recorded(call)
    journal.hear(call.resumes("incarnation-2").last)
    assert journal.calls["book/1"].result == "7"


def test_stale_facts_are_no_facts() -> None:
    """A result after its call was withdrawn, a response after its question was given up."""
    call = thinking(thinking={"more_words": "supersede"}).calls("book", is_cancellable=True)
    asked, question = call.outstanding("RunTool"), call.outstanding("AnswerQuestion")
    call.says("never mind")
    journal = recorded(call)
    stale = call.input(ModelResponded, call_id="model/1", command_id=question.command_id, response="{}").last
    journal.hear(stale)
    late = {"call_id": "book/1", "command_id": asked.command_id, "result": "7"}
    journal.hear(call.input(ToolReturned, **late).last)
    assert (journal.responses, [*journal.calls]) == ({}, [])
