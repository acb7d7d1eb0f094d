"""Reads and checks the values of settings. An error says what may be there, and never shows a password.

Each function takes a value as text, as the environment has it, or as a Python program gives it, and returns the value.
Raises ValueError: the rest of a sentence that begins with the name of the setting.
"""

import json
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from orchestrator.web_names import host_name, is_loopback, whole_origin

_HARMLESS: Final = re.compile(r"([a-z][a-z0-9+.-]*:)?(//)?[\w.-]+(:\d{1,5})?(/[\w./-]*)?", re.IGNORECASE | re.ASCII)
"""A URL, or what should be one, in which no password can be."""
_CODED: Final = "; in a user name or a password write %40 for @, %3A for :, %2F for /, %3F for ? and %23 for #"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS: Final = frozenset(
    {
        *("accept", "connection", "content-length", "content-type", "host", "idempotency-key", "transfer-encoding"),
        *("sec-websocket-key", "sec-websocket-version", "upgrade"),
    }
)
"""Headers that the contracts of the services use."""
_LANGUAGE: Final = re.compile(r"([A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,7})?")
_RELAY: Final = re.compile(
    r"turn:[a-z0-9.-]+(:[0-9]{1,5})?(\?transport=(udp|tcp))?|turns:[a-z0-9.-]+(:[0-9]{1,5})?(\?transport=tcp)?",
    re.IGNORECASE,
)
_ICE_SERVER: Final = re.compile(r"(stuns?:[\w.\-\[\]:]{1,255}|turns?:[\w.\-\[\]:]{1,255}(\?transport=(udp|tcp))?)")
_REDIS: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")


class Headers(dict[str, str]):
    """HTTP headers by name. Their values may be secrets: `repr` and `str` show the names only."""

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: ***' for name in self)}}}"


def as_text(value: Any) -> str:
    """The text of a value as an environment variable has it; empty for None. The functions below read it back."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case Mapping():
            return json.dumps(value)
        case tuple():
            return ("-" if all(isinstance(one, int) for one in value) else " ").join(map(str, value))
    return str(value)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "it must be text")
    return value


def number(value: Any, *, least: int, most: int) -> int:
    try:
        found = int(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
        raise _wrong(value, f"it must be a whole number from {least} to {most}")
    return found


def boolean(value: Any) -> bool:
    return value if isinstance(value, bool) else one_of(("true", "false"), value) == "true"


def one_of(allowed: tuple[str, ...], value: Any) -> str:
    if value not in allowed:
        raise _wrong(value, f"it may be {', '.join(allowed[:-1])} or {allowed[-1]}")
    return str(value)


def words(value: Any) -> tuple[str, ...]:
    """Separated by commas or blanks, or a list."""
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise _wrong(value, "it must be texts, separated by commas")
    return tuple(parts)


def origins(value: Any) -> tuple[str, ...]:
    """Pages, as browsers name them."""
    meant = "each must be the beginning of a page's address, such as https://example.org"
    return tuple(_origin(_url(one, ("http", "https"), meant).rstrip("/"), meant) for one in words(value))


def _origin(url: str, meant: str) -> str:
    try:
        return whole_origin(url)
    except ValueError:
        raise _wrong_url(url, meant) from None


def hosts(value: Any) -> tuple[str, ...]:
    """Names under which clients reach the service. An IPv6 address may stand in brackets."""
    found = tuple(f"[{one}]" if one.count(":") > 1 and "[" not in one else one for one in words(value))
    for one in found:
        try:
            host_name(one)
        except ValueError:
            raise _wrong(one, "each must be the name of a host, such as calls.example.org") from None
    return tuple(map(host_name, found))


def ip_addresses(value: Any) -> tuple[str, ...]:
    found = words(value)
    for one in found:
        try:
            ip_address(one)
        except ValueError:
            raise _wrong(one, "each must be an IP address of this machine") from None
    return found


def ice_servers(value: Any) -> tuple[str, ...]:
    """STUN and TURN servers (RFC 7064, 7065), such as turn:turn.example.org:3478?transport=tcp."""
    found = words(value)
    for one in found:
        if not _ICE_SERVER.fullmatch(one):
            raise _wrong(one, "each must be stun:HOST or turn:HOST, with :PORT where needed; stuns: and turns: for TLS")
    return found


def relay(value: Any) -> str:
    """A TURN server for this machine's own side, such as turns:turn.example.org; empty: none."""
    if not value:
        return ""
    if not isinstance(value, str) or not _RELAY.fullmatch(value):
        raise _wrong(value, "it must be one TURN server, such as turn:HOST:3478?transport=tcp or turns:HOST")
    return value


def ip_address_or_none(value: Any) -> str:
    return ip_addresses([value])[0] if value else ""


def port_range(value: Any) -> tuple[int, int] | None:
    """Such as 40000-40999; None: any port."""
    if value is None:
        return None
    parts = value.split("-") if isinstance(value, str) else value
    meant = "it must be two ports from 1024 on, such as 40000-40999"
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise _wrong(value, meant)
    try:
        first, last = (number(one, least=1024, most=65_535) for one in parts)
    except ValueError:
        raise _wrong(value, meant) from None
    if first > last:
        raise _wrong(value, meant)
    return first, last


