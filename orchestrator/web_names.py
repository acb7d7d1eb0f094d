"""Reads host names and origins strictly, from the headers Host and Origin and from settings that list them."""

from ipaddress import ip_address
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Names that a service has for its own machine alone."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by name or by a loopback address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def whole_origin(text: str) -> str:
    """The canonical form scheme://host:port. Raises ValueError unless the text is an http or https origin."""
    url = urlsplit(text)
    if url.scheme not in DEFAULT_PORTS:
        raise ValueError(f"{text!r} is no origin: it begins with http:// or https://")
    if not url.hostname or "@" in url.netloc or url.path or url.query or url.fragment or text[-1] in "?#:":
        raise ValueError(f"{text!r} is no origin: it is a scheme, a host and perhaps a port, nothing else")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"{url.scheme}://{host}:{url.port or DEFAULT_PORTS[url.scheme]}"


def host_name(text: str) -> str:
    """The name in a Host header, without its port, in lower case. Raises ValueError for an invalid host name."""
    url = urlsplit(f"//{text}")
    if not url.hostname or url.netloc != text or "@" in text or (url.port is None and text.endswith(":")):
        raise ValueError(f"{text!r} is no host name")
    return url.hostname.removesuffix(".")


def url_of(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
