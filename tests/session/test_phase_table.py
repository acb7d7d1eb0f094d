"""Goes through every cell of the table, phase by event, and every timer in every phase."""

from typing import Any

import pytest
from essence import essence

from events.codec import INPUTS, RESULTS
from events.derived import EventRejected, StateChanged
from events.inputs import TimerFired
from orchestrator.session.commands import CancelTimer, ResumePlayback, StartTimer, read
from orchestrator.session.fsm import LIVE, PHASES, TABLE, TIMERS, edges
from orchestrator.session.policy import Policy
from orchestrator.session.reducer import reduce
from orchestrator.session.state import State
from orchestrator.testing.conversation import Conversation

EVERYTHING: dict[str, Any] = {
    "away": {"text": "Are you there?"},
    "filler": {"delay_ms": 0, "text": "One moment."},
    "goodbye": {"after_ms": 600_000},
    "greeting": {"text": "Welcome."},
    "speculation": {"stable_ms": 200, "tries": 3},
}
"""A policy under which as much as possible happens."""
CELLS = [(phase, name) for phase in PHASES for name in INPUTS]
SAMPLES: dict[str, dict[str, Any]] = {
    "SESSION_OPENED": {"policy": Policy().recorded()},
    "CLIENT_CONNECTED": {"client_id": "browser-2"},
    "CLIENT_DISCONNECTED": {"client_id": "browser-1"},
    "HANDLER_ATTACHED": {"handler_id": "fastrtc_2"},
    "HANDLER_DETACHED": {"handler_id": "fastrtc_1"},
    "HEARING_FAILED": {"error": "broke", "is_utterance_lost": True},
    "PROVIDER_SWITCHED": {"provider": "second", "service": "answer"},
    "STT_PARTIAL": {"text": "hel"},
    "STT_FINAL": {"text": "hello"},
    "ANSWER_TEXT": {"index": 0, "text": "Hi. "},
    "INTENT_RESOLVED": {"intent": "greeting"},
    "RAG_ANSWERED": {"answer": "Hi!"},
    "SERVICE_FAILED": {"error": "503"},
    "TTS_CHUNK_READY": {"duration_ms": 200, "index": 0},
    "TTS_COMPLETE": {"chunks": 1, "duration_ms": 200},
    "PLAYBACK_PROGRESS": {"position_ms": 100},
    "PLAYBACK_DONE": {"confirmed_by": "client"},
    "SESSION_RESUMED": {"reducer_version": "0.1.0"},
}
TIMER_NAMES = sorted({target for _, target in TIMERS})
LEADS_TO: dict[Any, str] = {
    "intent_deadline": "THINKING",
    "answer_deadline": "THINKING",  # the user has just spoken: the answer waits for the floor
    "tts_deadline": "LISTENING",
    "playback_deadline": "LISTENING",
    "interrupt_pause": "LISTENING",
    "reconnect": "ENDED",
    ("IDLE", "session_limit"): "ENDED",
    ("LISTENING", "greeting"): "LISTENING",  # the user has just spoken: no greeting over them
}


def busy(converse, phase: str) -> Conversation:
    """A conversation in that phase with as much outstanding as can be."""
    call = converse(phase, **EVERYTHING)
    if phase == "SPEAKING":
        call.input(INPUTS["HANDLER_ATTACHED"], handler_id="fastrtc_1").input(INPUTS["SPEECH_STARTED"])
    call.input(INPUTS["STT_PARTIAL"], text="um").input(INPUTS["SPEECH_STOPPED"])
    return call.input(INPUTS["CLIENT_DISCONNECTED"], client_id="browser-1")


def attempts(call: Conversation, name: str) -> list[dict[str, Any]]:
    """The same event in all the ways it can come: a result for any outstanding command, matching or not, or none."""
    sample = SAMPLES.get(name) or _anything(name)
    if name not in RESULTS:
        return [sample]
    commands = [(command.command_id, command.target) for command in call.state.pending.values()]
    aims = [("made/up/id", ""), *commands, *((command_id, "nonsense") for command_id, _ in commands)]
    about = [RESULTS[name].about] if RESULTS[name].about else []  # type: ignore[attr-defined]
    return [sample | {"command_id": command_id} | dict.fromkeys(about, target) for command_id, target in aims]


def _anything(name: str) -> dict[str, Any]:
    """Some text in each field that an event must have, for events that nobody wrote a sample for."""
    fields = INPUTS[name].model_fields.items()
    return {field: "x" for field, info in fields if info.is_required() and info.annotation is str}


