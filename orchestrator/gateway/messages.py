"""The messages of the WebSocket `/orchestrate`, both ways, and the validation of those from clients.

docs/websocket.md describes them for people; a test compares the page with this file. The models are strict: client
input is exactly one of these messages, or raises a BadMessage that names the mistake and its remedy.
"""

from enum import IntEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from events.envelope import Count, Id, Milliseconds, Text

MAX_TEXT_CHARS = 2_000
MAX_SDP_CHARS = 64 * 1024
MOST_MISTAKES = 20
MAX_MESSAGE_BYTES = 2 * MAX_SDP_CHARS + 4 * 1024
"""Longest message the server reads (`max_msg_size`): an SDP grows when JSON escapes its line ends."""

Phase = Literal["IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT", "ENDED"]

NonEmptyId = Annotated[Id, StringConstraints(min_length=1)]
ResumeToken = Annotated[str, StringConstraints(min_length=1, max_length=2_048)]
TypedText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]
Sdp = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SDP_CHARS)]
RtpTimestamp = Annotated[int, Field(ge=0, lt=2**32)]


class CloseCode(IntEnum):
    """Why the server closes the socket. Clients come back after TRY_AGAIN_LATER and after anything not named here."""

    NORMAL = 1000
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    TRY_AGAIN_LATER = 1013
    UNKNOWN_SESSION = 4404


class BadMessage(ValueError):  # noqa: N818 - it names what arrived, as the protocol page does
    """A client sent something that is no message. Its text is for that client; it never repeats the user's words."""


class Message(BaseModel):
    """What all messages share: immutable, no unknown field, no silent conversion. A class is named after its `type`:
    `playback_done` is PlaybackDoneMessage.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


# --- client → server ---------------------------------------------------------------------------------------------


class TextMessage(Message):
    """The user typed these words instead of saying them. With a `message_id` they may be sent again until an `ack`."""

    type: Literal["text"] = "text"
    text: TypedText
    message_id: NonEmptyId | None = None


class WebrtcOfferMessage(Message):
    """The client wants a call: its microphone in, the agent's voice out. Answered by `webrtc_answer`."""

    type: Literal["webrtc_offer"] = "webrtc_offer"
    sdp: Sdp


class BargeInMessage(Message):
    """The user takes the floor, by a button or by the client's own detector."""

    type: Literal["barge_in"] = "barge_in"
    playback_id: NonEmptyId | None = None
    position_ms: Milliseconds | None = None


class PlaybackDoneMessage(Message):
    """The user has heard this playback to its end. Answers `playback_mark`."""

    type: Literal["playback_done"] = "playback_done"
    playback_id: NonEmptyId


class GoodbyeMessage(Message):
    """The user hangs up: the conversation ends."""

    type: Literal["goodbye"] = "goodbye"


ClientMessage = Annotated[
    TextMessage | WebrtcOfferMessage | BargeInMessage | PlaybackDoneMessage | GoodbyeMessage,
    Field(discriminator="type"),
]


# --- server → client ---------------------------------------------------------------------------------------------


class IceServer(Message):
    """A STUN or TURN server for WebRTC, in the form of RTCIceServer."""

    urls: tuple[str, ...]
    username: str | None = None
    credential: str | None = None


class SessionMessage(Message):
    """The first message on every connection: which conversation this is, and the secret to rejoin it."""

    type: Literal["session"] = "session"
    session_id: NonEmptyId
    resume_token: ResumeToken
    ice_servers: tuple[IceServer, ...] | None = None
    """For calls; left out where the service names none."""


class PhaseMessage(Message):
    """The conversation is in this phase now; `reason` is empty where nothing needs saying."""

    type: Literal["phase"] = "phase"
    phase: Phase
    reason: str = ""
    turn: Count = 0


class TranscriptMessage(Message):
    """What the user says: a guess that may be revised, or the final words of a turn, spoken or typed."""

    type: Literal["transcript"] = "transcript"
    text: Text
    is_final: bool


class AckMessage(Message):
    """The words with this `message_id` are in the log: they count, once, and need not be sent again."""

    type: Literal["ack"] = "ack"
    message_id: NonEmptyId


class ClearTextMessage(Message):
    """The words so far led nowhere: forget the partial transcript."""

    type: Literal["clear_text"] = "clear_text"


class ReplyMessage(Message):
    """What the agent says in this turn, as text; during a call the same words are also played."""

    type: Literal["reply"] = "reply"
    playback_id: NonEmptyId
    text: Text
    turn: Count


class ReplyMoreMessage(Message):
    """The answer goes on: `text` follows what its `reply` has, blanks included."""

    type: Literal["reply_more"] = "reply_more"
    playback_id: NonEmptyId
    text: Text


class HeardMessage(Message):
    """The user interrupted this playback; of its words, the user heard `text`."""

    type: Literal["heard"] = "heard"
    playback_id: NonEmptyId
    text: str


