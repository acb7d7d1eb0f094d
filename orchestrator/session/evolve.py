"""evolve(state, event) -> state: folds any committed event into the state, and decides nothing; fold() folds a log."""

from collections.abc import Callable, Iterable
from typing import Any

from events import codec, derived, inputs, journal
from events.envelope import ConnectionInput, Event, Input
from orchestrator.session import playback, transcripts
from orchestrator.session.commands import ANSWERS, OF_THE_TURN, OUTSTANDING, PLAYS, WITHDRAWALS
from orchestrator.session.fields import Fold, folds
from orchestrator.session.heard import heard_ms
from orchestrator.session.policy import Policy
from orchestrator.session.state import (
    ANSWER_CHARS,
    NOTHING_FOUND,
    OpenSpeculation,
    State,
    Turn,
    why_unreadable,
)

PRODUCERS_KEPT = 1_024
"""Number of producers that the state remembers, the latest ones, to recognise duplicates of their inputs."""
IDS_KEPT = 256
"""Number of event ids kept, the latest ones, to recognise duplicates from producers that give no `producer_seq`."""
# Kinds of events are looked up in sets: isinstance with a model takes many times as long, and this is the inner loop.
INPUTS = frozenset(codec.INPUTS.values())
RESULTS = frozenset(ANSWERS)
TERMINAL = frozenset(kind for kind in ANSWERS if kind.is_last)
CONNECTIONS = frozenset(kind for kind in INPUTS if issubclass(kind, ConnectionInput))


def fold(log: Iterable[Event], state: State | None = None) -> State:
    """Fold a log into a state. Returns the new state; the given state is not changed."""
    state = State() if state is None else state.copy()
    for event in log:
        apply(state, event)
    return state


def evolve(state: State, event: Event) -> State:
    """Return the state after one more event; the given state is not changed."""
    return fold((event,), state)


def apply(state: State, event: Any) -> None:
    """Fold one event into a state, in place. No other code may hold the state."""
    state.version = event.version
    state.at_us = event.at_us
    kind: type[Any] = type(event)
    if is_input := kind in INPUTS:
        _note_input(state, event)
        if not _counts(state, kind, event):
            return
    if (change := _CHANGES.get(kind)) is not None:
        change(state, event)
    if is_input and kind in TERMINAL:
        del state.pending[event.command_id]


def _counts(state: State, kind: type[Event], event: Any) -> bool:
    """Whether an input may have an effect. False before the session opens (except for SESSION_OPENED), after it ends,
    for a stale result, and for a connection event (of client or handler) from a node that is not the owner.

    An input without effect changes only `version`, `at_us`, the number of inputs and the data for recognising
    duplicates.
    """
    if kind in RESULTS:
        return state.answered(event) is not None
    if kind in CONNECTIONS and not state.is_from_the_owner(event.producer):
        return False
    return state.phase != "ENDED" and (state.phase != "NEW" or kind is inputs.SessionOpened)


def _note_input(state: State, event: Input) -> None:
    state.inputs += 1
    if sequence := event.producer_seq:
        producer = event.producer
        state.producers.pop(producer, None)
        state.producers[producer] = sequence
        if len(state.producers) > PRODUCERS_KEPT:
            del state.producers[next(iter(state.producers))]
    else:
        state.recent_ids = (*state.recent_ids[1 - IDS_KEPT :], event.event_id)


def _session_opened(state: State, event: inputs.SessionOpened) -> None:
    if state.phase == "NEW" and not why_unreadable(event) and (policy := Policy.read(event.policy)) is not None:
        state.session_id = event.session_id
        state.policy, state.schema = policy, event.state_schema
        state.owner, state.node = event.incarnation, event.producer.partition(":")[0]


def _client_connected(state: State, event: inputs.ClientConnected) -> None:
    state.client_id = event.client_id


def _client_disconnected(state: State, event: inputs.ClientDisconnected) -> None:
    if state.client_id == event.client_id:
        state.client_id = ""


def _handler_attached(state: State, event: inputs.HandlerAttached) -> None:
    state.handler_id = event.handler_id


def _handler_detached(state: State, event: inputs.HandlerDetached) -> None:
    if state.handler_id == event.handler_id:
        state.handler_id = ""
        state.user_is_speaking = False


def _intent_resolved(state: State, event: inputs.IntentResolved) -> None:
    _note_finding(state, intent=event.intent, intent_elapsed_us=event.elapsed_us)


