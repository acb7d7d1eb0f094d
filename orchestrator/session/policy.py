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
"""A list of backchannels. In place of a list, a policy file may give a language code such as "de": this means the
backchannels of that language.
"""


@dataclass(frozen=True, slots=True)
class AsBefore:
    """Marks a policy field that was added later. If a recording lacks the field, the field gets this `value`. A missing
    field without this mark gets its default.
    """

    value: Any


class _Part(BaseModel):
    """Base of the policy and its parts. Declare fields in sorted order, so that `model_dump` is canonical."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


class Answering(_Part):
    """How an answer that comes in pieces, as a language model writes it, is divided into sentences to be spoken."""

    language: Text = "en"
    """ISO 639 code of the answers' language. Its abbreviations, such as "Dr.", do not end a sentence."""


class Away(_Part):
    """What the agent does in a call whose user stays silent."""

    after_ms: Milliseconds = 15_000
    """How long the user is silent until the agent asks whether they are there."""
    prompts: Count = 2
    """Number of prompts to a silent user. If `after_ms` of silence follow the last prompt, the agent says goodbye."""
    text: Text = ""
    """The prompt, such as "Are you still there?"; empty: the agent waits for ever, without prompt or goodbye."""


class Deadlines(_Part):
    """Time limits. When a limit for a result is over, the conversation goes on without the result."""

    answer_ms: Milliseconds = 4_000
    """Time limit for the answer, or for its first text. After this time, the fallback answer is spoken."""
    floor_ms: Milliseconds = 5_000
    """How long an answer that is ready, or a playback that is paused, waits for a user who is speaking."""
    intent_ms: Milliseconds = 1_000
    """Time limit for the intent. After this time, the turn goes on without an intent."""
    next_text_ms: Milliseconds = 6_000
    """Time limit for the next text, or the end, of an answer in texts. After this time, the answer is cut off."""
    playback_grace_ms: Annotated[int, Field(ge=1_500, le=60_000)] = 3_000
    """How much longer than its remaining audio a playback may take. After this time, the answer is given up. Each
    report of progress restarts the limit; a report comes once a second.
    """
    reconnect_ms: Milliseconds = 60_000
    """Time limit for a client to connect or reconnect. After this time, the session ends."""
    stt_ms: Milliseconds = 3_000
    """Time limit for the final, from the end of the utterance. After this time, the words of the last partial are used.
    """
    tts_ms: Milliseconds = 3_000
    """Time limit for the first chunk of speech, while a client is connected. After this time, the answer is given up.
    """


class Endpointing(_Part):
    """How long to wait after the user's last sound until the utterance is over: `complete_ms` or longer. The wait
    begins when the voice detector (VAD) reports the end of speech: by default, 224 ms after the last sound.
    """

    complete_ms: Milliseconds = 250
    """The wait when the transcript looks complete: the recogniser marks it as complete, or it ends with one of
    `phrases`.
    """
    incomplete_ms: Milliseconds = 300
    """The shortest wait when the transcript does not look complete. For callers with long pauses, the wait is longer,
    up to `longest_ms`.
    """
    longest_ms: Annotated[Milliseconds, AsBefore(0)] = 1_000
    """The longest wait when the transcript does not look complete. The wait is a tenth longer than this caller's pauses
    within utterances, but at least `incomplete_ms` and at most this limit. 0: always `incomplete_ms`.
    """
    phrases: Phrases = ()
    """A transcript that ends with one of these phrases looks complete: the wait is `complete_ms`."""
    stable_ms: Milliseconds = 0
    """Once the transcript has not changed for this time, the wait ends, but not before `complete_ms`. 0: off."""
    watchdog_ms: Milliseconds = 5_000
    """If the user's words have not changed for this time, the utterance is over, even if the VAD still hears speech."""


class Fallback(_Part):
    """What the agent says when its services fail."""

    answer: Text = "Sorry, I could not look that up just now. Could you ask me again?"
    """Spoken when the answer service is late or has failed."""
    cut_off: Text = "Sorry, I cannot tell you the rest just now."
    """Spoken after an answer that broke off in the middle; empty: nothing."""
    failures: Count = 3
    """Number of failures in a row (of answers, speech or hearing) that end the conversation. 0: no number ends it."""
    goodbye: Text = "I am sorry, I cannot help you at the moment. Please try again later. Goodbye."
    """The agent's last words if `failures` answers in a row have failed, or `failures` utterances in a row were lost.
    """
    unheard: Text = "Sorry, I did not hear that. Could you say it again?"
    """Spoken when speech-to-text has lost what the user said; empty: nothing."""


