"""evolve(state, event) -> state: folds any committed event. It decides nothing; a log is rebuilt with it alone."""

from collections.abc import Callable, Iterable
from typing import Any

from events import codec, derived, inputs
from events.envelope import Event, Input
from orchestrator.session.commands import OUTSTANDING, STAGES
from orchestrator.session.heard import heard_ms
from orchestrator.session.phrases import normal
from orchestrator.session.policy import Policy
from orchestrator.session.state import Playback, Speculation, State, Turn, Utterance

PRODUCERS_KEPT = 32
IDS_KEPT = 64
HELD_CHARS = 8_000
"""What is said in an INTERRUPT is held up to here: as much as one utterance may have."""
# Kinds of events are looked up in sets: isinstance with a model takes many times as long, and this is the inner loop.
INPUTS = frozenset(codec.INPUTS.values())
RESULTS = frozenset(codec.RESULTS.values())
TERMINAL = frozenset(
    {inputs.IntentResolved, inputs.RagAnswered, inputs.ServiceFailed, inputs.PlaybackDone, inputs.TimerFired}
)
"""Results after which their command is no longer outstanding."""
CONNECTIONS = frozenset(
    {inputs.ClientConnected, inputs.ClientDisconnected, inputs.HandlerAttached, inputs.HandlerDetached}
)
"""What only the owner's node can say: another one's word about them is late, from before it lost the session."""


def fold(log: Iterable[Event], state: State | None = None) -> State:
    """The state that a log leads to."""
    state = State() if state is None else state.copy()
    for event in log:
        apply(state, event)
    return state


def evolve(state: State, event: Event) -> State:
    """The state after one more event; the given one is not changed."""
    return fold((event,), state)


def apply(state: State, event: Any) -> None:
    """Fold one event into a state that nobody else holds."""
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
    """Whether an input may change more than the bookkeeping: not before the session, not after it, not when stale."""
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
        state.recent_ids = (*state.recent_ids, event.event_id)[-IDS_KEPT:]


def _session_opened(state: State, event: inputs.SessionOpened) -> None:
    if state.phase == "NEW" and (policy := Policy.read(event.policy)) is not None:
        state.session_id = event.session_id
        state.policy = policy
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


def _speech_started(state: State, event: inputs.SpeechStarted) -> None:
    state.user_is_speaking = True
    state.speech_started_at_us = event.at_us


def _speech_stopped(state: State, event: inputs.SpeechStopped) -> None:
    state.user_is_speaking = False
    state.speech_stopped_at_us = event.at_us


def _stt_partial(state: State, event: inputs.SttPartial) -> None:
    if state.partial_text != event.text:
        state.partial_text, state.partial_at_us = event.text, event.at_us
    state.partial_is_complete = event.is_complete


def _stt_final(state: State, event: inputs.SttFinal) -> None:
    words = event.text.strip()
    if state.phase == "IDLE":
        return
    if not words or state.said_by_another(event):
        if state.is_awaited(event):
            _nothing_was_said(state)
        return
    state.utterance = Utterance(normal(words), event.producer, event.at_us)
    state.partial_text = ""
    state.partial_is_complete = False
    state.user_is_speaking = False
    if state.phase == "INTERRUPT":
        _hold(state, words, event.via)


def _nothing_was_said(state: State) -> None:
    """The utterance is over, and with it what was understood and guessed of it."""
    state.partial_text = ""
    state.partial_is_complete = False
    state.speculation, state.tries = None, 0


def _hold(state: State, words: str, via: str) -> None:
    state.held_text = f"{state.held_text} {words}".strip()[:HELD_CHARS].rstrip()
    state.held_via = via


def _intent_resolved(state: State, event: inputs.IntentResolved) -> None:
    if state.task is not None:
        state.task = state.task.but(intent=event.intent, intent_elapsed_us=event.elapsed_us)
    elif state.speculation is not None:
        state.speculation = state.speculation.but(intent=event.intent, intent_elapsed_us=event.elapsed_us)


