"""Bugs to plant in what policies lead to: pausing, guesses, merged words, fillers, announcements, endings."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from events.derived import UserInterrupted
from events.inputs import PlaybackProgress, SttFinal
from orchestrator.session import (
    announcements,
    endpointing,
    evolve,
    fsm,
    interruption,
    listening,
    phases,
    phrases,
    speaking,
    speculation,
    state,
    step,
    thinking,
    transcripts,
)
from orchestrator.session.commands import AnswerQuestion, ResumePlayback, Speak
from orchestrator.session.heard import guessed_ms, heard_ms, length_ms
from orchestrator.session.phases import enter, speak
from orchestrator.session.phrases import are_alike
from orchestrator.session.step import StepBuilder

Patch = pytest.MonkeyPatch


def resume_is_forgotten(patch: Patch) -> None:
    """A backchannel, or a false interruption, leaves the answer paused."""
    patch.setattr(interruption, "_resume", lambda making: making.disarm("barge_in", "false_interruption"))


def pause_is_forgotten(patch: Patch) -> None:
    """The agent talks on while it is decided."""
    patch.setattr(interruption, "_pause", lambda making: None)


def another_playback_is_resumed(patch: Patch) -> None:
    """The state has it resumed, the player holds it."""

    def resume(making: StepBuilder) -> None:
        making.disarm("barge_in", "false_interruption")
        if interruption.playing(making).is_paused:
            making.do(ResumePlayback(playback_id="answer-0"))
            speaking.await_playback(making)

    patch.setattr(interruption, "_resume", resume)


def a_pause_lasts_a_minute(patch: Patch) -> None:
    """A user who coughed, and of whom no final comes, is waited for."""
    patch.setattr(interruption, "_wait_for_words", lambda making, wait_ms: making.arm("false_interruption", 60_000))


def time_goes_on_in_a_pause(patch: Patch) -> None:
    """What is paused is heard on."""

    def paused(session: state.State, _: Any) -> None:
        if session.playback is not None:
            session.playback = replace(session.playback, paused_at_us=session.at_us)

    patch.setitem(evolve._BEGINS, "PausePlayback", paused)


def a_backchannel_interrupts(patch: Patch) -> None:
    """Every word takes the floor."""
    patch.setattr(interruption, "may_become", lambda text, phrases: False)
    patch.setattr(interruption, "consists_of", lambda text, phrases: False)


def a_backchannel_is_held(patch: Patch) -> None:
    """It does not interrupt, and opens a turn when the answer is over."""

    def final(making: StepBuilder) -> None:
        decided(making)
        if making.phase == "SPEAKING" and isinstance(making.input, SttFinal) and making.input.text.strip():
            making.state.held_text, making.state.held_via = making.input.text, "speech"

    decided = interruption.final
    patch.setitem(fsm.TABLE, ("SPEAKING", "STT_FINAL"), final)


def any_sound_interrupts(patch: Patch) -> None:
    """The policy's duration and words are not looked at."""
    patch.setattr(interruption, "_is_confirmed", lambda making: True)


def words_of_an_interruption_are_lost(patch: Patch) -> None:
    """They interrupt, and open no turn."""
    patch.setitem(evolve._CHANGES, UserInterrupted, lambda session, event: None)


def a_guess_is_adopted_for_other_words(patch: Patch) -> None:
    """The user has said more since, and gets the answer to the half."""
    patch.setattr(
        speculation, "adopt", lambda making, text: making.state.speculation.number if making.state.speculation else 0
    )


def a_guess_is_spoken(patch: Patch) -> None:
    """The answer was quick, so why wait for the end of the question."""

    def answered(making: StepBuilder) -> None:
        guess = making.state.speculation
        if guess is not None and guess.found.answer is not None:
            speculation.drop(making)
            making.disarm("stable", "away", "greeting")
            enter(making, "SPEAKING")
            speak(making, Speak(ends="", from_ms=0, playback_id="answer-0", text=guess.found.answer))

    patch.setitem(fsm.TABLE, ("LISTENING", "RAG_ANSWERED"), answered)


def guesses_without_end(patch: Patch) -> None:
    """`tries` is not looked at."""

    def ask(making: StepBuilder) -> None:
        text, number = making.state.partial_text.strip(), making.state.tries + 1
        if text:
            speculation.drop(making)
            making.do(AnswerQuestion(conversation_to=0, speculation=number, text=text))

    patch.setattr(speculation, "_ask", ask)


