"""Tool calls in the core: a call runs when it is committed, and to its end, whatever the user does."""

from typing import Any

import pytest

from events.derived import EventRejected
from events.inputs import BargeIn, ClientDisconnected, SpeechStarted, SttPartial
from events.journal import ModelResponded, ToolReturned
from orchestrator.replay.invariants import Invariants
from orchestrator.session.commands import CancelStage, PlayFiller, RunTool
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

SAYS = {"text": "I am looking that up.", "delay_ms": 1_000}


def thinking(**policy: Any) -> Conversation:
    return Conversation.in_phase("THINKING", policy=Policy.model_validate(policy))


def due_after_ms(call: Conversation, timer: str) -> float:
    return (int(str(call.outstanding("StartTimer", timer).payload["due_at_us"])) - call.now_us) / 1_000


def check(call: Conversation) -> None:
    call.check()
    found = Invariants()
    for step in call.steps:
        found.look(step.events)
    assert found.broken == []


def rejected(call: Conversation) -> str:
    assert isinstance(call.last[-1], EventRejected)
    return call.last[-1].reason


def test_a_tool_runs_after_its_call_is_committed() -> None:
    """The fact stands before the command, so a call that runs is always in the log."""
    call = thinking().calls("book")
    assert call.commands[0] == RunTool("book/1", False, 10_000, "book")
    assert [event.version for event in call.last[:2]] == [call.state.found.facts_from, call.state.found.facts_from + 1]
    check(call.returns("7").answers("Done."))


def test_the_deadline_of_the_answer_waits_for_the_tool() -> None:
    """And begins anew when the last open call is over."""
    call = thinking().calls("book").calls("look up")
    assert due_after_ms(call, "answer_deadline") == 10_000 + 4_000
    call.after(9_000).input(ToolReturned, result="1")
    assert due_after_ms(call, "answer_deadline") == 5_000
    call.returns()
    assert due_after_ms(call, "answer_deadline") == 4_000
    check(call)


def test_the_deadline_of_the_next_text_waits_for_the_tool() -> None:
    """A model that says something before it calls a tool."""
    call = thinking().resolves().texts("Let me see. ").calls("look up")
    assert call.state.phase == "SPEAKING"
    assert due_after_ms(call, "answer_deadline") == 10_000 + 6_000
    call.returns()
    assert due_after_ms(call, "answer_deadline") == 6_000
    check(call.texts("It is done.").written().speaks().played())


def test_a_result_counts_after_an_interruption() -> None:
    """The call is open until its result comes, whatever the turn."""
    call = Conversation.in_phase("THINKING").resolves().texts("Let me book that. ").calls("book")
    call.after(500).input(BargeIn).fires("interrupt_pause").after(100).says("make it two")
    assert [command.target for command in call.state.outstanding("RunTool")] == ["book/1"]
    before_ms = due_after_ms(call, "answer_deadline")
    call.after(200).returns("7")
    assert (len(call.last), call.state.outstanding("RunTool")) == (1, [])
    assert due_after_ms(call, "answer_deadline") == before_ms - 200  # the next answer does not wait for it
    check(call)


def test_a_call_that_may_be_cancelled_ends_with_its_turn() -> None:
    """Others run on."""
    call = thinking().calls("book").calls("search", is_cancellable=True)
    call.says("never mind")
    assert [c.stage_name for c in call.commands if isinstance(c, CancelStage)] == ["search/1"]
    assert [command.target for command in call.state.outstanding("RunTool")] == ["book/1"]
    check(call)


def test_no_call_is_open_after_the_end() -> None:
    call = thinking().calls("book").closes()
    assert call.state.pending == {}
    check(call)


@pytest.mark.parametrize("limit", [0, 2])
def test_one_call_too_many_is_refused(limit: int) -> None:
    """The agent gets the reason; the answer goes on."""
    call = thinking(tools={"calls": limit})
    for number in range(limit):
        call.calls("book", f"book/{number}").returns()
    assert rejected(call.calls("book", "book/9")) == f"more than {limit} tool calls for one question"
    check(call.answers("It did not work."))


def test_a_call_that_is_open_is_not_run_again() -> None:
    call = thinking().calls("book").calls("book", "book/1")
    assert rejected(call) == "this call is running already"
    check(call)


def test_a_guess_calls_no_tool() -> None:
    """Nothing happens before the user has said it."""
    call = Conversation.listening(policy=Policy.model_validate({"speculation": {"tries": 1}}))
    call.input(SttPartial, text="book a table", is_complete=True).calls("book")
    assert rejected(call) == "asked by a guess: no tool runs before its turn"
    assert call.state.found.calls == 0
    check(call.says("book a table").calls("book").returns())


def test_a_response_of_the_model_changes_nothing() -> None:
    """It is there for an agent that is asked again."""
    call = thinking().input(ModelResponded, call_id="model/1", response="{}")
    assert (len(call.last), call.state.found.facts_from) == (1, call.state.version)
    check(call.input(ModelResponded, call_id="model/2", response="{}"))
    assert call.state.found.facts_from == call.state.version - 1


def test_a_new_owner_runs_an_open_call_again_with_its_key() -> None:
    """At least once: the tool gets the same key."""
    call = thinking().calls("book")
    first = call.outstanding("RunTool")
    call.resumes("incarnation-2")
    again = call.outstanding("RunTool")
    assert (again.retry_of, again.idempotency_key) == (first.command_id, first.command_id)
    assert call.state.found.calls == 1
    check(call)