def drawn(call: Conversation) -> bool:
    """Whether each change of phase in the last step is an edge of the diagram."""
    cause = call.last[0]
    label = f"timer {cause.target}" if isinstance(cause, TimerFired) else cause.type
    changes = [event for event in call.last if isinstance(event, StateChanged)]
    return {(change.from_phase, label, change.to_phase) for change in changes} <= set(edges())


def only_resumes(call: Conversation, before: State) -> None:
    """What is rejected has no effect; but words that do not interrupt are over, and a paused playback goes on."""
    rest = [read(event) for event in call.last[2:]]
    if (before.phase, call.last[0].type) == ("SPEAKING", "STT_FINAL"):
        assert {type(command) for command in rest} <= {CancelTimer, ResumePlayback, StartTimer}
        assert call.state.phase == "SPEAKING"
    else:
        assert rest == []
        assert essence(call.state) == essence(before)


def test_the_table_is_total() -> None:
    """Each phase and each input has a cell."""
    assert set(TABLE) == set(CELLS)
    assert {phase for phase, _ in TIMERS} <= set(LIVE)


@pytest.mark.parametrize(("phase", "name"), CELLS)
def test_every_event_in_every_phase_is_decided(converse, phase: str, name: str) -> None:
    """Never an exception; what is rejected changes nothing but bookkeeping; the end is the end."""
    for number in range(len(attempts(busy(converse, phase), name))):
        call = busy(converse, phase)
        before = call.state
        call.input(INPUTS[name], **attempts(call, name)[number])
        assert (call.state.version, call.state.inputs) == (before.version + len(call.last), before.inputs + 1)
        rejected = [event for event in call.last if isinstance(event, EventRejected)]
        assert drawn(call)
        if rejected:
            assert rejected[0].reason
            only_resumes(call, before)
        if phase == "ENDED" or (phase == "NEW" and name != "SESSION_OPENED"):
            assert rejected


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("timer", TIMER_NAMES)
def test_every_timer_in_every_phase_is_decided(converse, phase: str, timer: str) -> None:
    """An armed one leads where it says; one that is not armed is stale."""
    call = busy(converse, phase)
    if timer == "playback_deadline" and phase == "SPEAKING":
        call.input(INPUTS["TTS_CHUNK_READY"], index=0, duration_ms=200)
    if call.state.timer(timer) is None:
        call.input(INPUTS["TIMER_FIRED"], command_id=f"made/up/StartTimer/{timer}", target=timer)
        assert call.last[-1].reason == "stale: its command is not outstanding"
        assert call.state.phase == phase
    else:
        assert (phase, timer) in TIMERS
        call.fires(timer)
        assert drawn(call)
        assert call.state.phase == LEADS_TO.get((phase, timer), LEADS_TO.get(timer, phase))


def test_every_timer_that_has_a_decision_can_be_armed(converse) -> None:
    """The table of timers holds nothing that never happens, but for speech in IDLE, to which nobody listens."""
    calls = [busy(converse, phase) for phase in LIVE]
    for call in calls:
        if call.state.phase == "LISTENING":
            call.input(INPUTS["HANDLER_ATTACHED"], handler_id="fastrtc_2")
        if call.state.phase == "THINKING":
            call.answers("Hi!")
        if call.state.phase != "IDLE":
            call.fires("endpoint")
    calls.append(converse("LISTENING", **EVERYTHING).input(INPUTS["HANDLER_ATTACHED"], handler_id="fastrtc_1"))
    calls[-1].speaks().played()
    calls.append(converse("THINKING", filler={"text": "One moment."}))
    calls.append(converse("THINKING").texts("Hi. ").resolves())
    calls.append(converse("THINKING", tools={"text": "I am looking that up."}).calls("book"))
    armed = {(s.state.phase, c.target) for call in calls for s in call.steps for c in s.state.outstanding("StartTimer")}
    assert set(TIMERS) - armed == {("IDLE", "endpoint"), ("IDLE", "stt_deadline")}


def test_a_timer_of_a_newer_reducer_is_rejected_in_words(converse) -> None:
    """A log that was continued by older rules may hold a timer that these do not know."""
    call = converse("LISTENING").input(INPUTS["SPEECH_STOPPED"])
    armed, state = call.outstanding("endpoint"), call.state.copy()
    state.pending[armed.command_id] = armed.model_copy(update={"target": "user_away"})
    step = reduce(state, INPUTS["TIMER_FIRED"](command_id=armed.command_id, target="user_away"))
    assert step.events[-1].reason == "timer user_away not expected in LISTENING"
