"""Shows the figures of the target flow on its recording: what runs in parallel, and how long a full cycle takes."""

from typing import TypeVar

from events.derived import CommandIssued, ProcessingComplete, StateChanged
from events.envelope import Event
from events.inputs import IntentResolved, RagAnswered, SpeechStarted, SttFinal
from events.recording import parse
from orchestrator.replay.replay import replay
from tests.replay.test_fixture_recordings import FIXTURES

E = TypeVar("E", bound=Event)


def decided() -> list[Event]:
    """The recording, decided anew."""
    file = FIXTURES / "target_flow.jsonl"
    replayed = replay(parse(file.read_bytes(), file.name))
    assert replayed.divergence is None
    return [*replayed.events]


def of(kind: type[E], turn: int) -> list[E]:
    return [event for event in decided() if isinstance(event, kind) and event.turn == turn]


def test_150_and_200_ms_in_parallel_are_200_ms() -> None:
    """Both are asked in the step of the final; the join says how long it took, and what running in parallel saved."""
    asked = [event.at_us for event in of(CommandIssued, 1) if event.name in ("ClassifyIntent", "AnswerQuestion")]
    (intent,), (answer,), (complete,) = of(IntentResolved, 1), of(RagAnswered, 1), of(ProcessingComplete, 1)
    assert asked == [2_000_000, 2_000_000]
    assert (intent.elapsed_us, answer.elapsed_us) == (150_000, 200_000)
    assert (complete.elapsed_us, complete.saved_us) == (200_000, 150_000)


def test_a_full_cycle_takes_3250_ms() -> None:
    """1,000 of speech to its final, 250 for intent and answer, 2,000 of speech until the agent listens again."""
    events = decided()
    began = [event.at_us for event in events if isinstance(event, SpeechStarted)][1]
    final = [event.at_us for event in events if isinstance(event, SttFinal)][1]
    (complete,) = of(ProcessingComplete, 2)
    ended = [event.at_us for event in events if isinstance(event, StateChanged) and event.to_phase == "LISTENING"][-1]
    assert (final - began, complete.at_us - final, ended - complete.at_us) == (1_000_000, 250_000, 2_000_000)
    assert ended - began == 3_250_000
