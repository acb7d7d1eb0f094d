"""Shows what a trace of a conversation holds: its tree, its times, its links, and not a word of what was said."""

from collections import Counter
from pathlib import Path

import pytest

from events import derived, inputs
from events.envelope import Event
from events.recording import parse
from orchestrator.replay.replay import replay
from orchestrator.simulation.simulate import simulate
from projections import names
from projections.span import Context, Layout, Span, in_order
from projections.spans import SessionSpans, spans_of
from projections.timing import STAGES

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "fixtures").rglob("*.jsonl"))
COMMANDS = {
    "ClassifyIntent": names.INTENT,
    "AnswerQuestion": names.ANSWER,
    "PlayFiller": names.FILLER,
    "Speak": names.TEXT_TO_SPEECH,
}
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def events_in(file: Path) -> list[Event]:
    recording = parse(file.read_bytes(), str(file))
    return [*recording.events()] if recording.header.derived else replay(recording).events


def key(context: Context) -> tuple[int, int]:
    return context.trace_id, context.span_id


def by_key(spans: list[Span]) -> dict[tuple[int, int], Span]:
    found = {key(span.context): span for span in spans}
    assert len(found) == len(spans), "two spans have one id"
    return found


def tree(spans: list[Span]) -> str:
    """Indented, with milliseconds since the beginning, length, and what each is linked to."""
    known, began_us = by_key(spans), min(span.start_us for span in spans)

    def lines(parent: Context | None, depth: int) -> list[str]:
        found = []
        for span in in_order(spans):
            if span.parent == parent:
                said = {name: value for name, value in sorted(span.attributes.items()) if name != names.COMMAND_ID}
                said.pop(names.CONVERSATION_ID)
                links = [f"{link.kind} → {known[key(link.to)].name}" for link in span.links]
                when = f"{(span.start_us - began_us) // 1000} +{(span.end_us - span.start_us) // 1000} ms"
                found.append(f"{'  ' * depth}{span.name} {when} {said} {links or ''}".rstrip())
                found += [
                    f"{'  ' * depth}  · {moment.name} {moment.attributes}" for moment in span.moments if depth == 1
                ]
                found += lines(span.context, depth + 1)
        return found

    return "\n".join(lines(None, 0))


@pytest.mark.parametrize("name", ["real_barge_in", "failures/cough_over_the_answer", "failures/guess_adopted"])
def test_the_tree_of_a_call(name: str, snapshot) -> None:
    """A session, its call and its turns, and in each turn what took how long."""
    assert tree(spans_of(events_in(ROOT / f"fixtures/{name}.jsonl"))) == snapshot


def check_tree(spans: list[Span], events: list[Event]) -> None:
    known = by_key(spans)
    sessions = [span for span in spans if span.name == names.SESSION]
    assert {span.session_id for span in sessions} == {event.session_id for event in events}
    assert len(sessions) == len({span.session_id for span in sessions})
    for span in spans:
        assert 0 not in key(span.context)
        assert span.start_us <= span.end_us
        assert all(key(link.to) in known for link in span.links)
        if span.parent is not None:
            parent = known[key(span.parent)]
            assert parent.context.trace_id == span.context.trace_id
            assert parent.start_us <= span.start_us
            assert span.end_us <= parent.end_us
        if names.RESPONSE_LATENCY_US in span.attributes:
            stages = [span.attributes.get(names.STAGE_US.format(stage), 0) for stage in STAGES]
            assert sum(map(int, stages)) == span.attributes[names.RESPONSE_LATENCY_US]


@each
def test_every_parent_and_every_link_leads_to_a_span(file: Path) -> None:
    """One root per session; children lie within the session, those of a turn within it; no id stands twice."""
    events = events_in(file)
    spans = spans_of(events)
    check_tree(spans, events)
    assert {span.name for span in spans if span.parent is None} == {names.SESSION}


@pytest.mark.parametrize("layout", ["session", "turn"])
def test_the_same_holds_of_conversations_under_faults(layout: Layout) -> None:
    """Simulated ones, in which everything comes late, twice or in another order, and processes die."""
    for seed in range(60):
        events = [*simulate(seed, replayed=False).log]
        check_tree(spans_of(events, layout), events)


@each
def test_there_is_a_span_for_every_turn_and_every_question(file: Path) -> None:
    """Neither more nor less, in the order of the log."""
    events = events_in(file)
    spans = Counter(span.name for span in spans_of(events))
    asked = [event for event in events if isinstance(event, derived.CommandIssued) and event.name in COMMANDS]
    assert spans[names.TURN] == sum(isinstance(event, derived.TurnStarted) for event in events)
    assert Counter(COMMANDS[event.name] for event in asked) == {
        name: spans[name] for name in COMMANDS.values() if spans[name]
    }


