"""Twenty recorded calls, and the agent that led them: a café whose agent knows its hours."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from events.inputs import (
    HandlerAttached,
    PlaybackDone,
    PlaybackProgress,
    PlaybackStarted,
    SpeechStarted,
    SpeechStopped,
    TtsChunkReady,
    TtsComplete,
)
from orchestrator.services.ports import Request
from orchestrator.session.policy import Policy
from orchestrator.testing.conversation import Conversation

HOURS = ("We are open every day.", " From nine in the morning to six in the evening.", " On Sundays there is cake.")
FIRST_TEXT_MS, NEXT_TEXT_MS, FIRST_SOUND_MS, AHEAD_MS = 420, 260, 130, 500
MS_PER_CHARACTER = 60

Due = tuple[int, Callable[[], object]]


async def agent(request: Request) -> AsyncIterator[str]:
    """The agent that led the calls."""
    for text in answers(request.text, len(request.conversation)):
        yield text


def answers(question: str, lines_before: int) -> Sequence[str]:
    """Its answers, text by text."""
    if "open" in question:
        return HOURS
    if "hello" in question:
        return ("Hello!", " How can I help?") if not lines_before else ("Hello again!",)
    return (f"I do not know much about {question}.", " Please ask me when we are open.")


@dataclass(frozen=True)
class Says:
    """The user speaks, this long after the last sound; or over an answer, this long after it began."""

    words: str
    after_ms: int = 1_500
    interrupts: bool = False


class Caller:
    """Leads one call with the builder, as the services, the player and the timers of a real one would."""

    def __init__(self, name: str, policy: Policy | None) -> None:
        self.call = Conversation(name, policy=policy).opens().connects()
        self.call.after(50).input(HandlerAttached, handler_id="handler-1")
        self._due: list[Due] = []
        self._lines = 0

    def lead(self, turns: Sequence[Says]) -> "Conversation":
        for turn in turns:
            self._until(self.call.now_us + turn.after_ms * 1000 if turn.interrupts else self._rest_us(turn.after_ms))
            self._utters(turn.words)
        self._until(self._rest_us(500))
        return self.call.after(800).closes()

    def _utters(self, words: str) -> None:
        call = self.call
        call.input(SpeechStarted)
        self._until(call.now_us + 700_000)
        call.input(SpeechStopped)
        self._until(call.now_us + 350_000)
        call.says(words)
        self._until(call.now_us + 1_500_000, until_asked=True)
        if not call.state.outstanding("AnswerQuestion"):
            return  # the words did not count
        began_us = call.now_us
        if call.state.outstanding("ClassifyIntent"):
            self._due.append((began_us + 90_000, partial(call.resolves, "question")))
        for at_ms, do in self._answer(answers(words, self._lines)):
            self._due.append((began_us + at_ms * 1000, partial(self._unless_over, call.state.turn, do)))
        self._until(began_us + (FIRST_TEXT_MS + FIRST_SOUND_MS) * 1000)
        self._lines += 2

    def _unless_over(self, turn: int, do: Callable[[], object]) -> None:
        """Report a result, unless the user has interrupted the answer."""
        if self.call.state.turn == turn and self.call.state.task is not None:
            do()

    def _rest_us(self, after_ms: int) -> int:
        return max([self.call.now_us, *(at_us for at_us, _ in self._due)]) + after_ms * 1000

    def _until(self, us: int, *, until_asked: bool = False) -> None:
        """Let everything happen that is due until then: results, and the timers of the session."""
        call = self.call
        while not (until_asked and call.state.outstanding("AnswerQuestion")):
            timers = [one for one in call.state.pending.values() if one.name == "StartTimer"]
            due = [(int(str(one.payload["due_at_us"])), partial(call.fires, one.target)) for one in timers]
            at_us, do = min([*due, *self._due], key=lambda one: one[0], default=(us + 1, call.check))
            if at_us > us:
                call.now_us = us
                return
            call.now_us = max(call.now_us, at_us)
            if (at_us, do) in self._due:
                self._due.remove((at_us, do))
            do()

    def _answer(self, texts: Sequence[str]) -> list[Due]:
        """Texts, chunks and progress, each in milliseconds after the question."""
        call, due = self.call, list[Due]()
        at_ms, plays_ms = FIRST_TEXT_MS, FIRST_TEXT_MS + FIRST_SOUND_MS
        due.append((plays_ms, partial(call.input, PlaybackStarted)))
        for index, text in enumerate(texts):
            due.append((at_ms, partial(call.texts, text)))
            length_ms = len(text) * MS_PER_CHARACTER
            written_ms = max(at_ms + FIRST_SOUND_MS, plays_ms - AHEAD_MS)
            chunk = partial(call.input, TtsChunkReady, duration_ms=length_ms, index=index, text_index=index)
            due.append((written_ms, chunk))
            plays_ms = max(plays_ms, written_ms) + length_ms
            at_ms += NEXT_TEXT_MS
        total_ms = sum(map(len, texts)) * MS_PER_CHARACTER
        due.append((at_ms, call.written))
        due.append(
            (max(at_ms, written_ms) + 1, partial(call.input, TtsComplete, chunks=len(texts), duration_ms=total_ms))
        )
        due.append((plays_ms - 50, partial(call.input, PlaybackProgress, position_ms=total_ms - 50)))
        done = partial(call.input, PlaybackDone, confirmed_by="client", position_ms=total_ms)
        due.append((max(at_ms + 2, plays_ms), done))
        return due


def _policy(**parts: dict[str, object]) -> Policy:
    return Policy.model_validate(parts)


_HELLO, _OPEN, _CAKE = Says("hello"), Says("when are you open"), Says("your cake")
STORIES: dict[str, tuple[Sequence[Says], Policy | None]] = {
    "hello": ([_HELLO], None),
    "hours": ([_OPEN], None),
    "cake": ([_CAKE], None),
    "hello_and_hours": ([_HELLO, _OPEN], None),
    "hours_twice": ([_OPEN, _OPEN], None),
    "three_questions": ([_HELLO, _CAKE, _OPEN], None),
    "hello_twice": ([_HELLO, _CAKE, _HELLO], None),
    "a_long_silence": ([_HELLO, Says("when are you open", 9_000)], None),
    "interrupts_the_first_sentence": ([_OPEN, Says("your cake", 400, interrupts=True)], None),
    "interrupts_the_second_sentence": ([_OPEN, Says("your cake", 2_500, interrupts=True)], None),
    "interrupts_the_third_sentence": ([_OPEN, Says("hello", 4_900, interrupts=True)], None),
    "interrupts_twice": (
        [_OPEN, Says("your cake", 900, interrupts=True), Says("your tea", 700, interrupts=True)],
        None,
    ),
    "hears_an_interrupted_answer_again": ([_OPEN, Says("your tea", 600, interrupts=True), _OPEN], None),
    "speaks_at_once": ([Says("when are you open", 10)], None),
    "without_an_intent": ([_HELLO, _OPEN], _policy(intent={"skip": True})),
    "with_a_greeting_to_come": ([_OPEN, _CAKE], _policy(filler={"text": "One moment.", "delay_ms": 3_000})),
    "patient_policy": ([_OPEN, Says("your cake", 2_500, interrupts=True)], _policy(interruption={"min_words": 2})),
    "never_interrupted": ([_OPEN, Says("tea", 2_000, interrupts=True)], _policy(interruption={"min_words": 5})),
    "no_early_questions": ([_HELLO, _OPEN], _policy(speculation={"tries": 0})),
    "many_turns": ([_HELLO, _OPEN, _CAKE, _OPEN, _HELLO, _CAKE], None),
}


def record(folder: Path) -> list[Path]:
    """Write the recordings of all calls; returns their files."""
    files = []
    for name, (turns, policy) in STORIES.items():
        call = Caller(f"call_{name}", policy).lead(turns)
        call.check()
        files.append(folder / f"{name}.jsonl")
        files[-1].write_bytes(call.recording(name.replace("_", " ")))
    return files