def a_merge_loses_the_first_half(patch: Patch) -> None:
    """Only what was added is asked."""

    def start_over(making: StepBuilder, words: str, via: str) -> None:
        merges = making.state.policy.thinking.more_words == "merge" and making.state.task.via == via == "speech"  # type: ignore[union-attr]
        phases.leave_turn(making)
        making.end_turn("merged" if merges else "superseded")
        thinking.begin_turn(making, words, via)

    patch.setattr(thinking, "_start_over", start_over)


def a_filler_does_not_wait(patch: Patch) -> None:
    """It is played at once, whatever the policy says."""
    arm = StepBuilder.arm

    def arm_or_play(self: StepBuilder, timer: str, ms: int) -> None:
        if timer == "filler":
            phases.play_filler(self)
        else:
            arm(self, timer, ms)

    patch.setattr(StepBuilder, "arm", arm_or_play)


def a_farewell_never_ends(patch: Patch) -> None:
    """The last words are over, and the agent listens."""

    def playback_done(making: StepBuilder) -> None:
        making.disarm(*phases.TIMERS_OF_THE_PLAYBACK)
        making.end_answer("finished")
        making.end_turn("completed")
        listening.listen(making, "playback_done")

    patch.setitem(fsm.TABLE, ("SPEAKING", "PLAYBACK_DONE"), playback_done)


def the_limit_is_ignored(patch: Patch) -> None:
    """The conversation goes on after its time."""
    patch.setattr(announcements, "bid_farewell", lambda making, ends: None)
    patch.setitem(fsm.TIMERS, ("LISTENING", "session_limit"), fsm.IGNORE)


def everything_was_heard(patch: Patch) -> None:
    """An interrupted answer is told whole."""
    patch.setattr(step, "heard_text", lambda playback, position_ms, **_: playback.text)


def progress_is_not_looked_at(patch: Patch) -> None:
    """The heard position is never set right, nor begins."""
    patch.setitem(evolve._CHANGES, PlaybackProgress, lambda session, event: None)
    patch.setattr(evolve, "heard_ms", lambda playback, now_us: 0)
    patch.setattr(step, "heard_ms", lambda playback, now_us: playback.audio_ms)


def a_silent_user_is_not_missed(patch: Patch) -> None:
    """Nobody asks whether they are there."""
    patch.setattr(announcements, "expect_words", lambda making: None)


def a_silent_user_is_asked_for_ever(patch: Patch) -> None:
    """The prompts are not counted."""

    def away(making: StepBuilder) -> None:
        if endpointing.is_quiet(making):
            text = making.state.policy.away.text
            announcements._announce(making, f"away-{making.state.inputs}", text, "user_away")

    patch.setitem(fsm.TIMERS, ("LISTENING", "away"), away)


def an_endpoint_comes_at_once(patch: Patch) -> None:
    """Silence of any length ends the utterance."""
    patch.setattr(endpointing, "due_at_us", lambda session: session.speech_stopped_at_us)


def pauses_are_not_learnt(patch: Patch) -> None:
    """A caller who pauses is cut off again and again."""
    patch.setattr(transcripts, "after_pause", lambda pause_ms, silence_ms: pause_ms)


def speech_never_ends(patch: Patch) -> None:
    """SPEECH_STOPPED arms no endpoint."""
    patch.setattr(endpointing, "speech_stopped", lambda making: None)


def the_user_is_not_waited_for(patch: Patch) -> None:
    """The agent begins whether they speak or not."""
    patch.setattr(endpointing, "is_quiet", lambda making: True)


def one_utterance_by_two_ways_counts_twice(patch: Patch) -> None:
    """Who said the last words is not looked at."""
    patch.setattr(state.State, "repeats", lambda self, final: False)


def a_late_final_counts_again(patch: Patch) -> None:
    """Words that counted as a partial are asked about a second time when their final comes."""
    patch.setattr(state.State, "late_words", lambda self, at_us: "")


def whoever_answers_a_farewell_is_hung_up_on(patch: Patch) -> None:
    """The session ends, although the user is speaking again."""
    patch.setattr(speaking, "_is_answered", lambda making: False)


def words_over_the_agent_are_forgotten(patch: Patch) -> None:
    """All of them, when the agent falls silent: also those whose final is still to come."""

    def listening_begins(held: state.State) -> None:
        held.partial_text = ""

    patch.setattr(transcripts, "listening_begins", listening_begins)


def typed_words_are_repetitions(patch: Patch) -> None:
    """What is typed just after somebody said it is not answered."""

    def repeats(self: state.State, final: SttFinal) -> bool:
        last = self.utterance
        return last is not None and last.producer != final.producer and are_alike(last.spoken, final.text)

    patch.setattr(state.State, "repeats", repeats)


