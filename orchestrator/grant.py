"""Grant: what the bearer of a token may do. The admission control enforces it; SESSION_OPENED records it."""

from hashlib import sha256
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Scope = Literal["voice", "text", "read_sessions", "read_words", "operate"]
"""voice, text: open conversations and speak or type in them. read_sessions: see which sessions there are and their
events without words. read_words: also the words. operate: metrics, readiness details and the talk page.
"""
SCOPES = frozenset(get_args(Scope))
CALLING = frozenset({"voice", "text"})

_Limit = Annotated[int, Field(ge=0, le=1_000_000)]


class Grant(BaseModel):
    """What a caller or an operator may do. In each limit, 0 means: no limit beside those of the service.

    Example: `Grant(subject="anna", may={"voice", "text"}, seconds=600)`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: Annotated[str, Field(max_length=200)] = ""
    """Who it is. Only its hash leaves the check of callers (`hidden`)."""
    may: frozenset[Scope] = frozenset()
    sessions: _Limit = 0
    """Conversations of this subject at a time, in the whole cluster."""
    seconds: Annotated[int, Field(ge=0, le=7 * 24 * 3600)] = 0
    """How long a conversation may last; then the agent says goodbye."""
    turns_per_minute: _Limit = 0
    token_id: Annotated[str, Field(max_length=200)] = ""
    """The token's id (jti), bound to one session. Empty: the bearer may open any number of sessions."""
    expires_at_s: Annotated[float, Field(ge=0)] = 0
    """Unix time until which the binding of `token_id` is kept. 0: for a week."""

    @property
    def may_call(self) -> bool:
        """Whether it allows to open a conversation at all."""
        return not CALLING.isdisjoint(self.may)

    def hidden(self) -> "Grant":
        """The grant with a hash for its subject and for the id of its token, as the rest of the service knows it."""
        known = {"subject": self.subject, "token_id": self.token_id}
        return self.model_copy(update={name: digest(text) for name, text in known.items() if text})

    def recorded(self) -> dict[str, Any]:
        """The grant as SESSION_OPENED keeps it: limits only where there are any. Of EVERYTHING,
        nothing.
        """
        if self == EVERYTHING:
            return {}
        limits = {name: getattr(self, name) for name in ("sessions", "seconds", "turns_per_minute")}
        kept = {name: limit for name, limit in limits.items() if limit}
        return {"may": sorted(self.may), **kept} | ({"subject": self.subject} if self.subject else {})


EVERYTHING = Grant(may=SCOPES)
"""The grant of everybody where ORCH_AUTH=none."""


def limited(policy: dict[str, Any], seconds: int) -> dict[str, Any]:
    """A policy under which a conversation lasts `seconds` at most; 0: as it is."""
    if not seconds:
        return policy
    goodbye = policy["goodbye"]
    after_ms = min(goodbye["after_ms"] or seconds * 1000, seconds * 1000)
    return policy | {"goodbye": goodbye | {"after_ms": after_ms}}


def digest(text: str) -> str:
    """Half of a SHA-256, enough to tell texts apart."""
    return sha256(text.encode()).hexdigest()[:32]
