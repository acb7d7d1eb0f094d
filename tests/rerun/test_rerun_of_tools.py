"""Reruns of conversations with tools: each call gets the result of its own turn and session, and its time."""

from events.journal import ToolReturned
from events.recording import parse
from orchestrator import Conversation, Request, rerun
from orchestrator.replay.exchanges import exchanges
from orchestrator.testing.conversation import recorded


async def agent(request: Request) -> str:
    """Says how many there are."""

    async def stock() -> int:
        raise AssertionError("a rerun runs no tool")

    return f"There are {await request.once('stock', stock)}."


def asks(call: Conversation, pieces: int, call_id: str = "") -> Conversation:
    """A turn: the agent looks into the stock, which takes 500 ms, and answers 300 ms later."""
    call.after(1_000).says("how many are there").after(100).resolves().calls("stock", call_id).after(500)
    return call.returns(str(pieces)).after(300).answers(f"There are {pieces}.").speaks().after(2_000).played()


def test_each_turn_gets_the_result_of_its_own_call() -> None:
    """Also where both calls have one id, as in a log that was written by hand."""
    for call_id in ("", "stock/1"):
        call = asks(asks(Conversation.listening(), 12, call_id), 7, call_id)
        again = rerun(call.log, agent)
        again.check()
        assert again.says == ["There are 12.", "There are 7."]


def test_each_session_gets_the_result_of_its_own_call() -> None:
    """Two sessions at the same time, whose calls have one id."""
    one, other = Conversation.listening("session-1"), Conversation.listening("session-2").after(50)
    log = [*parse(recorded(asks(one, 12), asks(other, 7)), "both").events()]
    found = {exchange.session_id: [tool.result for tool in exchange.tools] for exchange in exchanges(log)}
    assert found == {"session-1": ["12"], "session-2": ["7"]}
    rerun(log, agent).check()


def test_an_agent_that_needs_no_tool_any_more_does_not_wait_for_it() -> None:
    """The recorded call took longer than the deadline of an answer; what the model needed besides stays."""
    call = Conversation.listening().after(1_000).says("how many are there").after(100).resolves()
    call.after(100).calls("stock").after(5_000).returns("12").after(300).answers("There are 12.").speaks()
    again = rerun(call.after(2_000).played().log, lambda text: "There are 12.")
    assert [finding.message for finding in again.findings] == ["only recorded: stock() → 12"]
    before, after = rerun(call.log, agent).waits_ms, again.waits_ms
    assert [was - now for was, now in zip(before, after, strict=True)] == [5_000]


def test_of_two_calls_at_a_time_only_the_time_of_the_longer_one_is_saved() -> None:
    """The agent of today makes the shorter one: it waits for that one still."""
    call = Conversation.listening().after(1_000).says("how many are there").after(100).resolves()
    call.calls("orders").calls("stock").after(500).returns("12").after(1_500)
    call.input(ToolReturned, call_id="orders/1", result="3").after(300).answers("There are 12.").speaks()
    again = rerun(call.after(2_000).played().log, agent)
    assert [finding.message for finding in again.findings] == ["only recorded: orders() → 3"]
    assert again.waits_ms == [100 + 500 + 300]


def test_an_agent_that_was_silent_until_the_deadline_and_answers_today_is_heard() -> None:
    """As long after the question as the answers of the recording usually come."""
    call = Conversation.listening().after(1_000).says("when are you open").after(100).resolves()
    call.fires("answer_deadline").speaks().after(2_000).played()
    call.after(1_000).says("hello").after(100).resolves().after(300).answers("Hi!").speaks().after(2_000).played()
    again = rerun(call.log, lambda text: "Hi!" if text == "hello" else "From nine to six.")
    assert again.says == ["From nine to six.", "Hi!"]
    assert again.exchanges[0].failure == ""
    assert again.waits_ms == [401, 400]  # a text that is not recorded takes 1 ms to show
