"""Decides who has the floor: a second implementation of the policy's rules, for the checkers.

A Verdict of None means undecidable: the decision depends on the heard position to the millisecond.
"""

from events import inputs
from events.envelope import Input
from orchestrator.simulation.steps import plain
from tests.simulation.log_book import Book

LONGEST_BACKCHANNEL = 6
Verdict = bool | None


def words_that_open_a_turn(book: Book, event: Input) -> str:
    """The words with which this input must open a turn; empty: it must open none."""
    if isinstance(event, inputs.SttFinal) and book.phase in ("LISTENING", "THINKING"):
        late = "" if book.user.is_speaking else book.late_words(event.at_us)
        return "" if book.repeats(event) else _joined(book, event.text.strip(), event.via, late)
    if isinstance(event, inputs.TimerFired) and book.what_it_answers(event):
        if event.target == "interrupt_pause" and book.phase == "INTERRUPT":
            return "" if book.limits else book.held
        if event.target == "stt_deadline" and book.phase in ("LISTENING", "THINKING"):
            return _joined(book, book.user.partial.strip(), "speech")
    return ""


def final_counts(book: Book, event: inputs.SttFinal) -> Verdict:
    """Whether a final is accepted, as words or as the report that there were no words."""
    if book.phase in ("NEW", "IDLE", "ENDED"):
        return False
    if not event.text.strip():
        return book.is_awaited(event)
    if book.repeats(event):
        return book.is_awaited(event) and (book.phase != "SPEAKING" or _would_take_the_floor(book, event))
    return takes_the_floor(book, event) if book.phase == "SPEAKING" else True


def takes_the_floor(book: Book, event: Input) -> Verdict:
    """Whether this input takes the floor from the agent."""
    rules, answer = book.policy.interruption, book.answer
    if book.phase != "SPEAKING" or answer is None or not answer.can_be_interrupted:
        return False
    match event:
        case inputs.BargeIn():
            return event.playback_id in ("", answer.playback_id)
        case inputs.SttFinal():
            return False if book.repeats(event) else _would_take_the_floor(book, event)
        case inputs.SpeechStarted():
            return not rules.min_speech_ms and not rules.min_words
        case inputs.SttPartial():
            return False if book.is_old(event) else _enough(book, event.text, event.at_us)
        case inputs.TimerFired() if book.what_it_answers(event) and event.target == "barge_in":
            return _enough(book, book.user.partial, event.at_us)
        case _:
            return False


def goes_on(book: Book, event: Input) -> bool:
    """Whether a paused answer must resume after this input."""
    if book.answer is None or book.answer.paused_us is None:
        return False
    if isinstance(event, inputs.TimerFired):
        return event.target == "false_interruption" and book.what_it_answers(event) is not None
    if isinstance(event, inputs.SttFinal) and event.via == "speech" and event.text.strip():
        return final_counts(book, event) is False and not book.repeats(event)
    return False


def takes_up_the_conversation(book: Book) -> bool:
    """Whether the user speaks during a farewell that they may interrupt; after their own goodbye, with more words than
    a backchannel.
    """
    answer = book.answer
    if answer is None or not answer.ends or not answer.can_be_interrupted or book.is_quiet:
        return False
    return answer.ends == "user_away" or bool(plain(book.user.partial) and not _may_listen(book, book.user.partial))


def pauses(book: Book, event: Input) -> bool:
    """Whether this input must pause the answer."""
    if not isinstance(event, inputs.SpeechStarted) or book.phase != "SPEAKING" or book.answer is None:
        return False
    rules = book.policy.interruption
    can = bool(book.handler_id) and book.answer.can_be_interrupted and book.answer.paused_us is None
    return can and rules.pause_playback and bool(rules.min_speech_ms or rules.min_words)


def is_backchannel(text: str, phrases: tuple[str, ...]) -> bool:
    """Whether the text consists only of a few backchannels."""
    words = plain(text)
    return 0 < len(words) <= LONGEST_BACKCHANNEL and _consists(words, [plain(phrase) for phrase in phrases])


def _would_take_the_floor(book: Book, event: inputs.SttFinal) -> Verdict:
    """Whether a final takes the floor, ignoring duplicates from another producer."""
    if book.answer is None or not book.answer.can_be_interrupted or not event.text.strip():
        return False
    return True if event.via == "text" else _enough_words(book, event.text, is_final=True)


def _joined(book: Book, words: str, via: str, late: str = "") -> str:
    """The text of the turn that these words open. In THINKING they may be joined to the words of the open turn, except
    to `late` words, which they replace.
    """
    merges = book.turn is not None and book.policy.thinking.more_words == "merge"
    if not words or not merges or book.turn is None or not book.turn.via == via == "speech":
        return words
    said = book.turn.text.removesuffix(late).rstrip()
    return words if plain(words)[: len(plain(said))] == plain(said) else f"{said} {words}"


def _enough(book: Book, text: str, now_us: int) -> Verdict:
    """Whether incomplete speech takes the floor: it is long enough, and has enough words."""
    rules, user = book.policy.interruption, book.user
    if user.is_speaking and now_us - user.since_us < rules.min_speech_ms * 1000:
        return False
    if not user.is_speaking and not plain(text):
        return False
    return _enough_words(book, text, is_final=False)


def _enough_words(book: Book, text: str, *, is_final: bool) -> Verdict:
    rules = book.policy.interruption
    if len(plain(text)) < rules.min_words:
        return False
    listens = is_backchannel(text, rules.backchannels) if is_final else _may_listen(book, text)
    return _is_about_to_end(book) if listens else True


def _may_listen(book: Book, text: str) -> bool:
    """Whether incomplete speech consists of backchannels, or is the beginning of one."""
    backchannels, heard = book.policy.interruption.backchannels, " ".join(plain(text))
    begins_one = bool(heard) and any(" ".join(plain(phrase)).startswith(heard) for phrase in backchannels)
    return begins_one or is_backchannel(text, backchannels)


def _is_about_to_end(book: Book) -> Verdict:
    """Whether so little of the answer is left (`boundary_ms`) that a backchannel may be a reply to it."""
    boundary_ms, answer = book.policy.interruption.boundary_ms, book.answer
    if not boundary_ms or answer is None:
        return False
    if not answer.complete:  # the length is unknown, unless an earlier synthesis was complete
        return None if answer.was_complete else False
    length_ms = max(answer.total_ms, answer.audio_ms)
    if length_ms - answer.position_ms < boundary_ms:
        return True
    return False if length_ms - answer.audio_ms >= boundary_ms else None


def _consists(words: list[str], phrases: list[list[str]]) -> bool:
    return not words or any(
        phrase and words[: len(phrase)] == phrase and _consists(words[len(phrase) :], phrases) for phrase in phrases
    )
