"""Decisions about the session as a whole: opening, clients and handlers coming and going, resuming, ending."""

from events.derived import CommandIssued, SessionEnded
from events.inputs import ClientDisconnected, HandlerDetached, SessionCloseRequested
from orchestrator.session import announcements, speculation
from orchestrator.session.commands import (
    AnswerQuestion,
    ClassifyIntent,
    CloseSession,
    Command,
    ResumePlayback,
    SetMicrophone,
    Speak,
    StartTimer,
    StopPlayback,
)
from orchestrator.session.phases import MICROPHONE, OF_THE_PLAYBACK, await_audio, enter, leave_turn
from orchestrator.session.step import Step


def opened(step: Step) -> None:
    """SESSION_OPENED: NEW becomes IDLE, under a policy that can be read."""
    if not step.state.session_id:
        step.reject("its policy cannot be read")
    else:
        enter(step, "IDLE")
        if limit_ms := step.state.policy.goodbye.after_ms:
            step.arm("session_limit", limit_ms)


def client_connected(step: Step) -> None:
    """CLIENT_CONNECTED in IDLE: somebody is there, so the microphone is listened to, and the agent may speak first."""
    step.disarm("reconnect")
    enter(step, "LISTENING", "client_connected")
    announcements.expect_greeting(step)
    if step.state.timer("greeting") is None:  # the voice may be there already
        announcements.expect_words(step)


def client_returned(step: Step) -> None:
    """CLIENT_CONNECTED in any later phase: the client has come back, or another one took its place."""
    step.disarm("reconnect")


def client_returned_while_speaking(step: Step) -> None:
    """CLIENT_CONNECTED in SPEAKING: also, what waited for somebody to hear it is expected from now on."""
    client_returned(step)
    playback = step.state.playback
    assert playback is not None, "SPEAKING lasts as long as its playback"
    if not playback.is_paused and not any(map(step.state.timer, ("tts_deadline", "playback_deadline"))):
        await_audio(step)


def client_disconnected(step: Step) -> None:
    """CLIENT_DISCONNECTED: the session waits for a while; the client that was replaced does not matter."""
    assert isinstance(step.input, ClientDisconnected)
    if step.state.client_id == "" and step.state.timer("reconnect") is None:
        step.arm("reconnect", step.state.policy.deadlines.reconnect_ms)


def handler_attached(step: Step) -> None:
    """HANDLER_ATTACHED: the new microphone learns what the phase wants of it."""
    step.do(SetMicrophone(MICROPHONE[step.phase]))


def handler_attached_while_listening(step: Step) -> None:
    """HANDLER_ATTACHED in LISTENING: also, the user can be greeted, and be missed, by voice."""
    handler_attached(step)
    if step.state.timer("greeting") is not None:
        announcements.greet(step)
    else:
        announcements.expect_words(step)


def handler_detached(step: Step) -> None:
    """HANDLER_DETACHED: speech that was playing over it cannot be heard any more."""
    assert isinstance(step.input, HandlerDetached)
    if step.state.handler_id:
        step.reject("another handler serves the session by now")
    else:
        step.disarm("away")


def resumed(step: Step) -> None:
    """SESSION_RESUMED: issue again what another incarnation left outstanding, built from the state.

    What is asked again has its whole time again: the deadline of a stage begins anew. Whoever was connected was
    connected to the old owner: the client has the usual time to come back, from now on, and audio is not awaited
    before. Questions that were asked early, and what waited for more of the user's speech, are withdrawn: that speech
    went to the old owner. Where an owner was the first to see what another node had opened, it resumes it, too.
    """
    if step.state.epoch == step.input.epoch:
        step.reject("this owner has resumed the session already")
        return
    speculation.drop(step)
    step.disarm("stable", "away", *OF_THE_PLAYBACK)
    playback = step.state.playback
    if playback is not None and playback.is_paused:  # the speech that it was paused for is of the old owner's time
        step.do(ResumePlayback(playback_id=playback.playback_id))
    for command in list(step.state.pending.values()):
        if command.incarnation != step.input.incarnation:
            if command.name == "PlayFiller":  # not worth a second try; the answer comes
                step.do(StopPlayback(playback_id=command.target))
            else:
                step.do(_again(step, command), retry_of=command.command_id)
    if step.state.timer("reconnect") is None:
        step.arm("reconnect", step.state.policy.deadlines.reconnect_ms)


def _again(step: Step, command: CommandIssued) -> Command:
    state = step.state
    text = state.task.text if state.task else ""
    match command.name:
        case "ClassifyIntent":
            return ClassifyIntent(speculation=_number(command, "speculation"), text=text)
        case "AnswerQuestion":
            conversation_to, speculation_number = _number(command, "conversation_to"), _number(command, "speculation")
            return AnswerQuestion(conversation_to=conversation_to, speculation=speculation_number, text=text)
        case "Speak":
            assert state.playback is not None, "an outstanding Speak has its playback"
            playback = state.playback
            return Speak(
                ends=playback.ends, from_ms=playback.position_ms, playback_id=command.target, text=playback.text
            )
        case _:
            return _timer_again(step, command)


def _number(command: CommandIssued, field: str) -> int:
    return int(str(command.payload[field]))


def _timer_again(step: Step, command: CommandIssued) -> StartTimer:
    timer, deadlines = command.target, step.state.policy.deadlines
    again_ms = {
        "intent_deadline": deadlines.intent_ms,
        "answer_deadline": deadlines.answer_ms,
        "floor_deadline": deadlines.floor_ms,
        "greeting": step.state.policy.greeting.wait_ms,
        "stt_deadline": deadlines.stt_ms,
        "reconnect": deadlines.reconnect_ms,
    }.get(timer)
    if again_ms is None:
        return StartTimer(due_at_us=_number(command, "due_at_us"), timer=timer)
    return StartTimer(due_at_us=step.state.at_us + again_ms * 1000, timer=timer)


def close_requested(step: Step) -> None:
    """SESSION_CLOSE_REQUESTED: the conversation ends."""
    assert isinstance(step.input, SessionCloseRequested)
    end(step, step.input.reason or "close_requested")


def limit_reached_before_anybody_came(step: Step) -> None:
    """TIMER_FIRED `session_limit` in IDLE: there is nobody to say goodbye to."""
    end(step, "time_limit")


def client_gone(step: Step) -> None:
    """TIMER_FIRED `reconnect`: nobody came back."""
    end(step, "client_gone")


def end(step: Step, reason: str) -> None:
    """End the session for good: nothing stays outstanding."""
    step.end_answer("interrupted")
    speculation.drop(step)
    leave_turn(step)
    step.end_turn("session_closed")
    step.disarm(*[timer.target for timer in step.state.outstanding("StartTimer")])
    enter(step, "ENDED", reason)
    step.do(CloseSession(reason=reason))
    step.say(SessionEnded, reason=reason)