class LogMessage(Message):
    """One line of the session's golden log, as `orch tail` prints it."""

    type: Literal["log"] = "log"
    line: str


class WebrtcAnswerMessage(Message):
    """The other half of the call; `handler_id` names the media connection."""

    type: Literal["webrtc_answer"] = "webrtc_answer"
    sdp: Sdp
    handler_id: NonEmptyId


class PlaybackStartMessage(Message):
    """Audio of this playback follows: let the user hear it, unless it was stopped already."""

    type: Literal["playback_start"] = "playback_start"
    playback_id: NonEmptyId


class PlaybackStopMessage(Message):
    """A playback was cut off: be silent now, without waiting for buffers to run dry."""

    type: Literal["playback_stop"] = "playback_stop"
    playback_id: NonEmptyId


class PlaybackMarkMessage(Message):
    """The last packet of this playback carries RTP timestamp `rtp`. Report when it has been heard."""

    type: Literal["playback_mark"] = "playback_mark"
    playback_id: NonEmptyId
    rtp: RtpTimestamp


class ErrorMessage(Message):
    """Something went wrong; the connection stays open. `message` is a sentence for people."""

    type: Literal["error"] = "error"
    code: NonEmptyId
    message: str


class MovedMessage(Message):
    """The conversation goes on in another process, which clients reach at `address`; close code 1013 follows."""

    type: Literal["moved"] = "moved"
    address: NonEmptyId


class EndedMessage(Message):
    """The conversation is over; the server closes the connection right after this."""

    type: Literal["ended"] = "ended"
    reason: str


ServerMessage = Annotated[
    SessionMessage
    | PhaseMessage
    | TranscriptMessage
    | AckMessage
    | ClearTextMessage
    | ReplyMessage
    | ReplyMoreMessage
    | HeardMessage
    | LogMessage
    | WebrtcAnswerMessage
    | PlaybackStartMessage
    | PlaybackStopMessage
    | PlaybackMarkMessage
    | ErrorMessage
    | MovedMessage
    | EndedMessage,
    Field(discriminator="type"),
]


# --- reading and writing -----------------------------------------------------------------------------------------

Parsed = TypeVar("Parsed")

_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(ClientMessage)
_SERVER: TypeAdapter[ServerMessage] = TypeAdapter(ServerMessage)


def parse_client_message(raw: str | bytes) -> ClientMessage:
    """The message a client sent; raises BadMessage."""
    return _parse(_CLIENT, raw)


def parse_server_message(raw: str | bytes) -> ServerMessage:
    """The message the server sent, for clients written in Python; raises BadMessage."""
    return _parse(_SERVER, raw)


def server_message(raw: dict[str, str | int]) -> ServerMessage:
    """Convert a message of the media layer; raises ValueError when it does not match a server message."""
    return _SERVER.validate_python(raw)


def encode(message: ServerMessage | ClientMessage) -> str:
    """The JSON text of a message. Fields that are None are omitted."""
    return message.model_dump_json(exclude_none=True)


def _parse(adapter: TypeAdapter[Parsed], raw: str | bytes) -> Parsed:
    if len(raw) > MAX_MESSAGE_BYTES:
        raise BadMessage(f"the message is longer than {MAX_MESSAGE_BYTES} bytes: send less at once")
    try:
        return adapter.validate_json(raw)
    except ValidationError as error:
        # The input stays out of the text, and the cause out of tracebacks: both may hold what the user said.
        if error.error_count() > MOST_MISTAKES:  # pydantic would take some 30 ms to describe 14,000
            raise BadMessage(f"the message has more than {MOST_MISTAKES} mistakes: leave out unknown fields") from None
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadMessage(_explain(dict(first))) from None


def _explain(error: dict[str, Any]) -> str:
    """The mistake and its remedy, for the first error that pydantic found."""
    kind, where, context = error["type"], error["loc"], error.get("ctx", {})
    if kind in ("json_invalid", "string_unicode") and not where:
        return "not valid JSON: send one JSON object in each WebSocket text message"
    if kind in ("model_attributes_type", "model_type", "dict_type") or not (where or "tag" in kind):
        return 'not a JSON object: send an object such as {"type": "text", "text": "hello"}'
    if kind == "union_tag_not_found":
        return "the field `type` is missing: name the kind of message in it"
    if kind == "union_tag_invalid":
        return f"unknown type `{_short(context['tag'])}`: use one of {context['expected_tags']}"
    message_type, field = _short(where[0]), _short(where[-1])
    if kind == "missing":
        return f"`{field}` is missing: a `{message_type}` message needs it"
    if kind == "extra_forbidden":
        return f"`{field}` is no field of a `{message_type}` message: leave it out"
    return f"`{field}` of the `{message_type}` message is wrong: {error['msg']}"


def _short(name: object) -> str:
    """A name from a client, cut so that it cannot flood a log."""
    text = str(name)
    return text if len(text) <= 40 else f"{text[:40]}…"
