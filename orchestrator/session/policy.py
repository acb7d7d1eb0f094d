"""The policy: every number and switch that decisions read. A session's first event records the whole policy."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from events.envelope import Count, Milliseconds, Text
from orchestrator.session.phrases import BACKCHANNELS, backchannels_of, phrases_of

Phrases = Annotated[tuple[Text, ...], Field(max_length=200), BeforeValidator(phrases_of)]
"""A list of phrases in spoken form, as a recogniser writes them."""
Backchannels = Annotated[Phrases, BeforeValidator(backchannels_of)]
"""Phrases. A policy file may give a language code such as "de" instead, which stands for that language's phrases."""


@dataclass(frozen=True, slots=True)
class AsBefore:
    """The value that a field has in recordings older than the field, where it differs from the default."""

    value: Any


class _Part(BaseModel):
    """Fields stand in sorted order, so that the plain dump is canonical."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Answering(_Part):
    """How answers are spoken that come in pieces, as a language model writes them."""

    language: Text = "en"
    """ISO 639 code of the answers' language: its abbreviations end no sentence."""


class Away(_Part):
    """What the agent does in a call whose user stays silent."""

    after_ms: Milliseconds = 15_000
    """Silence of the user after which the agent asks whether they are there."""
    prompts: Count = 2
    """Number of these prompts without a reply; then the agent says goodbye."""
    text: Text = ""
    """What the agent says then; empty: it waits for ever."""


class Deadlines(_Part):
    """How long each stage may take before the conversation goes on without it."""

    answer_ms: Milliseconds = 4_000
    """To the answer, or to its first text; then the fallback answer is spoken."""
    floor_ms: Milliseconds = 5_000
    """How long an answer that is ready, or a playback that is paused, waits for a user who is speaking."""
    intent_ms: Milliseconds = 1_000
    """To the intent; then it goes on without one."""
    next_text_ms: Milliseconds = 6_000
    """To the next text of an answer that comes in texts, or to its end; then it is cut off."""
    playback_grace_ms: Annotated[int, Field(ge=1_500, le=60_000)] = 3_000
    """To the end of a playback, beyond what is left of it; counted anew with each progress, once a second."""
    reconnect_ms: Milliseconds = 60_000
    """A session without a client ends after this."""
    stt_ms: Milliseconds = 3_000
    """To the final, from the end of an utterance; then the last partial counts."""
    tts_ms: Milliseconds = 3_000
    """To the first chunk of speech."""


class Endpointing(_Part):
    """Wait from the end of voice activity (noticed after 224 ms of silence) until an utterance counts as complete."""

    complete_ms: Milliseconds = 250
    """The wait when the transcript looks complete."""
    incomplete_ms: Milliseconds = 300
    """The wait when it does not look complete, for a caller who does not pause within utterances."""
    longest_ms: Annotated[Milliseconds, AsBefore(0)] = 1_000
    """The wait grows up to this with the pauses of this caller: a tenth longer than they are. 0: it does not grow."""
    phrases: Phrases = ()
    """An utterance that ends with one of these looks complete at once."""
    stable_ms: Milliseconds = 0
    """The transcript looks complete when it has not changed for this time. 0: time does not count."""
    watchdog_ms: Milliseconds = 5_000
    """Words that have not changed for this time are complete, even if the VAD still hears speech."""


class Fallback(_Part):
    """What the agent says when its services fail."""

    answer: Text = "Sorry, I could not look that up just now. Could you ask me again?"
    """Spoken when the answer service is late or failed."""
    cut_off: Text = "Sorry, I cannot tell you the rest just now."
    """Spoken after an answer that broke off in the middle; empty: nothing."""
    failures: Count = 3
    """Number of failures in a row (of answers, speech or hearing) that end the conversation. 0: none do."""
    goodbye: Text = "I am sorry, I cannot help you at the moment. Please try again later. Goodbye."
    """The last words then."""
    unheard: Text = "Sorry, I did not hear that. Could you say it again?"
    """Spoken when speech-to-text has lost what the user said; empty: nothing."""


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
    """When synthesis is complete and less than this is left, a backchannel counts as words: it may be a reply."""
    false_ms: Milliseconds = 2_000
    """A paused playback goes on after this much silence without words."""
    min_speech_ms: Milliseconds = 500
    """Speech interrupts when it has lasted this long, and `min_words` are understood."""
    min_words: Count = 0
    """Speech interrupts when this many words are understood, and it has lasted `min_speech_ms`."""
    pause_ms: Milliseconds = 50
    """INTERRUPT lasts this long."""
    pause_playback: bool = True
    """Playback pauses from the onset of speech until it is decided whether it interrupts."""


class Speculation(_Part):
    """Asking intent and answer services before the utterance is complete. Nothing is spoken before it is."""

    stable_ms: Milliseconds = 0
    """Words that have not changed for this time are asked about while the user speaks. 0: only when speech stops."""
    tries: Count = 0
    """Limit of early requests per utterance; 0: off. For services without side effects: two."""


class Thinking(_Part):
    """What happens to words that the user adds while the agent is thinking."""

    more_words: Literal["merge", "supersede"] = "merge"
    """Spoken words join the utterance, or replace it. Typed ones always replace it."""


class Tools(_Part):
    """Bounds of the agent's tool calls, and what it says while one takes a while."""

    calls: Count = 8
    """Most calls for one question; the agent gets an error for the next."""
    delay_ms: Milliseconds = 1_000
    """A call that returns earlier needs no words."""
    limit_ms: Milliseconds = 10_000
    """A call that takes longer has failed. The answer's deadline waits for it."""
    text: Text = ""
    """Such as "I am looking that up."; empty: nothing."""


class Policy(_Part):
    """The whole policy of a session."""

    answering: Answering = Answering()
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
    tools: Tools = Tools()

    @classmethod
    def read(cls, recorded: Mapping[str, Any]) -> "Policy | None":
        """The policy recorded by a SESSION_OPENED; None if it is invalid. A missing field was added later: it gets its
        `AsBefore` value, or its default.
        """
        try:
            return cls.model_validate(_completed(recorded, _added(cls)))
        except ValidationError:
            return None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as JSON, which takes a fifth of the time and half the size of pickling the parts."""
        return type(self).model_validate_json, (self.model_dump_json(),)

    def recorded(self) -> dict[str, Any]:
        """The policy with all fields written out, for SESSION_OPENED."""
        return self.model_dump(mode="json")


@cache
def _added(policy: type[BaseModel]) -> tuple[tuple[str, str, Any], ...]:
    """(section, field, value) of each field whose value in recordings older than the field is not its default."""
    found = []
    for part, info in policy.model_fields.items():
        assert info.annotation is not None, "a policy consists of parts"
        for name, field in info.annotation.model_fields.items():
            found += [(part, name, rule.value) for rule in field.metadata if isinstance(rule, AsBefore)]
    return tuple(found)


def _completed(recorded: Mapping[str, Any], added: Iterable[tuple[str, str, Any]]) -> Mapping[str, Any]:
    for part, name, value in added:
        fields = recorded.get(part, {})
        if isinstance(fields, Mapping) and name not in fields:
            recorded = {**recorded, part: {**fields, name: value}}
    return recorded
