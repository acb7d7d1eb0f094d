"""Decisions about the session as a whole: opening, clients and handlers coming and going, resuming, ending."""

from dataclasses import replace

from events.derived import CommandIssued, SessionEnded
from events.inputs import ClientDisconnected, HandlerDetached, SessionCloseRequested, SessionOpened
from orchestrator.session import announcements, speculation, tools
from orchestrator.session.commands import (
    STAGES,
    CancelStage,
    CloseSession,
    Command,
    ResumePlayback,
    SetMicrophone,
    Speak,
    SpeakMore,
    StartTimer,
    StopPlayback,
    read,
)
from orchestrator.session.heard import heard_ms
from orchestrator.session.phases import (
    CALL_FOLLOWS_MS,
    MICROPHONE,
    TIMERS_OF_THE_PLAYBACK,
    await_audio,
    enter,
    leave_turn,
)
from orchestrator.session.state import why_unreadable
from orchestrator.session.step import StepBuilder


def opened(step: StepBuilder) -> None:
    """SESSION_OPENED: enter IDLE, and start the timer of the session's time limit (`session_limit`), if the policy has
    a limit. Reject the event if this program cannot read its policy or its state schema.
    """
    assert isinstance(step.input, SessionOpened)
    if unreadable := why_unreadable(step.input):
        step.reject(unreadable)
    elif not step.state.session_id:
        step.reject("its policy cannot be read")
    else:
        enter(step, "IDLE")
        if limit_ms := step.state.policy.goodbye.after_ms:
            step.arm("session_limit", limit_ms)


def client_connected(step: StepBuilder) -> None:
    """CLIENT_CONNECTED in IDLE: enter LISTENING, and start the `greeting` timer if the agent is to speak first."""
    step.disarm("reconnect")
    enter(step, "LISTENING", "client_connected")
    announcements.expect_greeting(step)
    if step.state.timer("greeting") is None:  # no greeting follows, and the handler may be attached already
        announcements.expect_words(step)


def client_returned(step: StepBuilder) -> None:
    """CLIENT_CONNECTED in any phase after IDLE: stop the `reconnect` timer."""
    step.disarm("reconnect")


def client_returned_while_speaking(step: StepBuilder) -> None:
    """CLIENT_CONNECTED in SPEAKING: stop the `reconnect` timer. Start the timer `tts_deadline`, the limit for the first
    audio, unless the playback is paused or a deadline of the playback is running.
    """
    client_returned(step)
    playback = step.state.playback
    assert playback is not None, "SPEAKING lasts as long as its playback"
    if not playback.is_paused and not any(map(step.state.timer, ("tts_deadline", "playback_deadline"))):
        await_audio(step)


def client_disconnected(step: StepBuilder) -> None:
    """CLIENT_DISCONNECTED: wait up to `reconnect_ms` for a reconnect. If another client is connected, do nothing."""
    assert isinstance(step.input, ClientDisconnected)
    if step.state.client_id == "" and step.state.timer("reconnect") is None:
        step.arm("reconnect", step.state.policy.deadlines.reconnect_ms)


def client_disconnected_while_speaking(step: StepBuilder) -> None:
    """CLIENT_DISCONNECTED in SPEAKING: wait up to `reconnect_ms` for a reconnect. If neither a client nor a media
    connection is left, stop the timers `tts_deadline` and `playback_deadline`: nobody can hear the playback.
    """
    client_disconnected(step)
    if not step.state.client_id and not step.state.handler_id:
        step.disarm("tts_deadline", "playback_deadline")


def handler_attached(step: StepBuilder) -> None:
    """HANDLER_ATTACHED: send the microphone setting of the phase to the new handler."""
    step.do(SetMicrophone(MICROPHONE[step.phase]))


def handler_attached_while_listening(step: StepBuilder) -> None:
    """HANDLER_ATTACHED in LISTENING: send the microphone setting of the phase to the new handler. Then speak the
    greeting, if it waited for a media connection; otherwise start the timer `away`, the limit for the user's silence.
    """
    handler_attached(step)
    if step.state.timer("greeting") is not None:
        announcements.greet(step)
    else:
        announcements.expect_words(step)


def handler_detached(step: StepBuilder) -> None:
    """HANDLER_DETACHED: stop the timer `away` (limit for the user's silence), because the user can no longer be heard.
    Reject the event if another handler serves the session by now.
    """
    assert isinstance(step.input, HandlerDetached)
    if step.state.handler_id:
        step.reject("another handler serves the session by now")
    else:
        step.disarm("away")


def handler_detached_while_thinking(step: StepBuilder) -> None:
    """HANDLER_DETACHED in THINKING: stop the filler, because nobody can hear it any more. Reject the event if another
    handler serves the session by now.
    """
    handler_detached(step)
    if step.loses_the_call:
        for filler in step.state.outstanding("PlayFiller"):
            step.do(StopPlayback(playback_id=filler.target))


