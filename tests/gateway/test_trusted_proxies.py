"""X-Forwarded headers count from named proxies alone."""

from unittest.mock import Mock

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from orchestrator.gateway.access.credentials import Proxies

PROXIES = ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1")
CLIENTS = {
    "no proxy is named": ((), "10.0.0.1", ["203.0.113.7"], "10.0.0.1"),
    "by a named proxy": (PROXIES, "10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
    "by somebody else": (PROXIES, "203.0.113.9", ["203.0.113.7"], "203.0.113.9"),
    "made up by the client of a proxy": (PROXIES, "10.0.0.1", ["10.9.9.9, 203.0.113.7"], "203.0.113.7"),
    "made up, in a header of its own": (PROXIES, "10.0.0.1", ["10.9.9.9", "203.0.113.7"], "203.0.113.7"),
    "through two named proxies": (PROXIES, "10.0.0.1", ["203.0.113.7, 192.0.2.1"], "203.0.113.7"),
    "through a proxy that is not named": (PROXIES, "10.0.0.1", ["203.0.113.7, 198.51.100.2"], "198.51.100.2"),
    "nothing is forwarded": (PROXIES, "10.0.0.1", [], "10.0.0.1"),
    "no address": (PROXIES, "10.0.0.1", ["unknown"], "10.0.0.1"),
    "an address behind no address": (PROXIES, "10.0.0.1", ["203.0.113.7, <script>"], "10.0.0.1"),
    "by IPv6": (PROXIES, "2001:db8::1", ["2001:db8:ffff::7, 2001:db8::2"], "2001:db8:ffff::7"),
    "by IPv4 on a socket of both": (PROXIES, "::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
    "on a Unix socket": (PROXIES, "", ["203.0.113.7"], ""),
}


def request(remote: str, headers: list[tuple[str, str]]) -> object:
    transport = Mock()
    transport.get_extra_info = lambda name, default=None: (remote, 1) if name == "peername" and remote else default
    return make_mocked_request("GET", "/", CIMultiDict(headers), transport=transport)


@pytest.mark.parametrize("how", CLIENTS)
def test_the_address_of_a_client(how: str) -> None:
    named, remote, forwarded, client = CLIENTS[how]
    asked = request(remote, [("X-Forwarded-For", one) for one in forwarded])
    assert Proxies(named).client(asked) == client  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("remote", "said", "scheme"),
    [
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "http", "http"),
        ("10.0.0.1", "javascript", "http"),
        ("10.0.0.1", "", "http"),
        ("203.0.113.9", "https", "http"),
    ],
)
def test_the_scheme_of_a_client(remote: str, said: str, scheme: str) -> None:
    """Cookies are Secure under https: a client that only says so changes nothing."""
    assert Proxies(PROXIES).scheme(request(remote, [("X-Forwarded-Proto", said)])) == scheme  # type: ignore[arg-type]