def _answer_text(state: State, event: inputs.AnswerText) -> None:
    if state.awaits_text(event):
        _note_finding(
            state, texts=(*state.texts, event.text), **({} if event.index else {"answer_elapsed_us": event.elapsed_us})
        )


def _model_responded(state: State, event: journal.ModelResponded) -> None:
    _note_finding(state, facts_from=state.found.facts_from or event.version)


def _rag_answered(state: State, event: inputs.RagAnswered) -> None:
    if state.task is not None:
        state.answer_failures = 0
    if state.texts:
        _note_finding(state, answer="".join(state.texts))
    else:
        _note_finding(state, answer=event.answer, answer_elapsed_us=event.elapsed_us)


def _answer_failed(state: State) -> None:
    """Count a failed answer. If texts of the answer have come, these texts become the whole answer, with the apology
    `cut_off` of the policy at the end.
    """
    state.answer_failures += 1
    if texts := state.texts:
        apology = state.policy.fallback.cut_off
        if apology and sum(map(len, texts)) + len(apology) < ANSWER_CHARS:
            texts = (*texts, apology if texts[-1][-1:].isspace() else f" {apology}")
        _note_finding(state, answer="".join(texts), texts=texts)


def _note_finding(state: State, **delivered: Any) -> None:
    """Store results of services in the open turn or, if no turn is open, in the speculation."""
    if state.task is not None:
        state.task = state.task.replace(found=state.task.found.replace(**delivered))
    elif state.speculation is not None:
        state.speculation = state.speculation.replace(found=state.speculation.found.replace(**delivered))


def _service_failed(state: State, event: inputs.ServiceFailed) -> None:
    name = state.pending[event.command_id].name
    _stage_over(state, name)
    if name == "Speak":
        state.speech_failures += 1
    elif state.task is None:
        state.speculation = None
    elif name == "AnswerQuestion":
        _answer_failed(state)


def _stage_over(state: State, name: str) -> None:
    """Record that a request ended without a result. `name`: the name of the command that made the request. The state
    changes only for ClassifyIntent: the turn continues with an empty intent.
    """
    if name == "ClassifyIntent" and state.task is not None:
        _note_finding(state, intent="")


def _timer_fired(state: State, event: inputs.TimerFired) -> None:
    if event.target == "answer_deadline":
        _answer_failed(state)
    elif event.target in ("tts_deadline", "playback_deadline"):
        state.speech_failures += 1
    elif event.target == "stt_deadline":
        transcripts.final_missing(state, event)


def _barge_in(state: State, event: inputs.BargeIn) -> None:
    """Store the playback position that BARGE_IN reports, but at most the estimate of `heard_ms`: the user cannot have
    heard more.
    """
    if (p := state.playback) and p.playback_id == event.playback_id and p.is_interruptible and event.position_ms:
        state.playback = p.replace(position_ms=min(event.position_ms, heard_ms(p, event.at_us)), position_at_us=0)


def _session_resumed(state: State, event: inputs.SessionResumed) -> None:
    if event.incarnation != state.owner or not state.is_from_the_owner(event.producer):
        state.owner, state.node = event.incarnation, event.producer.partition(":")[0]
        state.epoch += 1
        state.client_id = state.handler_id = ""
        state.user_is_speaking = False
        state.speculation = state.utterance = None


def _turn_started(state: State, event: derived.TurnStarted) -> None:
    state.turn += 1
    state.partial_text = state.held_text = state.held_via = ""
    state.partial_is_complete = False
    found = state.speculation.found if event.speculation and state.speculation else NOTHING_FOUND
    if found.answer is not None:
        state.answer_failures = 0
    if state.policy.intent.skip:
        found = found.replace(intent="")
    state.task = Turn(event.text, event.at_us, event.via, found)
    state.speculation = None
    state.tries = 0


def _user_interrupted(state: State, event: derived.UserInterrupted) -> None:
    if event.text:
        transcripts.hold(state, event.text, event.via)


def _turn_ended(state: State, event: derived.TurnEnded) -> None:  # noqa: ARG001
    state.task = None


def _processing_complete(state: State, event: derived.ProcessingComplete) -> None:
    assert state.task is not None, "an answer lies within a turn"
    found = state.task.found.replace(intent=event.intent)
    if not found.texts:
        found = found.replace(answer=event.answer)
    state.task = state.task.replace(found=found, is_processed=True, ends=event.ends)


def _state_changed(state: State, event: derived.StateChanged) -> None:
    state.phase = event.to_phase
    if event.to_phase == "LISTENING":
        transcripts.listening_begins(state)


