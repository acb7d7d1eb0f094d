"""The table that assigns a decision to each phase and event.

The modules with the decisions, by phase: listening, thinking, speaking, lifecycle; by question: endpointing (is the
user done?), interruption (does the user take the floor?), speculation (which questions can be asked early?),
announcements (what does the agent say unasked?).

A cell of the table is a decision function, IGNORE or a str. IGNORE: the event is recorded, and evolve may use it. A
str: the event is recorded and rejected, with the str as the reason. So is an event for which its phase has no cell.
Stale results never reach the table: the reducer rejects them.
"""

from collections.abc import Callable
from typing import Final, TypeAlias, get_args

from events import inputs
from events.codec import INPUTS
from events.derived import Phase
from orchestrator.session import (
    announcements,
    endpointing,
    interruption,
    lifecycle,
    listening,
    speaking,
    speculation,
    thinking,
    tools,
)
from orchestrator.session.step import StepBuilder

Decision: TypeAlias = Callable[[StepBuilder], None]
IGNORE: Final = None
Cell: TypeAlias = Decision | str | None

PHASES: tuple[Phase, ...] = get_args(Phase)
LIVE: tuple[Phase, ...] = ("IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT")


def timer_fired(step: StepBuilder) -> None:
    """TIMER_FIRED: run the decision for the phase and the timer. The event's `target` is the name of the timer."""
    assert isinstance(step.input, inputs.TimerFired)
    decide(step, TIMERS.get((step.phase, step.input.target), f"timer {step.input.target} not expected in {step.phase}"))


def decide(step: StepBuilder, cell: Cell) -> None:
    """Apply a cell of the table to the input. If the cell is a decision function, call it. If the cell is a str, reject
    the input for this reason. If the cell is IGNORE, do nothing.
    """
    if isinstance(cell, str):
        step.reject(cell)
    elif cell is not IGNORE:
        cell(step)


def _table() -> dict[tuple[Phase, str], Cell]:
    table: dict[tuple[Phase, str], Cell] = {(p, name): f"{name} not expected in {p}" for p in PHASES for name in INPUTS}
    table |= {("NEW", name): "the session is not open yet" for name in INPUTS}
    table |= {("ENDED", name): "the session has ended" for name in INPUTS}
    table |= {(p, "SESSION_OPENED"): "the session is open already" for p in LIVE}
    table |= {(p, "BARGE_IN"): "stale: nothing is playing" for p in LIVE}
    table |= {(p, name): cell for p in LIVE for name, cell in _ANYWHERE.items()}
    table |= {(p, name): IGNORE for p in ("THINKING", "SPEAKING") for name in _PLAYBACK}
    for phase, row in _ROWS.items():
        table |= {(phase, name): cell for name, cell in row.items()}
    return table