def _rag_answered(state: State, event: inputs.RagAnswered) -> None:
    if state.task is not None:
        state.answer_failures = 0
        state.task = state.task.but(answer=event.answer, answer_elapsed_us=event.elapsed_us)
    elif state.speculation is not None:
        state.speculation = state.speculation.but(answer=event.answer, answer_elapsed_us=event.elapsed_us)


def _service_failed(state: State, event: inputs.ServiceFailed) -> None:
    name = state.pending[event.command_id].name
    _stage_over(state, name)
    if name == "Speak":
        state.speech_failures += 1
    elif state.task is None:
        state.speculation = None
    elif name == "AnswerQuestion":
        state.answer_failures += 1


def _stage_over(state: State, name: str) -> None:
    """An intent that will not come counts as none; an answer that will not come is decided by the reducer."""
    if name == "ClassifyIntent" and state.task is not None:
        state.task = state.task.but(intent="")


def _timer_fired(state: State, event: inputs.TimerFired) -> None:
    if event.target == "answer_deadline":
        state.answer_failures += 1
    elif event.target in ("tts_deadline", "playback_deadline"):
        state.speech_failures += 1
    elif event.target == "session_limit":
        state.limits += 1
    elif event.target == "stt_deadline" and not state.partial_text.strip():
        _nothing_was_said(state)


def _tts_chunk_ready(state: State, event: inputs.TtsChunkReady) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id:
        last_ms = p.words[-1][0] if p.words else -1  # speech that is made anew repeats some
        words = tuple((word.at_ms, word.text) for word in event.words if word.at_ms > last_ms)
        state.playback = p.but(chunks=p.chunks + 1, audio_ms=p.audio_ms + event.duration_ms, words=p.words + words)


def _tts_complete(state: State, event: inputs.TtsComplete) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id:
        state.playback = p.but(total_ms=event.duration_ms)


def _playback_started(state: State, event: inputs.PlaybackStarted) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id and not p.position_at_us and not p.is_paused:
        state.playback = p.but(position_at_us=event.at_us)


def _playback_progress(state: State, event: inputs.PlaybackProgress) -> None:
    if (
        (p := state.playback)
        and p.playback_id == event.playback_id
        and (event.position_ms > p.position_ms or (event.position_ms == p.position_ms and not p.position_at_us))
    ):  # where the clock runs already, the same position again would only set it back
        moves = not p.is_paused
        state.playback = p.but(position_ms=event.position_ms, position_at_us=event.at_us if moves else 0)


def _playback_done(state: State, event: inputs.PlaybackDone) -> None:
    if (p := state.playback) and p.playback_id == event.playback_id:
        state.speech_failures = 0


def _barge_in(state: State, event: inputs.BargeIn) -> None:
    """Who hears the speech knows best how far it came; but what was not sent was not heard."""
    if (p := state.playback) and p.playback_id == event.playback_id and p.is_interruptible and event.position_ms:
        state.playback = p.but(position_ms=min(event.position_ms, heard_ms(p, event.at_us)), position_at_us=0)


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
    intent = "" if state.policy.intent.skip else None
    state.task = Turn(event.text, event.at_us, event.via, intent)
    if event.speculation and (guess := state.speculation):
        state.task = state.task.but(
            intent=guess.intent if intent is None else intent,
            intent_elapsed_us=guess.intent_elapsed_us,
            answer=guess.answer,
            answer_elapsed_us=guess.answer_elapsed_us,
        )
        state.answer_failures = 0 if guess.answer is not None else state.answer_failures
    state.speculation = None
    state.tries = state.away_prompts = 0


def _user_interrupted(state: State, event: derived.UserInterrupted) -> None:
    if event.text:
        _hold(state, event.text, event.via)


def _turn_ended(state: State, event: derived.TurnEnded) -> None:  # noqa: ARG001
    state.task = None


def _processing_complete(state: State, event: derived.ProcessingComplete) -> None:
    assert state.task is not None, "an answer lies within a turn"
    state.task = state.task.but(answer=event.answer, intent=event.intent, is_processed=True, ends=event.ends)


def _state_changed(state: State, event: derived.StateChanged) -> None:
    state.phase = event.to_phase
    if event.to_phase == "LISTENING":
        state.partial_text = ""
        state.partial_is_complete = False
    elif event.reason == "user_away":
        state.away_prompts += 1


