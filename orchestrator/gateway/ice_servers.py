"""The STUN and TURN servers that a client gets, with credentials of its own that expire."""

from collections.abc import Iterable

from orchestrator.gateway.messages import IceServer
from orchestrator.media.turn_credentials import turn_credentials


class IceServers:
    """Makes the list for one client after the other."""

    def __init__(self, urls: Iterable[str] = (), turn_secret: str = "") -> None:
        """`turn_secret`: shared with the TURN server (coturn's static-auth-secret)."""
        self._stun = tuple(url for url in urls if url.startswith("stun"))
        self._turn = tuple(url for url in urls if url.startswith("turn"))
        self._turn_secret = turn_secret

    def of(self, session_id: str) -> tuple[IceServer, ...]:
        """The servers for the client of a session."""
        found = [IceServer(urls=self._stun)] if self._stun else []
        if self._turn:
            username, credential = turn_credentials(self._turn_secret, session_id)
            found.append(IceServer(urls=self._turn, username=username, credential=credential))
        return tuple(found)
