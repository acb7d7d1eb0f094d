"""Sends the core whatever may come, in any order, and looks for a conversation that breaks a law."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from essence import OF_THE_UTTERANCE, essence
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from events import inputs, journal
from events.derived import CommandIssued, EventRejected, TurnEnded, TurnStarted
from events.envelope import Input
from orchestrator.session.commands import ANSWERS
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

TEXTS = ["hello", "stop", " ", "", "no, wait\n", "x" * 8_000, "uh huh"]
PLAYBACKS = ["", "answer-1", "answer-2", "filler-1", "nonsense", "greeting"]
WAYS_OUT = {
    "THINKING": {"intent_deadline", "answer_deadline", "floor_deadline"},
    "SPEAKING": {"answer_deadline", "tts_deadline", "playback_deadline", "false_interruption"},
    "INTERRUPT": {"interrupt_pause"},
}
ONLY_IN = {
    "filler": "THINKING",
    "tool_filler": "THINKING",
    "barge_in": "SPEAKING",
    "stable": "LISTENING",
    "greeting": "LISTENING",
    "away": "LISTENING",
}
PRINTED = ("🟢", "🔵", "🟡", "🟣", "⚫", "🔴 SPEAKING", "STT FINAL")
SAID: dict[type, dict[str, Any]] = {
    inputs.IntentResolved: {"intent": "greeting", "elapsed_us": 200_000},
    inputs.AnswerText: {"elapsed_us": 250_000},
    inputs.RagAnswered: {"answer": "Hi! How can I help?", "elapsed_us": 300_000},
    inputs.ServiceFailed: {"error": "503"},
    inputs.TtsChunkReady: {"duration_ms": 200, "index": 0},
    inputs.TtsComplete: {"chunks": 1, "duration_ms": 200},
    inputs.PlaybackStarted: {},
    inputs.PlaybackProgress: {"position_ms": 100},
    inputs.PlaybackDone: {"confirmed_by": "client"},
    inputs.TimerFired: {},
    journal.ToolCalled: {"arguments": "{}", "name": "book"},
    journal.ToolReturned: {"result": "7"},
    journal.ModelResponded: {"call_id": "model/1", "response": "{}"},
}
PLAIN: dict[str, Callable[[Conversation, int], Any]] = {
    "time": lambda call, n: call.at(max(0, call.now_us // 1_000 + n % 5_000 - 500)),
    "opens": lambda call, _: call.opens(),
    "opens badly": lambda call, n: call.input(inputs.SessionOpened, policy={"n": n}),
    "connects": lambda call, n: call.connects(f"browser-{n % 2}"),
    "leaves": lambda call, n: call.input(inputs.ClientDisconnected, client_id=f"browser-{n % 2}"),
    "attaches": lambda call, n: call.input(inputs.HandlerAttached, handler_id=f"fastrtc_{n % 2}"),
    "detaches": lambda call, n: call.input(inputs.HandlerDetached, handler_id=f"fastrtc_{n % 2}"),
    "deaf": lambda call, n: call.input(inputs.HearingFailed, error="broke", is_utterance_lost=n % 3 > 0),
    "speech": lambda call, _: call.input(inputs.SpeechStarted),
    "silence": lambda call, _: call.input(inputs.SpeechStopped),
    "partial": lambda call, n: call.input(inputs.SttPartial, text=TEXTS[n % len(TEXTS)], is_complete=n % 5 == 0),
    "final": lambda call, n: call.says(TEXTS[n % len(TEXTS)], via=("speech", "text")[n % 2]),
    "final by another": lambda call, n: call.input(inputs.SttFinal, text=TEXTS[n % len(TEXTS)], producer="another"),
    "final without a sequence": lambda call, n: call.input(
        inputs.SttFinal, text=TEXTS[n % len(TEXTS)], producer_seq=0, event_id=("", "a", "b")[n % 3]
    ),
    "barge-in": lambda call, n: call.input(inputs.BargeIn, playback_id=PLAYBACKS[n % len(PLAYBACKS)]),
    "resumes": lambda call, n: call.resumes(f"incarnation-{n % 4}"),
    "acts before it resumes": lambda call, n: setattr(call, "incarnation", f"incarnation-{n % 4}"),
    "again": lambda call, n: call.put(call.log[n % len(call.log)]) if repeatable(call, n) else None,
    "closes": lambda call, n: call.closes() if n % 8 == 0 else None,
}


def repeatable(call: Conversation, n: int) -> bool:
    """Whether there is an input at that place of the log."""
    return bool(call.log) and isinstance(call.log[n % len(call.log)], Input)


def result(call: Conversation, n: int) -> None:
    """A result of any kind for any command that was ever issued, the pending ones first; sometimes misnamed."""
    kind = [*ANSWERS][n % len(ANSWERS)]
    issued = [*call.state.pending.values(), *(e for e in call.log[-40:] if isinstance(e, CommandIssued))]
    if not issued:
        return
    command = issued[(n // 16) % len(issued)]
    target = "nonsense" if n % 7 == 0 else command.target
    about = {kind.about: target} if kind.about else {}
    call.input(kind, command_id=command.command_id, **about, **said(call, kind, n))


def said(call: Conversation, kind: type, n: int) -> dict[str, Any]:
    """What a result says; a text of an answer is mostly the next one."""
    if kind is journal.ToolCalled:
        return SAID[kind] | {"call_id": f"book/{n % 5}", "is_cancellable": n % 3 == 0}
    if kind is not inputs.AnswerText:
        return SAID[kind]
    text = ("Hi there. ", "We are open.", "x" * 5_000, "")[n % 32 % 4 if n % 8 == 0 else n % 2]
    return SAID[kind] | {"index": n % 3 if n % 5 == 0 else len(call.state.texts), "text": text}


def fitting(call: Conversation, n: int) -> None:
    """A result that an outstanding command waits for: how a conversation gets on."""
    waiting = [(kind, c) for c in call.state.pending.values() for kind in ANSWERS if c.name in ANSWERS[kind]]
    if waiting:
        kind, command = waiting[n % len(waiting)]
        if kind is inputs.TimerFired and n % 2:
            call.fires(command.target)
        else:
            about = {kind.about: command.target} if kind.about else {}
            call.input(kind, command_id=command.command_id, **about, **said(call, kind, n))


HAPPENINGS = PLAIN | {"result": result, "fitting": fitting}
NAMES = [*HAPPENINGS, *["final", "fitting"] * 6, "result", "silence", "speech", "time"]
ORDERS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2**12)), min_size=20, max_size=60)
PHASES = ["NEW", "IDLE", *["LISTENING", "THINKING", "SPEAKING", "INTERRUPT"] * 4]
POLICIES = st.builds(
    Policy.model_validate,
    st.fixed_dictionaries(
        {},
        optional={
            "away": st.just({"text": "Are you there?", "prompts": 1}),
            "endpointing": st.just({"complete_ms": 100, "incomplete_ms": 900, "phrases": ["stop"], "stable_ms": 300}),
            "fallback": st.builds(lambda n: {"failures": n}, st.integers(0, 2)),
            "filler": st.builds(lambda ms: {"delay_ms": ms, "text": "One moment."}, st.sampled_from([0, 300])),
            "goodbye": st.just({"after_ms": 5_000, "intent": "greeting"}),
            "greeting": st.just({"text": "Welcome."}),
            "intent": st.just({"skip": True}),
            "interruption": st.fixed_dictionaries(
                {},
                optional={
                    "min_speech_ms": st.sampled_from([0, 500]),
                    "min_words": st.integers(0, 2),
                    "pause_playback": st.booleans(),
                    "pause_ms": st.sampled_from([0, 50]),
                },
            ),
            "speculation": st.builds(lambda n: {"tries": n}, st.integers(1, 2)),
            "thinking": st.just({"more_words": "supersede"}),
        },
    ),
)


AWAY = Policy.model_validate({"away": {"text": "Are you there?", "prompts": 1}})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order=ORDERS, policy=POLICIES, phase=st.sampled_from(PHASES))
@example(order=[("final", 1), ("closes", 0), ("final", 0)], policy=Policy(), phase="SPEAKING")
@example(order=[("silence", 0), ("fitting", 1), ("final by another", 0)], policy=Policy(), phase="INTERRUPT")
@example(order=[("attaches", 0), ("final", 0), ("speech", 0)], policy=AWAY, phase="LISTENING")
@example(order=[("partial", 1), ("fitting", 1), ("final", 0)], policy=Policy(), phase="SPEAKING")
def test_no_order_of_events_breaks_a_conversation(order: list, policy: Policy, phase: Any) -> None:
    """After each input the laws hold; left alone it comes to rest; its recording replays to the same."""
    call = Conversation.in_phase(phase, policy=policy)
    for name, number in order:
        before, steps = call.state, len(call.steps)
        HAPPENINGS[name](call, number)
        if len(call.steps) > steps and call.last:
            laws_of_a_step(call, before)
            laws_of_a_state(call)
    comes_to_rest(call)
    laws_of_a_log(call)
    call.check()


def laws_of_a_step(call: Conversation, before: Any) -> None:
    """What one input may lead to."""
    event, said = call.last[0], call.last[1:]
    assert [e.version for e in call.last] == list(range(before.version + 1, call.state.version + 1))
    assert call.state.at_us >= before.at_us
    assert call.state.epoch >= before.epoch
    about = [(c.name, c.target) for c in call.steps[-1].commands]
    assert len(about) == len(set(about))
    assert all(c.retry_of in before.pending for c in call.steps[-1].commands if c.retry_of)
    rejected = any(isinstance(e, EventRejected) for e in said)
    if rejected and (before.phase, event.type) == ("SPEAKING", "STT_FINAL"):
        assert {e.name for e in said[1:]} <= {"CancelTimer", "ResumePlayback", "StartTimer"}
    elif rejected:
        assert len(said) == 1
        is_late = event.type == "STT_FINAL" and before.utterance is not None and before.utterance.is_late
        leaves_out = frozenset(OF_THE_UTTERANCE if is_late else ())
        assert essence(call.state, leaves_out) == essence(before, leaves_out)
    if before.phase == "ENDED":
        assert isinstance(said[0], EventRejected)
    started = [e.text for e in said if isinstance(e, TurnStarted)]
    if isinstance(event, inputs.SttFinal) and (words := event.text.strip()):
        in_conversation = before.phase in ("LISTENING", "THINKING", "SPEAKING", "INTERRUPT")
        corrected = before.held_text.removesuffix(before.late_words(event.at_us)).rstrip()
        held = [f"{text} {words}".strip()[:8_000] for text in (before.held_text, corrected)]
        merged = f"{before.task.text} {words}"[:8_000].rstrip() if before.task else words
        counted = started in ([words], [merged]) or call.state.held_text in held
        repeats_what_is_awaited = before.repeats(event) and before.is_awaited(event)  # see utterance.py
        assert not in_conversation or rejected or counted or (repeats_what_is_awaited and not started)
    elif before.held_text and not call.state.held_text:
        assert started == [before.held_text] or call.state.limits


def laws_of_a_state(call: Conversation) -> None:
    """What holds whenever a step is over."""
    state = call.state
    timers = {c.target for c in state.outstanding("StartTimer")}
    assert len(timers) == len(state.outstanding("StartTimer"))
    waits_for_a_client = state.phase == "SPEAKING" and not state.client_id and "reconnect" in timers
    assert WAYS_OUT.get(state.phase, timers) & timers or state.phase not in WAYS_OUT or waits_for_a_client
    elsewhere = set().union(*(out for phase, out in WAYS_OUT.items() if phase != state.phase))
    assert not timers & (elsewhere - WAYS_OUT.get(state.phase, set()))
    is_written = state.playback is not None and state.playback.is_open
    assert state.phase != "SPEAKING" or is_written == ("answer_deadline" in timers)
    assert state.phase != "SPEAKING" or is_written == bool(state.outstanding("AnswerQuestion"))
    assert all(state.phase == ONLY_IN.get(timer, state.phase) for timer in timers)
    answers = state.playback is not None and state.playback.playback_id.startswith("answer")
    assert (state.task is not None) == (state.phase == "THINKING" or answers)
    assert (state.playback is not None) == (state.phase == "SPEAKING") == bool(state.outstanding("Speak"))
    assert state.playback is None or not state.playback.is_paused or "false_interruption" in timers
    assert not state.held_text or state.phase in ("INTERRUPT", "SPEAKING", "ENDED")
    asked = state.outstanding("ClassifyIntent", "AnswerQuestion", "PlayFiller")
    guessed = state.phase == "LISTENING" and all(c.payload.get("speculation") for c in asked)
    assert state.phase == "THINKING" or not asked or guessed or is_written
    assert state.phase != "ENDED" or not state.pending


def waits_for_a_speaker(call: Conversation) -> bool:
    """Whether the session listens to a user who is speaking, and only the limit of their silence is armed."""
    timers = [timer.target for timer in call.state.outstanding("StartTimer")]
    return call.state.phase == "LISTENING" and call.state.user_is_speaking and timers == ["away"]


def comes_to_rest(call: Conversation) -> None:
    """Nothing more happens but time: every timer fires when it is due, every tool call has its limit, and the
    conversation is never stuck. While a user speaks, `away` starts anew each time.
    """
    while call.state.outstanding("RunTool"):
        call.returns(error="it took longer than 10 s")
    for _ in range(40):
        timers = call.state.outstanding("StartTimer")
        if not timers or waits_for_a_speaker(call):
            break
        call.fires(min(timers, key=lambda timer: timer.payload["due_at_us"]).target)
    assert call.state.phase in ("NEW", "LISTENING", "ENDED")
    waits = [c for c in call.state.pending.values() if not c.payload.get("speculation")]
    assert not waits or waits_for_a_speaker(call), "it waits for nothing"


def laws_of_a_log(call: Conversation) -> None:
    """What holds for the log as a whole."""
    log = call.log
    assert [e.version for e in log] == list(range(1, len(log) + 1))
    turns = [type(e) for e in log if isinstance(e, TurnStarted | TurnEnded)]
    assert turns == [TurnStarted, TurnEnded] * (len(turns) // 2)
    issued = [e for e in log if isinstance(e, CommandIssued)]
    assert len({e.command_id for e in issued}) == len(issued)
    asked = [e.idempotency_key for e in issued if e.idempotency_key and not e.retry_of]
    assert len(set(asked)) == len(asked), "a stage of a turn is asked once; everything else is a retry"
    retried = [e.retry_of for e in issued if e.retry_of]
    assert len(set(retried)) == len(retried)
    lines = call.golden
    assert all(one != other for one, other in pairwise(lines))
    phases = [line for line in lines if any(mark in line for mark in PRINTED)]
    assert all(one != other for one, other in pairwise(phases))
