"""The input events: everything that can reach a session from outside its reducer.

Each docstring answers five questions: who says it, what it changes, which line it prints in the golden log, what it
means late or twice, and which test shows it. "Twice" is always the same for an event with a `producer_seq`: the
repetition leaves no trace but a counter.
"""

from operator import not_
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from events.envelope import (
    ADDED,
    ConnectionInput,
    Count,
    Id,
    Input,
    Milliseconds,
    Note,
    PlaybackResult,
    Result,
    ServiceResult,
    Text,
    Via,
)


class SpokenWord(BaseModel):
    """A word of an answer and where in its audio it begins."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    at_ms: Milliseconds
    text: Note


class SessionOpened(Input):
    """A conversation begins, under this policy, which has every field written out.

    Says: the gateway that accepted the call. Changes: NEW becomes IDLE; an event whose policy or state schema cannot be
    read is rejected. Prints: `🟢 IDLE`. Late or twice: rejected; the first policy stays.
    Test: test_case_1_is_a_whole_log.
    """

    grant: Annotated[dict[str, JsonValue], Field(exclude_if=not_)] = {}  # noqa: RUF012 - pydantic copies it
    """What the client's token allows (orchestrator/grant.py), with a hash of its subject. Not recorded if empty, as in
    all sessions of before.
    """
    policy: dict[str, JsonValue]
    reducer_version: Id = ""
    schema_version: Count = 2
    state_schema: Annotated[int, Field(ge=1, le=1_000)] = 1
    """The state schema of the program that opened the session. It selects the fields that `state_hash` covers."""
    type: Literal["SESSION_OPENED"] = "SESSION_OPENED"


class ClientConnected(ConnectionInput):
    """A browser or terminal is connected to the session's control channel.

    Says: the gateway. Changes: IDLE becomes LISTENING, and the greeting is due; in a later phase the client is noted,
    and the `reconnect` timer stops. Prints: `🔵 LISTENING (client_connected)` the first time. Late or twice: a second
    client replaces the first; a client of a node that lost the session is rejected.
    Test: test_client_connected_gives_listening.
    """

    client_id: Id
    type: Literal["CLIENT_CONNECTED"] = "CLIENT_CONNECTED"


class ClientDisconnected(ConnectionInput):
    """The control channel is gone; the client may come back within the policy's `reconnect_ms`.

    Says: the gateway. Changes: the `reconnect` timer starts; without a media connection, the deadlines of the audio
    stop. Prints: nothing. Late or twice: ignored when it names a client that was replaced.
    Test: test_a_client_that_stays_away_ends_the_session.
    """

    client_id: Id
    reason: Note = ""
    type: Literal["CLIENT_DISCONNECTED"] = "CLIENT_DISCONNECTED"


class HandlerAttached(ConnectionInput):
    """A media connection (mic in, agent audio out) serves the session; `handler_id` names it.

    Says: the gateway, once ICE and DTLS have connected. Changes: answers are spoken, no longer only shown; a greeting
    that waited for the media connection is spoken. Prints: for a greeting, `🔴 SPEAKING (greeting)`.
    Late or twice: the newer handler replaces the older.
    Test: test_a_new_handler_gets_the_microphone_setting_of_the_phase.
    """

    type: Literal["HANDLER_ATTACHED"] = "HANDLER_ATTACHED"


class HandlerDetached(ConnectionInput):
    """The media connection ended.

    Says: the media layer. Changes: the answer goes on from the heard position, over the next media connection or as
    text; a filler stops. Prints: nothing. Late or twice: rejected when another handler serves the session by now.
    Test: test_a_lost_call_is_spoken_on_from_where_it_was_heard.
    """

    reason: Note = ""
    unheard_ms: Annotated[Milliseconds, ADDED] = 0
    """How long the caller's connection was silent before, so that the caller did not hear the agent. The speech of that
    time is repeated.
    """
    type: Literal["HANDLER_DETACHED"] = "HANDLER_DETACHED"


class SpeechStarted(Input):
    """Voice activity began; `media_ms` is the position in the microphone's own time.

    Says: the VAD. Changes: the wait for the end of the utterance stops, and so does a filler. In SPEAKING, by policy,
    the playback pauses until it is decided whether the user interrupts, or the agent is interrupted at once. Prints:
    for an interruption, `🔴 User interrupted (barge_in)`. Late or twice: the pause is extended; without effect
    elsewhere. Test: test_speech_interrupts_speaking.
    """

    told_by = "Speech"
    lane = "USER"

    media_ms: Count = 0
    type: Literal["SPEECH_STARTED"] = "SPEECH_STARTED"


class SpeechStopped(Input):
    """Voice activity ended; `duration_ms` is the length of the speech in media time.

    Says: the VAD. Changes: the `endpoint` timer starts; in LISTENING the services may be asked early about the words so
    far; in SPEAKING a paused playback will resume unless words follow. Prints: nothing.
    Late or twice: the timer restarts. Test: test_endpointing_waits_then_finishes_the_utterance.
    """

    told_by = "Speech"
    lane = "USER"

    duration_ms: Milliseconds = 0
    media_ms: Count = 0
    type: Literal["SPEECH_STOPPED"] = "SPEECH_STOPPED"


class SttPartial(Input):
    """A partial transcript: the words of the utterance so far, which speech-to-text may still revise.

    Says: the STT service. Changes: the partial transcript, and with it the wait for the end of the utterance, the early
    questions, and whether speech over the agent interrupts. Prints: for an interruption, `🔴 User interrupted
    (barge_in)`. Late or twice: the last partial counts. Test: test_step_1_a_partial_opens_no_turn.
    """

    told_by = "Speech"
    lane = "STT"

    is_complete: bool = False
    """Whether the recogniser itself considers the utterance complete (a final grammar state, an eager end of turn)."""
    text: Text
    type: Literal["STT_PARTIAL"] = "STT_PARTIAL"
    via: Via = "speech"


class SttFinal(Input):
    """An utterance is complete: recognised speech, or a line that the user typed (`via`).

    Says: the STT service, or the gateway for typed text. Changes: LISTENING becomes THINKING; THINKING starts over,
    with the joined words or the new ones; SPEAKING is interrupted and the words wait for LISTENING, unless they are a
    backchannel. Prints: through TURN_STARTED. Late or twice: an empty final is rejected, and so are words that another
    producer has just reported; in INTERRUPT the words are held. Test: test_step_3_listening_becomes_thinking.
    """

    told_by = "Speech"
    lane = "STT"

    text: Text
    type: Literal["STT_FINAL"] = "STT_FINAL"
    via: Via = "speech"


class HearingFailed(Input):
    """Speech-to-text broke, or gave no final in time; it is opened again.

    Says: the media layer. Changes: lost utterances are counted. In LISTENING, the agent asks the user to repeat a lost
    utterance; after too many in a row, it says goodbye. Prints: `🔴 SPEAKING (unheard)`.
    Late or twice: counts again. Test: test_an_utterance_that_was_lost_is_asked_for_again.
    """

    error: Note
    is_utterance_lost: bool = False
    """Whether the user said something, or is speaking. Otherwise no words were lost, and the user need not know."""
    type: Literal["HEARING_FAILED"] = "HEARING_FAILED"


class ProviderSwitched(Input):
    """Failover: another provider serves this session from now on, because a provider failed, was late, or is back.

    Says: the ports. Changes: nothing; readers of the log see which provider the next results are from. Prints: nothing.
    Late or twice: recorded again. Test: test_a_switch_of_providers_changes_nothing.
    """

    told_by = "Services"
    lane = "THINK"

    provider: Note
    reason: Note = ""
    """Why another provider was given up; empty when the first choice is back."""
    service: Literal["intent", "answer", "text-to-speech", "speech-to-text"]
    type: Literal["PROVIDER_SWITCHED"] = "PROVIDER_SWITCHED"


class IntentResolved(ServiceResult):
    """The intent service answered.

    Says: the ClassifyIntent effect. Changes: half of the join that ends THINKING; asked early, it is kept for the turn.
    Prints: through PROCESSING_COMPLETE.
    Late or twice: stale, recorded without effect. Test: test_step_5_both_results_are_awaited.
    """

    answers = frozenset({"ClassifyIntent"})

    confidence_permille: Count = 0
    intent: Note
    type: Literal["INTENT_RESOLVED"] = "INTENT_RESOLVED"


class AnswerText(ServiceResult):
    """A sentence or clause of an answer that is still being written. It includes its blanks: join texts as they are.

    Says: the AnswerQuestion effect. Changes: the first text is half of the join that ends THINKING, and SPEAKING says
    the other texts after it; asked early, they are kept for the turn. Prints: the first through PROCESSING_COMPLETE.
    Late or twice: stale; a text whose `index` is not the next is rejected.
    Test: test_an_answer_is_spoken_while_it_is_written.
    """

    answers = frozenset({"AnswerQuestion"})
    is_last = False
    ends_stage = False

    index: Count
    text: Text
    type: Literal["ANSWER_TEXT"] = "ANSWER_TEXT"


class RagAnswered(ServiceResult):
    """The answer is complete. `answer` is empty if the answer came in texts (ANSWER_TEXT).

    Says: the AnswerQuestion effect. Changes: half of the join that ends THINKING; in SPEAKING, no more text follows;
    asked early, it is kept for the turn. Prints: through PROCESSING_COMPLETE.
    Late or twice: stale, recorded without effect. Test: test_step_5_both_results_are_awaited.
    """

    answers = frozenset({"AnswerQuestion"})

    answer: Text
    sources: tuple[Note, ...] = ()
    type: Literal["RAG_ANSWERED"] = "RAG_ANSWERED"


class ServiceFailed(ServiceResult):
    """A service refused, broke or timed out; `error` says how.

    Says: the effect that asked. Changes: intent: the turn goes on without it; answer: the fallback answer is spoken;
    speech: back to LISTENING; too many failures in a row end the session; asked early: the speculation is dropped.
    Prints: the phase it leads to, with `(service_failed)`. Late or twice: stale.
    Test: test_a_failed_answer_speaks_the_fallback.
    """

    error: Note
    type: Literal["SERVICE_FAILED"] = "SERVICE_FAILED"


class TtsChunkReady(PlaybackResult):
    """A chunk of synthesised speech is there; the audio itself never enters the log.

    Says: the Speak effect. Changes: the first chunk stops the timer `tts_deadline`; each chunk is counted, and its
    words show later how much the user heard. Prints: through ANSWER_ENDED.
    Late or twice: stale; a repeated chunk of an answer in texts counts once. Test: test_chunks_are_counted.
    """

    duration_ms: Milliseconds
    index: Count
    text_index: Annotated[Count, ADDED] = 0
    """The text of the answer (ANSWER_TEXT) whose speech this is; 0 where the answer came as a whole."""
    type: Literal["TTS_CHUNK_READY"] = "TTS_CHUNK_READY"
    words: Annotated[tuple[SpokenWord, ...], Field(max_length=500)] = ()
    """The words that begin in this chunk, where the synthesiser says so."""


class TtsComplete(PlaybackResult):
    """All speech of an answer is synthesised: the number of its chunks, and the length of its audio.

    Says: the Speak effect. Changes: the timer `playback_deadline` restarts with the known length. Prints: nothing.
    Late or twice: stale. Test: test_the_playback_deadline_follows_the_audio.
    """

    lane = "TTS"
    ends_stage = True

    chunks: Count
    duration_ms: Milliseconds
    type: Literal["TTS_COMPLETE"] = "TTS_COMPLETE"


class PlaybackStarted(PlaybackResult):
    """The first audio frame of a playback left for the client (or the text was shown).

    Says: the player. Changes: the heard position begins to advance. Prints: nothing. Late or twice: stale.
    Test: test_playback_progress_is_remembered.
    """

    lane = "PLAYBACK"

    type: Literal["PLAYBACK_STARTED"] = "PLAYBACK_STARTED"


class PlaybackProgress(PlaybackResult):
    """A playback has been played up to `position_ms` of its audio.

    Says: the player, about once a second. Changes: the heard position. Prints: nothing.
    Late or twice: the highest position counts. Test: test_playback_progress_is_remembered.
    """

    position_ms: Milliseconds
    type: Literal["PLAYBACK_PROGRESS"] = "PLAYBACK_PROGRESS"


class PlaybackDone(PlaybackResult):
    """A playback ended by itself; `confirmed_by` says whether the client said so or a timer had to.

    Says: the player. Changes: SPEAKING becomes LISTENING or, after a farewell, ENDED; the end of a filler changes
    nothing. Prints: `TTS stream | chunks=N` and `🔵 LISTENING (playback_done)`. Late or twice: stale.
    Test: test_playback_done_returns_to_listening.
    """

    is_last = True

    confirmed_by: Literal["client", "timer"]
    position_ms: Milliseconds = 0
    type: Literal["PLAYBACK_DONE"] = "PLAYBACK_DONE"


class BargeIn(Input):
    """The user spoke over the agent, says the browser or an STT service. `playback_id` names the interrupted playback.

    Says: the browser through the gateway, or an outside service through the ingress. Changes: SPEAKING becomes
    INTERRUPT, and `position_ms` is the heard position; in THINKING the filler stops. Prints: `🔴 User interrupted
    (barge_in)`. Late or twice: rejected when it names another playback. Test: test_a_late_barge_in_is_stale.
    """

    playback_id: Id = ""
    position_ms: Milliseconds = 0
    source: Literal["browser", "stt"] = "browser"
    type: Literal["BARGE_IN"] = "BARGE_IN"


class TimerFired(Result):
    """A timer that the reducer armed came due.

    Says: the timers of the owner. Changes: see the decision about the timer that `target` names. Prints: the phase it
    leads to; for a deadline, with its name in brackets. Late or twice: stale. Test: test_a_withdrawn_timer_is_stale.
    """

    answers = frozenset({"StartTimer"})
    about = "target"
    told_by = "Timers"
    is_last = True

    target: Id
    type: Literal["TIMER_FIRED"] = "TIMER_FIRED"


class SessionResumed(Input):
    """A new owner took the session's shard: the outstanding commands of another incarnation are issued again.

    Says: the new owner. Changes: the epoch rises; the commands issued again get new ids. Prints: nothing.
    Late or twice: rejected; this incarnation's own commands are not repeated. Test: test_resumed_twice_repeats_nothing.
    """

    reducer_version: Id
    type: Literal["SESSION_RESUMED"] = "SESSION_RESUMED"


class SessionCloseRequested(Input):
    """Somebody wants the conversation to end.

    Says: the client (`goodbye`), the gateway or an operator. Changes: ENDED, for good. Prints: nothing.
    Late or twice: rejected. Test: test_ended_is_absorbing.
    """

    reason: Note = ""
    type: Literal["SESSION_CLOSE_REQUESTED"] = "SESSION_CLOSE_REQUESTED"
