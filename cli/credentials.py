"""The tokens of the command line: from ORCH_TOKEN, or made with the key of the service on this machine."""

from urllib.parse import urlsplit

from cli.terminal import UsageError
from orchestrator.gateway.access.development import AUDIENCE, ISSUER, existing_key
from orchestrator.gateway.access.keys import KeysError
from orchestrator.gateway.access.pages import DEVELOPER
from orchestrator.gateway.access.tokens import sign
from orchestrator.private_files import NotPrivateError
from orchestrator.settings import Settings, command_token
from orchestrator.web_names import is_loopback


def token_for(url: str) -> str:
    """A token that opens a conversation at a service: ORCH_TOKEN, or for a service on this machine one made with the
    key in its data directory. Empty: there is neither; a service that lets everybody in needs none. Raises UsageError.
    """
    if token := command_token():
        return token
    settings = Settings.from_environment()
    if settings.auth_keys or not is_loopback(urlsplit(url).hostname or ""):
        return ""
    try:
        key = existing_key(settings.data_dir)
    except FileNotFoundError:
        return ""
    except (KeysError, NotPrivateError, OSError) as error:
        raise UsageError(f"the key of the service cannot be read: {error}") from None
    allowed = {"may": sorted(DEVELOPER.may)}
    return sign(key, issuer=ISSUER, audience=AUDIENCE, subject=DEVELOPER.subject, grant=allowed)


def refusal(status: int) -> str:
    """Why a service does not let us in, by its HTTP status, and what to do."""
    if status in (401, 403):
        return (
            f"the service does not let you in ({status}): set ORCH_TOKEN to a token of it (orch token makes one), or "
            "ORCH_DATA_DIR to the data directory of the service on this machine"
        )
    if status == 429:
        return "the service is asked too often from here (429): try again later"
    return f"the service cannot take the conversation now (HTTP {status}): try again later"
