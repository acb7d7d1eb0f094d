"""Whole conversations in virtual time, with seeded faults: no invariant is violated, every rare situation occurs."""

import os
import subprocess
import sys
from functools import cache
from hashlib import blake2b

import pytest

from events.derived import TurnEnded
from events.inputs import (
    ClientConnected,
    ClientDisconnected,
    PlaybackStarted,
    ServiceFailed,
    TtsChunkReady,
)
from orchestrator.session.commands import StopPlayback
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation
from orchestrator.testing.faults import Faults
from orchestrator.testing.marks import MARKS
from orchestrator.testing.simulation import Simulated, simulate
from orchestrator.testing.simulation_runs import main

SEEDS = range(400)
REPLAY_EVERY = 10
DIGEST = """
from hashlib import blake2b
from orchestrator.testing.simulation import simulate
print(blake2b(b"".join(simulate(seed, replayed=False).recording() for seed in range(12))).hexdigest())
"""


@cache
def runs() -> tuple[Simulated, ...]:
    """The conversations of this test run, simulated once."""
    return tuple(simulate(seed, replayed=seed % REPLAY_EVERY == 0) for seed in SEEDS)


def test_no_seed_violates_an_invariant() -> None:
    """Some hundred conversations under faults: the checkers, which know nothing of the core, find nothing."""
    wrong = [run for run in runs() if run.violations]
    assert not wrong, wrong[0].trace()


def test_every_mark_is_reached() -> None:
    """What the simulation claims to have tested did happen."""
    assert set().union(*(run.marks for run in runs())) == MARKS


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
    """A quiet world: a turn fails only where the user hung up while the agent spoke."""
    for seed in range(20):
        run = simulate(seed, faults=Faults(), policy=Policy())
        assert not run.violations, run.trace()
        errors = [event.error for event in run.log if isinstance(event, ServiceFailed)]
        assert set(errors) <= {"the playback was stopped", "nobody is connected who could hear the answer"}
        failed = [event for event in run.log if isinstance(event, TurnEnded) and event.outcome == "failed"]
        assert len(failed) <= len(errors)


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
    """`python -m orchestrator.testing.simulation`: what was simulated, what was violated, what was reached."""
    main(["--seeds", "0:3"])
    printed = capsys.readouterr().out
    assert "sessions    3\n" in printed
    assert "marks " in printed


# What the simulation found.


def test_a_synthesis_that_breaks_is_silent_at_once() -> None:
    """SERVICE_FAILED of an answer that plays already: what is buffered must not be heard while the user may speak."""
    call = Conversation.in_phase("SPEAKING")
    call.input(TtsChunkReady, index=0, duration_ms=400).input(PlaybackStarted).after(50).fails("Speak")
    assert StopPlayback("answer-1") in call.commands


def test_a_filler_that_breaks_is_silent_under_the_answer() -> None:
    """SERVICE_FAILED of a filler that plays already: it must not be heard beside the answer."""
    call = Conversation.in_phase("THINKING", policy=Policy.model_validate({"filler": {"text": "One moment"}}))
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