def handler_detached_while_speaking(step: StepBuilder) -> None:
    """HANDLER_DETACHED in SPEAKING: continue the answer from the position that the user has heard, over the next media
    connection or as text. If the answer is paused, resume it. Reject the event if another handler serves the session by
    now.
    """
    assert isinstance(step.input, HandlerDetached)
    handler_detached(step)
    playback = step.state.playback
    if not step.loses_the_call or playback is None:
        return
    step.disarm(*TIMERS_OF_THE_PLAYBACK)
    _resume_playback(step)  # the speech that paused the playback came from the lost microphone
    for command in step.state.outstanding("Speak"):
        begin_ms = int(str(command.payload["from_ms"]))  # the user has heard the audio before it
        reached_at_us = step.state.at_us - step.input.unheard_ms * 1000
        _speak_again(step, command, max(begin_ms, heard_ms(playback, reached_at_us)))
    if step.state.client_id and playback.owes_audio:
        step.arm("tts_deadline", step.state.policy.deadlines.tts_ms + CALL_FOLLOWS_MS)


def resumed(step: StepBuilder) -> None:
    """SESSION_RESUMED: issue again the commands that an earlier owner left outstanding. Reject the event if this owner
    has resumed the session already.

    The deadlines of the repeated requests start again. Speculations are cancelled, and a filler is stopped. A paused
    playback is resumed. The client must reconnect within `reconnect_ms`; until then, the timers `tts_deadline` and
    `playback_deadline` do not run.
    """
    if step.state.epoch == step.input.epoch:
        step.reject("this owner has resumed the session already")
        return
    speculation.drop(step)
    step.disarm("stable", "away", *TIMERS_OF_THE_PLAYBACK)
    _resume_playback(step)  # the speech that paused the playback went to the old owner
    for command in list(step.state.pending.values()):
        if command.incarnation != step.input.incarnation:
            if command.name == "PlayFiller":  # not worth a retry: the answer will follow
                step.do(StopPlayback(playback_id=command.target))
            elif command.name == "Speak":
                assert step.state.playback is not None, "an outstanding Speak has its playback"
                _speak_again(step, command, step.state.playback.position_ms)
            else:
                step.do(_again(step, command), retry_of=command.command_id)
    if step.state.timer("reconnect") is None:  # also for a new session whose client got its id from another node
        step.arm("reconnect", step.state.policy.deadlines.reconnect_ms)


def _again(step: StepBuilder, command: CommandIssued) -> Command:
    """Build the command that retries an issued command: an equal command. Exception: the timer of a deadline gets a new
    due time.
    """
    issued = read(command)
    return _timer_again(step, issued) if isinstance(issued, StartTimer) else issued


def _speak_again(step: StepBuilder, command: CommandIssued, from_ms: int) -> None:
    """Retry a Speak from the position `from_ms` of its audio. If the answer came in several texts, the texts before
    that position are not sent again.
    """
    said, playback = read(command), step.state.playback
    assert isinstance(said, Speak), "it is called so"
    assert playback is not None, "an outstanding Speak has its playback"
    if not playback.ends_at:
        step.do(replace(said, from_ms=from_ms), retry_of=command.command_id)
        return
    index = playback.text_at(from_ms)
    begins_ms = playback.begins_ms[index] if playback.begins_ms else 0
    text, *more = playback.texts_from(index)
    again = replace(said, begins_ms=begins_ms, from_ms=from_ms, index=index, is_open=True, text=text)
    step.do(again, retry_of=command.command_id)
    if not playback.is_open:
        more.append("")
    for number, text in enumerate(more, index + 1):
        is_last = not playback.is_open and number == index + len(more)
        step.do(SpeakMore(index=number, is_last=is_last, playback_id=playback.playback_id, text=text))


def _resume_playback(step: StepBuilder) -> None:
    playback = step.state.playback
    if playback is not None and playback.is_paused:
        step.do(ResumePlayback(playback_id=playback.playback_id))


def _timer_again(step: StepBuilder, armed: StartTimer) -> StartTimer:
    timer, deadlines = armed.timer, step.state.policy.deadlines
    again_ms = {
        "intent_deadline": deadlines.intent_ms,
        "answer_deadline": tools.answer_ms(step),
        "floor_deadline": deadlines.floor_ms,
        "greeting": step.state.policy.greeting.wait_ms,
        "stt_deadline": deadlines.stt_ms,
        "reconnect": deadlines.reconnect_ms,
    }.get(timer)
    if again_ms is None:
        return armed
    return StartTimer(due_at_us=step.state.at_us + again_ms * 1000, timer=timer)


def close_requested(step: StepBuilder) -> None:
    """SESSION_CLOSE_REQUESTED: end the session, for the reason in the request."""
    assert isinstance(step.input, SessionCloseRequested)
    end(step, step.input.reason or "close_requested")


def limit_reached_before_anybody_came(step: StepBuilder) -> None:
    """TIMER_FIRED `session_limit` in IDLE: end the session without a farewell, because no client ever connected."""
    end(step, "time_limit")


def client_gone(step: StepBuilder) -> None:
    """TIMER_FIRED `reconnect`: end the session, because no client came back in time."""
    end(step, "client_gone")


def end(step: StepBuilder, reason: str) -> None:
    """End the session: end answer and turn, cancel all requests and timers, enter ENDED, close the connections."""
    step.end_answer("interrupted")
    speculation.drop(step)
    leave_turn(step)
    step.end_turn("session_closed")
    for command in step.state.outstanding(*STAGES):  # requests that outlive their turn end with the session
        step.do(CancelStage(command_id=command.command_id, stage_name=command.target))
    step.disarm(*[timer.target for timer in step.state.outstanding("StartTimer")])
    enter(step, "ENDED", reason)
    step.do(CloseSession(reason=reason))
    step.say(SessionEnded, reason=reason)
