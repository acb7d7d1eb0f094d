"""Drives the core and a naive model of it side by side, under random policies, and compares what can be seen."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from naive_model import BACKCHANNELS, WORDS, NaiveModel

from events import inputs
from events.derived import CommandIssued
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

ANY = st.integers(0, 99)
TEXTS = st.sampled_from([*WORDS])
HAPPENINGS = [*["comes of it"] * 7, *["speaks", "partial", "final"] * 2, "both", "barges in", "time"]
AROUND = ["timer", "attaches", "late", "detaches", "resumes", "connects", "leaves", "deaf"]
ALL_DAY = 86_400_000


def part(**fields: list[Any]) -> st.SearchStrategy:
    """A part of a policy: one of these values for each field."""
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in fields.items()})


POLICIES = st.fixed_dictionaries(
    {
        "away": part(text=["", "Are you there?"], prompts=[0, 1]),
        "endpointing": part(complete_ms=[0, 250], incomplete_ms=[250, 900], phrases=[[], ["stop"]], stable_ms=[0, 300]),
        "fallback": part(failures=[0, 1, 2], unheard=["", "Sorry?"]),
        "filler": part(delay_ms=[0, 300], text=["", "One moment."]),
        "goodbye": part(after_ms=[0, 9_000], intent=["", "bye"]),
        "greeting": part(text=["", "Welcome."]),
        "intent": part(skip=[False, False, True]),
        "interruption": part(
            backchannels=[[*BACKCHANNELS]],
            boundary_ms=[0, ALL_DAY],
            min_speech_ms=[0, 500],
            min_words=[0, 1, 2],
            pause_playback=[True, True, False],
        ),
        "speculation": part(stable_ms=[0, 300], tries=[0, 1, 9]),
        "thinking": part(more_words=["merge", "supersede"]),
    }
)


alive = precondition(lambda self: self.call.state.phase != "ENDED")


class SideBySide(RuleBasedStateMachine):
    """Few rules, each for many things: Hypothesis leaves out some of them in each run."""

    call: Conversation
    model: NaiveModel

    @initialize(policy=POLICIES, steps=st.sampled_from([0, 1, 2, 2, 2, 3, 3]))
    def a_call_begins(self, policy: dict[str, Any], steps: int) -> None:
        self.call = Conversation(policy=Policy.model_validate(policy))
        self.model = NaiveModel(self.call.policy.recorded())
        self.call.opens()
        self.model.opens()
        for step in (self.connects, lambda: self.attaches(1), lambda: self.says("stop", "typed"))[:steps]:
            step()

    @precondition(lambda self: self.call.state.phase == "ENDED")
    @rule(policy=POLICIES)
    def the_next_call_begins(self, policy: dict[str, Any]) -> None:
        """Nothing changes the one that has ended."""
        self.call.connects().says("stop").input(inputs.SpeechStarted)
        self.both_look_the_same()
        self.call.check()
        self.a_call_begins(policy, 2)

    @alive
    @rule(what=st.sampled_from(HAPPENINGS), text=TEXTS, number=ANY)
    def the_conversation_goes_on(self, what: str, text: str, number: int) -> None:
        match what:
            case "speaks":
                self.speaks_or_stops()
            case "partial":
                self.is_understood(text, is_complete=number % 3 == 0)
            case "final":
                self.says(text, ("stt", "stt", "another", "typed")[number % 4])
            case "both":
                self.is_understood(text, is_complete=True)
                self.says(text, "stt")
            case "barges in":
                self.barges_in(number)
            case "comes of it":
                self.something_comes_of_it(number)
            case "time":
                self.call.after((1, 499, 500, 1_500, 3_000)[number % 5])
                self.model.now = self.call.now_us

    @alive
    @rule(what=st.sampled_from(AROUND), number=ANY)
    def something_happens_around_it(self, what: str, number: int) -> None:
        match what:
            case "connects":
                self.connects()
            case "leaves":
                self.call.input(inputs.ClientDisconnected, client_id="browser-1")
            case "attaches":
                self.attaches(number)
            case "detaches":
                self.call.input(inputs.HandlerDetached, handler_id=f"fastrtc_{number % 2}")
                self.model.detaches(f"fastrtc_{number % 2}")
            case "deaf":
                self.call.input(inputs.HearingFailed, error="broke", is_utterance_lost=number % 4 > 0)
                if number % 4:
                    self.model.is_not_heard()
            case "resumes":
                self.call.resumes(f"{self.call.incarnation}+")
                self.model.resumes()
            case "late":
                self.a_result_is_late(number)
            case "timer" if timers := self.call.state.outstanding("StartTimer"):
                self.fires(timers[number % len(timers)].target)

    # One thing on both sides.

    def connects(self) -> None:
        self.call.connects()
        self.model.connects()

    def attaches(self, number: int) -> None:
        self.call.input(inputs.HandlerAttached, handler_id=f"fastrtc_{number % 2}")
        self.model.attaches(f"fastrtc_{number % 2}")

    def speaks_or_stops(self) -> None:
        if self.call.state.user_is_speaking:
            self.call.input(inputs.SpeechStopped)
            self.model.stops_to_speak()
        else:
            self.call.input(inputs.SpeechStarted)
            self.model.starts_to_speak()

    def is_understood(self, text: str, is_complete: bool) -> None:
        self.call.input(inputs.SttPartial, text=text, is_complete=is_complete)
        self.model.is_understood(text, is_complete)

    def says(self, text: str, way: str) -> None:
        via = "text" if way == "typed" else "speech"
        self.call.input(inputs.SttFinal, text=text, via=via, producer=way, producer_seq=self.call.state.inputs + 1)
        self.model.says(text, via, way)

    def barges_in(self, number: int) -> None:
        speech = self.call.state.playback
        playback_id = ("", speech.playback_id if speech else "", "another")[number % 3]
        self.call.input(inputs.BargeIn, playback_id=playback_id)
        self.model.barges_in(named(playback_id))

    def something_comes_of_it(self, number: int) -> None:
        """Of a question, of speech, or of the timer that is due next."""
        timers = sorted(self.call.state.outstanding("StartTimer"), key=lambda timer: timer.payload["due_at_us"])
        asked = self.call.state.outstanding("ClassifyIntent", "AnswerQuestion")
        speech = self.call.state.outstanding("PlayFiller", "Speak")
        waiting = [*asked, *asked, *speech, *timers[:1]]
        if not waiting:
            return
        command = waiting[number % len(waiting)]
        if command in asked:
            self.asked(command, number // 7, fails=number % 7 == 6)
        elif command in speech:
            self.speech(command, ("chunk", "complete", "starts", "done", "done", "fails")[number // 7 % 6])
        else:
            self.fires(command.target)

    def asked(self, command: CommandIssued, number: int, fails: bool) -> None:
        if fails:
            self.call.fails(command.name)
            self.model.does_not_know(command.target)
        elif command.target == "intent":
            intent = ("greeting", "greeting", "bye", "")[number % 4]
            self.call.input(inputs.IntentResolved, intent=intent)
            self.model.knows("intent", intent)
        else:
            self.call.input(inputs.RagAnswered, answer="Hi! How can I help you?")
            self.model.knows("answer", "Hi! How can I help you?")

    def speech(self, command: CommandIssued, what: str) -> None:
        about = {"command_id": command.command_id, "playback_id": command.target}
        match what:
            case "chunk":
                self.call.input(inputs.TtsChunkReady, index=0, duration_ms=900, **about)
            case "complete":
                self.call.input(inputs.TtsComplete, chunks=1, duration_ms=900, **about)
                if command.name == "Speak" and self.model.speech is not None:
                    self.model.speech.is_made = True
            case "starts":
                self.call.input(inputs.PlaybackStarted, **about)
            case "done":
                self.call.input(inputs.PlaybackDone, confirmed_by="client", **about)
            case "fails":
                self.call.fails(command.name)
        if command.name == "Speak" and what == "done":
            self.model.is_heard()
        elif command.name == "Speak" and what == "fails":
            self.model.cannot_speak()

    def a_result_is_late(self, number: int) -> None:
        """For what is not outstanding: it changes nothing."""
        issued = [event for event in self.call.log[-60:] if isinstance(event, CommandIssued)]
        late = [command for command in issued if command.command_id not in self.call.state.pending]
        if late:
            self.call.input(inputs.ServiceFailed, command_id=late[number % len(late)].command_id, error="late")

    def fires(self, timer: str) -> None:
        self.call.fires(timer)
        self.model.now = self.call.now_us
        self.model.timer(timer)

    # What can be seen.

    @invariant()
    def both_look_the_same(self) -> None:
        if not hasattr(self, "call"):
            return
        state, model = self.call.state, self.model
        assert state.phase == model.phase
        assert state.turn == model.turns
        assert (state.task and (state.task.text, state.task.via)) == (model.turn and (model.turn.text, model.turn.via))
        playing, speech = state.playback, model.speech
        assert (playing and named(playing.playback_id)) == (speech and speech.what)
        assert (playing and (playing.ends, playing.is_paused)) == (speech and (speech.ends, speech.is_paused))
        assert state.held_text == model.held
        assert {command.target for command in state.outstanding("ClassifyIntent", "AnswerQuestion")} == model.questions
        if state.phase != "ENDED":
            waits = {timer for timer in ("endpoint", "stt_deadline") if state.timer(timer)}
            assert waits == {
                name for name, on in (("endpoint", model.may_go_on), ("stt_deadline", model.awaits_final)) if on
            }

    def teardown(self) -> None:
        self.call.check()


def named(playback_id: str) -> str:
    """Prompts and farewells are numbered by their inputs, which the model does not count."""
    return playback_id if playback_id.startswith("answer") else playback_id.partition("-")[0]


TestSideBySide = SideBySide.TestCase
TestSideBySide.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
