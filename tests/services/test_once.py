"""`request.once` and `request.ask_model`: nothing happens twice, and what fails is told in words."""

import asyncio
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import pytest

from events.inputs import SttPartial
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.services.failures import ToolError
from orchestrator.services.journal import ModelReply
from orchestrator.services.ports import Request
from tests.question import Asked


class Restaurant:
    """Books tables, slowly if it must."""

    def __init__(self) -> None:
        self.booked: list[tuple[str, int, str]] = []
        self.begun, self.may_return = asyncio.Event(), asyncio.Event()
        self.may_return.set()

    async def book(self, day: str, people: int = 2, *, idempotency_key: str = "") -> dict[str, Any]:
        self.booked.append((day, people, idempotency_key))
        self.begun.set()
        await self.may_return.wait()
        return {"table": len(self.booked), "day": day}


async def test_a_call_is_recorded_before_it_runs_and_its_result_after_it() -> None:
    """The arguments by name; a sync function runs in a thread."""
    asked = Asked()

    def add(a: int, b: int) -> int:
        assert asked.names() == ["TOOL_CALLED"]
        return a + b

    assert await asked.request().once("add", add, 1, b=2) == 3
    assert asked.names() == ["TOOL_CALLED", "TOOL_RETURNED"]
    called = next(event for event in asked.talk.log if event.type == "TOOL_CALLED")  # type: ignore[attr-defined]
    assert called.arguments == '{"a":1,"b":2}'  # type: ignore[attr-defined]
    asked.talk.check()


async def test_a_question_that_is_asked_again_gets_what_is_recorded() -> None:
    """Also by another node; calls with other arguments, and the second of two equal ones, are calls of their own."""
    asked, place = Asked(), Restaurant()
    request = asked.request()
    first = [await request.once("book", place.book, day) for day in ("Friday", "Friday", "Monday")]
    asked.crashes()
    request = asked.request()
    again = [await request.once("book", place.book, day) for day in ("Monday", "Friday", "Friday")]
    assert (again, len(place.booked)) == ([first[2], first[0], first[1]], 3)
    assert await request.once("book", place.book, "Sunday") == {"table": 4, "day": "Sunday"}


async def test_a_call_runs_to_its_end_when_its_turn_is_over() -> None:
    """Its result is committed, and the next question is told of it."""
    asked, place = Asked(), Restaurant()
    place.may_return.clear()
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    await place.begun.wait()
    attempt.cancel()
    asked.does("says", "and for four people")
    tool = asked.request().conversation[-1]
    assert (tool.role, tool.text, tool.call and tool.call.outcome) == ("tool", "", "open")
    place.may_return.set()
    await asked.tools.until(lambda: not asked.state.outstanding("RunTool"))
    tool = asked.lines()[-2]
    assert (tool.text, tool.call and tool.call.outcome) == ('{"table":1,"day":"Friday"}', "returned")


async def test_a_call_that_may_be_cancelled_ends_with_its_turn() -> None:
    """The function is cancelled, and the conversation says so."""
    asked, place = Asked(), Restaurant()
    place.may_return.clear()
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday", cancellable=True))
    await place.begun.wait()
    (running,) = asked.tools.running
    attempt.cancel()
    asked.does("says", "never mind")
    await asyncio.wait([running])
    assert running.cancelled()
    assert "TOOL_RETURNED" not in asked.names()
    assert [line.call.outcome for line in asked.lines() if line.call] == ["cancelled"]


async def interrupted(asked: Asked, place: Restaurant) -> asyncio.Task[Any]:
    """A booking runs, the user adds a word, and the next question books again."""
    place.may_return.clear()
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    await place.begun.wait()
    attempt.cancel()
    asked.does("says", "please")
    return asyncio.create_task(asked.request().once("book", place.book, "Friday"))


def open_calls(asked: Asked) -> int:
    return len(asked.state.outstanding("RunTool"))


async def test_the_same_call_of_an_interrupted_turn_is_not_made_again() -> None:
    """The log has a call of this question, which names the one that runs; the conversation has one booking."""
    asked, place = Asked(), Restaurant()
    again = await interrupted(asked, place)
    await asked.tools.until(lambda: open_calls(asked) == 2)
    place.may_return.set()
    assert (await again, len(place.booked)) == ({"table": 1, "day": "Friday"}, 1)
    first, second = (event for event in asked.talk.log if isinstance(event, ToolCalled))
    assert (first.same_as, second.same_as) == ("", first.call_id)
    assert len([line for line in asked.lines() if line.call]) == 1
    assert [event.result for event in asked.talk.log if isinstance(event, ToolReturned)] == [
        '{"table":1,"day":"Friday"}'
    ] * 2
    asked.talk.check()