_ANYWHERE: dict[str, Cell] = {
    "CLIENT_CONNECTED": lifecycle.client_returned,
    "CLIENT_DISCONNECTED": lifecycle.client_disconnected,
    "HANDLER_ATTACHED": lifecycle.handler_attached,
    "HANDLER_DETACHED": lifecycle.handler_detached,
    "HEARING_FAILED": IGNORE,
    "PROVIDER_SWITCHED": IGNORE,
    "MODEL_RESPONDED": IGNORE,
    "SESSION_RESUMED": lifecycle.resumed,
    "SESSION_CLOSE_REQUESTED": lifecycle.close_requested,
    "SPEECH_STARTED": endpointing.speech_started,
    "SPEECH_STOPPED": endpointing.speech_stopped,
    "STT_PARTIAL": endpointing.partial,
    "TIMER_FIRED": timer_fired,
    "TOOL_RETURNED": IGNORE,
}
_PLAYBACK = ("TTS_CHUNK_READY", "TTS_COMPLETE", "PLAYBACK_STARTED", "PLAYBACK_PROGRESS", "PLAYBACK_DONE")
_ROWS: dict[Phase, dict[str, Cell]] = {
    "NEW": {"SESSION_OPENED": lifecycle.opened},
    "IDLE": {
        "CLIENT_CONNECTED": lifecycle.client_connected,
        "SPEECH_STARTED": IGNORE,
        "SPEECH_STOPPED": IGNORE,
        "STT_PARTIAL": IGNORE,
    },
    "LISTENING": {
        "ANSWER_TEXT": speculation.answer_text,
        "HANDLER_ATTACHED": lifecycle.handler_attached_while_listening,
        "HEARING_FAILED": announcements.hearing_failed,
        "INTENT_RESOLVED": IGNORE,
        "RAG_ANSWERED": IGNORE,
        "SERVICE_FAILED": speculation.failed,
        "SPEECH_STARTED": listening.speech_started,
        "SPEECH_STOPPED": listening.speech_stopped,
        "STT_FINAL": listening.final,
        "STT_PARTIAL": listening.partial,
        "TOOL_CALLED": "asked by a guess: no tool runs before its turn",
    },
    "THINKING": {
        "ANSWER_TEXT": thinking.answer_text,
        "BARGE_IN": thinking.barge_in,
        "HANDLER_DETACHED": lifecycle.handler_detached_while_thinking,
        "INTENT_RESOLVED": thinking.intent_resolved,
        "RAG_ANSWERED": thinking.rag_answered,
        "SERVICE_FAILED": thinking.failed,
        "SPEECH_STARTED": thinking.speech_started,
        "STT_FINAL": thinking.final,
        "TOOL_CALLED": tools.called,
        "TOOL_RETURNED": tools.returned,
    },
    "SPEAKING": {
        "ANSWER_TEXT": speaking.answer_text,
        "BARGE_IN": interruption.barge_in,
        "CLIENT_CONNECTED": lifecycle.client_returned_while_speaking,
        "CLIENT_DISCONNECTED": lifecycle.client_disconnected_while_speaking,
        "HANDLER_DETACHED": lifecycle.handler_detached_while_speaking,
        "PLAYBACK_DONE": speaking.playback_done,
        "PLAYBACK_PROGRESS": speaking.progress,
        "PLAYBACK_STARTED": speaking.started,
        "RAG_ANSWERED": speaking.answer_complete,
        "SERVICE_FAILED": speaking.failed,
        "SPEECH_STARTED": interruption.speech_started,
        "SPEECH_STOPPED": interruption.speech_stopped,
        "STT_FINAL": interruption.final,
        "STT_PARTIAL": interruption.partial,
        "TTS_CHUNK_READY": speaking.chunk_ready,
        "TTS_COMPLETE": speaking.tts_complete,
        "TOOL_CALLED": tools.called,
        "TOOL_RETURNED": tools.returned,
    },
    "INTERRUPT": {"STT_FINAL": listening.final_while_interrupting},
}

TABLE: Final = _table()

TIMERS: Final[dict[tuple[Phase, str], Cell]] = {
    **{(phase, "endpoint"): endpointing.endpoint for phase in LIVE},
    **{(phase, "reconnect"): lifecycle.client_gone for phase in LIVE},
    **{(phase, "stt_deadline"): IGNORE for phase in ("IDLE", "SPEAKING", "INTERRUPT")},
    **{(phase, "session_limit"): IGNORE for phase in ("THINKING", "SPEAKING", "INTERRUPT")},
    ("IDLE", "session_limit"): lifecycle.limit_reached_before_anybody_came,
    ("LISTENING", "session_limit"): announcements.limit_reached,
    ("LISTENING", "greeting"): announcements.greet,
    ("LISTENING", "away"): announcements.away,
    ("LISTENING", "stable"): speculation.stable,
    ("LISTENING", "stt_deadline"): listening.final_is_missing,
    ("THINKING", "stt_deadline"): thinking.final_is_missing,
    ("THINKING", "filler"): thinking.filler,
    ("THINKING", "tool_filler"): tools.slow,
    ("THINKING", "floor_deadline"): thinking.floor_deadline,
    ("THINKING", "intent_deadline"): thinking.intent_deadline,
    ("THINKING", "answer_deadline"): thinking.answer_deadline,
    ("SPEAKING", "answer_deadline"): speaking.answer_deadline,
    ("SPEAKING", "barge_in"): interruption.long_enough,
    ("SPEAKING", "false_interruption"): interruption.false_interruption,
    ("SPEAKING", "tts_deadline"): speaking.deadline,
    ("SPEAKING", "playback_deadline"): speaking.deadline,
    ("INTERRUPT", "interrupt_pause"): speaking.pause_over,
}

