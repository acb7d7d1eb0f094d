"""The policy: a session's deadlines, endpointing delay, fallback, filler; recorded whole in its first event."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from events.envelope import Milliseconds, Text


class _Part(BaseModel):
    """Fields stand in sorted order, so that the plain dump is canonical."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Deadlines(_Part):
    """How long each stage may take before the conversation goes on without it."""

    answer_ms: Milliseconds = 4_000
    floor_ms: Milliseconds = 5_000
    """How long an answer waits for a user who is speaking."""
    intent_ms: Milliseconds = 1_000
    playback_grace_ms: Annotated[int, Field(ge=1_500, le=60_000)] = 3_000
    """Beyond what is left to play, counted anew with each progress of playback, which comes once a second."""
    reconnect_ms: Milliseconds = 60_000
    """A session without a client ends after this."""
    stt_ms: Milliseconds = 3_000
    """To the final, from the end of an utterance; then the last partial counts."""
    tts_ms: Milliseconds = 3_000
    """To the first chunk of speech."""


class Endpointing(_Part):
    """When an utterance counts as complete: this long after the VAD's stop (itself MediaSettings.silence_ms late)."""

    delay_ms: Milliseconds = 250


class Fallback(_Part):
    """What the agent says when the answer service is late or failed."""

    answer: Text = "Sorry, I could not look that up just now. Could you ask me again?"


class Filler(_Part):
    """What the agent says while it thinks; empty: nothing."""

    text: Text = ""


class Intent(_Part):
    """Whether the intent service is asked at all."""

    skip: bool = False


class Interruption(_Part):
    """What happens when the user takes the floor."""

    pause_ms: Milliseconds = 50
    """INTERRUPT lasts this long."""


class Policy(_Part):
    """The whole policy of a session."""

    deadlines: Deadlines = Deadlines()
    endpointing: Endpointing = Endpointing()
    fallback: Fallback = Fallback()
    filler: Filler = Filler()
    intent: Intent = Intent()
    interruption: Interruption = Interruption()

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> "Policy | None":
        """The policy of a SESSION_OPENED; None: it is not one."""
        try:
            return cls.model_validate(recorded)
        except ValidationError:
            return None

    def recorded(self) -> dict[str, Any]:
        """Fully written out, as SESSION_OPENED carries it."""
        return self.model_dump()
