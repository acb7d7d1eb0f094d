"""Checks the Host and Origin headers of requests.

DNS rebinding: a foreign page can make its own host name resolve to this server, and browsers then send requests here
under that name. Host and Origin agree then, so Host is compared with a list. An Origin is compared as a whole, scheme,
host and port: https://a.example and http://a.example differ.
"""

import ipaddress
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDictProxy

from orchestrator.web_names import host_name, whole_origin


class AllowedNames:
    """The allowed names: loopback, the nodes' own addresses, and the configured hosts and origins."""

    def __init__(
        self,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        *,
        addresses: Callable[[], Iterable[str]] = lambda: (),
        is_private: bool = True,
    ) -> None:
        """`addresses` returns the URLs of all nodes. `is_private`: only this machine can connect. Otherwise any numeric
        IP address is allowed as Host, too: DNS rebinding cannot forge one.
        """
        self._origins = frozenset(map(whole_origin, origins))
        self._hosts = frozenset(map(host_name, hosts)) | {_host_of(origin) for origin in self._origins} | {"localhost"}
        self._addresses = addresses
        self._is_private = is_private

    def refusal(self, headers: CIMultiDictProxy[str]) -> str:
        """Why a request is refused; empty if it is allowed. No Host is allowed: every browser sends one."""
        hosts = headers.getall("Host", [])
        if len(hosts) > 1:
            return "the request names more than one Host: send one"
        if hosts and not self._knows(hosts[0]):
            return (
                f"this service is not reached under the name {hosts[0][:80]!r}: use an address of this machine, or add "
                "the name to ORCH_ALLOWED_HOSTS"
            )
        return ""

    def may_connect(self, request: web.Request) -> bool:
        """Whether the Origin is the server's own, another node's, or configured. A request without Origin is allowed:
        it comes from a program, not a browser.
        """
        named = request.headers.getall("Origin", [])
        if not named:
            return True
        try:
            (origin,) = map(whole_origin, named)
        except ValueError:
            return False
        if origin in self._origins or origin in self._of_nodes():
            return True
        port = 443 if request.secure else 80  # whole_origin names it always
        own = [f"{request.scheme}://{host}" for host in _hosts(request.headers)]
        return any(origin in (one, f"{one}:{port}") for one in own)

    def _knows(self, host: str) -> bool:
        try:
            name = host_name(host)
        except ValueError:
            return False
        if name in self._hosts or name in map(_host_of, self._of_nodes()):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._is_private

    def _of_nodes(self) -> set[str]:
        found = set()
        for address in self._addresses():
            url = urlsplit(address)
            found.add(whole_origin(f"{url.scheme}://{url.netloc}"))  # an address may have a path
        return found


def _hosts(headers: CIMultiDictProxy[str]) -> list[str]:
    return [host.lower() for host in headers.getall("Host", [])]


def _host_of(origin: str) -> str:
    return urlsplit(origin).hostname or ""
