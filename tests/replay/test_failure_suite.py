"""Replays the recordings of what goes wrong for users of other frameworks, and says in short what is right in each.

The recordings are written by `python -m fixtures.failures.write`, their golden logs by `pytest --snapshot-update`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from events.codec import encode
from events.derived import AnswerEnded, CommandIssued, EventRejected, StateChanged, TurnEnded, TurnStarted
from events.envelope import Event, Input, Result
from events.recording import Header, Recording, dump, parse
from fixtures.failures.scene import HELLO, HOURS, WHERE, told
from fixtures.failures.streaming import TEXTS
from fixtures.failures.write import STORIES, played
from orchestrator.replay.replay import replay
from orchestrator.session.commands import ANSWERS
from orchestrator.session.policy import Policy
from orchestrator.session.state import State
from orchestrator.testing.conversation import Conversation, recorded
from orchestrator.testing.golden_file import golden_file
from projections.golden_log import golden

FAILURES = Path(__file__).resolve().parents[2] / "fixtures" / "failures"
FALLBACK, CUT_OFF = Policy().fallback.answer, Policy().fallback.cut_off
TABLE = "Let me change that for you. You have a table for six."
OPEN, WHERE_ARE_YOU = "when are you open", "where are you"

Told = tuple[str, str, str | None]
"""A turn in short: what the user said, how it ended, and how much of the answer was heard; None: never spoken."""


@dataclass(frozen=True)
class Expected:
    """What is right: the turns, the inputs that had no effect, the repetitions that left no trace, the last phase, and
    how often the agent spoke of its own accord.
    """

    turns: list[Told]
    rejected: int = 0
    repeated: int = 0
    ends: str = "LISTENING"
    announced: int = 0


def completed(words: str = "hello", heard: str = HELLO) -> Told:
    return words, "completed", heard


def interrupted(heard: str, words: str = OPEN) -> Told:
    return words, "interrupted", heard


def merged(words: str) -> Told:
    return words, "merged", None


def superseded(words: str) -> Told:
    return words, "superseded", None


def failed(heard: str = "", words: str = "hello") -> Told:
    return words, "failed", heard


HELLO_TURN, WHERE_TURN, OPEN_TURN = completed(), completed(WHERE_ARE_YOU, WHERE), completed(OPEN, HOURS)

RIGHT: dict[str, Expected] = {
    # The flow that this one replaces.
    "two_fillers": Expected([HELLO_TURN], repeated=1),
    "processed_twice": Expected([HELLO_TURN], repeated=1),
    "mismatched_ids": Expected([HELLO_TURN]),
    "speaking_twice": Expected([HELLO_TURN], rejected=1),
    "overlapping_audio": Expected([HELLO_TURN], rejected=2),
    "two_ways_in": Expected([HELLO_TURN], repeated=9),
    # Stale results.
    "stale_reply_over_new_words": Expected([superseded(OPEN), completed("no, where are you", WHERE)], rejected=1),
    "stale_reply_over_new_speech": Expected([superseded(OPEN), completed("no, where are you", WHERE)]),
    "final_that_never_comes": Expected([merged(OPEN), completed("when are you open where are you", WHERE)]),
    "cough_over_the_answer": Expected([HELLO_TURN, HELLO_TURN, HELLO_TURN]),
    "discarded_generation": Expected(
        [merged("goodbye"), completed("goodbye is a song, do you know it", "I do not know that one.")], rejected=2
    ),
    "duplicate_reply": Expected(
        [merged("I would"), merged("I would like"), completed("I would like to know when you open", HOURS)],
        rejected=2,
    ),
    "result_repeated": Expected([OPEN_TURN], rejected=1),
    "orphan_results": Expected([HELLO_TURN], rejected=14),
    "result_of_another_kind": Expected([HELLO_TURN], rejected=3),
    "call_left_in_progress": Expected([superseded("book a table"), completed("forget it", "All right.")]),
    "timer_after_its_withdrawal": Expected([HELLO_TURN, OPEN_TURN], rejected=2),
    "late_chunks_of_the_last_answer": Expected([HELLO_TURN, WHERE_TURN], rejected=3),
    "another_sessions_answer": Expected([OPEN_TURN, WHERE_TURN], rejected=1, ends="LISTENING LISTENING"),
    "result_before_the_session": Expected([HELLO_TURN], rejected=2),
    # Transcripts.
    "transcript_after_the_stop": Expected([OPEN_TURN]),
    "transcript_before_the_stop": Expected([HELLO_TURN]),
    "hesitation": Expected([OPEN_TURN], rejected=1),
    "forgotten_partials": Expected([OPEN_TURN, HELLO_TURN]),
    "next_turn_swallowed": Expected([OPEN_TURN, WHERE_TURN]),
    "next_turn_just_before_the_end": Expected([interrupted(HOURS), WHERE_TURN], rejected=1),
    "words_lost_in_the_interruption": Expected([interrupted("We are open"), completed("stop where are you", WHERE)]),
    "empty_finals": Expected([interrupted("We are open"), HELLO_TURN], rejected=4),
    "final_twice": Expected([HELLO_TURN], rejected=3),
    "words_before_the_client": Expected([HELLO_TURN], rejected=1),
    "typed_over_the_answer": Expected([interrupted("We are open every"), WHERE_TURN]),
    # Interruptions.
    "audio_after_the_interruption": Expected([interrupted("We"), WHERE_TURN], rejected=4),
    "end_of_the_old_playback": Expected([interrupted("We are"), WHERE_TURN], rejected=1),
    "barge_in_while_thinking": Expected([HELLO_TURN]),
    "barge_in_over_the_filler": Expected([HELLO_TURN], rejected=1),
    "late_barge_in": Expected([HELLO_TURN, OPEN_TURN], rejected=2),
    "interrupted_by_two": Expected([interrupted("We are open"), WHERE_TURN], rejected=1),
    "interrupted_again_and_again": Expected(
        [*(interrupted("We are", words) for words in (OPEN, "on Sundays", "at Christmas")), WHERE_TURN]
    ),
    "heard_words_forgotten": Expected(
        [interrupted("We are open every day from nine"), completed("go on", "To six in the evening.")]
    ),
    "unheard_words_remembered": Expected([interrupted("We are open"), completed("go on", "We close at six.")]),
    "interrupted_before_the_first_frame": Expected([interrupted(""), WHERE_TURN]),
    # Playback.
    "lost_confirmation": Expected([failed(HOURS, OPEN), HELLO_TURN]),
    "late_confirmation": Expected([failed(HOURS, OPEN), HELLO_TURN], rejected=1),
    "confirmed_twice": Expected([HELLO_TURN, OPEN_TURN], rejected=1),
    "speaking_but_silent": Expected([failed(), HELLO_TURN]),
    "audio_that_stops": Expected([failed("", OPEN), HELLO_TURN]),
    "audio_after_the_deadline": Expected([failed(), HELLO_TURN], rejected=2),
    "empty_answer": Expected([failed(), HELLO_TURN]),
    "end_of_the_filler": Expected([HELLO_TURN]),
    "end_without_the_beginning": Expected([HELLO_TURN, HELLO_TURN], rejected=1),
    # Services.
    "intent_down": Expected([HELLO_TURN]),
    "intent_down_after_the_answer": Expected([HELLO_TURN]),
    "intent_last": Expected([HELLO_TURN]),
    "provider_switched": Expected([HELLO_TURN, completed(OPEN, HOURS)]),
    "intent_slow": Expected([HELLO_TURN], rejected=1),
    "intent_slow_answer_slower": Expected([HELLO_TURN]),
    "answer_down": Expected([completed(heard=FALLBACK), HELLO_TURN], rejected=1),
    "answer_slow": Expected([completed(heard=FALLBACK), HELLO_TURN], rejected=1),
    "both_down": Expected([completed(heard=FALLBACK)]),
    "speech_down": Expected([failed(), HELLO_TURN]),
    "recogniser_breaks": Expected([], ends="ENDED", announced=2),
    "recogniser_hangs": Expected([HELLO_TURN], announced=2),
    "speech_breaks_in_the_middle": Expected([failed("We are open", OPEN), HELLO_TURN]),
    "filler_down": Expected([HELLO_TURN]),
    # Recovery.
    "crash_in_thinking": Expected([OPEN_TURN], rejected=1),
    "crash_in_speaking": Expected([OPEN_TURN], rejected=1),
    "crash_in_speaking_and_back_late": Expected([OPEN_TURN]),
    "crash_in_interrupt": Expected([interrupted("We are open"), WHERE_TURN]),
    "crash_in_listening": Expected([HELLO_TURN, WHERE_TURN]),
    "crash_over_a_filler": Expected([HELLO_TURN]),
    "two_crashes": Expected([OPEN_TURN], rejected=3),
    "crash_and_nobody_comes_back": Expected([HELLO_TURN], ends="ENDED"),
    "crash_before_the_first_chunk": Expected([HELLO_TURN]),
    "crash_after_the_last_chunk": Expected([OPEN_TURN, WHERE_TURN]),
    # Sessions.
    "nobody_connects": Expected([], ends="ENDED"),
    "client_gone": Expected([HELLO_TURN], ends="ENDED"),
    "client_gone_while_thinking": Expected([("hello", "session_closed", None)], rejected=1, ends="ENDED"),
    "client_gone_while_speaking": Expected(
        [(OPEN, "session_closed", "We are open every day from nine in the")], ends="ENDED"
    ),
    "client_gone_while_interrupting": Expected([interrupted("We are open every day from nine in")], ends="ENDED"),
    "client_comes_back": Expected([OPEN_TURN, HELLO_TURN], rejected=1),
    "call_lost_while_speaking": Expected([OPEN_TURN, HELLO_TURN]),
    "client_replaced": Expected([HELLO_TURN]),
    "handler_replaced": Expected([HELLO_TURN], rejected=1),
    "hang_up_before_the_first_word": Expected([], ends="ENDED"),
    "hang_up_while_thinking": Expected([("book a table", "session_closed", None)], ends="ENDED"),
    "hang_up_while_speaking": Expected([(OPEN, "session_closed", "We are open every day from nine")], ends="ENDED"),
    "hang_up_while_interrupting": Expected([interrupted("We are open")], ends="ENDED"),
    "events_after_the_end": Expected([HELLO_TURN], rejected=8, ends="ENDED"),
    "opened_twice": Expected([HELLO_TURN], rejected=1),
    "clock_going_backwards": Expected([OPEN_TURN, HELLO_TURN]),
    # Speech over the agent that is no interruption, or not yet.
    "backchannels_pile_up": Expected([OPEN_TURN, WHERE_TURN], rejected=3),
    "cough_over_the_speech": Expected([OPEN_TURN]),
    "noise_over_the_speech": Expected([OPEN_TURN]),
    "words_confirm_the_interruption": Expected([interrupted("We are open"), WHERE_TURN]),
    "too_few_words": Expected([OPEN_TURN], rejected=1),
    "reply_to_a_question": Expected([interrupted("For", "book a table"), completed("yes", "Done.")]),
    # Guesses, and utterances in pieces.
    "guess_adopted": Expected([completed("When are you open?", HOURS)]),
    "guess_half_done": Expected([OPEN_TURN]),
    "guess_dropped": Expected([completed("when are you open on Sundays", HOURS)], rejected=1),
    "guesses_run_out": Expected([completed("I would like to know when you open", HOURS)]),
    "guess_without_a_final": Expected([OPEN_TURN]),
    "guess_about_a_cough": Expected([HELLO_TURN]),
    "sentence_in_two_halves": Expected([merged("when are you"), OPEN_TURN]),
    # Of the agent's own accord.
    "greeting_before_the_voice": Expected([HELLO_TURN], announced=1),
    "greeting_without_a_voice": Expected([HELLO_TURN], announced=1),
    "nobody_there": Expected([HELLO_TURN], ends="ENDED", announced=2),
    "there_after_all": Expected([HELLO_TURN, completed("wait")], ends="ENDED", announced=1),
    "goodbye": Expected([completed("goodbye", "Goodbye!")], ends="ENDED"),
    "answers_stay_down": Expected(
        [completed(heard=FALLBACK), completed(OPEN, FALLBACK), completed(WHERE_ARE_YOU, Policy().fallback.goodbye)],
        rejected=2,
        ends="ENDED",
    ),
    "speech_stays_down": Expected([failed(words=words) for words in ("hello", OPEN, WHERE_ARE_YOU)], ends="ENDED"),
    "speech_stays_silent": Expected([failed(words=words) for words in ("hello", OPEN, WHERE_ARE_YOU)], ends="ENDED"),
    "playback_never_ends": Expected([failed(HELLO, w) for w in ("hello", OPEN, WHERE_ARE_YOU)], ends="ENDED"),
    "out_of_time": Expected([OPEN_TURN], ends="ENDED", announced=1),
    "out_of_time_interrupted": Expected([interrupted("We are open every day from nine")], ends="ENDED", announced=1),
    "out_of_time_and_speech_down": Expected(
        [failed("We are open every day from nine", OPEN)], ends="ENDED", announced=1
    ),
    "out_of_time_and_silent": Expected([failed(HOURS, OPEN)], ends="ENDED", announced=1),
    "out_of_time_before_the_audio": Expected([failed("", OPEN)], ends="ENDED", announced=1),
    "out_of_time_while_listening": Expected([], rejected=1, ends="ENDED", announced=1),
    "out_of_time_before_anybody_came": Expected([], ends="ENDED"),
    # Answers that stream.
    "answer_while_it_is_written": Expected([completed(OPEN, f"{TEXTS[0]}{TEXTS[1]}")]),
    "barge_in_in_the_second_sentence": Expected(
        [interrupted(f"{TEXTS[0]} From nine"), completed("on Sundays too", "On Sundays too.")], rejected=1
    ),
    "answer_breaks_off": Expected([completed(OPEN, f"{TEXTS[0]} {CUT_OFF}"), completed(OPEN, "From nine to six.")]),
    "model_that_falls_silent": Expected([completed(OPEN, f"{TEXTS[0]} {CUT_OFF}")], rejected=1),
    "crash_while_the_answer_is_written": Expected([completed(OPEN, "".join(TEXTS))], rejected=1),
    "texts_out_of_order": Expected([completed(OPEN, f"{TEXTS[0]}{TEXTS[1]}")], rejected=2),
    "words_added_to_a_written_answer": Expected(
        [merged(OPEN), completed(f"{OPEN} on Sundays", "On Sundays from ten.")]
    ),
    # Tools.
    "tool_in_an_answer": Expected([completed("change it to six people", TABLE)]),
    "tool_result_after_the_interruption": Expected(
        [
            interrupted("Let", "change it to six people"),
            completed("and is there parking", "Yes, behind the house. And your table for six is booked."),
        ]
    ),
    "cancelled_tool_is_over": Expected(
        [merged("change it to six people"), completed("change it to six people no leave it", "All right.")], rejected=1
    ),
    "tool_of_a_discarded_answer": Expected(
        [completed("thank you for that and when are you open", "From nine to six.")], rejected=2
    ),
    "crash_while_a_tool_runs": Expected([completed("change it to six people", "You have a table for six.")]),
    "tool_of_a_lost_process": Expected(
        [
            merged("change it to six people"),
            completed(
                "change it to six people one moment please", "I am not sure that it worked. Please ask my colleague."
            ),
        ]
    ),
    "slow_tool": Expected([completed("change it to six people", "You have a table for six.")], rejected=1),
}

GUARDS_OF_THE_CHECK = {
    "another_sessions_answer",
    "client_comes_back",
    "crash_in_speaking",
    "crash_in_thinking",
    "end_of_the_old_playback",
    "late_chunks_of_the_last_answer",
    "late_confirmation",
    "orphan_results",
    "overlapping_audio",
    "result_of_another_kind",
    "stale_reply_over_new_words",
    "timer_after_its_withdrawal",
    "two_crashes",
}


@cache
def calls(name: str) -> tuple[Conversation, ...]:
    """The conversations of a story, played once."""
    return played(STORIES[name])


def recording(name: str) -> Recording:
    file = FAILURES / f"{name}.jsonl"
    return parse(file.read_bytes(), file.name)


def outcome(events: Iterable[Event], repeated: int = 0) -> Expected:
    """What a log tells in the words of Expected."""
    turns: dict[tuple[str, int], Told] = {}
    phases: dict[str, str] = {}
    rejected = announced = 0
    for event in events:
        turn = (event.session_id, event.turn)
        match event:
            case TurnStarted(text=text):
                turns[turn] = (text, "open", None)
            case AnswerEnded(heard_text=heard, playback_id=playback_id) if playback_id.startswith("answer"):
                turns[turn] = (*turns[turn][:2], heard)
            case AnswerEnded():
                announced += 1
            case TurnEnded(outcome=ended):
                turns[turn] = (turns[turn][0], ended, turns[turn][2])
            case StateChanged(to_phase=phase):
                phases[event.session_id] = phase
            case EventRejected():
                rejected += 1
            case _:
                pass
    return Expected([*turns.values()], rejected, repeated, " ".join(phases.values()), announced)


def test_each_story_says_what_is_right_in_it() -> None:
    """No story without an expectation, no expectation without a story, no file without either."""
    assert RIGHT.keys() == STORIES.keys()
    assert {file.stem for file in FAILURES.glob("*.jsonl")} == STORIES.keys()
    assert {file.stem for file in FAILURES.glob("*.golden")} == STORIES.keys()


@pytest.mark.parametrize("name", STORIES)
def test_a_failure_is_told_in_one_paragraph(name: str) -> None:
    """The symptom, where it was reported, and what happens here instead."""
    story = recording(name).header.story
    assert story == told(STORIES[name])
    assert re.search(r"#\d+|BEFORE column|LiveKit|Pipecat|FastRTC|Bolna|bolna-ai", story)
    assert re.search(r"\. Here ", story)


@pytest.mark.parametrize("name", STORIES)
def test_a_failure_is_what_its_story_writes(name: str) -> None:
    """`python -m fixtures.failures.write` would change nothing."""
    written = recorded(*calls(name), story=told(STORIES[name]))
    assert (FAILURES / f"{name}.jsonl").read_bytes() == written, "run python -m fixtures.failures.write"


@pytest.mark.parametrize("name", STORIES)
def test_a_failure_replays_to_itself(name: str, snapshot) -> None:
    """The law holds, the replay says what was recorded, and the golden log is the one that was reviewed."""
    for call in calls(name):
        call.check()
    replayed = replay(recording(name))
    assert replayed.divergence is None
    assert "\n".join(golden(replayed.events)) + "\n" == snapshot(name=name, extension_class=golden_file(FAILURES))


@pytest.mark.parametrize("name", STORIES)
def test_a_failure_ends_well(name: str) -> None:
    """The turns, how each ended, and what was heard of its answer are as expected."""
    repeated = sum(not step.events for call in calls(name) for step in call.steps)
    assert outcome(recording(name).events(), repeated) == RIGHT[name]


@pytest.mark.parametrize("name", STORIES)
def test_a_failure_leaves_a_linear_log(name: str) -> None:
    """No line twice in a row; one THINKING per turn, and one SPEAKING, one answer, one end for each that was spoken."""
    events = [*recording(name).events()]
    lines = golden(events)
    assert all(one != two for one, two in pairwise(lines))
    spoken = [event for event in events if isinstance(event, CommandIssued) and event.name == "Speak"]
    spoken_to_a_turn = sum(heard is not None for _, _, heard in RIGHT[name].turns)
    answers = spoken_to_a_turn + RIGHT[name].announced
    assert sum("🟡 THINKING" in line for line in lines) == len(RIGHT[name].turns)
    assert sum("🔴 SPEAKING" in line for line in lines) == answers
    assert sum(isinstance(event, AnswerEnded) for event in events) == answers
    assert sum(not event.retry_of for event in spoken) == answers


@pytest.mark.parametrize("name", STORIES)
def test_a_failure_leaves_nothing_outstanding(name: str) -> None:
    """Nothing of a turn is asked, spoken or timed any more when the story is over."""
    for call in calls(name):
        assert [command.target for command in call.state.pending.values()] == []


def test_without_the_outstanding_check_much_of_the_suite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that takes a result by its kind alone tells other conversations: the suite guards that check."""
    answered = State.answered

    def by_kind_alone(state: State, result: Result) -> CommandIssued | None:
        if (found := answered(state, result)) is not None:
            return found
        for command in state.outstanding(*ANSWERS[type(result)]):
            del state.pending[command.command_id]
            taken = command.model_copy(update={"command_id": result.command_id})
            state.pending[result.command_id] = taken
            return taken
        return None

    monkeypatch.setattr(State, "answered", by_kind_alone)
    assert {name for name in STORIES if not _is_right(name)} >= GUARDS_OF_THE_CHECK


def _is_right(name: str) -> bool:
    """Whether the inputs of a recording, decided anew, still lead to what is right, and through the same phases."""
    recorded_events = [*recording(name).events()]
    inputs = [encode(event) for event in recorded_events if isinstance(event, Input)]
    again = replay(parse(dump(Header(derived=False), inputs), name)).events
    return _phases(again) == _phases(recorded_events) and outcome(again, RIGHT[name].repeated) == RIGHT[name]


def _phases(events: Iterable[Event]) -> list[tuple[str, int, str]]:
    return [(event.session_id, event.at_us, event.to_phase) for event in events if isinstance(event, StateChanged)]
