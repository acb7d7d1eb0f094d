"""Decides when a final comes in a what-if: as long after a FinishUtterance as in the recording."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event
from events.inputs import SpeechStarted, SpeechStopped, SttFinal, SttPartial
from orchestrator.session.state import State


@dataclass(slots=True)
class Awaited:
    """A recorded final that answered a FinishUtterance, with its utterance. Times are microseconds since 1970."""

    final: SttFinal
    asked_us: int
    """When the recording issued the FinishUtterance."""
    began_us: int
    """When the utterance began."""
    spoken_until_us: int
    """When the user last stopped speaking before the FinishUtterance."""
    partials: list[SttPartial] = field(default_factory=list)
    is_asked: bool = False
    """Whether the new run has asked for this final (FinishUtterance) at exactly the recorded time. The final then comes
    as recorded.
    """
    given: str = ""
    """The first words of the utterance, if the new run ended the utterance too early and got them as a guessed final.
    Otherwise empty.
    """
    is_cut: bool = False
    """Whether the new run has ended the utterance while the user still spoke."""


class Finals:
    """The recorded finals of one session. Each final waits until the new run issues FinishUtterance."""

    def __init__(self, log: Sequence[Event]) -> None:
        self.moved = 0
        """Number of finals of the new run that come at another time than in the recording."""
        self.unjudged = 0
        """Number of utterances that the new run ends too early, or never ends. Their words in the new run are
        uncertain, because the recording has only finals of whole utterances.
        """
        self._waiting = {awaited.final.event_id: awaited for awaited in _paired(log)}
        self._known = frozenset(self._waiting)

    def comes_now(self, event: Event, state: State) -> bool:
        """Return whether a recorded input comes at its recorded time, which is now. False for a final whose words
        `asked` has yielded, with another time. False also for a final whose utterance goes on in the new run: this
        final waits until the new run issues FinishUtterance.
        """
        if event.event_id not in self._known:
            return True
        awaited = self._waiting.get(event.event_id)
        if awaited is None:
            return False  # `asked` has yielded its words
        is_due = awaited.is_asked or not (state.user_is_speaking or state.armed("endpoint"))
        if is_due:
            del self._waiting[event.event_id]
        return is_due

    def asked(self, at_us: int) -> Iterator[SttFinal]:
        """Yield the final that answers a FinishUtterance of the new run, issued at `at_us`. The final comes after the
        recogniser's recorded delay. Yields nothing if no utterance waits for its final, or if the final comes as
        recorded, because the recording issued the FinishUtterance at the same time.

        The final has the words of all utterances that are over and wait for their final. If none is over, because the
        user still speaks, the final is a guess: the words of the last partial. Words that the new run has got already
        are left out, so the final may have no words.
        """
        begun = [one for one in self._waiting.values() if one.began_us <= at_us]
        whole = [one for one in begun if one.spoken_until_us <= at_us or one.asked_us == at_us]
        if not whole:
            yield from (self._cut(one, at_us) for one in begun[:1])
            return
        last = whole[-1]
        if len(whole) == 1 and last.asked_us == at_us and not last.given:
            last.is_asked = True
            return
        for one in whole:
            del self._waiting[one.final.event_id]
        self.moved += 1
        text = " ".join(filter(None, (_rest(one) for one in whole)))
        yield last.final.replace(at_us=at_us + last.final.at_us - last.asked_us, text=text)

    def end(self) -> None:
        """Count in `unjudged` the utterances that the new run never ended. Call this when the new run is over."""
        # `_cut` has counted the others
        self.unjudged += sum(not one.is_cut for one in self._waiting.values())

    def _cut(self, one: Awaited, at_us: int) -> SttFinal:
        """Guess the final of an utterance that the new run ends while the user still speaks: the words of the last
        partial, without the words of an earlier guess.
        """
        self.unjudged += not one.is_cut
        one.is_cut = True
        known = [partial.text for partial in one.partials if partial.at_us <= at_us]
        words = known[-1].removeprefix(one.given).strip() if known else ""
        one.given = known[-1] if words else one.given
        after_us = at_us + one.final.at_us - one.asked_us
        # also if `words` is empty: without a final, the new run would wait for the deadline
        return one.final.replace(at_us=after_us, event_id=f"{one.final.event_id}:{at_us}", text=words)


def _rest(one: Awaited) -> str:
    return one.final.text.removeprefix(one.given).strip()


@dataclass(slots=True)
class _Utterance:
    """An utterance of the recording, before `_paired` has read its final. `until_us`: when the user last stopped
    speaking before the FinishUtterance.
    """

    began_us: int = 0
    until_us: int = 0
    asked_us: int | None = None
    partials: list[SttPartial] = field(default_factory=list)

    def took(self, final: SttFinal, patience_us: int) -> bool:
        """Whether a final came soon enough to be the final of this utterance: at most `patience_us` after the
        FinishUtterance.
        """
        return self.asked_us is not None and final.at_us - self.asked_us <= patience_us


def _paired(log: Sequence[Event]) -> Iterator[Awaited]:
    """Yield each spoken (not typed) final that came within `deadlines.stt_ms` after a FinishUtterance, with what the
    recording says about its utterance.
    """
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
