"""The numbers of the media layer, in one frozen place. Read by app.py, handed down, never looked up."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """How audio is heard and played. The unit is the last word of each name; what has none is a plain number."""

    # Connection
    ice_host_addresses: tuple[str, ...] = ()
    """Local addresses to offer, and no others, such as ("127.0.0.1",). Empty: every address but loopback."""
    connect_timeout_ms: int = 20_000
    """A peer that is not connected by then is given up."""

    # Voice activity
    speech_probability: float = 0.5
    """Silero's verdict from which a chunk begins speech."""
    silence_probability: float = 0.35
    """Silero's verdict below which a chunk of running speech counts as silence."""
    onset_chunks: int = 2
    """So many chunks of 32 ms in a row begin speech."""
    silence_ms: int = 224
    """So much silence ends speech. The session's policy adds its own wait before the turn ends."""
    gate_peak: int = 100
    """A chunk whose loudest sample is below this (of 32767) is silence and costs no inference."""
    stall_ms: int = 1_000
    """No packets for so long counts as silence, or a lost connection would never end an utterance."""

    # Echo guard
    echo_floor_rms: int = 150
    echo_permille: int = 250
    """While the agent is audible, what is quieter than this share of its loudness is its own echo."""
    echo_window_ms: int = 500

    # Utterances
    preroll_ms: int = 500
    """Audio before the onset that speech-to-text hears as well, so that the first sound is not cut."""
    finish_watchdog_ms: int = 5_000
    """Silence after which an utterance is finished although nobody asked for it."""
    utterance_limit_ms: int = 60_000
    """An utterance longer than this is finished in mid-speech and another one begun."""

    # Playback
    buffer_ahead_ms: int = 500
    """Speech accepted ahead of what has been played; the writer waits for the rest."""
    progress_interval_ms: int = 1_000
    confirmation_timeout_ms: int = 1_000
    """How long the client may take to say that it has heard the end."""
    reanchor_ms: int = 100
    """A clock that is later than this forgives itself the delay rather than send the missed frames in a burst."""
