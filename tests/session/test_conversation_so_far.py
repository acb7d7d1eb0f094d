"""The conversation so far: who said what, as far as it was heard; what merged and interrupted turns leave of it."""

from collections.abc import Sequence
from typing import Any

import pytest

from events.derived import AnswerEnded, StateChanged, TurnEnded, TurnStarted
from events.envelope import Event
from events.journal import ToolCalled, ToolReturned
from orchestrator.session.conversation import LINES_GIVEN, ConversationSoFar, Line, ToolCall
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation


def user(text: str) -> Event:
    return TurnStarted(text=text, via="speech")


def agent(heard_text: str, outcome: Any = "finished") -> Event:
    return AnswerEnded(chunks=1, heard_ms=0, heard_text=heard_text, outcome=outcome, playback_id="answer-1")


def ended(outcome: Any) -> Event:
    return TurnEnded(outcome=outcome)


def phase() -> Event:
    return StateChanged(from_phase="THINKING", to_phase="LISTENING")


def heard(events: Sequence[Event]) -> ConversationSoFar:
    """A conversation of these events, as versions 1 to n of a log."""
    so_far = ConversationSoFar()
    so_far.hear(event.model_copy(update={"version": version}) for version, event in enumerate(events, 1))
    return so_far


def lines(*events: Event, to: int = 10_000) -> list[tuple[str, str]]:
    return [(said.role, said.text) for said in heard(events).until(to)]


def test_question_and_answer_are_lines_in_their_order() -> None:
    """With the version of the event that says so; nothing else is a line."""
    log = [user("hello"), phase(), agent("Hi!"), ended("completed"), phase(), user("bye")]
    assert [(said.role, said.text, said.version) for said in heard(log).said] == [
        ("user", "hello", 1),
        ("agent", "Hi!", 3),
        ("user", "bye", 6),
    ]


def test_a_request_gets_lines_with_their_tool_calls() -> None:
    """Without a tool call, a line has role and text alone."""
    called = ToolCalled(command_id="c", call_id="k/book/1", name="book", arguments='{"people":2}', cause="e")
    returned = ToolReturned(command_id="r", call_id="k/book/1", result="7", cause="e")
    log = [user("a table for two"), called, returned]
    asked, open_call = Line("user", "a table for two"), ToolCall("k/book/1", "book", '{"people":2}', "open")
    assert heard(log[:2]).until(9) == (asked, Line("tool", "", open_call))
    assert heard(log).until(9) == (asked, Line("tool", "7", ToolCall("k/book/1", "book", '{"people":2}', "returned")))
    assert asked.call is None
    assert ToolCall("k", "book", "{}").outcome == "open"
    assert "line=" not in repr(heard(log).said[0])


def test_of_an_interrupted_answer_the_heard_part_alone_was_said() -> None:
    """The service must not refer to what the user never heard."""
    log = [user("tell me a story"), agent("Once upon", "interrupted"), ended("interrupted")]
    assert lines(*log) == [("user", "tell me a story"), ("agent", "Once upon")]


@pytest.mark.parametrize("outcome", ["interrupted", "failed"])
def test_an_answer_of_which_nothing_was_heard_was_not_said(outcome: str) -> None:
    """Cut off before its first word, or never played."""
    assert lines(user("hello"), agent("", outcome), ended(outcome)) == [("user", "hello")]


def test_what_the_agent_says_outside_of_a_turn_is_said_too() -> None:
    """A greeting, or a question to a user who is silent."""
    assert lines(agent("Welcome!"), user("hello")) == [("agent", "Welcome!"), ("user", "hello")]


def test_the_words_of_a_merged_turn_are_there_once() -> None:
    """The next turn repeats them, with those that came after; what was said before the merged turn stays."""
    log = [user("hello"), agent("Hi!"), user("I want"), ended("merged"), user("I want a table"), ended("completed")]
    assert lines(*log) == [("user", "hello"), ("agent", "Hi!"), ("user", "I want a table")]


def test_words_that_are_merged_twice_are_there_once() -> None:
    """Each merged turn gives its line up to the next."""
    log = [user("I"), ended("merged"), user("I want"), ended("merged"), user("I want tea")]
    assert lines(*log) == [("user", "I want tea")]


def test_the_words_of_a_superseded_turn_stay() -> None:
    """They were said, and the next turn does not repeat them."""
    assert lines(user("two"), ended("superseded"), user("no, three")) == [("user", "two"), ("user", "no, three")]


def test_a_question_gets_what_was_said_before_it() -> None:
    """Up to the version that the command names, not the question itself."""
    log = [user("hello"), agent("Hi!"), phase(), user("and now?"), agent("Now too.")]
    assert lines(*log, to=3) == [("user", "hello"), ("agent", "Hi!")]
    assert lines(*log, to=2) == lines(*log, to=3)
    assert lines(*log, to=0) == []


def test_the_last_forty_lines_are_given() -> None:
    """However long the call was, and also when more was said after the version that is asked for."""
    log = [user(f"line {number}") for number in range(1, 201)]
    assert lines(*log) == [("user", f"line {number}") for number in range(161, 201)]
    assert lines(*log, to=199) == [("user", f"line {number}") for number in range(160, 200)]
    assert LINES_GIVEN == 40


def test_a_merged_turn_whose_line_is_forgotten_takes_no_other_along() -> None:
    """The memory is bounded; so is the one that lost a line to a merge."""
    log = [user("first"), *(agent(f"line {number}") for number in range(100)), ended("merged")]
    assert lines(*log) == [("agent", f"line {number}") for number in range(60, 100)]
    log += [agent(f"line {number}") for number in range(100, 200)]
    assert lines(*log) == [("agent", f"line {number}") for number in range(160, 200)]


@pytest.mark.parametrize("merged", [[], [user("when are"), ended("merged")]], ids=["as it was said", "merged"])
def test_a_conversation_of_hours_takes_no_more_memory_than_its_last_lines(merged: list[Event]) -> None:
    """Twice as many as are given are kept; the first of one more is forgotten."""
    kept = [user("hello")] * (2 * LINES_GIVEN)
    assert lines(*merged, *kept, to=len(merged) + 1) == [("user", "hello")]
    assert lines(*merged, *kept, user("bye"), to=len(merged) + 1) == []


def test_a_tool_call_is_a_line_with_its_result() -> None:
    """In the place where it was made; open, returned, failed, cancelled; a refused one is none."""
    call = Conversation.in_phase("THINKING", policy=Policy.model_validate({"tools": {"calls": 3}}))
    call.calls("book").calls("search").calls("ring", is_cancellable=True).calls("pay")
    so_far = ConversationSoFar()
    so_far.hear(call.input(ToolReturned, call_id="search/1", error="no", result="").log)
    assert [(line.role, line.text) for line in so_far.said][1:] == [("tool", ""), ("tool", "no"), ("tool", "")]
    so_far.hear(call.says("never mind").last)
    assert [line.call.outcome for line in so_far.said if line.call] == ["open", "failed", "cancelled"]
    so_far.hear(call.returns("7").last)
    assert [line.text for line in so_far.said if line.call] == ["7", "no", ""]
