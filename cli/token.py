"""`orch token`: makes a token for tests and scripts, or a pair of keys. A secret leaves it on standard output alone."""

import json
import os
import stat
from pathlib import Path
from typing import Any, get_args

from jwt import PyJWK
from pydantic import ValidationError

from cli.exits import OK
from cli.terminal import UsageError, naming, say
from orchestrator.gateway.access.development import AUDIENCE, ISSUER, development_key
from orchestrator.gateway.access.keys import KeysError, new_pair, read_file, signing_key
from orchestrator.gateway.access.tokens import LONGEST_LIFE_S, sign
from orchestrator.grant import Grant, Scope
from orchestrator.private_files import NotPrivateError, open_private
from orchestrator.settings import Settings


def run(
    subject: str, may: str, sessions: int, seconds: int, turns: int, life_s: int, key_file: str, new_key: str
) -> int:
    if new_key:
        return _make_key(Path(new_key))
    if not 1 <= life_s <= LONGEST_LIFE_S:
        raise UsageError(f"--life must be from 1 to {LONGEST_LIFE_S} seconds")
    grant = {"may": may.replace(",", " ").split(), "sessions": sessions, "seconds": seconds, "turns_per_minute": turns}
    _check(subject, grant)
    settings = Settings.from_environment()
    key, issuer, audience = _key(settings, key_file)
    print(sign(key, issuer=issuer, audience=audience, subject=subject, grant=grant, life_s=life_s))
    return OK


def _check(subject: str, grant: dict[str, Any]) -> None:
    try:
        Grant.model_validate(grant | {"subject": subject})
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
    else:
        if subject:
            return
        field = "subject"
    bounds = Grant.model_json_schema()["properties"][field]
    if field == "may":
        raise UsageError(f"--may must be some of {', '.join(get_args(Scope))}")
    if field == "subject":
        raise UsageError(f"--subject must have 1 to {bounds['maxLength']} characters, not {len(subject)}")
    option = {"turns_per_minute": "turns"}.get(field, field)
    raise UsageError(f"--{option} must be from {bounds['minimum']} to {bounds['maximum']}, not {grant[field]}")


def _key(settings: Settings, key_file: str) -> tuple[PyJWK, str, str]:
    try:
        if not key_file and not settings.auth_keys:
            return development_key(settings.data_dir), ISSUER, AUDIENCE
        if not key_file:
            raise UsageError("ORCH_AUTH_KEYS is set: name the file with the private key, --key FILE")
        key = _key_of(Path(key_file))
    except (KeysError, NotPrivateError, OSError) as error:
        raise UsageError(f"the key cannot be used: {error}") from None
    if not settings.auth_issuer:
        raise UsageError("ORCH_AUTH_ISSUER is missing: it stands in the token, and the service compares it")
    return key, settings.auth_issuer, settings.auth_audience


def _key_of(path: Path) -> PyJWK:
    """The key in a file that the user names, which stays as it is. Raises KeysError, OSError."""
    text = read_file(path)
    try:
        key = signing_key(text)
    except KeysError as error:
        raise KeysError(f"{path}: {error}") from None
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        say(f"⚠ other users can read the private key in {path}: close it with chmod 600")
    return key


def _make_key(path: Path) -> int:
    private, public = new_pair()
    try:
        descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise UsageError(f"{path} is there already: a key is never replaced") from None
    with naming(str(path)), os.fdopen(descriptor, "w") as file:
        file.write(json.dumps({"keys": [private]}) + "\n")
    print(json.dumps({"keys": [public]}, indent=2))
    say(f"✓ the private key is in {path}; give the public part above to the service, as ORCH_AUTH_KEYS")
    return OK