async def test_the_deadline_of_an_answer_waits_for_the_call_of_an_interrupted_turn() -> None:
    """The caller would hear the fallback although the booking is under way."""
    asked, place = Asked(deadlines={"answer_ms": 4_000}, tools={"limit_ms": 10_000}), Restaurant()
    again = await interrupted(asked, place)
    await asked.tools.until(lambda: open_calls(asked) == 2)
    timer = asked.talk.outstanding("StartTimer", "answer_deadline")
    assert int(str(timer.payload["due_at_us"])) - timer.at_us == 14_000_000
    place.may_return.set()
    await again


async def test_the_same_call_is_not_made_again_while_the_next_question_thinks() -> None:
    """It was open when the question was asked, and returns before the agent makes its call. A second equal call of the
    same question is a booking of its own.
    """
    asked, place = Asked(), Restaurant()
    place.may_return.clear()
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    await place.begun.wait()
    attempt.cancel()
    asked.does("says", "please")
    request = asked.request()
    place.may_return.set()
    await asked.tools.until(lambda: not open_calls(asked))
    tables = [(await request.once("book", place.book, "Friday"))["table"] for _ in range(2)]
    assert tables == [1, 2]
    asked.crashes()
    request = asked.request()
    tables = [(await request.once("book", place.book, "Friday"))["table"] for _ in range(3)]
    assert tables == [1, 2, 3]


async def test_the_result_of_an_interrupted_turns_call_is_kept_for_the_next_attempt() -> None:
    """A new owner asks again after the booking is over: it is neither lost nor made again."""
    asked, place = Asked(), Restaurant()
    again = await interrupted(asked, place)
    await asked.tools.until(lambda: open_calls(asked) == 2)
    place.may_return.set()
    await again
    asked.crashes()
    assert await asked.request().once("book", place.book, "Friday") == {"table": 1, "day": "Friday"}
    assert len(place.booked) == 1


async def test_a_crash_runs_the_call_of_an_interrupted_turn_again_with_its_key() -> None:
    """The new owner has no function for either call: the attempt brings the one that books."""
    asked, place = Asked(), Restaurant()
    again = await interrupted(asked, place)
    await asked.tools.until(lambda: open_calls(asked) == 2)
    again.cancel()
    asked.crashes()
    place.may_return.set()
    assert (await asked.request().once("book", place.book, "Friday"))["table"] == 2
    assert len({key for _, _, key in place.booked}) == 1
    await asked.tools.until(lambda: not open_calls(asked))


async def test_a_failure_of_an_interrupted_turns_call_is_told_as_it_is() -> None:
    """A later call runs anew: it is a try of its own."""
    asked, place = Asked(), Restaurant()

    async def full(day: str) -> None:
        await place.book(day)
        raise ToolError("we are full")

    place.may_return.clear()
    attempt = asyncio.create_task(asked.request().once("book", full, "Friday"))
    await place.begun.wait()
    attempt.cancel()
    asked.does("says", "please")
    request = asked.request()
    again = asyncio.create_task(request.once("book", full, "Friday"))
    await asked.tools.until(lambda: open_calls(asked) == 2)
    place.may_return.set()
    with pytest.raises(ToolError, match=r"^book: we are full$"):
        await again
    assert await request.once("book", place.book, "Friday") == {"table": 2, "day": "Friday"}


async def test_a_call_that_waits_for_another_has_not_failed_when_the_session_moves() -> None:
    """The new owner runs it again. The shard closes the waits before it ends the tasks."""
    asked, place = Asked(), Restaurant()
    again = await interrupted(asked, place)
    await asked.tools.until(lambda: open_calls(asked) == 2)
    *_, called = (event for event in asked.talk.log if isinstance(event, ToolCalled))
    waiting = asked.tools._running[called.call_id][1]
    await asyncio.sleep(0)  # it begins to wait
    asked.tools.close()
    await asyncio.wait([waiting, again], timeout=5)
    assert waiting.cancelled()
    await asyncio.sleep(0)
    assert "TOOL_RETURNED" not in asked.names()
    place.may_return.set()


