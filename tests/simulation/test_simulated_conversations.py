"""Whole conversations in virtual time, with seeded faults: no invariant is violated, every rare situation occurs."""

import os
import subprocess
import sys
from collections import Counter
from functools import cache
from hashlib import blake2b

import pytest

from events.derived import TurnEnded
from events.envelope import Event
from events.inputs import (
    ClientConnected,
    ClientDisconnected,
    HandlerAttached,
    PlaybackProgress,
    PlaybackStarted,
    ServiceFailed,
    SpeechStarted,
    SpeechStopped,
    SttFinal,
    SttPartial,
    TtsChunkReady,
)
from orchestrator.session.commands import PlayFiller, ResumePlayback, SetMicrophone, Speak, StopPlayback
from orchestrator.session.policy import Interruption, Policy
from orchestrator.simulation.faults import Faults
from orchestrator.simulation.simulate import Simulated, simulate
from orchestrator.testing.conversation import Conversation
from tests.simulation.__main__ import main
from tests.simulation.checked import checked
from tests.simulation.marks import MARKS, reached

SEEDS = range(400)
RARE = (430, 459, 819, 1098)
"""Further seeds, each for a mark that comes once in some hundred: `first_seed` in marks.py names them."""
REPLAY_EVERY = 10
DIGEST = """
from hashlib import blake2b
from orchestrator.simulation.simulate import simulate
print(blake2b(b"".join(simulate(seed, replayed=False).recording() for seed in range(12))).hexdigest())
"""


@cache
def runs() -> tuple[Simulated, ...]:
    """The conversations of this test run, simulated once."""
    return tuple(checked(seed, replayed=seed % REPLAY_EVERY == 0) for seed in (*SEEDS, *RARE))


def test_no_seed_violates_an_invariant() -> None:
    """Some hundred conversations under faults: the checkers, which know nothing of the core, find nothing."""
    wrong = [run for run in runs() if run.violations]
    assert not wrong, wrong[0].trace()


def test_every_mark_is_reached() -> None:
    """What the simulation claims to have tested did happen; `first_seed` in marks.py finds what is missing."""
    assert sorted(MARKS - set().union(*map(reached, runs()))) == []


def test_every_phase_is_visited() -> None:
    """No phase is left out."""
    visited = set().union(*(run.phases for run in runs()))
    assert visited == {"IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT", "ENDED"}


def test_the_same_seed_gives_the_same_log() -> None:
    """A violation is found again by its seed."""
    for seed in range(0, 40, 4):
        assert simulate(seed, replayed=False).recording() == runs()[seed].recording()


def test_the_hash_seed_of_python_changes_nothing() -> None:
    """No decision and no chance depends on the order of a set."""
    here = blake2b(b"".join(run.recording() for run in runs()[:12])).hexdigest()
    for hash_seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert said.stdout.strip() == here


def test_without_faults_only_the_user_keeps_an_answer_from_its_end() -> None:
    """A quiet world: no turn fails, however often the user's connections go and come back."""
    for seed in range(20):
        run = checked(seed, Policy(), Faults())
        assert not run.violations, run.trace()
        assert not [event.error for event in run.log if isinstance(event, ServiceFailed)]
        assert not [event for event in run.log if isinstance(event, TurnEnded) and event.outcome == "failed"]


def test_a_trace_names_the_seed_and_has_a_line_per_event() -> None:
    """What a failure prints is enough to run it again and to read what happened."""
    run = runs()[3]
    lines = run.trace().splitlines()
    assert lines[0].startswith("seed 3 ")
    assert len(lines) >= len(run.log) + 2


def test_the_golden_log_of_a_simulation_reads_like_any_other() -> None:
    """A simulated conversation has the same golden log as a real one."""
    assert runs()[0].golden[0] == "[auto_session_0] 🟢 IDLE"


