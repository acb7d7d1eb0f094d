"""The simulated answer service: whole answers, and answers that come in texts, with pauses and failures in between."""

from events.derived import CommandIssued
from events.inputs import AnswerText, RagAnswered
from orchestrator.simulation.effects import Running, SimulatedEffects
from orchestrator.simulation.tools import Acting

_MORE = (" there is much to say", " and I could go on", " for quite a while", " if you like")
BETWEEN_US = 900_000
"""Longest usual time from one text of an answer to the next."""


def answer(effects: SimulatedEffects, issued: CommandIssued) -> None:
    """Answer a question. A question asked again by a new owner goes on after the texts that were given."""
    asked, chance = str(issued.payload["text"]), effects.world.chance(f"answer {issued.payload['text']}")
    acts = effects.world.acts and chance.random() < 0.6
    if acts or effects.world.writes:
        texts = (f"Well, about {asked}", *_MORE[: chance.randrange(len(_MORE) + 1)])
        _Writing(effects, effects.start(issued), texts, chance.choice((0, 0, 1)) if acts else -1).begin()
    else:
        effects.ask(issued, RagAnswered, {"answer": f"Well, about {asked}{_MORE[0]}"})


class _Writing:
    """One answer that comes in texts. The agent calls its tools after `acts_after` of them; -1: it calls none."""

    def __init__(self, effects: SimulatedEffects, running: Running, texts: tuple[str, ...], acts_after: int) -> None:
        self._effects = effects
        self._running = running
        self._texts = texts
        self._acts_after = acts_after
        self._index = len(effects.world.given)

    def begin(self, usual_us: int = 500_000) -> None:
        if self._index == self._acts_after:
            Acting(self._effects, self._running, lambda: self._next(usual_us)).begin()
        else:
            self._next(usual_us)

    def _next(self, usual_us: int) -> None:
        """Wait for the next text, or for the end. Either may never come, or fail."""
        effects, running = self._effects, self._running
        is_over = self._index >= len(self._texts)
        text = "" if is_over else self._texts[self._index]
        running.result = (
            (RagAnswered, {"answer": ""}) if is_over else (AnswerText, {"index": self._index, "text": text})
        )
        if effects.world.happens("lost_results", 0.5):
            return
        after_us = effects.takes_us(f"text {text}", usual_us)
        if effects.world.happens("failures", 0.5):
            effects.later(running, after_us, effects.fail, running, "503")
        elif is_over:
            effects.later(running, after_us, lambda: effects.finish(running, "services", RagAnswered, answer=""))
        else:
            effects.later(running, after_us, self._say, text)

    def _say(self, text: str) -> None:
        self._effects.report(self._running, "services", AnswerText, index=self._index, text=text)
        self._index += 1
        self.begin(BETWEEN_US)
