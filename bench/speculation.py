"""Measures speculation: the latency that requests on partials save, and the service requests that they waste.

Run: `uv run python bench/speculation.py`. Runs the real reducer over every utterance of `bench/speech.jsonl` (see
`record_speech.py`) in virtual time. The intent service takes 150 ms, the answer service 200 ms, and timers fire when
due. The figures are the same on every machine.

`final → answer`: from the utterance's last STT_FINAL to its PROCESSING_COMPLETE. `end → answer`: from the true end of
speech. `adopted`: share of utterances whose answer was requested before the final. `wasted`: an answer needs two
requests; all others of an utterance are wasted, including those that follow a cut (without speculation, these are the
only waste). `talked into`: share of the utterances with a pause during which the agent started to speak. If the speaker
continues before that, nobody hears the cut, because the words are merged.

A final repeats the last partial and comes after the recorded delay from FinishUtterance. (Tried 250 ms after
SPEECH_STOPPED, the real final did so in 130 of 134 utterances of the domain, and in 18 of 20 others.) After a cut, the
rest of the utterance counts as a new one. Speech starts 20 ms after its command.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bench.spoken import PARTIAL, STARTED, Report, Spoken, median, percentile, read
from events import inputs
from events.derived import ProcessingComplete, TurnStarted
from events.envelope import Input
from orchestrator.session.commands import AnswerQuestion, ClassifyIntent, FinishUtterance, Speak
from orchestrator.session.policy import Endpointing, Policy, Speculation
from orchestrator.testing.conversation import Conversation

INTENT_MS, ANSWER_MS, SPEECH_MS = 150, 200, 20
ENDPOINTING_MS = (250, 500)
STABLE_MS = (0, 50, 100, 200, 300, 500)
"""0: request only when speech has stopped."""
TRIES = (1, 2, 3)
_BEGINS_MS = 1_000
_LINGERS_MS = 3_000
"""Virtual time after the audio; longer than any endpoint or service takes."""


@dataclass(slots=True)
class VirtualCall:
    """Runs one utterance under one policy."""

    spoken: Spoken
    policy: Policy
    heard: str = ""
    """The last partial of the recording."""
    is_open: bool = False
    """Whether the recogniser has an open utterance."""
    words_given: int = 0
    """Number of words already given in finals."""
    agenda: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    planned: int = 0
    session: Conversation = field(init=False)

    def __post_init__(self) -> None:
        self.session = Conversation.listening(policy=self.policy)

    def live(self) -> None:
        for said in self.spoken.heard:
            self._plan(_BEGINS_MS + said.ms, partial(self._report, said))
        until_ms = _BEGINS_MS + self.spoken.audio_ms + _LINGERS_MS
        while (due_ms := self._next_ms()) <= until_ms:
            self.session.at(due_ms)
            if self.agenda and self.agenda[0][0] <= due_ms:
                heapq.heappop(self.agenda)[2]()
            else:
                timer = min(self.session.state.outstanding("StartTimer"), key=_due_ms)
                self._input(inputs.TimerFired, command_id=timer.command_id, target=timer.target)

    def _next_ms(self) -> int:
        timers = [_due_ms(timer) for timer in self.session.state.outstanding("StartTimer")]
        return min([*timers, *(item[0] for item in self.agenda[:1])], default=2**40)

    def _plan(self, at_ms: int, act: Callable[[], None]) -> None:
        self.planned += 1
        heapq.heappush(self.agenda, (at_ms, self.planned, act))

    def _report(self, said: Report) -> None:
        """Pass a report of VAD or recogniser to the session, which may have finished the utterance already."""
        if said.kind == STARTED:
            self.is_open = True
            self._input(inputs.SpeechStarted)
        elif said.kind == PARTIAL:
            self.heard = said.text
            if not self.is_open:  # a late partial with words of the last final
                self.words_given = len(said.text.split())
            elif text := self._words():
                self._input(inputs.SttPartial, text=text)
        else:
            self._input(inputs.SpeechStopped)

    def _words(self) -> str:
        return " ".join(self.heard.split()[self.words_given :])

    def _input(self, kind: type[Input], **fields: Any) -> None:
        self.session.input(kind, **fields)
        now_ms = self.session.now_us // 1000
        for issued, command in zip(self.session.steps[-1].commands, self.session.commands, strict=True):
            match command:
                case FinishUtterance():
                    self._plan(now_ms + self.spoken.final.ms, partial(self._final, self._finish()))
                case ClassifyIntent():
                    self._answer(now_ms + INTENT_MS, issued.command_id, inputs.IntentResolved, intent="greeting")
                case AnswerQuestion():
                    self._answer(now_ms + ANSWER_MS, issued.command_id, inputs.RagAnswered, answer="We are open.")
                case Speak(playback_id=playback_id):
                    about = {"playback_id": playback_id}
                    chunk = {"index": 0, "duration_ms": 5_000}
                    self._answer(now_ms + SPEECH_MS, issued.command_id, inputs.TtsChunkReady, **about, **chunk)
                    self._answer(now_ms + SPEECH_MS, issued.command_id, inputs.PlaybackStarted, **about)

    def _finish(self) -> str:
        text = self._words() if self.is_open else ""
        self.is_open = False
        self.words_given = len(self.heard.split())
        return text

    def _final(self, text: str) -> None:
        self._input(inputs.SttFinal, text=text)

    def _answer(self, at_ms: int, command_id: str, kind: type[Input], **fields: Any) -> None:
        def answer() -> None:
            if command_id in self.session.state.pending:
                self._input(kind, command_id=command_id, **fields)

        self._plan(at_ms, answer)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one utterance."""

    after_final_ms: float
    after_end_ms: float
    calls: int
    adopted: bool
    talked_into: bool