def test_the_command_line_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m tests.simulation`: what was simulated, what was violated, which phases it visited."""
    main(["--seeds", "0:3"])
    printed = capsys.readouterr().out
    assert "sessions    3\n" in printed
    assert "violations  0\n" in printed
    assert "phases      ENDED " in printed


# The same seeds under two policies.

QUICK = Policy(interruption=Interruption(min_speech_ms=0))
PATIENT = Policy(interruption=Interruption(min_speech_ms=800, min_words=2))


def heard(run: Simulated) -> list[tuple[int, str]]:
    """What the session was told of its user, and when the microphone heard it."""
    kinds = (SpeechStarted, SpeechStopped, SttPartial)
    return [(event.observed_at_us, event.type) for event in run.log if isinstance(event, kinds) and event.handler_id]


def test_the_user_is_the_same_under_any_policy() -> None:
    """Until a decision differs to which they react, and faults come at the same time, too."""
    for seed in range(25):
        one, other = (simulate(seed, policy, replayed=False) for policy in (QUICK, PATIENT))
        assert one.faults == other.faults
        differs = min((run.log[n].at_us for run in (one, other) for n in _first_difference(one, other, run)), default=0)
        before = [[at for at in heard(run) if not differs or at[0] < differs] for run in (one, other)]
        assert before[0] == before[1] or one.faults.clock_jumps, seed


def _first_difference(one: Simulated, other: Simulated, run: Simulated) -> list[int]:
    """Where the two golden stories part."""
    pairs = zip(map(_essence, one.log[1:]), map(_essence, other.log[1:]), strict=False)
    at = next((n for n, (left, right) in enumerate(pairs, 1) if left != right), None)
    return [] if at is None or at >= len(run.log) else [at]


def _essence(event: Event) -> tuple[str, str]:
    return event.type, getattr(event, "name", "")  # type: ignore[attr-defined]


def test_two_policies_can_be_compared() -> None:
    """A policy that waits for words is interrupted less often, and finishes more answers."""
    quick, patient = (
        sum((simulate(seed, policy, Faults(), replayed=False).decisions for seed in range(60)), Counter())
        for policy in (QUICK, PATIENT)
    )
    assert patient["interrupted by barge_in"] < quick["interrupted by barge_in"]
    assert patient["answer finished"] > quick["answer finished"]
    assert patient["ResumePlayback"] > quick["ResumePlayback"] == 0


# What the simulation found.


def test_a_synthesis_that_breaks_is_silent_at_once() -> None:
    """SERVICE_FAILED of an answer that plays already: what is buffered must not be heard while the user may speak."""
    call = Conversation.in_phase("SPEAKING")
    call.input(TtsChunkReady, index=0, duration_ms=400).input(PlaybackStarted).after(50).fails("Speak")
    assert StopPlayback("answer-1") in call.commands


def test_a_filler_that_breaks_is_silent_under_the_answer() -> None:
    """SERVICE_FAILED of a filler that plays already: it must not be heard beside the answer."""
    filler = {"text": "One moment", "delay_ms": 0}
    call = Conversation.in_phase("THINKING", policy=Policy.model_validate({"filler": filler}))
    call.input(TtsChunkReady, index=0, duration_ms=400).input(PlaybackStarted).after(50).fails("PlayFiller")
    stops = StopPlayback("filler-1") in call.commands
    assert stops or StopPlayback("filler-1") in call.answers("Hi!").commands


def taken_over() -> Conversation:
    """The owner has changed and the client is back; then a word of the old owner arrives, sent before it knew."""
    call = Conversation.listening(producer="node-1")
    call.producer = "node-2"
    call.resumes("incarnation-2").connects("client-2")
    return call.input(ClientConnected, client_id="client-1", producer="node-1", producer_seq=100)


def test_a_late_word_of_the_last_owner_hangs_up_on_nobody() -> None:
    """The old owner's client came and went before the new owner's: the session is not abandoned."""
    call = taken_over()
    call.input(ClientDisconnected, client_id="client-1", producer="node-1", producer_seq=101)
    assert call.state.timer("reconnect") is None


def test_a_client_of_a_dead_owner_keeps_no_session_alive() -> None:
    """The old owner died without a word about its client; when the real client leaves, it is missed."""
    call = taken_over().input(ClientDisconnected, client_id="client-2")
    assert call.state.timer("reconnect") is not None


def speaking_aloud(**policy: object) -> Conversation:
    """An answer is heard over a microphone that is there."""
    call = Conversation.in_phase("SPEAKING", policy=Policy.model_validate(policy))
    call.input(HandlerAttached, handler_id="fastrtc_1")
    return call.input(TtsChunkReady, index=0, duration_ms=9_000).input(PlaybackStarted)


def test_a_phase_that_is_only_passed_through_repeats_no_command() -> None:
    """A guess that is answered already: LISTENING, THINKING and SPEAKING are one step, and its command ids differ."""
    call = Conversation.listening(policy=Policy.model_validate({"speculation": {"tries": 1}}))
    call.input(SttPartial, text="hello", is_complete=True).answers("Hi!").says("hello")
    assert call.state.phase == "SPEAKING"
    assert call.commands.count(SetMicrophone("gated")) == 1


def test_sounds_in_a_row_do_not_pause_for_ever() -> None:
    """Cough after cough: all in all an answer is paused no longer than it waits for a user who is speaking."""
    call = speaking_aloud(endpointing={"complete_ms": 2_000, "incomplete_ms": 2_000})
    for _ in range(6):
        call.after(600).input(SpeechStarted).after(400).input(SpeechStopped)
    call.fires("false_interruption")
    assert ResumePlayback("answer-1") in call.commands


def test_the_end_of_a_sound_does_not_go_on_over_the_next() -> None:
    """The empty final of a cough comes when the user is speaking already: they are listened to."""
    call = speaking_aloud().after(500).input(SpeechStarted).after(200).input(SpeechStopped).fires("endpoint")
    call.after(20).input(SpeechStarted).after(10).input(SttFinal, text="")
    assert call.state.playback is not None
    assert call.state.playback.is_paused
    assert call.state.timer("barge_in") is not None


def test_no_filler_begins_over_a_user_who_is_speaking() -> None:
    """Their words are not final in time, so they are answered as understood so far; but they are speaking still."""
    call = Conversation.listening(policy=Policy.model_validate({"filler": {"text": "One moment", "delay_ms": 0}}))
    call.input(SpeechStarted).after(100).input(SttPartial, text="hello").fires("endpoint").fires("stt_deadline")
    assert call.state.phase == "THINKING"
    assert not any(isinstance(command, PlayFiller) for command in call.commands)


def test_no_answer_begins_over_a_user_who_makes_sounds() -> None:
    """The watchdog finished the utterance, an empty final came, and the user still makes sounds."""
    call = Conversation.in_phase("THINKING").input(SpeechStarted).input(SttPartial, text="and").answers("Hi!")
    call.fires("endpoint").input(SttPartial, text="").input(SttFinal, text="")
    assert call.state.phase == "THINKING"
    call.fires("floor_deadline")
    assert any(isinstance(command, Speak) for command in call.commands)


def test_progress_that_is_told_twice_does_not_set_the_clock_back() -> None:
    """The same position, half a second later: what was heard since is not forgotten."""
    call = speaking_aloud().after(1_000).input(PlaybackProgress, position_ms=1_000)
    call.after(500).input(PlaybackProgress, position_ms=1_000).after(500).interrupts()
    ended = next(event for event in call.last if event.type == "ANSWER_ENDED")  # type: ignore[attr-defined]
    assert ended.heard_ms == 2_000  # type: ignore[attr-defined]


SLOW = {
    "a time limit of ten minutes": {"goodbye": {"after_ms": 600_000}},
    "the sample of docs/policy.md": {
        "away": {"after_ms": 15_000, "prompts": 2, "text": "Are you still there?"},
        "goodbye": {"intent": "goodbye", "after_ms": 1_800_000},
    },
    "a week": {"goodbye": {"after_ms": 7 * 24 * 3_600_000}},
    "a long way back": {"deadlines": {"reconnect_ms": 400_000}},
    "patience": {"away": {"after_ms": 300_000, "prompts": 5, "text": "Are you still there?"}},
    "a slow answer": {"deadlines": {"answer_ms": 500_000, "tts_ms": 500_000, "intent_ms": 500_000}},
    "a slow tool": {"tools": {"limit_ms": 1_800_000}},
}
"""Policies that wait longer than the simulation waits under the default policy."""


@pytest.mark.parametrize("what", SLOW)
def test_a_policy_may_wait_for_long(what: str) -> None:
    """The simulation waits as long as the policy does, and reports no violation."""
    policy = Policy.model_validate(SLOW[what])
    for seed in range(12):
        for faults in (Faults(), None):
            run = simulate(seed, policy, faults, replayed=False)
            assert not run.violations, run.trace()[-1_000:]
