"""Chooses the check of callers from the settings. Without keys, only this machine may reach the service."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.gateway.access.development import AUDIENCE, ISSUER, development_key
from orchestrator.gateway.access.guard import Authenticate, by_tokens
from orchestrator.gateway.access.keys import AddressKeys, FileKeys, FixedKeys, KeysError
from orchestrator.gateway.access.tokens import Tokens
from orchestrator.private_files import NotPrivateError
from orchestrator.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

OPEN = (
    "ORCH_AUTH=none: anybody who reaches this service may call and see its metrics; only a network or a proxy of yours "
    "keeps them out"
)


async def _nothing() -> None:
    """Close keys that hold nothing open."""


@dataclass(frozen=True, slots=True)
class Check:
    """The check of callers and operators; None: everybody may come in."""

    authenticate: Authenticate | None
    is_development: bool = False
    """Whether the key is that of the data directory, for the user of this machine."""
    close: Callable[[], Awaitable[None]] = _nothing


def check_of(settings: Settings, own: Authenticate | None) -> Check:
    """`own`: the user's function, which takes the place of all settings. Raises SettingsError."""
    if own is not None:
        return Check(own)
    if settings.auth == "none":
        logger.warning("%s", OPEN)
        return Check(None)
    if settings.auth_keys:
        return _by_keys(settings)
    if settings.is_private:
        return _by_development_key(settings.data_dir)
    raise SettingsError(
        f"others can reach this service ({settings.reached_by}) and it has no keys to check callers with: set "
        "ORCH_AUTH_KEYS to a JWKS file or https address (docs/security.md), or ORCH_AUTH=none to let everybody in"
    )


def _by_keys(settings: Settings) -> Check:
    if not settings.auth_issuer:
        raise SettingsError(
            "ORCH_AUTH_ISSUER is missing: name the issuer (iss) of the tokens that ORCH_AUTH_KEYS checks"
        )
    issuer, audience = settings.auth_issuer, settings.auth_audience
    if "://" in settings.auth_keys:
        found = AddressKeys(settings.auth_keys)
        return Check(by_tokens(Tokens(found, issuer=issuer, audience=audience)), close=found.close)
    try:
        file = FileKeys(Path(settings.auth_keys).expanduser())
    except KeysError as error:
        raise SettingsError(f"ORCH_AUTH_KEYS: {error}") from None
    return Check(by_tokens(Tokens(file, issuer=issuer, audience=audience)))


def _by_development_key(data_dir: Path) -> Check:
    try:
        key = development_key(data_dir)
    except (KeysError, NotPrivateError) as error:
        raise SettingsError(f"the key in ORCH_DATA_DIR cannot be used: {error}") from None
    keys = FixedKeys({str(key.key_id): key})
    return Check(by_tokens(Tokens(keys, issuer=ISSUER, audience=AUDIENCE)), is_development=True)
