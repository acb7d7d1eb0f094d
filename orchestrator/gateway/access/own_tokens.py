"""Tokens that the service makes for itself, signed with the key that all nodes share: resume tokens and cookies."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.exceptions import PyJWTError
from pydantic import ValidationError

from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.grant import Grant

RESUME_S = 24 * 3600
"""Life of a resume token. A connection may last as long: about a day of talking (gateway/control_channel.py)."""
AFTER_THE_END_S = 600
"""Where the grant limits a conversation, for how long after that limit."""
COOKIE_S = 8 * 3600
"""How long an operator need not show a token again."""
LONGEST = 2_048
_ALGORITHM = "HS256"
_NO_LONGER = "the resume token is wrong, or has expired: open a new conversation"


@dataclass(frozen=True, slots=True)
class Resume:
    """What a resume token says: a session, whose it is, and the number of the token in this session, from 1."""

    session_id: str
    number: int
    grant: Grant


class OwnTokens:
    """Makes and reads them. `secret` returns the nodes' shared key."""

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = secret

    def resume(self, session_id: str, number: int, grant: Grant) -> str:
        """The secret with which the client of a session comes back to it."""
        life_s = min(RESUME_S, grant.seconds + AFTER_THE_END_S) if grant.seconds else RESUME_S
        return self._sign("resume", {"sid": session_id, "n": number, "grant": _compact(grant)}, life_s)

    def read_resume(self, token: str) -> Resume:
        """Raises AccessRefused for a token that no node made, or that has expired."""
        claims = self._read("resume", token, _NO_LONGER)
        return Resume(str(claims["sid"]), int(claims["n"]), _grant(claims, _NO_LONGER))

    def cookie(self, grant: Grant) -> str:
        """What a page shows in place of a token, for COOKIE_S seconds."""
        return self._sign("cookie", {"grant": _compact(grant)}, COOKIE_S)

    def read_cookie(self, token: str) -> Grant:
        """Raises AccessRefused."""
        why = "the cookie is wrong, or has expired: show a token again"
        return _grant(self._read("cookie", token, why), why)

    def _sign(self, use: str, claims: dict[str, Any], life_s: float) -> str:
        expires = {"exp": int(time.time() + life_s)}
        return jwt.encode(claims | expires, self._key(use), algorithm=_ALGORITHM)

    def _read(self, use: str, token: str, why: str) -> dict[str, Any]:
        if not token or len(token) > LONGEST:
            raise AccessRefused(why)
        try:
            return jwt.decode(token, self._key(use), algorithms=[_ALGORITHM], options={"require": ["exp"]})
        except (PyJWTError, ValueError, TypeError, RecursionError):
            raise AccessRefused(why) from None

    def _key(self, use: str) -> bytes:
        """A key for one use: a token made for another use does not fit."""
        return hmac.digest(self._secret(), f"orch {use}".encode(), "sha256")


def _compact(grant: Grant) -> dict[str, Any]:
    kept = grant.model_dump(mode="json", exclude_defaults=True, exclude={"token_id", "expires_at_s"})
    return kept | {"may": sorted(grant.may)}


def _grant(claims: dict[str, Any], why: str) -> Grant:
    try:
        return Grant.model_validate(claims.get("grant"))
    except ValidationError:  # of another version of orch
        raise AccessRefused(why) from None
