"""Estimates how much of an answer the user heard: a position in the audio, and the words up to it."""

from collections.abc import Callable
from itertools import chain
from unicodedata import east_asian_width

from orchestrator.session.phrases import is_unspaced, spans
from orchestrator.session.state import Playback

HEARD_CHARS = 8_000
"""Limit of a heard text, in characters. A longer text is cut off, because an event cannot hold it."""
MS_PER_CHARACTER = 70
"""Estimated duration of speech for each character of text, in ms: about 170 words a minute."""
MS_PER_WIDE_CHARACTER = 200
"""Estimated duration of speech for each Chinese, Japanese or Korean character, in ms: five characters a second."""


def heard_ms(playback: Playback, now_us: int) -> int:
    """Estimate how much of a playback the user has heard, in milliseconds of audio. While the audio plays, the estimate
    is the last recorded position plus the time since then, but at most the audio synthesised so far. While no audio
    plays, as during a pause, the estimate is the last recorded position.
    """
    if not playback.position_at_us:
        return playback.position_ms
    return min(playback.audio_ms, playback.position_ms + (now_us - playback.position_at_us) // 1000)


def length_ms(playback: Playback, guess: Callable[[str], int]) -> int:
    """Return the length of a playback's audio in milliseconds, for deadlines. Once synthesis is complete, the length is
    known. Before, it is guessed from the text by `guess` (`guessed_ms` or `roughly_ms`).
    """
    # Synthesis runs only a second ahead of playback: `audio_ms` does not show the length of the whole.
    total_ms = guess(playback.text) if playback.total_ms is None else playback.total_ms
    return max(playback.audio_ms, total_ms)


def roughly_ms(text: str) -> int:
    """Estimate how long the speech of a text takes, in milliseconds, for sessions opened before state schema 7. The
    estimate is too short for Chinese, Japanese and Korean.
    """
    return len(text) * MS_PER_CHARACTER


def guessed_ms(text: str) -> int:
    """Estimate how long the speech of a text takes, in milliseconds, from the number of its characters. The estimate is
    rough: some voices take half as long again as others, and numbers in digits take much longer.
    """
    wide = 0 if text.isascii() else sum(east_asian_width(char) in "FW" for char in text)
    return (len(text) - wide) * MS_PER_CHARACTER + wide * MS_PER_WIDE_CHARACTER


def left_ms(playback: Playback, now_us: int) -> int | None:
    """Return how many milliseconds of a playback the user has not heard yet. None: synthesis is not complete, so the
    length is not known.
    """
    return None if playback.total_ms is None else length_ms(playback, guessed_ms) - heard_ms(playback, now_us)


def heard_text(playback: Playback, position_ms: int, *, in_utf16: bool = False) -> str:
    """Return the words of a playback that end at or before `position_ms`. If the client shows the answer as text, all
    its words count as heard.

    If the synthesiser does not report when words begin, each word gets an equal share of the audio. Until synthesis is
    complete, the length of the audio is then a guess, and the last word never counts as heard.

    `in_utf16`: see `phrases.spans`.
    """
    whole_ms = max(playback.audio_ms, guessed_ms(playback.text) if playback.total_ms is None else playback.total_ms)
    if playback.is_shown:
        return playback.text.strip()
    if position_ms <= 0 or not whole_ms:
        return ""
    if playback.words:
        ends_ms = chain((at_ms for at_ms, _ in playback.words[1:]), (playback.audio_ms,))
        said = zip(playback.words, ends_ms, strict=True)
        # Compare the start, too: in a retry, the last word may start after `audio_ms`, which counts as its end.
        heard = [word for (at_ms, word), end_ms in said if at_ms < position_ms and end_ms <= position_ms]
        return _joined(heard, playback.text)[:HEARD_CHARS].rstrip()
    if playback.begins_ms:
        return _heard_of_texts(playback, position_ms, in_utf16)
    words = spans(playback.text, in_utf16=in_utf16)
    count = min(len(words) * position_ms // whole_ms, len(words) - (playback.total_ms is None))
    return " ".join(playback.text[: words[count - 1][1]].split()) if count > 0 else ""


def _heard_of_texts(playback: Playback, position_ms: int, in_utf16: bool) -> str:
    """Return the heard words of an answer that came in texts, if the synthesiser does not report when words begin.
    Within a text, each word gets an equal share of the audio of that text.
    """
    index = playback.text_at(position_ms)
    begin_ms, *later_ms = playback.begins_ms[index:]
    text = playback.texts_from(index)[0]
    is_complete = bool(later_ms) or playback.total_ms is not None
    longest_ms = playback.total_ms or max(playback.audio_ms, begin_ms + guessed_ms(text))
    end_ms = later_ms[0] if later_ms else longest_ms
    words = spans(text, in_utf16=in_utf16)
    share = len(words) * (position_ms - begin_ms) // max(1, end_ms - begin_ms)
    count = min(share, len(words) - (not is_complete))
    before = playback.ends_at[index - 1] if index else 0
    until = before + (words[count - 1][1] if count > 0 else 0)
    return " ".join(playback.text[:until].split())


def _joined(words: list[str], text: str) -> str:
    """Join words as they stand in the text: with blanks or, as in Chinese, Japanese and Thai, without blanks."""
    heard, at = "", 0
    for word in words:
        found = text.find(word, at)
        between = text[at:found] if found > 0 else " "
        if found >= 0 and not any(map(str.isalnum, between)):
            at = found + len(word)
        else:  # the synthesiser spells the word differently from the text
            between = "" if is_unspaced(heard[-1:]) and is_unspaced(word) else " "
        if heard:
            heard += between if between == between.strip() else " "
        heard += word
    return heard
