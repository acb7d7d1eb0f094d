"""Bugs planted in the core, each found by the checker that is there for it, within some dozens of seeds."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from events.derived import CommandIssued, TurnStarted
from orchestrator.runtime.clock import SteadyClock
from orchestrator.session import (
    commands,
    evolve,
    fsm,
    interruption,
    lifecycle,
    listening,
    phases,
    reducer,
    state,
    step,
    transcripts,
)
from orchestrator.session import thinking as thinking_decisions
from orchestrator.session.phases import enter
from orchestrator.session.step import StepBuilder
from orchestrator.simulation import world as simulated_world
from tests.simulation import planted_in_policies, planted_in_texts, planted_in_tools
from tests.simulation.checked import checked
from tests.simulation.checkers import AFTER, BEFORE

SEEDS = 300
RARE = {
    "a_late_final_counts_again": 500,
    "marks_and_signs_are_not_compared": 1_000,
    "pauses_are_not_learnt": 600,
    "it_speaks_of_a_tool_when_its_answer_is_ready": 1_600,
}
"""Bug → the first of its seeds: the situation that shows it is rare."""

DEADLINES = (*phases.TIMERS_OF_THE_TURN, *phases.TIMERS_OF_THE_PLAYBACK)

Patch = pytest.MonkeyPatch


def any_result_counts(patch: Patch) -> None:
    """A result counts if its command is outstanding, of whatever kind it is."""
    patch.setattr(state.State, "answered", lambda self, result: self.pending.get(result.command_id))


def a_stopped_playback_stays_outstanding(patch: Patch) -> None:
    """What is stopped is told to be silent, and is still listened to."""
    patch.setitem(evolve._CANCELS, "StopPlayback", lambda session, event: None)


def a_deadline_is_never_armed(patch: Patch) -> None:
    """The answer is awaited for ever."""
    arm = StepBuilder.arm
    patch.setattr(
        StepBuilder, "arm", lambda self, timer, ms: None if timer == "answer_deadline" else arm(self, timer, ms)
    )


def a_final_is_handled_twice(patch: Patch) -> None:
    """One utterance, two turns."""

    def twice(making: StepBuilder) -> None:
        listening.final(making)
        thinking_decisions.final(making)

    patch.setitem(fsm.TABLE, ("LISTENING", "STT_FINAL"), twice)


def an_interruption_forgets_the_task(patch: Patch) -> None:
    """No CancelTask."""

    def leave_turn(making: StepBuilder) -> None:
        phases.stop_playback(making)
        making.disarm(*DEADLINES)

    patch.setattr(interruption, "leave_turn", leave_turn)


def an_interruption_forgets_the_playback(patch: Patch) -> None:
    """No StopPlayback."""
    patch.setattr(phases, "stop_playback", lambda making: None)


def repetitions_are_accepted(patch: Patch) -> None:
    """The high-water mark of a producer is not looked at."""
    patch.setattr(state.State, "has_seen", lambda self, *about: False)


def the_end_of_another_playback_counts(patch: Patch) -> None:
    """PLAYBACK_DONE is not compared with the playback of its command."""
    patch.setattr(state, "answers", lambda result, command: command.name in commands.ANSWERS[type(result)])


def the_epoch_stays(patch: Patch) -> None:
    """Cancelling a task does not raise the epoch."""
    cancel_task = evolve._CANCELS["CancelTask"]

    def without_epoch(session: state.State, event: Any) -> None:
        cancel_task(session, event)
        session.epoch -= 1

    patch.setitem(evolve._CANCELS, "CancelTask", without_epoch)


def turns_are_counted_twice(patch: Patch) -> None:
    """1, 3, 5, …"""
    started = evolve._CHANGES[TurnStarted]

    def twice(session: state.State, event: Any) -> None:
        started(session, event)
        session.turn += 1

    patch.setitem(evolve._CHANGES, TurnStarted, twice)


def a_new_owner_asks_nothing(patch: Patch) -> None:
    """SESSION_RESUMED is ignored."""
    for phase in fsm.LIVE:
        patch.setitem(fsm.TABLE, (phase, "SESSION_RESUMED"), fsm.IGNORE)


def held_words_are_dropped(patch: Patch) -> None:
    """What is said in INTERRUPT is lost."""
    patch.setattr(transcripts, "hold", lambda session, words, via: None)


def the_end_of_a_filler_ends_the_turn(patch: Patch) -> None:
    """The filler has finished, so the agent listens."""

    def filler_done(making: StepBuilder) -> None:
        phases.leave_turn(making)
        making.end_turn("completed")
        enter(making, "LISTENING", "playback_done")

    patch.setitem(fsm.TABLE, ("THINKING", "PLAYBACK_DONE"), filler_done)


def timers_outlive_the_session(patch: Patch) -> None:
    """ENDED withdraws nothing but the deadlines of the turn."""
    disarm = StepBuilder.disarm
    stages = {*DEADLINES, "interrupt_pause"}
    patch.setattr(StepBuilder, "disarm", lambda self, *timers: disarm(self, *(t for t in timers if t in stages)))


def timers_are_never_withdrawn(patch: Patch) -> None:
    """A deadline goes on after what it waited for has come."""
    patch.setattr(StepBuilder, "disarm", lambda self, *timers: None)


def the_cause_is_wrong(patch: Patch) -> None:
    """Derived events do not name their input."""

    def say(self: StepBuilder, kind: Any, **fields: Any) -> Any:
        self.events.append(said(self, kind, **fields).model_copy(update={"cause": "nothing"}))
        del self.events[-2]
        return self.events[-1]

    said = StepBuilder.say
    patch.setattr(StepBuilder, "say", say)


def a_version_is_missing(patch: Patch) -> None:
    """The versions of a step have a gap when it turns to SPEAKING."""
    reduce = reducer.reduce

    def with_gap(before: state.State, event: Any) -> reducer.Step:
        made = reduce(before, event)
        if len(made.events) < 6:
            return made
        last = made.events[-1].model_copy(update={"version": made.events[-1].version + 1})
        return reducer.Step(made.state, (*made.events[:-1], last), made.commands)

    patch.setattr(reducer, "reduce", with_gap)


def a_command_is_kept_without_its_hash(patch: Patch) -> None:
    """A copy is made before the last event of a step gets the hash of the state."""
    issued = evolve._CHANGES[CommandIssued]

    def kept(now: state.State, event: Any) -> None:
        issued(now, event)
        if event.command_id in now.pending:
            now.pending[event.command_id] = event.replace()

    patch.setitem(evolve._CHANGES, CommandIssued, kept)


def a_cell_raises(patch: Patch) -> None:
    """Somebody forgot that an answer can be interrupted before it has begun."""

    def barge_in(making: StepBuilder) -> None:
        assert making.state.playback is not None
        assert making.state.playback.chunks

    patch.setitem(fsm.TABLE, ("SPEAKING", "SPEECH_STARTED"), barge_in)


def a_decision_depends_on_the_process(patch: Patch) -> None:
    """A counter outside of the state."""
    counter, reject = count(), StepBuilder.reject
    patch.setattr(StepBuilder, "reject", lambda self, reason: reject(self, f"{reason} ({next(counter)})"))


def a_session_goes_on_after_its_end(patch: Patch) -> None:
    """ENDED is not absorbing."""
    patch.setitem(fsm.TABLE, ("ENDED", "STT_FINAL"), listening.final)


def the_microphone_stays_open(patch: Patch) -> None:
    """THINKING does not gate it."""
    patch.setitem(phases.MICROPHONE, "THINKING", "open")


def more_is_heard_than_there_was(patch: Patch) -> None:
    """The heard position is not bounded by the audio."""
    patch.setattr(step, "heard_ms", lambda playback, now_us: playback.audio_ms + 10)


def an_interruption_never_ends(patch: Patch) -> None:
    """The pause is over, and nothing happens."""
    patch.setitem(fsm.TIMERS, ("INTERRUPT", "interrupt_pause"), fsm.IGNORE)


def command_ids_come_again(patch: Patch) -> None:
    """Inputs are not counted."""
    note = evolve._note_input

    def note_without_counting(session: state.State, event: Any) -> None:
        note(session, event)
        session.inputs = 1

    patch.setattr(evolve, "_note_input", note_without_counting)


def a_rejection_has_an_effect(patch: Patch) -> None:
    """A blank final clears the text, and is rejected."""
    reject = StepBuilder.reject

    def reject_and_clear(self: StepBuilder, reason: str) -> None:
        self.do(commands.ClearText())
        reject(self, reason)

    patch.setattr(StepBuilder, "reject", reject_and_clear)


def two_tasks_at_once(patch: Patch) -> None:
    """A final in THINKING starts a turn beside the one that is open."""
    patch.setitem(fsm.TABLE, ("THINKING", "STT_FINAL"), listening.final)


def a_lost_client_is_not_missed(patch: Patch) -> None:
    """CLIENT_DISCONNECTED arms no timer."""
    for phase in fsm.LIVE:
        patch.setitem(fsm.TABLE, (phase, "CLIENT_DISCONNECTED"), fsm.IGNORE)


def a_client_that_is_back_is_still_missed(patch: Patch) -> None:
    """CLIENT_CONNECTED does not withdraw the timer."""

    def client_connected(making: StepBuilder) -> None:
        if making.phase == "IDLE":
            enter(making, "LISTENING", "client_connected")

    for phase in fsm.LIVE:
        patch.setitem(fsm.TABLE, (phase, "CLIENT_CONNECTED"), client_connected)


def a_late_answer_is_waited_for(patch: Patch) -> None:
    """The deadline of the answer is noted and changes nothing."""
    patch.setitem(fsm.TIMERS, ("THINKING", "answer_deadline"), fsm.IGNORE)


def a_session_ends_with_work_outstanding(patch: Patch) -> None:
    """ENDED does not cancel the current task."""
    patch.setattr(lifecycle, "STAGES", ())
    patch.setattr(lifecycle, "leave_turn", lambda making: making.disarm(*DEADLINES))


def an_answer_that_plays_out_is_half_told(patch: Patch) -> None:
    """PLAYBACK_DONE ends the answer as if it had been interrupted."""

    def playback_done(making: StepBuilder) -> None:
        making.disarm("tts_deadline", "playback_deadline")
        making.end_answer("interrupted")
        making.end_turn("completed")
        enter(making, "LISTENING", "playback_done")

    patch.setitem(fsm.TABLE, ("SPEAKING", "PLAYBACK_DONE"), playback_done)


def the_log_follows_the_wall_clock(patch: Patch) -> None:
    """The owner's wall clock stamps events, and timers wait for it."""

    class WallClock(SteadyClock):
        def now_us(self) -> int:
            world: Any = getattr(self._monotonic, "__self__", None)
            return max(0, world.wall_us(world.owner.node)) if world and world.owner else super().now_us()

    patch.setattr(simulated_world, "SteadyClock", WallClock)
    patch.setattr(simulated_world, "after_takeover", lambda last_us, since_us, server, real: WallClock(last_us, real))