def _command_issued(state: State, event: derived.CommandIssued) -> None:
    name, turn = event.name, event.turn
    if (retried := state.pending.pop(event.retry_of, None)) is not None:
        turn = retried.turn  # a retried tool call of an earlier turn still belongs to that turn
    if name in OUTSTANDING:
        # The copy has no state hash: while decisions run, there is none yet; in a fold, the logged event has one.
        state.pending[event.command_id] = event if turn == event.turn else event.replace(state_hash="", turn=turn)
    if (cancel := _CANCELS.get(name)) is not None:
        cancel(state, event)
    if (begin := _BEGINS.get(name)) is not None:
        begin(state, event)


def _speculation_begins(state: State, event: derived.CommandIssued) -> None:
    if state.task is None:
        state.tries += 1
        state.speculation = OpenSpeculation(state.tries, str(event.payload["text"]))


def _tool_runs(state: State, event: derived.CommandIssued) -> None:
    if not event.retry_of:  # the event just before the command is its TOOL_CALLED
        found = state.found
        _note_finding(state, calls=found.calls + 1, facts_from=found.facts_from or event.version - 1)


def _stop_playback(state: State, event: derived.CommandIssued) -> None:
    for command in state.outstanding(*PLAYS):
        if command.target == event.target:
            del state.pending[command.command_id]


def _cancel_task(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    state.epoch += 1
    for command in state.outstanding(*OF_THE_TURN):
        del state.pending[command.command_id]


def _cancel_one(state: State, event: derived.CommandIssued) -> None:
    command = state.pending.pop(str(event.payload["command_id"]))
    _stage_over(state, command.name)


_CANCELS: dict[str, Callable[[State, derived.CommandIssued], None]] = {
    "StopPlayback": _stop_playback,
    "CancelTask": _cancel_task,
    **dict.fromkeys(WITHDRAWALS, _cancel_one),
}

_BEGINS: dict[str, Callable[[State, derived.CommandIssued], None]] = {
    "AnswerQuestion": _speculation_begins,
    "RunTool": _tool_runs,
    "Speak": playback.speaking_begins,
    "SpeakMore": playback.speaking_goes_on,
    "PausePlayback": playback.paused,
    "ResumePlayback": playback.resumed,
}

_CHANGES: dict[type[Event], Callable[[State, Any], None]] = {
    inputs.SessionOpened: _session_opened,
    inputs.ClientConnected: _client_connected,
    inputs.ClientDisconnected: _client_disconnected,
    inputs.HandlerAttached: _handler_attached,
    inputs.HandlerDetached: _handler_detached,
    inputs.SpeechStarted: transcripts.speech_started,
    inputs.SpeechStopped: transcripts.speech_stopped,
    inputs.SttPartial: transcripts.stt_partial,
    inputs.SttFinal: transcripts.stt_final,
    inputs.HearingFailed: transcripts.hearing_failed,
    inputs.IntentResolved: _intent_resolved,
    inputs.AnswerText: _answer_text,
    inputs.RagAnswered: _rag_answered,
    journal.ModelResponded: _model_responded,
    inputs.ServiceFailed: _service_failed,
    inputs.TtsChunkReady: playback.chunk_ready,
    inputs.TtsComplete: playback.synthesis_complete,
    inputs.PlaybackStarted: playback.started,
    inputs.PlaybackProgress: playback.progress,
    inputs.PlaybackDone: playback.done,
    inputs.BargeIn: _barge_in,
    inputs.TimerFired: _timer_fired,
    inputs.SessionResumed: _session_resumed,
    derived.TurnStarted: _turn_started,
    derived.UserInterrupted: _user_interrupted,
    derived.TurnEnded: _turn_ended,
    derived.ProcessingComplete: _processing_complete,
    derived.StateChanged: _state_changed,
    derived.CommandIssued: _command_issued,
    derived.AnswerEnded: playback.answer_ended,
}


def _then(change: Callable[[State, Any], None] | None, name: str, fold: Fold) -> Callable[[State, Any], None]:
    """Return a function that applies `change` to a state, and then `fold` to the field `name` of the state."""

    def both(state: State, event: Any) -> None:
        if change is not None:
            change(state, event)
        held = state.__dict__
        held[name] = fold(held[name], event)

    return both


for _kind, _name, _fold in folds(State):
    _CHANGES[_kind] = _then(_CHANGES.get(_kind), _name, _fold)