def test_while_a_call_runs_the_answer_has_its_limit_too_whatever_restarts_the_deadline() -> None:
    """A takeover, or a text of the answer: a tool that takes its time does not lose to the fallback answer."""
    policy = Policy()
    limit_ms = policy.tools.limit_ms + policy.deadlines.answer_ms
    call = thinking().calls("book")
    assert due_after_ms(call, "answer_deadline") == limit_ms
    assert due_after_ms(call.resumes("incarnation-2"), "answer_deadline") == limit_ms
    limit_ms += policy.deadlines.next_text_ms - policy.deadlines.answer_ms
    assert due_after_ms(call.texts("One moment."), "answer_deadline") == limit_ms
    assert due_after_ms(call.resolves("booking").texts(" I am booking."), "answer_deadline") == limit_ms
    assert due_after_ms(call.resumes("incarnation-3"), "answer_deadline") == limit_ms
    assert due_after_ms(call.returns(), "answer_deadline") == policy.deadlines.next_text_ms
    assert due_after_ms(call.resumes("incarnation-4"), "answer_deadline") == policy.deadlines.next_text_ms
    check(call.written())


def test_a_call_of_an_earlier_turn_delays_no_answer() -> None:
    call = thinking().calls("book").says("no, tomorrow")
    assert due_after_ms(call, "answer_deadline") == 4_000
    check(call.returns())


def test_a_call_of_an_earlier_turn_delays_no_answer_after_a_takeover_or_a_return_either() -> None:
    """A call that runs again still belongs to its turn."""
    call = thinking(tools=SAYS).calls("book").says("no, tomorrow").resumes("incarnation-2")
    assert due_after_ms(call, "answer_deadline") == 4_000
    call.calls("look", "look/1").input(ToolReturned, call_id="look/1", result="1")
    assert due_after_ms(call, "answer_deadline") == 4_000
    assert call.state.timer("tool_filler") is None
    check(call.input(ToolReturned, call_id="book/1", result="1"))


def test_a_call_that_returns_after_the_answer_starts_no_deadline() -> None:
    """The answer does not wait for it."""
    call = thinking().calls("book").answers("We have your order.").returns()
    assert call.state.phase == "SPEAKING"
    assert call.state.timer("answer_deadline") is None
    check(call)


def test_a_call_that_a_new_owner_runs_again_keeps_its_turn_in_the_fold_too() -> None:
    """Also a timer that is the last event of its step: that event gets the hash of the state."""
    call = thinking().calls("book").input(ClientDisconnected, client_id="browser-1")
    call.says("no").answers("Fine.").speaks().played()
    for later in ("incarnation-2", "incarnation-3"):
        check(call.resumes(later))
        assert [command.turn for command in call.state.outstanding("RunTool", "StartTimer")] == [1, 1]


def test_a_cancellable_call_ends_with_a_turn_that_is_spoken_to_its_end() -> None:
    """The answer was given up after its first text, while the call ran on."""
    call = thinking().resolves().texts("One moment.").calls("look", is_cancellable=True).calls("book")
    call.fires("answer_deadline").speaks().played()
    assert call.state.phase == "LISTENING"
    assert [c.stage_name for c in call.commands if isinstance(c, CancelStage)] == ["look/1"]
    assert [command.target for command in call.state.outstanding("RunTool")] == ["book/1"]
    check(call)


def test_the_agent_says_that_a_tool_takes_a_while() -> None:
    """Once for a question."""
    call = thinking(tools=SAYS).calls("book").fires("tool_filler")
    assert call.commands == [PlayFiller("tool-1", "I am looking that up.")]
    call.returns().calls("book", "book/2")
    assert call.state.timer("tool_filler") is None
    check(call.returns().answers("Done."))


def test_it_says_nothing_while_it_says_something() -> None:
    """A filler that is playing is enough."""
    call = thinking(tools=SAYS, filler={"text": "Well.", "delay_ms": 0}).calls("book").fires("tool_filler")
    assert call.commands == []
    call = thinking(tools=SAYS | {"delay_ms": 100}, filler={"text": "Well."}).calls("book")
    assert call.fires("tool_filler").commands == [PlayFiller("tool-1", "I am looking that up.")]
    assert call.fires("filler").commands == []
    check(call)


def test_words_about_a_tool_are_not_said_without_one() -> None:
    """It has returned before they were due; another one may still run."""
    call = thinking(tools=SAYS).calls("book").calls("search").returns()
    assert call.state.timer("tool_filler") is not None
    assert call.returns().state.timer("tool_filler") is None
    check(call)


def test_words_about_a_tool_are_not_said_after_the_answer() -> None:
    """The agent may answer while a tool still runs."""
    call = thinking(tools=SAYS).calls("book").resolves().answers("Done.")
    assert call.state.phase == "SPEAKING"
    assert call.state.timer("tool_filler") is None
    check(call)


def test_words_about_a_tool_are_not_said_when_the_answer_only_waits_for_silence() -> None:
    """The user speaks while the first words of the answer are ready: these come next. The timer would outlive its turn,
    and the agent would look something up in a turn without a tool.
    """
    call = thinking(tools=SAYS).input(SpeechStarted).resolves().texts("Let me see.").calls("book")
    assert call.state.armed("floor_deadline")
    assert call.state.timer("tool_filler") is None
    check(call)


def test_words_about_a_tool_end_with_its_turn() -> None:
    call = thinking(tools=SAYS, thinking={"more_words": "supersede"}).calls("book").says("never mind")
    assert call.state.turn == 2
    assert call.state.timer("tool_filler") is None
    check(call)


def test_words_about_a_tool_are_not_said_over_the_user() -> None:
    call = thinking(tools=SAYS).calls("book").input(SpeechStarted).fires("tool_filler")
    assert call.commands == []
    check(call)
