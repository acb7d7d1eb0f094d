"""The derived events: what the reducer says about an input. Each docstring answers the five questions of inputs.py."""

from typing import Literal

from pydantic import JsonValue

from events.envelope import Count, Derived, Id, Key, Note, Text, Via

Phase = Literal["NEW", "IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT", "ENDED"]


class TurnStarted(Derived):
    """A user utterance was accepted; the current task lives from here to TURN_ENDED.

    Says: the reducer on an STT_FINAL that counts. Changes: the turn number rises.
    Prints: `STT FINAL | text=…`, with `  (new user input)` on the first after an interruption.
    Late or twice: cannot be. Test: test_step_3_listening_becomes_thinking.
    """

    speculation: Count = 0
    """Number of the speculation about these words, whose results count for the turn; 0: none."""
    text: Text
    type: Literal["TURN_STARTED"] = "TURN_STARTED"
    via: Via


class StateChanged(Derived):
    """The phase changed. `reason` is given where the lines above it in the golden log do not show why.

    Says: the reducer. Changes: the phase. Prints: the phase with its colour, the reason in brackets.
    Late or twice: cannot be. Test: test_case_1_is_a_whole_log.
    """

    from_phase: Phase
    reason: Note = ""
    to_phase: Phase
    type: Literal["STATE_CHANGED"] = "STATE_CHANGED"


class CommandIssued(Derived):
    """The reducer requests an effect, which starts after the commit.

    Says: the reducer. Changes: a command that expects a result is outstanding from here. Prints: CancelTask prints
    `Cancelling current task`, others nothing. Late or twice: command ids are unique within a session.
    Test: test_command_ids_are_unique.
    """

    command_id: Key
    idempotency_key: Key = ""
    name: Id
    payload: dict[str, JsonValue]
    retry_of: Key = ""
    target: Id = ""
    type: Literal["COMMAND_ISSUED"] = "COMMAND_ISSUED"


class ProcessingComplete(Derived):
    """Intent and answer are joined. `saved_us`: time saved because both ran in parallel.

    Says: the reducer on the later of both, or on a deadline (`fallback`: why the answer is not from the service).
    Changes: the answer to be spoken. Prints: `Processing complete in Nms`. Late or twice: cannot be.
    Test: test_step_5_both_results_are_awaited.
    """

    answer: Text
    elapsed_us: Count
    ends: Note = ""
    """The reason for which the session ends after this answer; empty: it continues."""
    fallback: Note = ""
    intent: Note
    saved_us: Count
    type: Literal["PROCESSING_COMPLETE"] = "PROCESSING_COMPLETE"


class UserInterrupted(Derived):
    """The user took the floor while the agent was speaking.

    Says: the reducer. Changes: its words are held; the next turn is marked as new input.
    Prints: `🔴 User interrupted (reason)`. Late or twice: cannot be. Test: test_case_2_is_a_contiguous_slice.
    """

    lane = "USER"

    playback_id: Id
    reason: Note
    text: Text = ""
    """The words that interrupted; they wait for LISTENING."""
    type: Literal["USER_INTERRUPTED"] = "USER_INTERRUPTED"
    via: Via = "speech"


class AnswerEnded(Derived):
    """A playback is over: played to its end, interrupted after `heard_ms`, or failed.

    Says: the reducer. Changes: the playback is forgotten. Prints: finished `TTS stream | chunks=N`, interrupted
    `[TTS] Playing...`, failed nothing (the phase names the reason). Late or twice: cannot be.
    Test: test_playback_done_returns_to_listening.
    """

    lane = "PLAYBACK"

    chunks: Count
    heard_ms: Count
    heard_text: Text
    outcome: Literal["finished", "interrupted", "failed"]
    playback_id: Id
    type: Literal["ANSWER_ENDED"] = "ANSWER_ENDED"


class TurnEnded(Derived):
    """The turn is over and with it its current task.

    Says: the reducer. Changes: no current task. Prints: nothing. Late or twice: cannot be.
    Test: test_every_turn_that_starts_ends.
    """

    outcome: Literal["completed", "interrupted", "superseded", "merged", "failed", "session_closed"]
    type: Literal["TURN_ENDED"] = "TURN_ENDED"


class EventRejected(Derived):
    """The input was recorded and has no effect; `reason` says why.

    Says: the reducer on a stale, empty or unexpected input, and on words over the answer that do not interrupt it.
    Changes: nothing; but a playback that paused for those words goes on. Prints: nothing.
    Late or twice: cannot be. Test: test_a_late_barge_in_is_stale.
    """

    reason: Note
    type: Literal["EVENT_REJECTED"] = "EVENT_REJECTED"


class SessionEnded(Derived):
    """The conversation is over; nothing can change it any more.

    Says: the reducer. Changes: ENDED is absorbing. Prints: nothing. Late or twice: cannot be.
    Test: test_ended_is_absorbing.
    """

    reason: Note
    type: Literal["SESSION_ENDED"] = "SESSION_ENDED"
