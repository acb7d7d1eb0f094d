"""What the user heard of an answer: a position in the audio, and the words up to there."""

from itertools import chain

from orchestrator.session.state import Playback

HEARD_CHARS = 8_000
"""As much as an event may say; a synthesiser that names longer words than it was given is broken."""
MS_PER_CHARACTER = 70
"""Speech at about 170 words a minute."""


def heard_ms(playback: Playback, now_us: int) -> int:
    """The last confirmed position plus the time since, never beyond the audio there is. In milliseconds of audio."""
    if not playback.position_at_us:
        return playback.position_ms
    return min(playback.audio_ms, playback.position_ms + (now_us - playback.position_at_us) // 1000)


def length_ms(playback: Playback) -> int:
    """How long the whole answer is: known once it is synthesised, until then estimated from its text.

    Synthesis is read only half a second ahead of playback, so the audio there is says little about the whole.
    """
    total_ms = len(playback.text) * MS_PER_CHARACTER if playback.total_ms is None else playback.total_ms
    return max(playback.audio_ms, total_ms)


def heard_text(playback: Playback, position_ms: int) -> str:
    """The words that were spoken to their end before `position_ms`: where the synthesiser said when each begins, by
    that; else by even share of the audio.
    """
    if position_ms <= 0 or not length_ms(playback):
        return ""
    if playback.words:
        ends_ms = chain((at_ms for at_ms, _ in playback.words[1:]), (playback.audio_ms,))
        said = zip(playback.words, ends_ms, strict=True)
        # Both, because speech that is made anew after a change of owner has less audio than words were said to be in.
        heard = " ".join(word for (at_ms, word), end_ms in said if at_ms < position_ms and end_ms <= position_ms)
        return heard[:HEARD_CHARS].rstrip()
    words = playback.text.split()
    return " ".join(words[: len(words) * position_ms // length_ms(playback)])