def a_new_owner_begins_by_its_own_clock(patch: Patch) -> None:
    """The gap is what the date of the take-over is after the last event, by whatever clock that was."""
    patch.setattr(
        simulated_world,
        "after_takeover",
        lambda last_us, since_us, server, real: SteadyClock(max(last_us, server.now_us()), real),
    )


def the_gap_between_owners_takes_no_time(patch: Patch) -> None:
    """The log goes on where it stood."""
    patch.setattr(simulated_world, "after_takeover", lambda last_us, since_us, server, real: SteadyClock(last_us, real))


def a_filler_plays_on_under_the_answer(patch: Patch) -> None:
    """SPEAKING begins without silencing the filler."""
    patch.setattr(thinking_decisions, "stop_playback", lambda making: None)


def a_lost_call_takes_the_answer_along(patch: Patch) -> None:
    """HANDLER_DETACHED is noted, and nobody speaks on."""
    patch.setitem(fsm.TABLE, ("SPEAKING", "HANDLER_DETACHED"), lifecycle.handler_detached)


def a_lost_call_begins_the_answer_anew(patch: Patch) -> None:
    """What was heard of it is forgotten."""
    patch.setattr(lifecycle, "heard_ms", lambda playback, now_us: 0)


def a_deaf_agent_says_nothing(patch: Patch) -> None:
    """HEARING_FAILED is noted, and the user waits."""
    patch.setitem(fsm.TABLE, ("LISTENING", "HEARING_FAILED"), fsm.IGNORE)
    patch.setattr(listening.announcements, "ask_again", lambda making: False)


