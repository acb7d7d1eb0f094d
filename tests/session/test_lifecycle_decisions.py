"""Shows what clients, handlers, new owners and the end of a session lead to."""

import pytest
from essence import essence
from glance import cancels, done, due_ms, refused, timers

from events.derived import EventRejected, StateChanged
from events.inputs import (
    ClientConnected,
    ClientDisconnected,
    HandlerAttached,
    HandlerDetached,
    PlaybackProgress,
    PlaybackStarted,
    RagAnswered,
    SessionOpened,
    SpeechStarted,
    SpeechStopped,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.session.commands import (
    CancelTimer,
    CloseSession,
    ResumePlayback,
    SetMicrophone,
    Speak,
    StartTimer,
    StopPlayback,
)
from orchestrator.session.policy import Policy

LIVE = ["IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT"]


def test_opening_gives_idle_with_an_open_microphone_under_the_recorded_policy(converse) -> None:
    """NEW becomes IDLE, and the whole policy stands in the first event."""
    call = converse("IDLE", filler={"text": "One moment."})
    assert call.state.policy == Policy.model_validate({"filler": {"text": "One moment."}})
    assert call.log[0].policy == call.state.policy.recorded()
    assert call.commands == [SetMicrophone("open"), StartTimer(due_at_us=60_000_000, timer="reconnect")]


def test_a_session_is_opened_once(converse) -> None:
    """The first policy stays."""
    call = converse("LISTENING").input(
        SessionOpened, policy=Policy.model_validate({"filler": {"text": "x"}}).recorded()
    )
    assert call.state.policy == Policy()
    assert call.last[-1].reason == "the session is open already"


def test_client_connected_gives_listening(converse) -> None:
    """IDLE becomes LISTENING and says why."""
    call = converse("IDLE").connects("browser-1")
    assert (call.state.phase, call.state.client_id) == ("LISTENING", "browser-1")
    assert [event.reason for event in call.last if isinstance(event, StateChanged)] == ["client_connected"]
    assert not call.state.pending


@pytest.mark.parametrize("phase", LIVE)
def test_a_client_that_stays_away_ends_the_session(converse, phase: str) -> None:
    """After the grace of the policy, wherever the conversation was."""
    call = converse(phase).at(5_000).input(ClientDisconnected, client_id="browser-1", reason="network")
    call.fires("reconnect")
    assert call.state.phase == "ENDED"
    assert call.now_us == (60_000_000 if phase == "IDLE" else 65_000_000)
    assert call.commands[-1] == CloseSession(reason="client_gone")
    assert call.golden[-1] == "[auto_session_12345] ⚫ ENDED (client_gone)"


@pytest.mark.parametrize("phase", LIVE[1:])
def test_a_client_that_comes_back_is_taken_note_of(converse, phase: str) -> None:
    """The timer is withdrawn, the phase stays."""
    call = converse(phase).input(ClientDisconnected, client_id="browser-1").connects("browser-2")
    assert (call.state.phase, call.state.client_id) == (phase, "browser-2")
    assert call.state.timer("reconnect") is None


def test_the_end_of_a_replaced_client_changes_nothing(converse) -> None:
    """A second tab took over; the first one's goodbye is late."""
    call = converse("LISTENING").connects("browser-2").input(ClientDisconnected, client_id="browser-1")
    assert call.state.client_id == "browser-2"
    assert not call.commands


def test_a_client_that_leaves_twice_has_no_more_time_for_it(converse) -> None:
    """The first report armed the timer."""
    call = converse("LISTENING").input(ClientDisconnected, client_id="browser-1").after(30_000)
    due = call.outstanding("reconnect").payload["due_at_us"]
    assert call.input(ClientDisconnected, client_id="browser-1").outstanding("reconnect").payload["due_at_us"] == due


@pytest.mark.parametrize(
    ("phase", "setting"),
    [("IDLE", "open"), ("LISTENING", "open"), ("THINKING", "gated"), ("SPEAKING", "gated"), ("INTERRUPT", "gated")],
)
def test_a_new_handler_gets_the_microphone_setting_of_the_phase(converse, phase: str, setting: str) -> None:
    """Whenever it comes; the newer one replaces the older."""
    call = converse(phase)
    for handler_id in ("fastrtc_1", "fastrtc_2"):
        call.input(HandlerAttached, handler_id=handler_id)
        assert call.commands == [SetMicrophone(setting)]
        assert call.state.handler_id == handler_id


def test_detaching_a_replaced_handler_changes_nothing(converse) -> None:
    """Its late goodbye is recorded and rejected."""
    call = converse("LISTENING").input(HandlerAttached, handler_id="fastrtc_1")
    call.input(HandlerAttached, handler_id="fastrtc_2").input(HandlerDetached, handler_id="fastrtc_1")
    assert call.state.handler_id == "fastrtc_2"
    assert call.last[-1].reason == "another handler serves the session by now"
    assert call.input(HandlerDetached, handler_id="fastrtc_2").state.handler_id == ""


@pytest.mark.parametrize("phase", LIVE)
def test_closing_ends_the_session_with_its_reason(converse, phase: str) -> None:
    """What is outstanding is withdrawn, and nothing is armed after it."""
    call = converse(phase).input(SpeechStopped, duration_ms=300).closes("")
    assert call.state.phase == "ENDED"
    assert not call.state.pending
    assert call.state.task is call.state.playback is None
    assert call.commands[-1] == CloseSession(reason="close_requested")
    assert call.last[-1].reason == "close_requested"


def test_whoever_closes_the_session_may_say_why(converse) -> None:
    """The reason stands wherever the end is said."""
    call = converse("LISTENING").closes("operator")
    assert call.commands[-1] == CloseSession(reason="operator")
    assert call.last[-1].reason == "operator"
    assert call.golden[-1] == "[auto_session_12345] ⚫ ENDED (operator)"


def test_a_new_owner_asks_again_what_is_outstanding(converse) -> None:
    """New ids that name the old ones, and a key that a service can deduplicate by."""
    call = converse("THINKING").after(500)
    asked = {name: call.outstanding(name) for name in ("ClassifyIntent", "AnswerQuestion")}
    epoch = call.state.epoch
    call.resumes("incarnation-2")
    assert call.state.epoch == epoch + 1
    for name, before in asked.items():
        again = call.outstanding(name)
        assert again.retry_of == before.command_id != again.command_id
        assert again.idempotency_key == before.idempotency_key != ""
        assert again.payload == before.payload
    assert call.answers("Yes.").state.phase == "SPEAKING"


def test_an_answer_to_the_old_owner_is_stale(converse) -> None:
    """The question was asked again, so the answer to the first asking does not count."""
    call = converse("THINKING")
    old = call.outstanding("AnswerQuestion").command_id
    call.resumes("incarnation-2")
    pending = call.state.pending
    call.input(RagAnswered, command_id=old, answer="late")
    assert call.state.pending == pending
    assert call.last[-1].reason == "stale: its command is not outstanding"


def test_resumed_twice_repeats_nothing(converse) -> None:
    """What this incarnation asked itself is under way."""
    call = converse("THINKING").resumes("incarnation-2")
    pending = [*call.state.pending]
    call.resumes("incarnation-2")
    assert call.commands == []
    assert [*call.state.pending] == pending


def test_an_owner_that_says_twice_that_it_is_there_changes_nothing(converse) -> None:
    """Whoever has connected to it meanwhile stays, and what is paused stays paused."""
    call = converse("SPEAKING").resumes("incarnation-2").connects("browser-2")
    call.input(HandlerAttached, handler_id="fastrtc_2").input(SpeechStarted)
    before = essence(call.state)
    call.resumes("incarnation-2")
    assert refused(call) == "this owner has resumed the session already"
    assert essence(call.state) == before
    assert done(call) == []


def test_keys_are_stable_over_many_owners(converse) -> None:
    """However often a stage is asked again, a service sees one key."""
    call = converse("SPEAKING")
    keys = {call.resumes(f"incarnation-{n}").outstanding("Speak").idempotency_key for n in range(2, 6)}
    assert len(keys) == 1


def test_a_question_in_the_place_of_one_that_was_lost_is_another_question(converse) -> None:
    """Redis may lose the end of a log. A service that remembers what it answered under a key must not give the lost
    question's answer to the one that is asked in its place.
    """
    lost = converse("LISTENING").says("where are you").outstanding("AnswerQuestion")
    asked = converse("LISTENING").resumes("incarnation-2").says("when are you open").outstanding("AnswerQuestion")
    assert lost.turn == asked.turn
    assert lost.idempotency_key != asked.idempotency_key


@pytest.mark.parametrize(("timer", "limit_ms"), [("intent_deadline", 1_000), ("answer_deadline", 4_000)])
def test_what_is_asked_again_has_its_whole_time_again(converse, timer: str, limit_ms: int) -> None:
    """A deadline that passed while nobody owned the session must not cut the turn that was just resumed."""
    call = converse("THINKING").after(30_000).resumes("incarnation-2")
    assert call.outstanding(timer).payload["due_at_us"] == call.now_us + limit_ms * 1000


@pytest.mark.parametrize("complete", [False, True])
def test_an_answer_goes_on_in_the_middle_of_its_sentence(converse, complete: bool) -> None:
    """It is synthesised from the last confirmed position on; its first chunk is awaited once somebody is there."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=3_000).input(PlaybackStarted)
    if complete:
        call.input(TtsComplete, chunks=1, duration_ms=3_000)
    call.after(1_000).input(PlaybackProgress, position_ms=1_000).after(60_000).resumes("incarnation-2")
    assert [command for command in call.commands if not isinstance(command, CancelTimer)] == [
        Speak(ends="", from_ms=1_000, playback_id="answer-1", text="Hi! How can I help?"),
        StartTimer(due_at_us=call.now_us + 60_000_000, timer="reconnect"),
    ]
    assert call.state.playback.audio_ms == 1_000
    call.after(50_000).connects("browser-1")
    assert call.commands[1:] == [StartTimer(due_at_us=call.now_us + 5_000_000, timer="tts_deadline")]
    call.after(200).input(TtsChunkReady, index=0, duration_ms=2_000).input(PlaybackStarted)
    call.input(TtsComplete, chunks=1, duration_ms=2_000)
    assert call.outstanding("playback_deadline").payload["due_at_us"] == call.now_us + (2_000 + 3_000) * 1000
    call.after(500).interrupts()
    (ended,) = [event for event in call.last if event.type == "ANSWER_ENDED"]
    assert (ended.heard_ms, ended.heard_text) == (1_500, "Hi! How")


def test_an_answer_that_is_interrupted_right_after_resuming_was_heard_up_to_the_crash(converse) -> None:
    """Nothing plays while nobody owns the session, so that time is not heard."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=3_000).input(PlaybackStarted)
    call.after(1_000).input(PlaybackProgress, position_ms=1_000).after(60_000).resumes("incarnation-2").interrupts()
    (ended,) = [event for event in call.last if event.type == "ANSWER_ENDED"]
    assert ended.heard_ms == 1_000


def test_a_filler_is_not_worth_a_second_try(converse) -> None:
    """The new owner withdraws it; the answer is on its way."""
    call = converse("THINKING", filler={"delay_ms": 0, "text": "One moment."}).resumes("incarnation-2")
    assert call.commands[0] == StopPlayback(playback_id="filler-1")
    assert not call.state.outstanding("PlayFiller")


@pytest.mark.parametrize(("phase", "timer"), [("INTERRUPT", "interrupt_pause"), ("LISTENING", "endpoint")])
def test_other_timers_keep_their_time(converse, phase: str, timer: str) -> None:
    """They measure the user's patience, not a service's."""
    call = converse(phase)
    if timer == "endpoint":
        call.input(SpeechStopped, duration_ms=300)
    due = call.outstanding(timer).payload["due_at_us"]
    assert call.after(10_000).resumes("incarnation-2").outstanding(timer).payload["due_at_us"] == due


def test_nobody_is_connected_to_a_new_owner_at_first(converse) -> None:
    """The client has the usual time to come back; its return withdraws the timer."""
    call = converse("LISTENING").at(5_000).resumes("incarnation-2")
    assert (call.state.client_id, call.state.handler_id) == ("", "")
    assert call.outstanding("reconnect").payload["due_at_us"] == 65_000_000
    assert call.connects("browser-1").state.timer("reconnect") is None


def test_a_client_that_was_away_before_has_the_usual_time_again(converse) -> None:
    """While nobody owned the session it could not come back."""
    call = converse("LISTENING").input(ClientDisconnected, client_id="browser-1").after(90_000).resumes("incarnation-2")
    assert call.outstanding("reconnect").payload["due_at_us"] == call.now_us + 60_000_000


def test_ended_is_absorbing(converse) -> None:
    """Closing again, reconnecting, speaking: recorded, rejected, without a command."""
    call = converse("ENDED")
    for late in (call.closes, call.connects, lambda: call.says("hello"), lambda: call.resumes("incarnation-2")):
        late()
        assert call.state.phase == "ENDED"
        assert not call.commands
        assert [type(event) for event in call.last[1:]] == [EventRejected]


def test_what_the_new_owner_asked_itself_is_not_asked_again(converse) -> None:
    """An event waited in the inbox before SESSION_RESUMED: its commands run already under this incarnation."""
    call = converse("LISTENING")
    call.incarnation = "incarnation-2"
    call.says("hello").resumes("incarnation-2")
    assert [command.name for command in call.commands] == ["StartTimer"]
    assert call.outstanding("AnswerQuestion").retry_of == ""


def test_every_part_of_the_owners_node_says_who_is_connected(converse) -> None:
    """A producer is `node` or `node:part`: what stands before the colon opened or resumed the session."""
    call = converse("NEW")
    call.producer = "node-1:gateway"
    call.opens()
    call.producer = "node-1:media"
    assert call.input(HandlerAttached, handler_id="fastrtc_1").state.handler_id == "fastrtc_1"
    call.producer = "node-2:runtime"
    call.resumes("incarnation-2")
    call.producer = "node-2:media"
    assert call.input(HandlerAttached, handler_id="fastrtc_2").state.handler_id == "fastrtc_2"


@pytest.mark.parametrize("state", ["waiting", "playing", "paused"])
def test_a_client_that_comes_back_changes_nothing_about_an_answer_that_is_awaited_already(converse, state: str) -> None:
    """Its deadlines are of the time when somebody was there; what is paused waits for the user's words."""
    call = converse("SPEAKING").input(HandlerAttached, handler_id="fastrtc_1").after(500)
    if state != "waiting":
        call.speaks(chunks=10, chunk_ms=500)
    if state == "paused":
        call.input(SpeechStarted)
    before = timers(call), call.state.pending.keys() & {c.command_id for c in call.state.outstanding("StartTimer")}
    call.after(100).connects("browser-2")
    assert (timers(call), {c.command_id for c in call.state.outstanding("StartTimer")}) == before
    assert not call.commands


def test_an_answer_that_comes_while_nobody_is_there_waits(converse) -> None:
    """Its time to be heard begins when the client is back; until then `reconnect` runs."""
    call = converse("THINKING").input(ClientDisconnected, client_id="browser-1").answers("Hi!")
    assert (call.state.phase, timers(call)) == ("SPEAKING", {"reconnect"})
    call.after(30_000).connects("browser-1")
    assert timers(call) == {"tts_deadline"}
    assert due_ms(call, "tts_deadline") == call.now_us // 1_000 + 5_000


def test_who_first_sees_what_another_node_has_opened_resumes_it(converse) -> None:
    """The node died before it saw its own SESSION_OPENED, and whoever was connected to it is gone with it."""
    call = converse("NEW")
    call.producer = "node-1"
    call.opens().connects("browser-1")
    call.producer = "node-2"
    call.resumes(call.incarnation)
    assert (call.state.node, call.state.client_id, call.state.phase) == ("node-2", "", "LISTENING")
    assert timers(call) == {"reconnect"}
    call.resumes(call.incarnation)
    assert call.last[-1].reason == "this owner has resumed the session already"


def test_a_late_word_of_the_last_owner_about_connections_is_rejected(converse) -> None:
    """Who is connected is said by the owner's node; what an earlier one says arrives late."""
    call = converse("LISTENING")
    call.producer = "node-2"
    call.resumes("incarnation-2").connects("browser-2")
    call.input(ClientConnected, client_id="browser-1", producer="node-1", producer_seq=100)
    assert call.last[-1].reason == "said by a node that does not own the session any more"
    assert call.state.client_id == "browser-2"


EVERY_TIMER = {
    "intent_deadline": 1_000,
    "answer_deadline": 4_000,
    "floor_deadline": 5_000,
    "greeting": 2_000,
    "stt_deadline": 3_000,
    "reconnect": 60_000,
}
"""What has its whole time again under a new owner, in milliseconds."""


def waiting_for(converse, timer: str):
    """A conversation in which that timer is armed."""
    match timer:
        case "intent_deadline" | "answer_deadline":
            return converse("THINKING")
        case "floor_deadline":
            return converse("THINKING").input(SpeechStarted).answers("Hi!")
        case "greeting":
            return converse("LISTENING", greeting={"text": "Welcome."})
        case "stt_deadline":
            return converse("LISTENING").input(SpeechStopped).fires("endpoint")
        case _:
            return converse("LISTENING").input(ClientDisconnected, client_id="browser-1")


@pytest.mark.parametrize("timer", EVERY_TIMER)
def test_whatever_a_new_owner_waits_for_has_its_whole_time_again(converse, timer: str) -> None:
    """What passed while nobody owned the session does not count."""
    call = waiting_for(converse, timer)
    before = call.outstanding("StartTimer", timer)
    call.at(90_000).resumes("incarnation-2")
    assert due_ms(call, timer) == 90_000 + EVERY_TIMER[timer]
    assert call.outstanding("StartTimer", timer).retry_of == before.command_id


def test_what_waited_for_more_of_the_users_speech_is_withdrawn_by_a_new_owner(converse) -> None:
    """That speech went to the old one."""
    call = converse("SPEAKING").input(HandlerAttached, handler_id="fastrtc_1").input(SpeechStarted)
    assert timers(call) == {"tts_deadline", "barge_in", "false_interruption"}
    call.resumes("incarnation-2")
    assert timers(call) == {"reconnect"}
    assert not call.state.user_is_speaking


def test_an_answer_that_was_paused_goes_on_under_a_new_owner(converse) -> None:
    """It had no deadline while it was paused; its first chunk has one when somebody is there."""
    call = converse("SPEAKING").input(HandlerAttached, handler_id="fastrtc_1").speaks(chunks=10, chunk_ms=500)
    call.at(2_000).input(SpeechStarted).at(9_000).resumes("incarnation-2")
    assert done(call) == [
        cancels("barge_in"),
        cancels("false_interruption"),
        ResumePlayback(playback_id="answer-1"),
        Speak(ends="", from_ms=700, playback_id="answer-1", text="Hi! How can I help?"),
        StartTimer(due_at_us=69_000_000, timer="reconnect"),
    ]
    assert not call.state.playback.is_paused
    assert due_ms(call.at(20_000).connects("browser-1"), "tts_deadline") == 25_000


@pytest.mark.parametrize("chunks", [0, 3])
def test_an_answer_that_this_owner_paused_itself_goes_on_too(converse, chunks: int) -> None:
    """Its events waited in the inbox before SESSION_RESUMED; it is not spoken anew, and it is not paused for ever."""
    call = converse("THINKING").input(HandlerAttached, handler_id="fastrtc_1")
    call.incarnation = "incarnation-2"
    call.answers("Hi! How can I help you today?")
    for index in range(chunks):
        call.input(TtsChunkReady, index=index, duration_ms=500)
    call.input(SpeechStarted).resumes("incarnation-2")
    assert ResumePlayback(playback_id="answer-1") in done(call)
    assert not [command for command in call.commands if isinstance(command, Speak)]
    assert not call.state.playback.is_paused
    assert timers(call.connects("browser-1")) == {"tts_deadline"}
    call.input(TtsChunkReady, index=chunks, duration_ms=500)
    assert timers(call) == {"playback_deadline"}


def test_an_answer_that_this_owner_plays_already_is_left_alone(converse) -> None:
    """Nothing of it is made anew; a sign of it is awaited from when the client is known to be there."""
    call = converse("THINKING")
    call.incarnation = "incarnation-2"
    call.answers("Hi!").speaks()
    call.resumes("incarnation-2")
    assert [type(command) for command in call.commands] == [CancelTimer, StartTimer]
    assert timers(call) == {"reconnect"}
    assert timers(call.connects("browser-1")) == {"tts_deadline"}
    assert timers(call.input(PlaybackProgress, position_ms=1)) == {"playback_deadline"}


@pytest.mark.parametrize("kind", [TtsChunkReady, PlaybackProgress])
def test_audio_of_the_old_owner_is_not_awaited_by_the_new_one(converse, kind: type) -> None:
    """It was reported before the new one could say that it is there; speech is made anew, its first chunk awaited."""
    call = converse("SPEAKING").input(TtsChunkReady, index=0, duration_ms=500).at(2_000)
    call.incarnation = "incarnation-2"
    call.input(kind, **{TtsChunkReady: {"index": 1, "duration_ms": 500}, PlaybackProgress: {"position_ms": 1}}[kind])
    call.input(TtsComplete, chunks=2, duration_ms=1_000).resumes("incarnation-2")
    assert timers(call) == {"reconnect"}
    assert due_ms(call.at(4_000).connects("browser-1"), "tts_deadline") == 9_000


def test_an_answer_that_plays_under_a_new_owner_is_not_resumed(converse) -> None:
    """It is spoken anew."""
    call = converse("SPEAKING").speaks().resumes("incarnation-2")
    assert not [command for command in call.commands if isinstance(command, ResumePlayback)]


def test_a_filler_that_waits_keeps_its_time_under_a_new_owner(converse) -> None:
    """It measures the user's patience."""
    call = converse("THINKING", filler={"delay_ms": 5_000, "text": "One moment."}).at(3_000).resumes("incarnation-2")
    assert due_ms(call, "filler") == 6_000


def test_words_that_are_held_are_not_lost_with_their_owner(converse) -> None:
    """They open the next turn under the new one."""
    call = converse("INTERRUPT").says("stop").resumes("incarnation-2").fires("interrupt_pause")
    assert call.state.task.text == "stop"


def test_the_answer_to_a_goodbye_still_ends_the_session_under_a_new_owner(converse) -> None:
    """Why it ends is part of what is spoken anew."""
    call = converse("THINKING", goodbye={"intent": "bye"}).answers("See you!", intent="bye").resumes("incarnation-2")
    assert Speak(ends="goodbye", from_ms=0, playback_id="answer-1", text="See you!") in done(call)
    assert call.played().state.phase == "ENDED"


def test_the_end_of_a_voice_that_nobody_knows_changes_nothing(converse) -> None:
    """There is none, and none is left afterwards."""
    call = converse("LISTENING").input(SpeechStarted).input(HandlerDetached, handler_id="fastrtc_1")
    assert (done(call), call.last[1:]) == ([], ())
    assert call.state.user_is_speaking


def test_speech_of_a_voice_that_is_gone_has_ended(converse) -> None:
    """Its stop will not be reported."""
    call = converse("LISTENING").input(HandlerAttached, handler_id="fastrtc_1").input(SpeechStarted)
    assert not call.input(HandlerDetached, handler_id="fastrtc_1").state.user_is_speaking
