"""The invariants of answers that come in texts: each is spoken once, in order, and at once. See checkers.py."""

from collections.abc import Iterator

from events import inputs
from events.derived import CommandIssued
from orchestrator.simulation.steps import Seen
from tests.simulation.log_book import Answer, Book, Checker


def texts_are_spoken_in_order(book: Book, step: Seen) -> Iterator[str]:
    """Text: SPEAKING has said, or is saying, the texts of the answer, each once and in order."""
    answer = book.answer
    if answer is None or not answer.playback_id.startswith("answer-") or not book.texts:
        return
    if [text for text, _ in answer.texts] != book.texts and answer.text != "".join(book.texts):
        yield f"{answer.playback_id} says {answer.texts}, the answer is {book.texts}"


def a_playback_is_open_as_long_as_its_answer(book: Book, step: Seen) -> Iterator[str]:
    """Text: while more of the answer may come, its playback is open, and its deadline is armed; and only then."""
    is_open = book.answer is not None and book.answer.is_open
    if book.phase == "SPEAKING" and is_open != book.is_outstanding("AnswerQuestion"):
        yield f"the playback is {'open' if is_open else 'closed'}, the answer is {'' if is_open else 'not '}over"
    if book.phase == "SPEAKING" and is_open != ("answer_deadline" in book.timers):
        yield "a text is awaited without a deadline" if is_open else "a deadline of nothing"


def a_text_is_asked_for_once(book: Book, step: Seen) -> Iterator[str]:
    """Text: SpeakMore goes on where the playback is, with the next number, and never after the last text; a retry of
    Speak begins with the text that was being heard, and repeats those after it.
    """
    answer, spoken = book.answer, [c for c in step.commands if c.name in ("Speak", "SpeakMore")]
    for command in spoken:
        if command.name == "Speak":
            if command.retry_of and answer is not None and answer.texts:
                yield from _goes_on(answer, command)
            number, is_open = int(str(command.payload.get("index", 0))), bool(command.payload.get("is_open"))
            continue
        if command is spoken[0]:
            if answer is None or not answer.is_open:
                yield f"{command.target} after the end of the answer"
            number, is_open = len(answer.texts) - 1 if answer else 0, True
        if command.payload["index"] != number + 1 or not is_open:
            yield f"{command.target} after text {number} of {'an open' if is_open else 'a closed'} playback"
        number, is_open = number + 1, not command.payload["is_last"]


def _goes_on(answer: Answer, command: CommandIssued) -> Iterator[str]:
    """A retry begins with the text at its position."""
    from_ms, begins_ms = (int(str(command.payload.get(name, 0))) for name in ("from_ms", "begins_ms"))
    index = int(str(command.payload.get("index", 0)))
    begun = [begin_ms for _, begin_ms in answer.texts if begin_ms is not None]
    later = begun[index + 1 :]
    if (begun and begins_ms != begun[index]) or from_ms < begins_ms or (later and later[0] <= from_ms < later[-1]):
        yield f"goes on at {from_ms} ms with text {index} at {begins_ms} ms of {begun}"
    if command.payload["text"] != answer.texts[index][0]:
        yield f"goes on with {command.payload['text']!r} as text {index}"


def only_the_next_text_counts(book: Book, step: Seen) -> Iterator[str]:
    """Text: a text that counts is passed on in its step, in SPEAKING; the numbers have no gaps."""
    if isinstance(step.input, inputs.AnswerText) and book.is_next_text(step.input) and book.phase == "SPEAKING":
        said = [c.payload["text"] for c in step.commands if c.name == "SpeakMore"]
        if said != [step.input.text]:
            yield f"{step.input.text!r} comes, {said} is said"


BEFORE: tuple[tuple[str, Checker], ...] = (
    ("text", a_text_is_asked_for_once),
    ("text", only_the_next_text_counts),
)
AFTER: tuple[tuple[str, Checker], ...] = (
    ("text", texts_are_spoken_in_order),
    ("text", a_playback_is_open_as_long_as_its_answer),
)
