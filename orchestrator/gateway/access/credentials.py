"""Reads the tokens and cookies of a request. Tokens in its URL are refused: logs and histories keep URLs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from aiohttp import web

from orchestrator.gateway.access.refusal import AccessRefused

PROTOCOL = "orch.v1"
"""The subprotocol that the server chooses. A client that shows a token as a subprotocol offers this one, too."""
_IN_URLS = frozenset({"token", "access_token", "resume_token", "authorization", "bearer"})
COOKIE = "orch_"
"""How the names of cookies begin; the port follows, since browsers send cookies to all ports of a host."""
MOST_COOKIES = 8


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows; empty: nothing of that kind."""

    bearer: str = field(default="", repr=False)
    resume: str = field(default="", repr=False)
    cookies: tuple[str, ...] = field(default=(), repr=False)

    @property
    def are_none(self) -> bool:
        return not (self.bearer or self.resume or self.cookies)


def read_credentials(request: web.Request) -> Credentials:
    """Raises AccessRefused (400) for tokens where none may be."""
    if not _IN_URLS.isdisjoint(request.query):
        raise AccessRefused(
            "a token does not belong in a URL: offer it as the subprotocol bearer.… or resume.… (docs/websocket.md)",
            400,
        )
    offered = [
        one.strip() for header in request.headers.getall("Sec-WebSocket-Protocol", []) for one in header.split(",")
    ]
    if offered and PROTOCOL not in offered:
        raise AccessRefused(f"offer the subprotocol {PROTOCOL}, too", 400)
    authorized = _authorized(request)
    return Credentials(
        _only([*_with(offered, "bearer."), *authorized["bearer"]]),
        _only([*_with(offered, "resume."), *authorized["resume"]]),
        tuple(value for name, value in request.cookies.items() if name.startswith(COOKIE))[:MOST_COOKIES],
    )


def _authorized(request: web.Request) -> dict[str, list[str]]:
    """Tokens in the header Authorization, by its scheme."""
    found: dict[str, list[str]] = {"bearer": [], "resume": []}
    for header in request.headers.getall("Authorization", []):
        scheme, _, token = header.strip().partition(" ")
        if scheme.lower() in found:  # others are for a proxy
            found[scheme.lower()].append(token.strip())
    return found


def _with(offered: Iterable[str], prefix: str) -> list[str]:
    return [one.removeprefix(prefix) for one in offered if one.startswith(prefix)]


def _only(tokens: list[str]) -> str:
    if len(set(tokens)) > 1:
        raise AccessRefused("the request shows two different tokens: show one", 400)
    return tokens[0] if tokens else ""


class Proxies:
    """The proxies in front of the service, whose X-Forwarded headers are believed."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(ip_network(one) for one in networks)

    def client(self, request: web.Request) -> str:
        """The address of the client: that of the connection, or what the last proxies in a row say of it."""
        address = request.remote or ""
        forwarded = [
            one.strip() for header in request.headers.getall("X-Forwarded-For", []) for one in header.split(",")
        ]
        while self._knows(address) and forwarded:
            before = forwarded.pop()
            if not _is_address(before):
                break
            address = before
        return address

    def scheme(self, request: web.Request) -> str:
        """Https or http, as the client sees it."""
        said = request.headers.get("X-Forwarded-Proto", "")
        return said if said in ("http", "https") and self._knows(request.remote or "") else request.scheme

    def _knows(self, address: str) -> bool:
        if not self._networks or not _is_address(address):
            return False
        ip = ip_address(address.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip.version == network.version and ip in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