def marks_and_signs_are_not_compared(patch: Patch) -> None:
    """Letters and digits are the whole of a text."""

    def normal(text: str) -> str:
        return re.sub(r"[^\w']+|_+", " ", text.casefold()).strip()

    patch.setattr(phrases, "normal", normal)


def composition_is_compared(patch: Patch) -> None:
    """A letter with an accent is another one when it is composed otherwise."""
    patch.setattr(phrases, "normal", lambda text: " ".join(text.casefold().rstrip(".").split()))


def producers_are_forgotten(patch: Patch) -> None:
    """All but the last 32."""
    patch.setattr(evolve, "PRODUCERS_KEPT", 32)


def the_length_is_guessed(patch: Patch) -> None:
    """Whether an answer is about to end, though synthesis goes on."""
    patch.setattr(
        interruption, "left_ms", lambda playback, now_us: length_ms(playback, guessed_ms) - heard_ms(playback, now_us)
    )


def failures_are_not_counted(patch: Patch) -> None:
    """The agent is sorry for ever."""
    patch.setattr(thinking, "_ends", lambda making, fallback: "")


def two_voices(patch: Patch) -> None:
    """The filler is asked for again beside the answer."""

    def speak_and_fill(making: StepBuilder, command: Speak) -> None:
        speak(making, command)
        phases.play_filler(making)

    patch.setattr(thinking, "speak", speak_and_fill)


PLANTED: list[tuple[Callable[[Patch], None], str]] = [
    (resume_is_forgotten, "pause it_pauses_until_it_is_decided"),
    (resume_is_forgotten, "I-6 something_is_always_awaited"),
    (pause_is_forgotten, "pause it_pauses_until_it_is_decided"),
    (another_playback_is_resumed, "pause what_is_paused_is_silent"),
    (a_pause_lasts_a_minute, "pause a_pause_ends"),
    (time_goes_on_in_a_pause, "I-8 what_was_heard_was_played"),
    (a_backchannel_interrupts, "I-7 an_interruption_stops_everything"),
    (a_backchannel_is_held, "I-5 each_utterance_counts_once"),
    (any_sound_interrupts, "I-7 an_interruption_stops_everything"),
    (words_of_an_interruption_are_lost, "I-5 each_utterance_counts_once"),
    (a_guess_is_adopted_for_other_words, "guess a_guess_counts_for_its_words"),
    (a_guess_is_adopted_for_other_words, "answer an_answer_is_to_its_question"),
    (a_guess_is_spoken, "answer an_answer_is_to_its_question"),
    (a_guess_is_spoken, "I-4 one_current_task"),
    (guesses_without_end, "guess guesses_are_made_while_listening"),
    (a_merge_loses_the_first_half, "I-5 each_utterance_counts_once"),
    (a_filler_does_not_wait, "filler a_filler_has_its_time"),
    (a_farewell_never_ends, "I-8 only_the_answer_ends_speaking"),
    (a_farewell_never_ends, "end a_farewell_is_the_end"),
    (the_limit_is_ignored, "end a_conversation_ends_in_time"),
    (everything_was_heard, "I-8 what_was_heard_was_played"),
    (progress_is_not_looked_at, "I-8 what_was_heard_was_played"),
    (a_silent_user_is_not_missed, "unasked a_silent_user_is_missed"),
    (a_silent_user_is_asked_for_ever, "unasked what_is_said_unasked_is_due"),
    (an_endpoint_comes_at_once, "endpoint an_utterance_is_finished"),
    (pauses_are_not_learnt, "endpoint an_utterance_is_finished"),
    (speech_never_ends, "endpoint an_utterance_is_waited_for"),
    (the_user_is_not_waited_for, "floor the_agent_waits_for_the_user"),
    (one_utterance_by_two_ways_counts_twice, "I-5 each_utterance_counts_once"),
    (a_late_final_counts_again, "I-5 each_utterance_counts_once"),
    (whoever_answers_a_farewell_is_hung_up_on, "end a_farewell_is_the_end"),
    (words_over_the_agent_are_forgotten, "I-5 each_utterance_counts_once"),
    (typed_words_are_repetitions, "I-5 each_utterance_counts_once"),
    (marks_and_signs_are_not_compared, "guess a_guess_counts_for_its_words"),
    (marks_and_signs_are_not_compared, "answer an_answer_is_to_its_question"),
    (composition_is_compared, "guess a_guess_counts_for_its_words"),
    (producers_are_forgotten, "I-5 each_input_once"),
    (the_length_is_guessed, "I-7 an_interruption_stops_everything"),
    (failures_are_not_counted, "answer an_answer_is_to_its_question"),
    (two_voices, "I-7 one_voice"),
]