@each
def test_the_stages_of_a_turn_add_up_to_its_latency(file: Path) -> None:
    """To the microsecond, and the whole is what the log says: from the end of the words to the first audio."""
    events = events_in(file)
    for span in spans_of(events):
        if names.RESPONSE_LATENCY_US in span.attributes:
            stages = [span.attributes.get(names.STAGE_US.format(stage), 0) for stage in STAGES]
            assert sum(map(int, stages)) == span.attributes[names.RESPONSE_LATENCY_US]
            turn = span.attributes[names.TURN_INDEX]
            first_audio_us = next(
                event.at_us
                for event in events
                if isinstance(event, inputs.PlaybackStarted)
                and (event.session_id, event.turn) == (span.session_id, turn)
                and not event.playback_id.startswith(("filler", "tool"))
            )
            started_us = first_audio_us - int(span.attributes[names.RESPONSE_LATENCY_US])
            assert span.start_us <= started_us <= first_audio_us
            quiet = [e.at_us for e in events if isinstance(e, inputs.SpeechStopped) and e.session_id == span.session_id]
            begun = [e.at_us for e in events if isinstance(e, derived.TurnStarted) and e.session_id == span.session_id]
            assert started_us in {*quiet, *begun}


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("answer_slow", names.ANSWER),
        ("intent_slow_answer_slower", names.INTENT),
        ("speaking_but_silent", names.TEXT_TO_SPEECH),
    ],
)
def test_a_question_whose_deadline_passes_has_failed(file: str, name: str) -> None:
    """It is no mere cancellation: a collector that keeps errors keeps it. Other questions of the turn have not."""
    spans = spans_of(events_in(ROOT / f"fixtures/failures/{file}.jsonl"))
    late = [span for span in spans if span.attributes.get(names.OUTCOME) == "timed_out"]
    assert late
    assert {(span.name, span.error, span.attributes[names.ERROR_TYPE]) for span in late} == {
        (name, "timeout", "timeout")
    }


def test_who_does_not_show_an_answer_is_no_service_that_failed() -> None:
    """In a conversation in text nothing is synthesised, but the same deadline holds."""
    events = [
        event
        for event in events_in(ROOT / "fixtures/failures/speaking_but_silent.jsonl")
        if not isinstance(event, inputs.HandlerAttached)
    ]
    assert any(event.target == "tts_deadline" for event in events if isinstance(event, inputs.TimerFired))
    assert not [span for span in spans_of(events) if span.error == "timeout"]


def test_most_answered_turns_are_timed() -> None:
    """The law above is not about nothing."""
    timed = [
        span for file in FILES for span in spans_of(events_in(file)) if names.RESPONSE_LATENCY_US in span.attributes
    ]
    assert len(timed) > 80


@each
def test_nobody_can_read_in_a_trace_what_was_said(file: Path) -> None:
    """Neither the user's words nor the agent's, unless it is asked for."""
    events = events_in(file)
    said = {event.text for event in events if isinstance(event, derived.TurnStarted)}
    said |= {event.answer for event in events if isinstance(event, derived.ProcessingComplete)}
    told = [repr(span) for span in spans_of(events)]
    assert not [words for words in said if len(words) > 8 and any(words in one for one in told)]
    if said:
        with_content = [span.attributes for span in spans_of(events, with_content=True)]
        assert any(names.INPUT_MESSAGES in attributes for attributes in with_content)


@each
def test_a_turn_can_be_a_trace_of_its_own(file: Path) -> None:
    """Then it is the root of it, what happened in it is in it, and links still lead where they should."""
    spans = spans_of(events_in(file), "turn")
    known = by_key(spans)
    for span in spans:
        assert all(key(link.to) in known for link in span.links)
        if span.parent is not None:
            assert span.parent.trace_id == span.context.trace_id
            assert key(span.parent) in known
    turns = [span for span in spans if span.name == names.TURN]
    assert all(turn.parent is None for turn in turns)
    assert len({turn.context.trace_id for turn in turns}) == len(turns)


def given_out(events: list[Event], layout: Layout) -> list[tuple[Span, str]]:
    """Each span of a live fold, with what it looked like when it was given out."""
    sessions: dict[str, SessionSpans] = {}
    given: list[tuple[Span, str]] = []
    for event in events:
        if event.session_id not in sessions:
            sessions[event.session_id] = SessionSpans(event, layout)
        given += [(span, repr(span)) for span in sessions[event.session_id].see(event)]
    return given


@pytest.mark.parametrize("layout", ["session", "turn"])
def test_a_span_that_was_given_out_never_changes(layout: Layout) -> None:
    """What is exported turn by turn is what is exported at the end; of all recordings, and of simulated calls."""
    logs = [events_in(file) for file in FILES] + [[*simulate(seed, replayed=False).log] for seed in range(40)]
    for events in logs:
        assert all(repr(span) == then for span, then in given_out(events, layout))


def test_where_the_log_ends_early_what_is_open_is_marked() -> None:
    """As it is when a call is exported while it lasts."""
    events = events_in(ROOT / "fixtures/real_barge_in.jsonl")
    playing = next(n for n, event in enumerate(events) if isinstance(event, inputs.PlaybackProgress))
    marked = {span.name for span in spans_of(events[:playing]) if names.INCOMPLETE in span.attributes}
    assert marked == {names.SESSION, names.CALL, names.TURN, names.TEXT_TO_SPEECH, names.PLAYBACK}
    speaking = next(n for n, event in enumerate(events) if isinstance(event, inputs.SttPartial))
    marked = {span.name for span in spans_of(events[:speaking]) if names.INCOMPLETE in span.attributes}
    assert marked == {names.SESSION, names.CALL, names.USER_SPEECH, names.SPEECH_TO_TEXT}