def _command_issued(state: State, event: derived.CommandIssued) -> None:
    name = event.name
    if event.retry_of:
        state.pending.pop(event.retry_of, None)
    if name in OUTSTANDING:
        state.pending[event.command_id] = event
    if (cancel := _CANCELS.get(name)) is not None:
        cancel(state, event)
    if (begin := _BEGINS.get(name)) is not None:
        begin(state, event)


def _speaking_begins(state: State, event: derived.CommandIssued) -> None:
    """A retry goes on where the last confirmed position was: the audio beyond it is made and played anew."""
    if (p := state.playback) is None:
        state.playback = Playback(event.target, str(event.payload["text"]), str(event.payload["ends"]))
    else:
        state.playback = p.but(audio_ms=p.position_ms, position_at_us=0, is_paused=False)


def _playback_paused(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    if (p := state.playback) is not None:
        heard = heard_ms(p, state.at_us)
        state.playback = p.but(position_ms=heard, position_at_us=0, is_paused=True, paused_at_us=state.at_us)


def _playback_resumed(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    if (p := state.playback) is not None:
        state.playback = p.but(position_at_us=state.at_us if p.audio_ms else 0, is_paused=False)


def _speculation_begins(state: State, event: derived.CommandIssued) -> None:
    if state.task is None:
        state.tries += 1
        state.speculation = Speculation(state.tries, str(event.payload["text"]))


def _stop_playback(state: State, event: derived.CommandIssued) -> None:
    for command in state.outstanding("Speak", "PlayFiller"):
        if command.target == event.target:
            del state.pending[command.command_id]


def _cancel_task(state: State, event: derived.CommandIssued) -> None:  # noqa: ARG001
    state.epoch += 1
    for command in state.outstanding(*STAGES):
        del state.pending[command.command_id]


def _cancel_one(state: State, event: derived.CommandIssued) -> None:
    command = state.pending.pop(str(event.payload["command_id"]))
    _stage_over(state, command.name)


def _answer_ended(state: State, event: derived.AnswerEnded) -> None:  # noqa: ARG001
    state.playback = None


_CANCELS: dict[str, Callable[[State, derived.CommandIssued], None]] = {
    "StopPlayback": _stop_playback,
    "CancelTask": _cancel_task,
    "CancelStage": _cancel_one,
    "CancelTimer": _cancel_one,
}

_BEGINS: dict[str, Callable[[State, derived.CommandIssued], None]] = {
    "AnswerQuestion": _speculation_begins,
    "Speak": _speaking_begins,
    "PausePlayback": _playback_paused,
    "ResumePlayback": _playback_resumed,
}

_CHANGES: dict[type[Event], Callable[[State, Any], None]] = {
    inputs.SessionOpened: _session_opened,
    inputs.ClientConnected: _client_connected,
    inputs.ClientDisconnected: _client_disconnected,
    inputs.HandlerAttached: _handler_attached,
    inputs.HandlerDetached: _handler_detached,
    inputs.SpeechStarted: _speech_started,
    inputs.SpeechStopped: _speech_stopped,
    inputs.SttPartial: _stt_partial,
    inputs.SttFinal: _stt_final,
    inputs.IntentResolved: _intent_resolved,
    inputs.RagAnswered: _rag_answered,
    inputs.ServiceFailed: _service_failed,
    inputs.TtsChunkReady: _tts_chunk_ready,
    inputs.TtsComplete: _tts_complete,
    inputs.PlaybackStarted: _playback_started,
    inputs.PlaybackProgress: _playback_progress,
    inputs.PlaybackDone: _playback_done,
    inputs.BargeIn: _barge_in,
    inputs.TimerFired: _timer_fired,
    inputs.SessionResumed: _session_resumed,
    derived.TurnStarted: _turn_started,
    derived.UserInterrupted: _user_interrupted,
    derived.TurnEnded: _turn_ended,
    derived.ProcessingComplete: _processing_complete,
    derived.StateChanged: _state_changed,
    derived.CommandIssued: _command_issued,
    derived.AnswerEnded: _answer_ended,
}