async def test_three_questions_wait_for_one_call() -> None:
    """The user adds one word after the other."""
    asked, place = Asked(), Restaurant()
    second = await interrupted(asked, place)
    await asked.tools.until(lambda: open_calls(asked) == 2)
    second.cancel()
    asked.does("says", "quickly")
    third = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    await asked.tools.until(lambda: open_calls(asked) == 3)
    place.may_return.set()
    assert (await third, len(place.booked)) == ({"table": 1, "day": "Friday"}, 1)
    await asked.tools.until(lambda: not open_calls(asked))


async def test_a_call_that_nobody_remembers_is_not_made_again() -> None:
    """A log whose earlier call is missing, such as one that was edited: the call fails in words."""
    asked = Asked()
    asked.does(
        "input",
        ToolCalled,
        arguments="{}",
        call_id="b/1",
        name="book",
        same_as="a/1",
        command_id=asked.talk.outstanding("AnswerQuestion").command_id,
    )
    await asked.tools.until(lambda: not open_calls(asked))
    assert asked.tools.journal.calls["b/1"].error.endswith("whether it had an effect is not known")


async def test_a_call_that_the_turn_gave_up_before_its_commit_never_runs() -> None:
    """A discarded generation books nothing."""
    asked, place = Asked(), Restaurant()
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    await asyncio.sleep(0)
    asked.does("says", "no, wait")
    attempt.cancel()
    await asyncio.wait([attempt])
    await asyncio.sleep(0)
    assert asked.names() == ["TOOL_CALLED"]
    assert (place.booked, asked.tools.running) == ([], [])


async def test_a_guess_calls_nothing_until_its_turn() -> None:
    """The call waits for the user to have said it."""
    asked, place = Asked(speculation={"tries": 1}), Restaurant()
    asked.does("answers", "Hi.")
    asked.does("speaks")
    asked.does("played")
    asked.does("input", SttPartial, text="book Friday", is_complete=True)
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (asked.names(), place.booked) == ([], [])
    asked.does("says", "book Friday")
    assert await attempt == {"table": 1, "day": "Friday"}


async def test_a_crash_inside_a_call_runs_it_again_with_the_same_key() -> None:
    """At least once, and the tool can tell."""
    asked, place = Asked(), Restaurant()
    place.may_return.clear()
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    await place.begun.wait()
    attempt.cancel()
    asked.crashes()
    place.may_return.set()
    assert (await asked.request().once("book", place.book, "Friday"))["day"] == "Friday"
    (first, second) = place.booked
    assert first == second
    assert first[2]
    assert asked.names() == ["TOOL_CALLED", "TOOL_RETURNED"]


async def test_a_call_whose_process_is_gone_is_closed() -> None:
    """No attempt comes back to it: it does not stay "in progress" for ever."""
    asked, place = Asked(tools={"limit_ms": 50}), Restaurant()
    place.may_return.clear()
    attempt = asyncio.create_task(asked.request().once("book", place.book, "Friday"))
    await place.begun.wait()
    attempt.cancel()
    asked.does("says", "never mind")
    asked.crashes()
    await asyncio.wait_for(asked.tools.until(lambda: not asked.state.outstanding("RunTool")), 5)
    (line,) = [line for line in asked.lines() if line.call]
    assert line.text == "the process that ran it is gone; whether it had an effect is not known"


@dataclass
class Big:
    text: str


async def fails(_: str) -> None:
    raise ValueError("no table is free")


async def never(_: str) -> None:
    await asyncio.Event().wait()


async def big(_: str) -> Big:
    return Big("x" * 9_000)


async def strange(_: str) -> object:
    return object()


async def unknown(_: str) -> object:
    return [{"price": float("nan")}]


@pytest.mark.parametrize(
    ("tool", "problem"),
    [
        (unknown, "tool: the result of tool cannot be written as JSON: NaN is no number of JSON"),
        (fails, "tool: tool raised ValueError: no table is free"),
        (never, "tool: it took longer than 50 ms"),
        (big, "tool: the result of tool has 9011 characters of JSON; at most 8000 are allowed"),
        (strange, "tool: the result of tool cannot be written as JSON: Unable to serialize unknown type"),
    ],
)
async def test_what_goes_wrong_is_told_in_words(tool: Any, problem: str) -> None:
    """The agent catches it and tells the caller; asked again, it gets the same."""
    asked = Asked(tools={"limit_ms": 50})
    for _ in range(2):
        with pytest.raises(ToolError) as caught:
            await asked.request().once("tool", tool, "x")
        assert str(caught.value).startswith(problem)
    assert asked.names() == ["TOOL_CALLED", "TOOL_RETURNED"]


