"""Changes of the reducer as they happen in practice, each found by its rule at its event; and no false alarm.

`barge_in.jsonl` and `normal_flow.jsonl` were recorded by today's reducer; each test replays one of them with a reducer
that was changed in one place.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from events.derived import ProcessingComplete, StateChanged, TurnStarted
from events.envelope import Event
from events.recording import parse
from orchestrator.replay.replay import replay
from orchestrator.replay.report import as_json
from orchestrator.replay.verdict import verdict_of
from orchestrator.replay.words import name
from orchestrator.session import evolve, fsm, phases, reducer, state, step
from orchestrator.session.commands import ClassifyIntent, ClearText, Command, SetMicrophone, Speak
from orchestrator.session.step import StepBuilder
from orchestrator.simulation.simulate import simulate

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
Patch = pytest.MonkeyPatch
Change = Callable[[Patch], None]


def commands_become(patch: Patch, change: Callable[[StepBuilder, Command], list[Command]]) -> None:
    """Whatever a decision wants done is changed on its way."""
    do = StepBuilder.do

    def changed(self: StepBuilder, command: Command, retry_of: str = "") -> None:
        for instead in change(self, command):
            do(self, instead, retry_of)

    patch.setattr(StepBuilder, "do", changed)


def said_becomes(patch: Patch, kind: type[Any], **fields: Any) -> None:
    """What is said of one kind has other fields."""
    say = StepBuilder.say
    patch.setattr(StepBuilder, "say", lambda self, k, **f: say(self, k, **(f | fields if k is kind else f)))


def another_voice(patch: Patch) -> None:
    """What is spoken is spoken otherwise."""
    commands_become(patch, lambda _, c: [replace(c, text=f"<slow>{c.text}") if isinstance(c, Speak) else c])


def another_deadline(patch: Patch) -> None:
    """The answer is awaited a millisecond longer."""
    arm = StepBuilder.arm
    patch.setattr(StepBuilder, "arm", lambda self, timer, ms: arm(self, timer, ms + (timer == "answer_deadline")))


def a_command_dropped(patch: Patch) -> None:
    """The text buffer is no longer cleared."""
    commands_become(patch, lambda _, c: [] if isinstance(c, ClearText) else [c])


def an_extra_command(patch: Patch) -> None:
    """After the question about the intent, the buffer is cleared."""
    commands_become(patch, lambda _, c: [c, ClearText()] if isinstance(c, ClassifyIntent) else [c])


def another_target(patch: Patch) -> None:
    """The microphone stays open while the agent thinks."""
    commands_become(patch, lambda _, c: [SetMicrophone("open") if c == SetMicrophone("gated") else c])


def two_commands_swapped(patch: Patch) -> None:
    """The timer of the intent is armed after that of the answer."""
    arm = StepBuilder.arm
    late: list[tuple[StepBuilder, int]] = []

    def swapped(self: StepBuilder, timer: str, ms: int) -> None:
        if timer == "intent_deadline":
            late.append((self, ms))
            return
        arm(self, timer, ms)
        if timer == "answer_deadline":
            arm(late[-1][0], "intent_deadline", late[-1][1])

    patch.setattr(StepBuilder, "arm", swapped)


def a_field_of_the_state(patch: Patch) -> None:
    """When a partial came is remembered otherwise; nothing that is said differs."""
    change = evolve._CHANGES[evolve.inputs.SttPartial]

    def changed(session: state.State, event: Any) -> None:
        change(session, event)
        session.partial_at_us += 1

    patch.setitem(evolve._CHANGES, evolve.inputs.SttPartial, changed)


def a_timer_stays_outstanding(patch: Patch) -> None:
    """What is withdrawn is still waited for."""
    patch.setitem(evolve._CANCELS, "CancelTimer", lambda session, event: None)


def another_phase(patch: Patch) -> None:
    """An interruption leads to LISTENING at once."""
    enter = phases.enter
    patch.setattr(
        "orchestrator.session.interruption.enter",
        lambda making, phase, reason="": enter(making, "LISTENING" if phase == "INTERRUPT" else phase, reason),
    )


def another_reason(patch: Patch) -> None:
    """The end of the playback is called otherwise."""
    said_becomes(patch, StateChanged, reason="all_said")


def a_measure_computed_otherwise(patch: Patch) -> None:
    """Nothing is saved by asking in parallel."""
    said_becomes(patch, ProcessingComplete, saved_us=0)


def an_event_dropped(patch: Patch) -> None:
    """The end of an answer is not said any more."""
    patch.setattr(StepBuilder, "end_answer", lambda self, outcome: None)


def an_extra_event(patch: Patch) -> None:
    """A final that opens a turn is also rejected."""
    final = fsm.TABLE["LISTENING", "STT_FINAL"]

    def twice(making: StepBuilder) -> None:
        making.reject("for a start")
        final(making)

    patch.setitem(fsm.TABLE, ("LISTENING", "STT_FINAL"), twice)


def a_timer_gone_stale(patch: Patch) -> None:
    """The pause after an interruption does not end any more by its timer."""
    patch.setitem(fsm.TIMERS, ("INTERRUPT", "interrupt_pause"), "not any more")


def an_exception(patch: Patch) -> None:
    """A decision that did not think of everything."""

    def broken(making: StepBuilder) -> None:
        raise KeyError(making.phase)

    patch.setitem(fsm.TABLE, ("THINKING", "RAG_ANSWERED"), broken)


def turns_counted_from_ten(patch: Patch) -> None:
    """The first turn is the eleventh."""
    started = evolve._CHANGES[TurnStarted]

    def tenfold(session: state.State, event: Any) -> None:
        started(session, event)
        session.turn += 10

    patch.setitem(evolve._CHANGES, TurnStarted, tenfold)


def the_epoch_stays(patch: Patch) -> None:
    """Cancelling a task does not raise the epoch."""
    cancel = evolve._CANCELS["CancelTask"]

    def without(session: state.State, event: Any) -> None:
        cancel(session, event)
        session.epoch -= 1

    patch.setitem(evolve._CANCELS, "CancelTask", without)


def an_input_taken_for_a_repetition(patch: Patch) -> None:
    """A final with words that were understood before."""
    seen = state.State.has_seen
    patch.setattr(
        state.State,
        "has_seen",
        lambda self, producer, seq, event_id: (
            (self.partial_text == "hello" and seq > 9) or seen(self, producer, seq, event_id)
        ),
    )


def a_cell_ignored(patch: Patch) -> None:
    """A barge-in is taken note of, and nothing more."""
    patch.setitem(fsm.TABLE, ("SPEAKING", "BARGE_IN"), fsm.IGNORE)


def a_cell_rejected(patch: Patch) -> None:
    """A barge-in is not expected any more."""
    patch.setitem(fsm.TABLE, ("SPEAKING", "BARGE_IN"), "not while I speak")


def another_idempotency_key(patch: Patch) -> None:
    """An effect would be deduplicated against another one."""
    unchecked_event = step.unchecked_event

    def differently(kind: type[Event], fields: dict[str, Any]) -> Event:
        return unchecked_event(kind, fields | ({"idempotency_key": "key"} if fields.get("idempotency_key") else {}))

    patch.setattr(step, "unchecked_event", differently)


def time_rounded(patch: Patch) -> None:
    """The time of an input is rounded to milliseconds."""
    reduce = reducer.reduce
    patch.setattr(
        "orchestrator.replay.replay.reduce",
        lambda before, event: reduce(before, event.replace(at_us=(event.at_us + 999) // 1000 * 1000 + 1000)),
    )


PLANTED: dict[Change, tuple[str, str, str, str]] = {
    # change → rule, the input it shows at, what differs there, its target
    another_voice: ("ORCH1001", "RAG_ANSWERED", "Speak", "answer-1"),
    another_deadline: ("ORCH1001", "STT_FINAL", "StartTimer", "answer_deadline"),
    another_target: ("ORCH1001", "STT_FINAL", "SetMicrophone", "gated"),
    another_idempotency_key: ("ORCH1001", "STT_FINAL", "ClassifyIntent", "intent"),
    a_command_dropped: ("ORCH1002", "CLIENT_CONNECTED", "ClearText", ""),
    an_extra_command: ("ORCH1003", "STT_FINAL", "ClearText", ""),
    two_commands_swapped: ("ORCH1013", "STT_FINAL", "StartTimer", "intent_deadline"),
    a_field_of_the_state: ("ORCH1004", "STT_PARTIAL", "StartTimer", "endpoint"),
    a_timer_stays_outstanding: ("ORCH1004", "CLIENT_CONNECTED", "ClearText", ""),
    another_phase: ("ORCH1005", "BARGE_IN", "STATE_CHANGED", ""),
    another_reason: ("ORCH1005", "SESSION_OPENED", "STATE_CHANGED", ""),
    a_measure_computed_otherwise: ("ORCH1010", "RAG_ANSWERED", "PROCESSING_COMPLETE", ""),
    turns_counted_from_ten: ("ORCH1010", "STT_FINAL", "STATE_CHANGED", ""),
    the_epoch_stays: ("ORCH1010", "BARGE_IN", "CancelTimer", "playback_deadline"),
    an_event_dropped: ("ORCH1011", "BARGE_IN", "ANSWER_ENDED", ""),
    a_cell_ignored: ("ORCH1011", "BARGE_IN", "ANSWER_ENDED", ""),
    a_cell_rejected: ("ORCH1011", "BARGE_IN", "ANSWER_ENDED", ""),
    an_extra_event: ("ORCH1012", "STT_FINAL", "EVENT_REJECTED", ""),
    a_timer_gone_stale: ("ORCH1008", "TIMER_FIRED", "STATE_CHANGED", ""),
    an_exception: ("ORCH1009", "RAG_ANSWERED", "RAG_ANSWERED", ""),
    an_input_taken_for_a_repetition: ("ORCH1007", "STT_FINAL", "STT_FINAL", ""),
    time_rounded: ("ORCH1007", "SESSION_OPENED", "SESSION_OPENED", ""),
}
IN_NORMAL_FLOW = {an_input_taken_for_a_repetition}


@pytest.mark.parametrize("change", PLANTED, ids=lambda change: change.__name__)
def test_a_planted_change_is_found_by_its_rule_at_its_event(change: Change, monkeypatch: Patch) -> None:
    """The first divergence names the rule, the input of the step that produced it, and the place in that step."""
    file = FIXTURES / ("normal_flow.jsonl" if change in IN_NORMAL_FLOW else "barge_in.jsonl")
    recording = parse(file.read_bytes(), file.name)
    assert replay(recording).divergence is None
    change(monkeypatch)
    found = replay(recording).divergence
    assert found is not None
    is_extra = found.rule.id in ("ORCH1003", "ORCH1012")
    there = found.replayed if is_extra else found.recorded
    assert (found.rule.id, name(found.recorded_step[0]), name(there), getattr(there, "target", "")) == PLANTED[change]
    assert recording.event(found.line - 2).version == found.version
    assert json.dumps(as_json(verdict_of(replay(recording), [])))


def test_no_false_alarm_on_a_thousand_recordings() -> None:
    """Whole conversations with faults, under drawn policies: today's reducer says of each what it said."""
    for seed in range(1_000):
        run = simulate(seed, turns=1, replayed=False)
        recording = parse(run.recording(), f"seed {seed}")
        assert replay(recording).divergences == [], seed