BUGS: list[tuple[Callable[[Patch], None], str]] = [
    (the_log_follows_the_wall_clock, "I-1 time_passes_in_the_log"),
    (the_log_follows_the_wall_clock, "I-6 no_phase_outlasts_its_deadline"),
    (a_new_owner_begins_by_its_own_clock, "I-1 time_passes_in_the_log"),
    (the_gap_between_owners_takes_no_time, "I-1 time_passes_in_the_log"),
    (any_result_counts, "I-10 a_result_counts_while_outstanding"),
    (a_stopped_playback_stays_outstanding, "I-10 a_result_counts_while_outstanding"),
    (a_deadline_is_never_armed, "I-6 something_is_always_awaited"),
    (a_final_is_handled_twice, "I-5 each_utterance_counts_once"),
    (an_interruption_forgets_the_task, "I-7 an_interruption_stops_everything"),
    (an_interruption_forgets_the_playback, "I-7 an_interruption_stops_everything"),
    (turns_are_counted_twice, "I-7 silence_outside_of_speaking"),
    (two_tasks_at_once, "I-4 one_current_task"),
    (timers_are_never_withdrawn, "I-9 timers_are_armed_once_and_withdrawn"),
    (repetitions_are_accepted, "I-5 each_input_once"),
    (the_end_of_another_playback_counts, "I-8 only_the_answer_ends_speaking"),
    (the_epoch_stays, "I-1 numbers_count_up"),
    (turns_are_counted_twice, "I-1 numbers_count_up"),
    (a_new_owner_asks_nothing, "I-14 a_new_owner_asks_again"),
    (held_words_are_dropped, "I-5 each_utterance_counts_once"),
    (the_end_of_a_filler_ends_the_turn, "I-8 only_the_answer_ends_speaking"),
    (timers_outlive_the_session, "I-11 nothing_left_at_the_end"),
    (timers_are_never_withdrawn, "I-9 no_timer_outlives_its_phase"),
    (the_cause_is_wrong, "I-18 causes_make_a_line"),
    (a_version_is_missing, "I-1 numbers_count_up"),
    (a_command_is_kept_without_its_hash, "I-2 the_state_is_the_fold"),
    (a_cell_raises, "I-12 the_reducer_is_total"),
    (a_decision_depends_on_the_process, "I-3 a_replay_is_equal"),
    (a_session_goes_on_after_its_end, "I-11 nothing_after_the_end"),
    (the_microphone_stays_open, "microphone the_microphone_follows_the_phase"),
    (more_is_heard_than_there_was, "I-8 an_answer_ends_as_it_was_heard"),
    (an_interruption_never_ends, "I-6 something_is_always_awaited"),
    (an_interruption_never_ends, "liveness it_comes_to_rest"),
    (command_ids_come_again, "I-10 command_ids_follow_from_the_input"),
    (a_rejection_has_an_effect, "I-12 a_rejection_is_all_there_is"),
    (two_tasks_at_once, "I-4 turns_follow_each_other"),
    (a_lost_client_is_not_missed, "I-6 something_is_always_awaited"),
    (a_lost_client_is_not_missed, "liveness it_comes_to_rest"),
    (a_client_that_is_back_is_still_missed, "I-11 nobody_is_missed_who_is_there"),
    (a_late_answer_is_waited_for, "I-6 no_phase_outlasts_its_deadline"),
    (a_session_ends_with_work_outstanding, "I-11 nothing_left_at_the_end"),
    (an_answer_that_plays_out_is_half_told, "I-8 an_answer_ends_as_it_was_heard"),
    (a_filler_plays_on_under_the_answer, "I-4 work_fits_the_phase"),
    (a_lost_call_takes_the_answer_along, "connection what_breaks_off_goes_on"),
    (a_lost_call_begins_the_answer_anew, "connection what_breaks_off_goes_on"),
    (a_deaf_agent_says_nothing, "connection who_is_not_heard_is_told"),
    *planted_in_policies.PLANTED,
    *planted_in_texts.PLANTED,
    *planted_in_tools.PLANTED,
]


@pytest.mark.parametrize(("plant", "checker"), BUGS, ids=[f"{plant.__name__}: {found}" for plant, found in BUGS])
def test_a_planted_bug_is_found(plant: Callable[[Patch], None], checker: str, monkeypatch: Patch) -> None:
    """The checker that is there for it reports it."""
    plant(monkeypatch)
    first = RARE.get(plant.__name__, 0)
    found = (checked(seed, replayed=checker.startswith("I-3")).violations for seed in range(first, first + SEEDS))
    assert any(f"{v.invariant} {v.checker}" == checker for violations in found for v in violations)


def test_every_checker_has_a_bug_to_find() -> None:
    """A checker that never found anything may be blind."""
    named = {f"{invariant} {checker.__name__}" for invariant, checker in (*BEFORE, *AFTER)}
    assert named <= {checker for _, checker in BUGS}
