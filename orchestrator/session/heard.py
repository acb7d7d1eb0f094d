"""Estimates how much of an answer the user heard: a position in the audio, and the words up to it."""

from itertools import chain
from unicodedata import east_asian_width

from orchestrator.session.phrases import is_unspaced, spans
from orchestrator.session.state import Playback

HEARD_CHARS = 8_000
"""Longest text of an event, in characters. A heard text exceeds it only if a broken synthesiser reports words that were
not in its text."""
MS_PER_CHARACTER = 70
"""Speech at about 170 words a minute."""
MS_PER_WIDE_CHARACTER = 200
"""Speech of Chinese, Japanese and Korean text: five characters a second."""


def heard_ms(playback: Playback, now_us: int) -> int:
    """Estimate how much of a playback the user has heard, in milliseconds of audio: the last confirmed position plus
    the time since, at most the audio sent so far.
    """
    if not playback.position_at_us:
        return playback.position_ms
    return min(playback.audio_ms, playback.position_ms + (now_us - playback.position_at_us) // 1000)


def length_ms(playback: Playback) -> int:
    """Length of the whole answer in milliseconds, for deadlines: known once synthesis is complete, until then guessed
    from the text.

    Synthesis runs only a second ahead of playback, so the length of the audio so far says little about the whole.
    Use `left_ms` to find out whether the end is near.
    """
    total_ms = len(playback.text) * MS_PER_CHARACTER if playback.total_ms is None else playback.total_ms
    return max(playback.audio_ms, total_ms)


def guessed_ms(text: str) -> int:
    """Guess the length of a text's speech in milliseconds. Voices differ by half, and numbers take much longer."""
    wide = 0 if text.isascii() else sum(east_asian_width(char) in "FW" for char in text)
    return (len(text) - wide) * MS_PER_CHARACTER + wide * MS_PER_WIDE_CHARACTER


def left_ms(playback: Playback, now_us: int) -> int | None:
    """Milliseconds of the answer that are still to be heard. None: unknown until synthesis is complete."""
    return None if playback.total_ms is None else length_ms(playback) - heard_ms(playback, now_us)


def heard_text(playback: Playback, position_ms: int) -> str:
    """The words that end before `position_ms`. Uses the synthesiser's word times if it gave any; otherwise gives each
    word an equal share of the audio. Until synthesis is complete, the last word does not count. An answer shown as text
    counts as heard whole.
    """
    whole_ms = max(playback.audio_ms, guessed_ms(playback.text) if playback.total_ms is None else playback.total_ms)
    if playback.is_shown:
        return playback.text.strip()
    if position_ms <= 0 or not whole_ms:
        return ""
    if playback.words:
        ends_ms = chain((at_ms for at_ms, _ in playback.words[1:]), (playback.audio_ms,))
        said = zip(playback.words, ends_ms, strict=True)
        # Both conditions: when a new owner synthesises the speech again, word times may exceed the audio so far.
        heard = [word for (at_ms, word), end_ms in said if at_ms < position_ms and end_ms <= position_ms]
        return _joined(heard, playback.text)[:HEARD_CHARS].rstrip()
    if playback.begins_ms:
        return _heard_of_texts(playback, position_ms)
    words = spans(playback.text)
    count = min(len(words) * position_ms // whole_ms, len(words) - (playback.total_ms is None))
    return " ".join(playback.text[: words[count - 1][1]].split()) if count > 0 else ""


def _heard_of_texts(playback: Playback, position_ms: int) -> str:
    """The heard words of an answer that came in texts, without word times: within each text, every word has an equal
    share of the audio of that text.
    """
    index = playback.text_at(position_ms)
    begin_ms, *later_ms = playback.begins_ms[index:]
    text = playback.texts_from(index)[0]
    is_complete = bool(later_ms) or playback.total_ms is not None
    longest_ms = playback.total_ms or max(playback.audio_ms, begin_ms + guessed_ms(text))
    end_ms = later_ms[0] if later_ms else longest_ms
    words = spans(text)
    share = len(words) * (position_ms - begin_ms) // max(1, end_ms - begin_ms)
    count = min(share, len(words) - (not is_complete))
    before = playback.ends_at[index - 1] if index else 0
    until = before + (words[count - 1][1] if count > 0 else 0)
    return " ".join(playback.text[:until].split())


def _joined(words: list[str], text: str) -> str:
    """Join words as the text writes them: with blanks, or without, as in Chinese, Japanese and Thai."""
    heard, at = "", 0
    for word in words:
        found = text.find(word, at)
        between = text[at:found] if found > 0 else " "
        if found >= 0 and not any(map(str.isalnum, between)):
            at = found + len(word)
        else:  # the synthesiser writes it differently
            between = "" if is_unspaced(heard[-1:]) and is_unspaced(word) else " "
        if heard:
            heard += between if between == between.strip() else " "
        heard += word
    return heard
