"""The key in the data directory: with it, a service on loopback works at once, for its own user."""

import base64
import contextlib
import fcntl
import json
import os
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any

from jwt import PyJWK

from orchestrator.gateway.access.keys import KeysError, signing_key
from orchestrator.private_files import open_private, private_folder, read_private

FILE = "auth_key.json"
ISSUER = "orch on this machine"
AUDIENCE = "orch"


def development_key(data_dir: Path) -> PyJWK:
    """The key of this data directory, made if there is none. Raises KeysError, NotPrivateError, OSError."""
    private_folder(data_dir)
    with contextlib.suppress(FileNotFoundError, KeysError):
        return existing_key(data_dir)
    with os.fdopen(open_private(data_dir / FILE), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the processes of a service begin together
        if not file.read(1):  # else another one was faster, or what it holds is no key
            file.write(json.dumps({"keys": [_new()]}))
    return existing_key(data_dir)


def existing_key(data_dir: Path) -> PyJWK:
    """As development_key, but raises FileNotFoundError if there is none."""
    return signing_key(read_private(data_dir / FILE))


def _new() -> dict[str, Any]:
    secret = base64.urlsafe_b64encode(token_bytes(32)).rstrip(b"=").decode()
    return {"kty": "oct", "alg": "HS256", "use": "sig", "kid": f"local-{token_hex(4)}", "k": secret}


__all__ = ["AUDIENCE", "FILE", "ISSUER", "KeysError", "development_key", "existing_key"]
