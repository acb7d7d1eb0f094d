"""Bugs planted in answers that come in texts, and the checkers that find them. See test_planted_bugs.py."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from events.inputs import TtsChunkReady
from orchestrator.session import evolve, fsm, speaking, thinking
from orchestrator.session.commands import Speak, SpeakMore
from orchestrator.session.state import State
from orchestrator.session.step import StepBuilder

Patch = pytest.MonkeyPatch


def a_text_is_dropped(patch: Patch) -> None:
    """What comes while the playback is paused is not spoken."""

    def answer_text(making: StepBuilder) -> None:
        if making.state.playback is None or not making.state.playback.is_paused:
            speaking.answer_text(making)
        elif thinking.is_next_text(making):
            making.arm("answer_deadline", making.state.policy.deadlines.next_text_ms)

    patch.setitem(fsm.TABLE, ("SPEAKING", "ANSWER_TEXT"), answer_text)


def any_text_counts(patch: Patch) -> None:
    """The number of a text is not looked at."""
    patch.setattr(State, "awaits_text", lambda self, event: bool(event.text))


def a_text_has_no_deadline(patch: Patch) -> None:
    """The next text is awaited for ever."""
    arm = StepBuilder.arm

    def armed(self: StepBuilder, timer: str, ms: int) -> None:
        if ms != self.state.policy.deadlines.next_text_ms or timer != "answer_deadline":
            arm(self, timer, ms)
        else:
            self.disarm(timer)

    patch.setattr(StepBuilder, "arm", armed)


def a_broken_answer_stays_open(patch: Patch) -> None:
    """The failure of the model is noted, and the playback waits for more."""

    def failed(making: StepBuilder) -> None:
        assert making.answered is not None
        if making.answered.name == "AnswerQuestion":
            making.disarm("answer_deadline")
        else:
            speaking.failed(making)

    patch.setitem(fsm.TABLE, ("SPEAKING", "SERVICE_FAILED"), failed)


def an_answer_goes_on_after_its_end(patch: Patch) -> None:
    """The last text is said once more."""
    complete = speaking.answer_complete

    def twice(making: StepBuilder) -> None:
        complete(making)
        assert making.state.playback is not None
        more = SpeakMore(len(making.state.playback.ends_at) + 1, True, making.state.playback.playback_id, "again")
        making.do(more)

    patch.setitem(fsm.TABLE, ("SPEAKING", "RAG_ANSWERED"), twice)


def a_new_owner_begins_with_the_first_text(patch: Patch) -> None:
    """The position is right, the text is not: the caller hears the wrong words from there on."""
    again = StepBuilder.do

    def do(self: StepBuilder, command: Any, retry_of: str = "") -> None:
        if isinstance(command, Speak) and retry_of and command.is_open and self.state.playback is not None:
            command = replace(command, index=0, text=self.state.playback.texts_from(0)[0])
        again(self, command, retry_of)

    patch.setattr(StepBuilder, "do", do)


def a_text_counts_before_it_is_heard(patch: Patch) -> None:
    """The audio of a text is taken for that of the text before."""
    ready = evolve._CHANGES[TtsChunkReady]

    def one_text_early(state: State, event: Any) -> None:
        ready(state, event.replace(text_index=event.text_index + 1) if state.playback is not None else event)

    patch.setitem(evolve._CHANGES, TtsChunkReady, one_text_early)


PLANTED: list[tuple[Callable[[Patch], None], str]] = [
    (a_text_is_dropped, "text only_the_next_text_counts"),
    (a_text_is_dropped, "text texts_are_spoken_in_order"),
    (any_text_counts, "I-10 a_result_counts_while_outstanding"),
    (a_text_has_no_deadline, "text a_playback_is_open_as_long_as_its_answer"),
    (a_broken_answer_stays_open, "text a_playback_is_open_as_long_as_its_answer"),
    (an_answer_goes_on_after_its_end, "text a_text_is_asked_for_once"),
    (a_new_owner_begins_with_the_first_text, "text a_text_is_asked_for_once"),
    (a_text_counts_before_it_is_heard, "I-8 what_was_heard_was_played"),
]
"""Bug → the checker that finds it."""