async def test_one_call_too_many_is_told_in_words() -> None:
    """The limit of the policy."""
    asked, place = Asked(tools={"calls": 1}), Restaurant()
    request = asked.request()
    await request.once("book", place.book, "Friday")
    with pytest.raises(ToolError, match="book: more than 1 tool calls for one question"):
        await request.once("book", place.book, "Monday")
    assert len(place.booked) == 1


async def test_what_cannot_be_recorded_is_refused_before_it_runs() -> None:
    asked, place = Asked(), Restaurant()
    with pytest.raises(ToolError, match="the arguments of book cannot be written as JSON"):
        await asked.request().once("book", place.book, object())
    with pytest.raises(
        ToolError, match="the arguments of book cannot be written as JSON: -Infinity is no number of JSON"
    ):
        await asked.request().once("book", place.book, float("-inf"))
    with pytest.raises(ToolError, match="the arguments of book has 9010 characters of JSON"):
        await asked.request().once("book", place.book, "x" * 9_000)
    with pytest.raises(TypeError, match="missing a required argument: 'day'"):
        await asked.request().once("book", place.book)
    assert (place.booked, asked.names()) == ([], [])


async def test_a_response_of_the_model_is_recorded() -> None:
    """A question that is asked again gets it, in the order of the requests."""
    asked, replies = Asked(), iter([{"tool": "book"}, ModelReply("You have a table.", "gpt-x", 10, 5)])

    async def ask(_: list[str]) -> Any:
        return next(replies)

    async def answer(request: Request) -> list[Any]:
        return [await request.ask_model(ask, ["hello"]), await request.ask_model(ask, ["and now?"])]

    first = await answer(asked.request())
    await asyncio.sleep(0)
    asked.crashes()
    assert await answer(asked.request()) == first == [{"tool": "book"}, "You have a table."]
    *_, last = (event for event in asked.talk.log if event.type == "MODEL_RESPONDED")  # type: ignore[attr-defined]
    assert (last.model, last.input_tokens, last.output_tokens) == ("gpt-x", 10, 5)  # type: ignore[attr-defined]


async def test_a_response_with_infinity_is_recorded() -> None:
    """The log probability of a token may be that; the answer does not fail for it, now or when it is asked again."""
    asked = Asked()

    async def model() -> dict[str, Any]:
        return {"text": "Yes.", "logprobs": [float("-inf")]}

    first = await asked.request().ask_model(model)
    await asked.tools.until(lambda: bool(asked.names()))
    asked.crashes()
    assert await asked.request().ask_model(model) == first == {"text": "Yes.", "logprobs": [float("-inf")]}
    assert asked.names() == ["MODEL_RESPONDED"]


async def test_a_response_says_how_long_the_model_took() -> None:
    """Without the time before the request, which counts for the question."""
    asked, spent_us = Asked(), list[int]()

    async def ask() -> str:
        began_ns = perf_counter_ns()
        for _ in range(200):
            await asyncio.sleep(0)
        spent_us.append((perf_counter_ns() - began_ns) // 1000)
        return "hello"

    began_ns = perf_counter_ns()
    await asked.request().ask_model(ask)
    whole_us = (perf_counter_ns() - began_ns) // 1000
    await asyncio.sleep(0)
    (response,) = (event for event in asked.talk.log if isinstance(event, ModelResponded))
    assert 0 < spent_us[0] <= response.took_us <= whole_us


async def test_a_long_response_is_not_recorded() -> None:
    asked = Asked()

    async def ask() -> str:
        return "x" * 32_001

    assert len(await asked.request().ask_model(ask)) == 32_001
    await asyncio.sleep(0)
    assert asked.names() == []


async def test_without_a_conversation_it_just_runs() -> None:
    """A test of an answer function makes its Request by hand."""
    place, request = Restaurant(), Request("hello")
    assert await request.once("book", place.book, "Friday") == {"table": 1, "day": "Friday"}
    with pytest.raises(ToolError, match="tool raised ValueError: no table is free"):
        await request.once("tool", fails, "x")

    async def ask() -> int:
        return 7

    assert await request.ask_model(ask) == 7


async def test_a_result_that_comes_twice_counts_once() -> None:
    asked, place = Asked(), Restaurant()
    await asked.request().once("book", place.book, "Friday")
    returned = next(event for event in asked.talk.log if isinstance(event, ToolReturned))
    asked.talk.input(ToolReturned, call_id=returned.call_id, command_id=returned.command_id, result="8")
    asked.tools.hear(asked.talk.last)
    assert (await asked.request().once("book", place.book, "Friday"))["table"] == 1
