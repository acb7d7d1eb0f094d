"""AccessRefused: the answer to a request that may not come in. And AccessRequest: what a check sees of a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web


class AccessRefused(Exception):  # noqa: N818 - it names an outcome, as an HTTP status does
    """A request is refused. `status`: 401 (no valid token), 403 (not allowed), 503 (the keys cannot be read now).

    The message is for the bearer: it names the mistake, and quotes nothing of the token.
    """

    def __init__(self, why: str, status: int = 401) -> None:
        super().__init__(why)
        self.status = status

    def response(self) -> web.Response:
        """The HTTP answer, which closes the connection."""
        refusal = web.Response(status=self.status, text=str(self))
        if self.status == 401:
            refusal.headers["WWW-Authenticate"] = "Bearer"
        if self.status == 503:
            refusal.headers["Retry-After"] = "1"
        refusal.force_close()
        return refusal


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """What an `authenticate` function gets: the request of a caller, before anything is made for it."""

    token: str = field(repr=False)
    """From `Authorization: Bearer …` or the subprotocol `bearer.…`; empty: none was shown."""
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name."""
    address: str
    """Of the client, as far as trusted proxies tell."""
    path: str
