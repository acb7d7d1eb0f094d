"""Shows the spans of an agent's work: its tool calls, to their true end, and its requests to a model."""

from collections import Counter
from itertools import pairwise

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from events.derived import CommandIssued, TurnEnded
from events.envelope import Event
from events.journal import ModelResponded, ToolCalled, ToolReturned
from orchestrator.simulation.simulate import simulate
from orchestrator.testing.conversation import Conversation
from projections import names
from projections.otlp import otlp
from projections.span import Span
from projections.spans import spans_of
from tests.projections.test_spans import FILES, ROOT, by_key, each, events_in, key, tree

TOLD = {
    "tool_in_an_answer": ["returned"],
    "tool_result_after_the_interruption": ["returned"],
    "tool_of_a_discarded_answer": [],
    "cancelled_tool_is_over": ["cancelled"],
    "crash_while_a_tool_runs": ["retried", "returned"],
    "tool_of_a_lost_process": ["retried", "failed"],
}


def recorded(name: str) -> list[Event]:
    return events_in(ROOT / f"fixtures/failures/{name}.jsonl")


def tools(spans: list[Span]) -> list[Span]:
    found = [span for span in spans if span.attributes.get(names.OPERATION) == "execute_tool"]
    return sorted(found, key=lambda span: span.start_us)


@pytest.mark.parametrize("name", ["slow_tool", "tool_result_after_the_interruption", "tool_of_a_lost_process"])
def test_the_tree_of_a_call_with_tools(name: str, snapshot) -> None:
    """Calls stand in their turn, or beside it if they outlive it; requests to the model in their turn."""
    assert tree(spans_of(recorded(name))) == snapshot


@each
def test_there_is_a_span_for_every_call_and_every_response(file) -> None:
    """Neither more nor less."""
    events = events_in(file)
    spans = spans_of(events)
    assert len(tools(spans)) == sum(isinstance(e, CommandIssued) and e.name == "RunTool" for e in events)
    chats = [span for span in spans if span.attributes.get(names.OPERATION) == "chat"]
    assert len(chats) == sum(isinstance(event, ModelResponded) for event in events)


@pytest.mark.parametrize("name", TOLD)
def test_a_call_has_its_true_outcome(name: str) -> None:
    """Also if its turn ended before; a retry after a takeover is linked to the attempt that was lost."""
    spans = tools(spans_of(recorded(name)))
    assert [span.attributes[names.OUTCOME] for span in spans] == TOLD[name]
    for first, second in pairwise(spans):
        assert [key(link.to) for link in second.links if link.kind == names.RETRY_OF] == [key(first.context)]
    failed = [span for span in spans if span.error]
    assert [span.attributes[names.OUTCOME] for span in failed] == [one for one in TOLD[name] if one == "failed"]
    assert {(span.error, span.attributes[names.ERROR_TYPE]) for span in failed} <= {("tool_failed", "tool_failed")}


def test_a_call_that_outlives_its_turn_ends_with_its_result() -> None:
    """Neither CancelTask nor TURN_ENDED ends its span; its parent is the session then."""
    events = recorded("tool_result_after_the_interruption")
    (ended_us,) = (event.at_us for event in events if isinstance(event, TurnEnded) and event.turn == 1)
    (returned_us,) = (event.at_us for event in events if isinstance(event, ToolReturned))
    spans = spans_of(events)
    (call,) = tools(spans)
    assert ended_us < call.end_us == returned_us
    assert call.parent is not None
    known = by_key(spans)
    assert known[key(call.parent)].name == names.SESSION
    assert [known[key(link.to)].name for link in call.links] == [names.ANSWER]


def test_a_request_to_the_model_has_its_length() -> None:
    """It begins when the model was asked, which the response says."""
    events = recorded("tool_in_an_answer")
    (response,) = (event for event in events if isinstance(event, ModelResponded))
    spans = spans_of(events)
    (chat,) = (span for span in spans if span.name == "chat local")
    assert (chat.start_us, chat.end_us) == (response.at_us - response.took_us, response.at_us)
    assert chat.end_us - chat.start_us == 480_000
    assert (
        chat.attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "local",
            "gen_ai.response.model": "local",
            "gen_ai.usage.input_tokens": 212,
            "gen_ai.usage.output_tokens": 18,
        }.items()
    )


def test_the_kinds_are_those_of_the_conventions() -> None:
    """A tool runs in the process (INTERNAL), a model elsewhere (CLIENT)."""
    request = ExportTraceServiceRequest.FromString(otlp(spans_of(recorded("tool_in_an_answer"))))
    kinds = {span.name: span.kind for span in request.resource_spans[0].scope_spans[0].spans}
    assert kinds["execute_tool create_reservation"] == OtlpSpan.SPAN_KIND_INTERNAL
    assert kinds["chat local"] == OtlpSpan.SPAN_KIND_CLIENT


def asked(**tool: str) -> Conversation:
    """An agent that has asked its model and called a tool."""
    call = Conversation.in_phase("THINKING")
    call.input(ModelResponded, call_id="model/1", model="a model of my knee", response='{"say":"my knee hurts"}')
    called = {"call_id": "a/book/1", "name": "book", "arguments": '{"why":"my knee hurts"}'}
    return call.input(ToolCalled, **(called | tool))


@pytest.mark.parametrize("error", ["", "my knee hurts"])
def test_neither_arguments_nor_results_nor_responses_enter_a_trace(error: str) -> None:
    """Not with content either: they are the users' words, told to a tool."""
    call = asked().input(ToolReturned, call_id="a/book/1", error=error, result="" if error else '"my knee hurts"')
    spans = spans_of(call.log, with_content=True)
    assert [span.attributes[names.OUTCOME] for span in tools(spans)] == ["failed" if error else "returned"]
    assert "knee" not in repr(spans)


def test_a_name_that_is_none_is_left_out() -> None:
    """A service may call its tool by the user's words."""
    spans = spans_of(asked(call_id="my knee hurts", name="look up my knee").log)
    assert "knee" not in repr(spans)
    (call,) = tools(spans)
    assert (call.name, call.attributes[names.TOOL_CALL_ID]) == ("execute_tool (no name)", "(no name)")


def test_where_the_log_ends_early_an_open_call_is_marked() -> None:
    """As any other span."""
    (call,) = tools(spans_of(asked().log))
    assert (call.attributes[names.INCOMPLETE], call.attributes[names.OUTCOME]) == (True, "cancelled")


def test_a_call_of_an_earlier_turn_is_no_child_of_a_later_one() -> None:
    """The next turn may have begun before the call: its user spoke first. Of simulated calls, too."""
    logs = [recorded(name) for name in TOLD] + [[*simulate(seed, replayed=False).log] for seed in range(40)]
    outside = Counter[str]()
    for events in logs:
        spans = spans_of(events)
        known = by_key(spans)
        turn_of = {event.event_id: event.turn for event in events if isinstance(event, CommandIssued)}
        for call in tools(spans):
            assert call.parent is not None
            parent = known[key(call.parent)]
            outside[parent.name] += 1
            assert parent.name in (names.SESSION, names.TURN)
            assert parent.attributes.get(names.TURN_INDEX, turn_of[call.key]) == turn_of[call.key]
    assert min(outside[names.SESSION], outside[names.TURN]) > 3


def test_recordings_have_tools() -> None:
    """The laws above are not about nothing."""
    assert {span.name for file in FILES for span in tools(spans_of(events_in(file)))} >= {
        "execute_tool create_reservation"
    }
