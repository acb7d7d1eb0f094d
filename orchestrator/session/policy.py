"""The policy: every number and switch that decisions read; recorded whole in a session's first event."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from events.envelope import Count, Milliseconds, Text
from orchestrator.session.phrases import BACKCHANNELS, backchannels_of, phrases_of

Phrases = Annotated[tuple[Text, ...], Field(max_length=200), BeforeValidator(phrases_of)]
"""Phrases as they are spoken."""
Backchannels = Annotated[Phrases, BeforeValidator(backchannels_of)]
"""In a policy file also the code of a language that brings its own, such as "de"."""


class _Part(BaseModel):
    """Fields stand in sorted order, so that the plain dump is canonical."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Away(_Part):
    """What the agent does in a call whose user stays silent."""

    after_ms: Milliseconds = 15_000
    """A user who has said nothing for so long is away."""
    prompts: Count = 2
    """After so many prompts without a word the agent says goodbye."""
    text: Text = ""
    """What the agent says then; empty: it waits for ever."""


class Deadlines(_Part):
    """How long each stage may take before the conversation goes on without it."""

    answer_ms: Milliseconds = 4_000
    """To the answer; then the fallback answer is spoken."""
    floor_ms: Milliseconds = 5_000
    """How long an answer that is ready, or a playback that is paused, waits for a user who is speaking."""
    intent_ms: Milliseconds = 1_000
    """To the intent; then it goes on without one."""
    playback_grace_ms: Annotated[int, Field(ge=1_500, le=60_000)] = 3_000
    """To the end of a playback, beyond what is left of it; counted anew with each progress, once a second."""
    reconnect_ms: Milliseconds = 60_000
    """A session without a client ends after this."""
    stt_ms: Milliseconds = 3_000
    """To the final, from the end of an utterance; then the last partial counts."""
    tts_ms: Milliseconds = 3_000
    """To the first chunk of speech."""


class Endpointing(_Part):
    """When an utterance counts as complete: so long after voice activity stopped (noticed after 224 ms of silence)."""

    complete_ms: Milliseconds = 250
    """The wait when what was understood looks complete."""
    incomplete_ms: Milliseconds = 500
    """The wait when it does not look complete."""
    phrases: Phrases = ()
    """An utterance that ends with one of these looks complete at once."""
    stable_ms: Milliseconds = 0
    """What was understood looks complete when it has not changed for so long. 0: time alone says nothing."""
    watchdog_ms: Milliseconds = 5_000
    """Words that have not changed for so long are complete, though the VAD still hears something."""


class Fallback(_Part):
    """What the agent says when its services fail."""

    answer: Text = "Sorry, I could not look that up just now. Could you ask me again?"
    """Spoken when the answer service is late or failed."""
    failures: Count = 3
    """After so many failures in a row, of answers or of speech, the conversation ends. 0: never."""
    goodbye: Text = "I am sorry, I cannot help you at the moment. Please try again later. Goodbye."
    """The last words then."""


class Filler(_Part):
    """What the agent says while it thinks; an empty text: nothing."""

    delay_ms: Milliseconds = 500
    """An answer that comes earlier needs no filler."""
    text: Text = ""
    """Such as "One moment, please."."""


class Goodbye(_Part):
    """How a conversation ends by itself: after its time, after the user's goodbye, or when nobody is there any more."""

    after_ms: Annotated[int, Field(ge=0, le=7 * 24 * 3_600_000)] = 0
    """How long a conversation may last; the answer that is being spoken then is still heard. 0: without end."""
    intent: Text = ""
    """The conversation ends with the answer to this intent; empty: none ends it."""
    text: Text = "Thank you for calling. Goodbye."
    """The agent's last words to a user who is away, or whose time is over."""


class Greeting(_Part):
    """What the agent says first; an empty text: nothing."""

    text: Text = ""
    """Such as "Hello, how can I help you?"."""
    wait_ms: Milliseconds = 2_000
    """For the voice of a client that is connected; then the greeting is shown as text."""


class Intent(_Part):
    """Whether the intent service is asked at all."""

    skip: bool = False
    """Go on without an intent, always."""


class Interruption(_Part):
    """When speech over the agent takes the floor. A BARGE_IN and typed words always do, at once."""

    backchannels: Backchannels = BACKCHANNELS["en"]
    """Phrases of listening, not of interrupting."""
    boundary_ms: Milliseconds = 1_000
    """When less than this is left of an answer, a backchannel counts as words: it may be the reply to a question."""
    false_ms: Milliseconds = 2_000
    """A paused playback goes on after so much silence without words."""
    min_speech_ms: Milliseconds = 500
    """Speech interrupts when it has lasted so long, and `min_words` are understood."""
    min_words: Count = 0
    """Speech interrupts when so many words of it are understood, and it has lasted `min_speech_ms`."""
    pause_ms: Milliseconds = 50
    """INTERRUPT lasts this long."""
    pause_playback: bool = True
    """Playback pauses from the onset of speech until it is decided whether it interrupts."""


class Speculation(_Part):
    """Asking intent and answer services before the utterance is complete. Nothing is spoken before it is."""

    stable_ms: Milliseconds = 0
    """Words that have not changed for so long are asked about while the user speaks. 0: only when speech stops."""
    tries: Count = 0
    """So many times per utterance; 0: off. For services without side effects: two."""


class Thinking(_Part):
    """What happens to words that the user adds while the agent is thinking."""

    more_words: Literal["merge", "supersede"] = "merge"
    """Spoken words join the utterance, or replace it. Typed ones always replace it."""


class Policy(_Part):
    """The whole policy of a session."""

    away: Away = Away()
    deadlines: Deadlines = Deadlines()
    endpointing: Endpointing = Endpointing()
    fallback: Fallback = Fallback()
    filler: Filler = Filler()
    goodbye: Goodbye = Goodbye()
    greeting: Greeting = Greeting()
    intent: Intent = Intent()
    interruption: Interruption = Interruption()
    speculation: Speculation = Speculation()
    thinking: Thinking = Thinking()

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> "Policy | None":
        """The policy of a SESSION_OPENED; None: it is not one."""
        try:
            return cls.model_validate(recorded)
        except ValidationError:
            return None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as JSON: a fifth of the time and half the size of its parts."""
        return type(self).model_validate_json, (self.model_dump_json(),)

    def recorded(self) -> dict[str, Any]:
        """Fully written out, as SESSION_OPENED carries it."""
        return self.model_dump(mode="json")
