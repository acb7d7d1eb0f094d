"""The settings of the media layer, in one frozen class. app.py creates it and passes it down; there is no global."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MediaSettings:
    """How audio is heard and played. The last word of a name is its unit; a name without unit is a plain number."""

    # Connection
    ice_host_addresses: tuple[str, ...] = ()
    """Local addresses to offer, and no others, such as ("127.0.0.1",). Empty: every address but loopback."""
    public_address: str = ""
    """The address that callers reach this machine at, where a NAT maps it to a local one. Empty: the local ones."""
    udp_ports: tuple[int, int] | None = None
    """First and last port of the calls; None: any."""
    relay: str = ""
    """A TURN server through which callers reach this machine as well, such as "turns:turn.example.org"."""
    turn_secret: str = field(default="", repr=False)
    """Shared with that server; each call gets credentials of its own."""
    connect_timeout_ms: int = 20_000
    """Timeout for a peer to connect."""

    # Voice activity
    speech_probability: float = 0.5
    """Silero's speech probability from which a chunk can begin speech."""
    silence_probability: float = 0.35
    """Silero's speech probability below which a chunk of running speech counts as silence."""
    onset_chunks: int = 2
    """Chunks of 32 ms in a row that begin speech."""
    silence_ms: int = 224
    """Silence that ends speech. The session's policy adds its own wait before the turn ends."""
    gate_peak: int = 100
    """A chunk whose loudest sample is below this (of 32767) is silence and costs no inference."""
    stall_ms: int = 1_000
    """A gap without packets that counts as silence. Without it, a lost connection would never end an utterance."""

    # Echo guard
    echo_floor_rms: int = 150
    echo_permille: int = 250
    """While the agent is audible, sound quieter than this share of the agent's loudness counts as echo."""
    echo_window_ms: int = 500

    # Utterances
    language: str = ""
    """Language of the users, as a BCP 47 tag, for speech-to-text. Empty: it has one of its own."""
    final_within_ms: int = 5_000
    """Timeout for a final transcript; after it the recogniser counts as hung and is opened again."""
    preroll_ms: int = 500
    """Audio before the onset that speech-to-text hears as well, so that the first sound is not cut."""
    finish_watchdog_ms: int = 5_000
    """Silence after which an utterance is finished without a FinishUtterance command."""
    utterance_limit_ms: int = 60_000
    """A longer utterance is finished in mid-speech and a new one begins."""

    # Playback
    buffer_ahead_ms: int = 1_000
    """Speech queued ahead of the playback position; beyond it the writer waits."""
    progress_interval_ms: int = 1_000
    confirmation_timeout_ms: int = 1_000
    """Timeout for the client to confirm that it has heard the end."""
    lost_caller_ms: int = 2_800
    """The same where nothing has come from the caller meanwhile: its network has changed, and it calls again. Longer
    than the talk page takes to notice (call.js), shorter than deadlines.playback_grace_ms.
    """
    reanchor_ms: int = 100
    """A track that is later than this shifts its clock instead of sending the missed frames in a burst."""
