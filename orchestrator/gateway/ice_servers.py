"""The STUN and TURN servers that a client gets, with credentials of its own that expire."""

import base64
import hmac
import time
from collections.abc import Iterable

from orchestrator.gateway.messages import IceServer

LIFE_S = 24 * 3600
"""How long credentials are valid: as long as a conversation may last."""


class IceServers:
    """Makes the list for one client after the other."""

    def __init__(self, urls: Iterable[str] = (), turn_secret: str = "") -> None:
        """`turn_secret`: shared with the TURN server (coturn's static-auth-secret)."""
        self._stun = tuple(url for url in urls if url.startswith("stun"))
        self._turn = tuple(url for url in urls if url.startswith("turn"))
        self._turn_secret = turn_secret

    def of(self, session_id: str) -> tuple[IceServer, ...]:
        """The servers for the client of a session.

        Credentials are those of the "TURN REST API": the user name is the time of expiry and an id, the password its
        HMAC-SHA1 under the secret. SHA-1 is what TURN servers expect there; as a MAC it is not broken.
        """
        found = [IceServer(urls=self._stun)] if self._stun else []
        if self._turn:
            username = f"{int(time.time()) + LIFE_S}:{session_id}"
            digest = hmac.digest(self._turn_secret.encode(), username.encode(), "sha1")
            credential = base64.b64encode(digest).decode()
            found.append(IceServer(urls=self._turn, username=username, credential=credential))
        return tuple(found)