def outcome(spoken: Spoken, policy: Policy) -> Outcome | None:
    """Run an utterance under a policy; None if no words were recognised, so that nothing was answered."""
    call = VirtualCall(spoken, policy)
    call.live()
    log = call.session.log
    finals = [event.at_us for event in log if isinstance(event, inputs.SttFinal) and event.text]
    answers = [event.at_us for event in log if isinstance(event, ProcessingComplete)]
    turns = [event for event in log if isinstance(event, TurnStarted)]
    starts = [event.at_us / 1000 - _BEGINS_MS for event in log if isinstance(event, inputs.PlaybackStarted)]
    if not finals or not answers or answers[-1] < finals[-1]:
        return None
    return Outcome(
        after_final_ms=(answers[-1] - finals[-1]) / 1000,
        after_end_ms=answers[-1] / 1000 - _BEGINS_MS - spoken.speech_ends_ms,
        calls=sum(
            event.name in ("ClassifyIntent", "AnswerQuestion") for s in call.session.steps for event in s.commands
        ),
        adopted=turns[-1].speculation > 0,
        talked_into=bool(starts) and starts[0] < spoken.speech_ends_ms,
    )


def line(name: str, corpus: Sequence[Spoken], delay_ms: int, speculation: Speculation) -> str:
    endpointing = Endpointing(complete_ms=delay_ms, incomplete_ms=delay_ms)
    policy = Policy(endpointing=endpointing, speculation=speculation)
    lived = [(spoken.hesitates, outcome(spoken, policy)) for spoken in corpus]
    known = [found for _, found in lived if found]
    after_final, after_end = [found.after_final_ms for found in known], [found.after_end_ms for found in known]
    calls = sum(found.calls for found in known)
    pausing = [found for hesitates, found in lived if found and hesitates]
    return (
        f"{name:22}{median(after_final):8.0f}{percentile(after_final, 90):6.0f} ms"
        f"{median(after_end):10.0f}{percentile(after_end, 90):6.0f} ms"
        f"{share(found.adopted for found in known):8.0f} %"
        f"{100 * (calls - 2 * len(known)) / calls:8.0f} %{calls / len(known):8.2f}"
        f"{share(found.talked_into for found in pausing):11.0f} %"
    )


def share(of: Iterable[bool]) -> float:
    """Share of true values, in percent."""
    each = [*of]
    return 100 * sum(each) / len(each)


def main() -> None:
    corpus = read()
    for delay_ms in ENDPOINTING_MS:
        print(f"{len(corpus)} utterances, endpoint {delay_ms} ms after the VAD's stop")
        print(f"{'':22}{'final → answer':>17}{'end → answer':>19}", end="")
        print(f"{'adopted':>10}{'wasted':>10}{'calls':>8}{'talked into':>13}")
        print(line("off", corpus, delay_ms, Speculation(tries=0)))
        for tries in TRIES:
            for stable_ms in STABLE_MS:
                name = f"tries {tries}, stable {stable_ms}"
                print(line(name, corpus, delay_ms, Speculation(tries=tries, stable_ms=stable_ms)))
        print()


def _due_ms(timer: Any) -> int:
    return -(-int(timer.payload["due_at_us"]) // 1000)


if __name__ == "__main__":
    main()
