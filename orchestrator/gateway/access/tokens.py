"""Reads signed tokens (JWT) into grants, and makes them for tests and scripts."""

import json
import time
from collections.abc import Callable
from typing import Any, Protocol
from uuid import uuid4

import jwt
from jwt import PyJWK
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    MissingRequiredClaimError,
    PyJWTError,
)
from pydantic import ValidationError

from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.grant import Grant

LONGEST = 4_096
"""Characters of a token; a longer one is not looked at."""
LEEWAY_S = 30
"""How much the clocks of issuer and service may differ."""
LONGEST_LIFE_S = 3_600
"""From now to `exp`, at most: a stolen token must be of no use soon."""
CLAIM = "orch"
"""The claim with the grant."""
REQUIRED = ["exp", "iss", "aud", "jti", "sub"]
_WRONG = "the token is not valid"


class SigningKeys(Protocol):
    """Where keys are found by their id."""

    async def find(self, kid: str) -> PyJWK | None:
        """The key of this id; None: there is none. Raises AccessRefused."""


class Tokens:
    """Checks tokens of one issuer for one audience."""

    def __init__(
        self, keys: SigningKeys, *, issuer: str, audience: str, now_s: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._now_s = now_s

    async def read(self, token: str) -> Grant:
        """The grant of a token. Raises AccessRefused, whose message names the mistake."""
        kid, algorithm = _head(token)
        key = await self._keys.find(kid)
        if key is None:
            raise AccessRefused("the token names a key (kid) that is not known here")
        if algorithm != key.algorithm_name:
            raise AccessRefused("the token's algorithm (alg) is not that of its key")
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": REQUIRED, "strict_aud": False},
            )
        except PyJWTError as error:
            raise AccessRefused(_words(error)) from None
        except (ValueError, TypeError, RecursionError):  # of claims that are no claims
            raise AccessRefused(_WRONG) from None
        return self._grant(claims)

    def _grant(self, claims: dict[str, Any]) -> Grant:
        expires_at_s = float(claims["exp"])
        if expires_at_s > self._now_s() + LONGEST_LIFE_S + LEEWAY_S:
            raise AccessRefused(f"the token is valid for too long: exp may be {LONGEST_LIFE_S} s from now at most")
        if not isinstance(claims["sub"], str) or not claims["sub"] or not claims["jti"]:
            raise AccessRefused("the token has an empty sub or jti")
        allowed = claims.get(CLAIM, {})
        if not isinstance(allowed, dict) or {"subject", "token_id", "expires_at_s"} & allowed.keys():
            raise AccessRefused(f"the token's claim {CLAIM} is not what docs/security.md describes")
        try:
            return Grant.model_validate(
                allowed
                | {"subject": claims["sub"], "token_id": claims["jti"], "expires_at_s": expires_at_s + LEEWAY_S},
            )
        except ValidationError:
            raise AccessRefused(f"the token's claim {CLAIM} is not what docs/security.md describes") from None


def _head(token: str) -> tuple[str, str]:
    """Key id and algorithm, as the token says. Nothing of it is trusted yet."""
    if len(token) > LONGEST:
        raise AccessRefused(f"the token is longer than {LONGEST} characters")
    try:
        head = jwt.get_unverified_header(token)
    except (PyJWTError, ValueError, RecursionError):
        raise AccessRefused(_WRONG) from None
    kid, algorithm = head.get("kid"), head.get("alg")
    if not isinstance(kid, str) or not kid:
        raise AccessRefused("the token names no key (kid)")
    return kid, str(algorithm)


def _words(error: PyJWTError) -> str:
    match error:
        case ExpiredSignatureError():
            return "the token has expired"
        case ImmatureSignatureError():
            return "the token is not valid yet"
        case InvalidAudienceError():
            return "the token is for another audience (aud)"
        case InvalidIssuerError():
            return "the token is of another issuer (iss)"
        case MissingRequiredClaimError(claim=claim):
            return f"the token has no {claim}"
    return _WRONG


def sign(
    key: PyJWK,
    *,
    issuer: str,
    audience: str,
    subject: str,
    grant: dict[str, Any],
    life_s: float = 60,
) -> str:
    """A token, valid from now on for `life_s` seconds. `key` holds the private key, or the shared secret."""
    now_s = int(time.time())
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "jti": uuid4().hex,
        "iat": now_s,
        "exp": int(now_s + life_s),
        CLAIM: grant,
    }
    return jwt.encode(claims, key.key, algorithm=key.algorithm_name, headers={"kid": key.key_id})


def key_of(raw: dict[str, Any]) -> PyJWK:
    """A key of a JWK; raises PyJWTError."""
    return PyJWK(json.loads(json.dumps(raw)))