def host_and_port(value: Any) -> str:
    """Such as 127.0.0.1:9464, or [::1]:9464; a port alone is one of loopback."""
    found = text(value).strip()
    if not found:
        return ""
    found = f"127.0.0.1:{found}" if found.isdecimal() else found
    try:
        parts = urlsplit(f"//{found}")
        is_whole = bool(parts.hostname) and parts.port is not None and parts.netloc == found and "@" not in found
    except ValueError:
        is_whole = False
    if not is_whole:
        raise _wrong(value, "it must be HOST:PORT, such as 127.0.0.1:9464")
    return found


def networks(value: Any) -> tuple[str, ...]:
    """IP addresses and networks, such as 10.0.0.0/8."""
    found = words(value)
    for one in found:
        try:
            ip_network(one)
        except ValueError:
            raise _wrong(one, "each must be an IP address or a network such as 10.0.0.0/8") from None
    return found


def keys(value: Any) -> str:
    """A JWKS file, or an address. An address without TLS could be answered by anybody on the way; loopback has none."""
    meant = "it must be a file, or the https:// address of a JWKS"
    if "://" not in text(value):
        return str(path(value)) if value else ""
    url = _url(value, ("http", "https"), meant)
    if urlsplit(url).scheme == "http" and not is_loopback(urlsplit(url).hostname or ""):
        raise _wrong_url(url, meant)
    return url


def path(value: Any) -> Path:
    """With `~` as in a shell."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise _wrong(value, "it must be a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise _wrong(str(value), f"{error}") from None


def path_or_none(value: Any) -> Path | None:
    return None if value is None else path(value)


def address(value: Any) -> str:
    meant = "it must be a URL that clients reach this node at, such as http://10.0.0.7:8080"
    return _url(value, ("http", "https"), meant).rstrip("/")


def services(value: Any) -> str:
    return _urls(value, ("http", "https"), "it must be the http:// or https:// URL of a service")


def headers(value: Any) -> Headers:
    """HTTP headers of a service: lines `Name: value`, a JSON object, a mapping, or `@FILE` with one of the first two.

    An error never shows a value: it may be a secret.
    """
    named = value if isinstance(value, Mapping) else _headers_of(text(value))
    for name, content in named.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError(" is wrong (it is not shown, a secret may be in it): a line is no `Name: value`")
        if not isinstance(content, str) or not _HEADER_VALUE.fullmatch(content):
            raise ValueError(f" is wrong: the value of the header {name} must be text in one line of Latin-1")
        if name.lower() in _OURS:
            raise ValueError(f" is wrong: the header {name} is set by orch itself")
    return Headers(named)


def _headers_of(written: str) -> Mapping[Any, Any]:
    written = written.strip()
    if written.startswith("@"):
        try:
            written = Path(written[1:]).expanduser().read_text("utf-8").strip()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise ValueError(f"={written!r} is wrong: the file cannot be read: {reason}") from None
    if written.startswith("{"):
        try:
            found = json.loads(written)
        except (ValueError, RecursionError):
            raise ValueError(" is wrong (it is not shown, a secret may be in it): it is no JSON object") from None
        return found if isinstance(found, dict) else {"": ""}
    lines = (line.partition(":") for line in written.splitlines() if line.strip())
    return {name.strip() if colon else "": content.strip() for name, colon, content in lines}


def socket_services(value: Any) -> str:
    return _urls(value, ("ws", "wss"), "it must be the ws:// or wss:// URL of a speech-to-text service")


def _urls(value: Any, schemes: tuple[str, ...], meant: str) -> str:
    """Several URLs are separated by blanks."""
    return " ".join(_url(url, schemes, meant) for url in text(value).split())


def language(value: Any) -> str:
    if not _LANGUAGE.fullmatch(text(value)):
        raise _wrong(value, "it must be a BCP 47 tag such as en or de-DE")
    return str(value)


def redis(value: Any) -> str:
    return _url(
        value, _REDIS, "it must be redis://HOST:PORT/DATABASE, rediss://… for TLS, redis+cluster://… or unix:///SOCKET"
    )


def database(value: Any) -> str:
    """Only what must not be quoted in an error is checked here; the history knows its drivers."""
    meant = "it must be postgresql://USER@HOST/DATABASE or sqlite:///FILE"
    url = _url(value, (), meant)
    if urlsplit(url).netloc.count("@") > 1:  # SQLAlchemy would take the end of the password for the host
        raise _wrong_url(url, meant)
    return url


def _url(value: Any, schemes: tuple[str, ...], meant: str) -> str:
    """The URL without blanks around it; an empty one is none. `schemes`: the allowed ones; none: any."""
    url = text(value).strip()
    if not url:
        return url
    if re.search(r"[\s\x00-\x1f]", url):
        raise _wrong_url(url, meant)
    try:
        parts = urlsplit(url)
        has_port = parts.port is None or parts.port > 0
    except ValueError:  # its words quote the part before or after an @
        raise _wrong_url(url, meant) from None
    scheme = parts.scheme
    is_local = scheme == "unix" or scheme.startswith("sqlite")
    is_known = scheme in schemes if schemes else bool(scheme)
    if not is_known or not has_port or not (is_local or parts.hostname):
        raise _wrong_url(url, meant)
    if parts.netloc and "@" in url.partition("//")[2].removeprefix(parts.netloc):
        raise _wrong_url(url, meant)
    return url


def _wrong(value: Any, meant: str) -> ValueError:
    return ValueError(f"={value!r} is wrong: {meant}")


def _wrong_url(url: str, meant: str) -> ValueError:
    if _HARMLESS.fullmatch(url):
        return _wrong(url, meant)
    return ValueError(f" is wrong (its value is not shown, a password may be in it): {meant}{_CODED}")
