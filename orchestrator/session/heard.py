"""What the user heard of an answer: a position in the audio, and the words up to there."""

from orchestrator.session.state import Playback


def heard_ms(playback: Playback, now_us: int) -> int:
    """The last confirmed position plus the time since, never beyond the audio there is. In milliseconds of audio."""
    if not playback.position_at_us:
        return playback.position_ms
    return min(playback.audio_ms, playback.position_ms + (now_us - playback.position_at_us) // 1000)


def heard_text(playback: Playback, position_ms: int) -> str:
    """The words that fit into `position_ms`, by even share of the audio; whole words only."""
    if position_ms <= 0 or not playback.audio_ms:
        return ""
    words = playback.text.split()
    return " ".join(words[: len(words) * position_ms // playback.audio_ms])