class Filler(_Part):
    """What the agent says while it thinks; an empty text: nothing."""

    delay_ms: Milliseconds = 500
    """How long the agent thinks in silence before it speaks the filler. If the answer comes earlier, there is no
    filler.
    """
    text: Text = ""
    """The words of the filler, such as "One moment, please."."""


class Goodbye(_Part):
    """How a conversation ends by itself: at its time limit, after the user's goodbye, or when nobody is there."""

    after_ms: Annotated[int, Field(ge=0, le=7 * 24 * 3_600_000)] = 0
    """Time limit of a conversation, in ms. At the limit, the agent finishes the current answer, then says `text`. 0: no
    limit.
    """
    intent: Text = ""
    """Intent of a user who says goodbye. The conversation ends after the answer. Empty: no intent ends it."""
    text: Text = "Thank you for calling. Goodbye."
    """The agent's last words to a user who is away, or whose time is over."""


class Greeting(_Part):
    """What the agent says first; an empty text: nothing."""

    text: Text = ""
    """The words of the greeting, such as "Hello, how can I help you?"."""
    wait_ms: Milliseconds = 2_000
    """How long the greeting waits for the media connection of a connected client. After this time, the client shows the
    greeting as text.
    """


class Intent(_Part):
    """Whether the intent service is asked at all."""

    skip: bool = False
    """True: never ask the intent service; each turn goes on without an intent."""


class Interruption(_Part):
    """Rules for interruptions: when the user's speech makes the agent fall silent and listen. A BARGE_IN event and
    typed words interrupt at once. The user cannot interrupt the farewell that is spoken at the time limit or after too
    many failures.
    """

    backchannels: Backchannels = BACKCHANNELS["en"]
    """Phrases such as "mhm" that a listener says: they do not interrupt."""
    boundary_ms: Milliseconds = 1_000
    """If less than this time is left of a playback, a backchannel interrupts, because it may be a reply. Until
    synthesis is complete, the remaining time is not known, and a backchannel never interrupts.
    """
    false_ms: Milliseconds = 2_000
    """How long, at most, a paused playback waits after the end of the user's speech. If the speech has not interrupted
    the agent by then, the playback resumes.
    """
    min_speech_ms: Milliseconds = 500
    """While the user is speaking, the speech interrupts once it has lasted this long and has `min_words` words. Shorter
    speech, such as a cough, interrupts only after its end, and only if words are recognised: at least `min_words`, and
    at least one.
    """
    min_words: Count = 0
    """Number of words that must be understood before speech interrupts."""
    pause_ms: Milliseconds = 50
    """How long the phase INTERRUPT lasts. LISTENING follows."""
    pause_playback: bool = True
    """True: when the user begins to speak, the playback pauses until it is decided whether the speech interrupts."""


class Speculation(_Part):
    """Asking the services before the utterance is complete. The answer is spoken once the utterance is complete."""

    stable_ms: Milliseconds = 0
    """While the user speaks, ask the services about words that have not changed for this time. 0: ask only when the
    recogniser marks the words as complete, or when speech stops.
    """
    tries: Count = 0
    """Limit of speculations per utterance; 0: off. Recommended for services without side effects: 2."""


class Thinking(_Part):
    """What happens to words that the user adds while the agent is thinking."""

    more_words: Literal["merge", "supersede"] = "merge"
    """merge: spoken words are appended to the question. supersede: they replace it. Typed words always replace it."""


class Tools(_Part):
    """Limits of the agent's tool calls, and the words for a user who waits for a tool call."""

    calls: Count = 8
    """Limit of tool calls for one question. The agent gets an error for each further call."""
    delay_ms: Milliseconds = 1_000
    """How long the first tool call of a question may run before the agent says `text`."""
    limit_ms: Milliseconds = 10_000
    """A tool call that takes longer has failed. While a call runs, the time limit for the answer is longer by this
    time.
    """
    text: Text = ""
    """Words for a user who waits for a tool call, such as "I am looking that up."; empty: nothing."""


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
        """Read the policy that a SESSION_OPENED has recorded; None: the policy is invalid. A missing field was added
        later: it gets its `AsBefore` value or, without `AsBefore`, its default.
        """
        try:
            return cls.model_validate(_completed(recorded, _added(cls)))
        except ValidationError:
            return None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the policy as JSON: this takes a fifth of the time, and half the size, of pickling its parts."""
        return type(self).model_validate_json, (self.model_dump_json(),)

    def recorded(self) -> dict[str, Any]:
        """The policy with all fields written out, for SESSION_OPENED."""
        return self.model_dump(mode="json")


@cache
def _added(policy: type[BaseModel]) -> tuple[tuple[str, str, Any], ...]:
    """Return (part, field, value) for each policy field that was added later with a mark (`AsBefore`). A recording
    without the field gets this value.
    """
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
