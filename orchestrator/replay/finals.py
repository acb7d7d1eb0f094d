"""Models when a recogniser gives its finals in a what-if: after FinishUtterance, with the recorded delay."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event
from events.inputs import SpeechStarted, SpeechStopped, SttFinal, SttPartial
from orchestrator.session.state import State


@dataclass(slots=True)
class Awaited:
    """A recorded final that answered a FinishUtterance; times in microseconds of the session."""

    final: SttFinal
    asked_us: int
    began_us: int
    spoken_until_us: int
    """When the user last stopped speaking before the final was asked for."""
    partials: list[SttPartial] = field(default_factory=list)
    is_asked: bool = False
    """Whether the new run asks for the final at the recorded time, so that it comes as recorded."""
    given: str = ""
    """Words of the utterance that a guessed final of the new run has given already."""


class Finals:
    """Finals of one session's log that wait for a FinishUtterance of the new run."""

    def __init__(self, log: Sequence[Event]) -> None:
        self.moved = 0
        """How many finals come at another time than recorded."""
        self.unjudged = 0
        """How many utterances the new run cuts: nobody recorded which words the recogniser would have given."""
        self._waiting = {awaited.final.event_id: awaited for awaited in _paired(log)}
        self._known = frozenset(self._waiting)

    def comes_now(self, event: Event, state: State) -> bool:
        """Whether an input comes now, at its recorded time. False for a final that has come at another time, or whose
        utterance has not ended yet in the new run.
        """
        if event.event_id not in self._known:
            return True
        awaited = self._waiting.get(event.event_id)
        if awaited is None:
            return False  # it came at another time
        is_due = awaited.is_asked or not (state.user_is_speaking or state.armed("endpoint"))
        if is_due:
            del self._waiting[event.event_id]
        return is_due

    def asked(self, at_us: int) -> Iterator[SttFinal]:
        """Yield the finals that answer a FinishUtterance of the new run at `at_us`, with their recorded delay. Yields
        none if the recording asked for the final at the same time: that final comes as recorded.
        """
        begun = [one for one in self._waiting.values() if one.began_us <= at_us]
        whole = [one for one in begun if one.spoken_until_us <= at_us or one.asked_us == at_us]
        if not whole:
            yield from (final for one in begun[:1] if (final := self._cut(one, at_us)) is not None)
            return
        last = whole[-1]
        if len(whole) == 1 and last.asked_us == at_us and not last.given:
            last.is_asked = True
            return
        for one in whole:
            del self._waiting[one.final.event_id]
        self.moved += 1
        text = " ".join(filter(None, (_rest(one) for one in whole)))
        yield last.final.but(at_us=at_us + last.final.at_us - last.asked_us, text=text)

    def end(self) -> None:
        """Count the utterances that the new run never completed."""
        self.unjudged += len(self._waiting)

    def _cut(self, one: Awaited, at_us: int) -> SttFinal | None:
        """A guessed final for an utterance that the new run ends while the user still speaks: the words of the last
        partial. None: there are no words yet.
        """
        self.unjudged += 1
        known = [partial.text for partial in one.partials if partial.at_us <= at_us]
        words = known[-1].removeprefix(one.given).strip() if known else ""
        if not words:
            return None
        one.given = known[-1]
        after_us = at_us + one.final.at_us - one.asked_us
        return one.final.but(at_us=after_us, event_id=f"{one.final.event_id}:{at_us}", text=words)


def _rest(one: Awaited) -> str:
    return one.final.text.removeprefix(one.given).strip()


@dataclass(slots=True)
class _Utterance:
    """What the recording says of an utterance before its final."""

    began_us: int = 0
    until_us: int = 0
    asked_us: int | None = None
    partials: list[SttPartial] = field(default_factory=list)

    def took(self, final: SttFinal, patience_us: int) -> bool:
        """Whether a final can be the answer to this utterance's FinishUtterance: it came within `patience_us`."""
        return self.asked_us is not None and final.at_us - self.asked_us <= patience_us


def _paired(log: Sequence[Event]) -> Iterator[Awaited]:
    """Yield each spoken final that came within `deadlines.stt_ms` after a FinishUtterance, with its utterance."""
    patience_us = 0
    before, now = _Utterance(), _Utterance()
    for event in log:
        match event:
            case inputs.SessionOpened():
                patience_us = _stt_ms(event) * 1_000
            case SpeechStarted() if now.asked_us is not None:  # the user goes on before the final has come
                before, now = now, _Utterance(event.at_us)
            case SpeechStarted():
                now.began_us = now.began_us or event.at_us
            case SpeechStopped() if now.asked_us is None:
                now.until_us = event.at_us
            case SttPartial(via="speech"):
                now.began_us = now.began_us or event.at_us
                now.partials.append(event)
            case CommandIssued(name="FinishUtterance"):
                now.asked_us = event.at_us
            case SttFinal(via="speech"):
                one = now if now.asked_us is not None else before
                if one.took(event, patience_us) and one.asked_us is not None:
                    yield Awaited(event, one.asked_us, one.began_us, max(one.began_us, one.until_us), one.partials)
                before, now = _Utterance(), now if one is before and now.began_us else _Utterance()


def _stt_ms(opened: inputs.SessionOpened) -> int:
    deadlines = opened.policy.get("deadlines")
    found = deadlines.get("stt_ms") if isinstance(deadlines, dict) else None
    return found if isinstance(found, int) else 0