LEADS: Final[dict[Decision, tuple[Phase, ...]]] = {
    lifecycle.opened: ("IDLE",),
    lifecycle.client_connected: ("LISTENING",),
    lifecycle.client_gone: ("ENDED",),
    lifecycle.close_requested: ("ENDED",),
    listening.final: ("THINKING",),
    listening.final_is_missing: ("THINKING", "SPEAKING"),
    thinking.answer_text: ("SPEAKING",),
    thinking.intent_resolved: ("SPEAKING",),
    thinking.rag_answered: ("SPEAKING",),
    thinking.intent_deadline: ("SPEAKING",),
    thinking.answer_deadline: ("SPEAKING",),
    thinking.failed: ("SPEAKING",),
    thinking.final: ("THINKING", "SPEAKING"),
    thinking.final_is_missing: ("THINKING", "SPEAKING"),
    thinking.floor_deadline: ("SPEAKING",),
    interruption.barge_in: ("INTERRUPT",),
    interruption.speech_started: ("INTERRUPT",),
    interruption.partial: ("INTERRUPT",),
    interruption.long_enough: ("INTERRUPT",),
    interruption.final: ("INTERRUPT",),
    announcements.greet: ("SPEAKING",),
    announcements.hearing_failed: ("SPEAKING",),
    announcements.away: ("SPEAKING",),
    announcements.limit_reached: ("SPEAKING",),
    lifecycle.handler_attached_while_listening: ("SPEAKING",),
    lifecycle.limit_reached_before_anybody_came: ("ENDED",),
    speaking.playback_done: ("LISTENING", "ENDED"),
    speaking.failed: ("LISTENING", "ENDED"),
    speaking.deadline: ("LISTENING", "ENDED"),
    speaking.pause_over: ("LISTENING",),
}
"""Decision → the phases that the decision may enter. A decision that is not listed changes no phase. The diagram in
docs/state-machine.md is drawn from LEADS, and tests compare LEADS with the decisions.
"""
AND_THEN: Final[dict[Decision, tuple[tuple[Phase, Phase], ...]]] = {
    listening.final: (("THINKING", "SPEAKING"),),
    listening.final_is_missing: (("THINKING", "SPEAKING"),),
    speaking.pause_over: (("LISTENING", "THINKING"), ("LISTENING", "SPEAKING")),
    speaking.playback_done: (("LISTENING", "SPEAKING"),),
    speaking.failed: (("LISTENING", "SPEAKING"),),
    speaking.deadline: (("LISTENING", "SPEAKING"),),
}
"""Decision → second phase changes (from, to) that may follow in the same step. There are three reasons for a second
change: a turn starts, and its speculation has found the answer already; a turn starts with words that the user said
during an interruption; or the time limit was reached, so the agent says goodbye.
"""


def edges() -> list[tuple[Phase, str, Phase]]:
    """Return every possible phase change as (from, event, to); for TIMER_FIRED the event is `timer NAME`."""
    cells = [(phase, name, cell) for (phase, name), cell in TABLE.items()]
    cells += [(phase, f"timer {name}", cell) for (phase, name), cell in TIMERS.items()]
    found = [(phase, name, after) for phase, name, cell in cells if callable(cell) for after in LEADS.get(cell, ())]
    found += [(before, name, after) for _, name, cell in cells for before, after in _and_then(cell)]
    return sorted(set(found))


def _and_then(cell: Cell) -> tuple[tuple[Phase, Phase], ...]:
    return AND_THEN.get(cell, ()) if callable(cell) else ()
