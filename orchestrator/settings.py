"""The ORCH_… settings. Only this module reads them from the environment; others get them as arguments."""

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from orchestrator.safe_text import protect, without_secrets
from orchestrator.setting_values import (
    Headers,
    address,
    as_text,
    boolean,
    database,
    headers,
    host_and_port,
    hosts,
    ice_servers,
    ip_address_or_none,
    ip_addresses,
    keys,
    language,
    networks,
    number,
    one_of,
    origins,
    path,
    path_or_none,
    port_range,
    redis,
    relay,
    services,
    socket_services,
    text,
)
from orchestrator.web_names import LOOPBACK, is_loopback
from projections.span import Layout

T = TypeVar("T")

Recognition = Literal["open", "domain", "phrases", "general"]
"""What users can say: "open", any English. With the extra `sphinx`: "domain", the words of the content; "phrases",
exactly its phrases; "general", any English, recognised much less well.
"""
Voice = Literal["natural", "espeak"]
"""How the reference agent speaks: "natural", English; "espeak", a robot's voice (extra `espeak`, GPL-3)."""


Auth = Literal["keys", "none"]
"""Who may come in: "keys", bearers of tokens; "none", everybody."""


class SettingsError(ValueError):
    """A setting is wrong; the message names the variable and says what it may be."""


def default_data_dir() -> Path:
    """The folder that keeps conversations between runs."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base).expanduser() / "orch"


ENV_FILE = Path(".env")
"""In the working directory: variables that the environment leaves out, a line `NAME=value` for each."""


def environment() -> Mapping[str, str]:
    """The process's environment; for variables that it leaves out, the file `.env`. Raises SettingsError."""
    try:
        found = ENV_FILE.stat()
        return {**_env_file(ENV_FILE.resolve(), found.st_mtime_ns, found.st_size), **os.environ}
    except FileNotFoundError:
        return os.environ
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SettingsError(f"the file {ENV_FILE.resolve()} cannot be read: {reason}") from None


@lru_cache(maxsize=1)
def _env_file(file: Path, _mtime_ns: int, _size: int) -> Mapping[str, str]:
    from dotenv import dotenv_values  # only a program with such a file loads it

    return {name: value for name, value in dotenv_values(file).items() if value is not None}


_DEFAULTS: dict[str, Callable[[], Any]] = {}


def _read_from_environment(cls: type[T]) -> type[T]:
    """Let a field that is omitted in `Settings(...)` take its environment variable's value, else its default."""
    for name in cls.__annotations__:
        default = cls.__dict__[name]
        is_made = isinstance(default, Field)
        _DEFAULTS[name] = default.default_factory if is_made else partial(lambda value: value, default)
        setattr(cls, name, field(default_factory=partial(_value, name)))
    return cls


def _value(name: str, variables: Mapping[str, str] | None = None) -> Any:
    variables = environment() if variables is None else variables
    return variables.get(f"ORCH_{name.upper()}") or _DEFAULTS[name]()


@dataclass(frozen=True, slots=True)
@_read_from_environment
class Settings:
    """Each field is the environment variable `ORCH_<FIELD>`. Omitted fields are read from the environment, then from
    the file `.env` in the working directory, and have the defaults below where neither has them.

    Values may have the form of the environment: a folder as text, a list as words. Raises SettingsError.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    address: str = ""
    """URL where clients reach this node, such as http://10.0.0.7:8080. Empty: host and port, if the host is a
    single address.
    """
    redis_url: str = ""
    """Empty: an embedded server."""
    data_dir: Path = field(default_factory=default_data_dir)
    """Holds the embedded server's append-only file, and the history where it is a file."""
    redis_memory_mb: int = 1_024
    """Limit of the embedded server; new conversations are refused before it is used up."""
    sql_url: str = ""
    """The database of the history; empty: history.db in the data directory."""
    intent_url: str = ""
    answer_url: str = ""
    tts_url: str = ""
    stt_url: str = ""
    """Several are separated by blanks: the next one is asked when one fails or is late. Empty: the embedded reference
    services.
    """
    intent_headers: Headers = field(default_factory=Headers)
    answer_headers: Headers = field(default_factory=Headers)
    tts_headers: Headers = field(default_factory=Headers)
    stt_headers: Headers = field(default_factory=Headers)
    """HTTP headers for the service of the same name, such as an authorisation: `Authorization: Bearer …`, a JSON
    object, a mapping, or @FILE. Never printed.
    """
    model_url: str = ""
    """A language model answers in place of the demo agent, from its content: the base address of an interface like
    OpenAI's, such as http://localhost:11434/v1. Its key is OPENAI_API_KEY. Empty: none.
    """
    model_name: str = "gpt-4o-mini"
    content_dir: Path | None = None
    """intents.yaml and knowledge/*.md of the reference services; none: the content that orch carries."""
    recognizer: Recognition = "open"
    language: str = ""
    """Language of the users for a speech-to-text service: a BCP 47 tag such as de-DE. Empty: the service's own."""
    voice: Voice = "natural"
    policy_file: Path | None = None
    """YAML or JSON (docs/policy.md). Omitted fields have their defaults."""
    allowed_origins: tuple[str, ...] = ()
    """Other pages that may connect, such as https://example.org."""
    allowed_hosts: tuple[str, ...] = ()
    """Further host names of the service, beside loopback names and those of addresses and origins."""
    max_sessions: int = 20
    auth: Auth = "keys"
    """none: everybody may come in."""
    auth_keys: str = ""
    """A JWKS file, or the https address of one. Empty: on loopback, a key in the data directory."""
    auth_issuer: str = ""
    auth_audience: str = "orch"
    operators: str = ""
    """host:port of a second address for operators, where no token is needed. Empty: there is none."""
    tls_cert: Path | None = None
    """The certificate with its chain, in PEM; with `tls_key` the service speaks TLS."""
    tls_key: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    """Networks of the proxies whose X-Forwarded headers are believed."""
    inputs_per_minute: int = 360
    """Rate limit per caller for typed messages, interruptions and offers. Messages above it wait."""
    ice_host_addresses: tuple[str, ...] = ()
    """Local addresses for WebRTC; empty: all but loopback."""
    ice_servers: tuple[str, ...] = ()
    """STUN and TURN servers for clients, such as stun:turn.example.org turn:turn.example.org."""
    turn_secret: str = ""
    """Shared with the TURN servers (coturn's static-auth-secret): clients get credentials made with it."""
    relay: str = ""
    """A TURN server through which callers reach this machine, such as turns:turn.example.org, where its UDP is shut."""
    public_address: str = ""
    """IP address of this machine for callers, where a NAT maps it. Empty: its own addresses."""
    udp_ports: tuple[int, int] | None = None
    """First and last UDP port of the calls, such as 40000-40999."""
    trace_layout: Layout = "session"
    """session: a conversation is one trace; turn: each of its turns is one."""
    trace_content: bool = False
    """Whether traces contain the users' and the agent's words."""

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> "Settings":
        """Read all settings, from `variables` alone if they are given.

        Raises SettingsError, also for an unknown ORCH_ variable, such as a misspelt one.
        """
        variables = environment() if variables is None else variables
        _refuse_unknown(variables)
        return cls(**{one.name: _value(one.name, variables) for one in fields(cls)})

    def to_environment(self) -> dict[str, str]:
        """Every ORCH_ variable with its value, secrets included, for a process that must have these settings. A
        variable without a value is empty: else the file `.env` would fill it.
        """
        return {f"ORCH_{one.name.upper()}": as_text(getattr(self, one.name)) for one in fields(self)}

    def __post_init__(self) -> None:
        _refuse_unknown(environment())
        for one in fields(self):
            try:
                value = _READ[one.name](getattr(self, one.name))
            except ValueError as error:
                raise SettingsError(f"ORCH_{one.name.upper()}{error}") from None  # its cause may quote a password
            object.__setattr__(self, one.name, value)
        if any(url.startswith("turn") for url in (*self.ice_servers, self.relay)) and not self.turn_secret:
            raise SettingsError("ORCH_TURN_SECRET is missing: credentials for your TURN servers are made with it")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("ORCH_TLS_CERT and ORCH_TLS_KEY belong together: set both, or neither")
        services = (self.intent_url, self.answer_url, self.tts_url, self.stt_url)
        protect(self.redis_url, self.sql_url, self.turn_secret, *" ".join(services).split())
        for sent in (self.intent_headers, self.answer_headers, self.tts_headers, self.stt_headers):
            protect(*(word for value in sent.values() for word in (value, value.rpartition(" ")[2])))
        if "://" in self.auth_keys:
            protect(self.auth_keys)

    def __repr__(self) -> str:
        values = (f"{one.name}={getattr(self, one.name)!r}" for one in fields(self))
        return without_secrets(f"Settings({', '.join(values)})")

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect; otherwise users' words are masked in logs, and callers need tokens."""
        return not self.reached_by

    @property
    def reached_by(self) -> str:
        """The setting by which others can connect, directly or through a proxy; empty: there is none."""
        names = [("ORCH_ADDRESS", urlsplit(self.address).hostname or "")] if self.address else []
        names += [("ORCH_ALLOWED_HOSTS", one) for one in self.allowed_hosts]
        if self.host not in LOOPBACK:
            return f"ORCH_HOST={self.host}"
        if self.trusted_proxies:
            return "ORCH_TRUSTED_PROXIES"
        return next((f"{name} names {host}" for name, host in names if not is_loopback(host)), "")

    @property
    def is_everywhere(self) -> bool:
        """Whether the service listens on all addresses: then clients cannot connect to `host` itself."""
        return self.host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


TOKEN = "ORCH_TOKEN"  # noqa: S105 - the name of the variable
_NOT_OURS = frozenset({"ORCH_CHROMIUM", "ORCH_KILLS", TOKEN})
"""ORCH_ variables that only the tests and the commands read."""
_READ: dict[str, Callable[[Any], Any]] = {
    "host": text,
    "port": partial(number, least=0, most=65_535),
    "address": address,
    "redis_url": redis,
    "data_dir": path,
    "sql_url": database,
    "intent_url": services,
    "answer_url": services,
    "tts_url": services,
    "stt_url": socket_services,
    "intent_headers": headers,
    "answer_headers": headers,
    "tts_headers": headers,
    "stt_headers": headers,
    "model_url": services,
    "model_name": text,
    "content_dir": path_or_none,
    "recognizer": partial(one_of, get_args(Recognition)),
    "language": language,
    "voice": partial(one_of, get_args(Voice)),
    "policy_file": path_or_none,
    "allowed_origins": origins,
    "allowed_hosts": hosts,
    "auth": partial(one_of, get_args(Auth)),
    "auth_keys": keys,
    "auth_issuer": text,
    "auth_audience": text,
    "operators": host_and_port,
    "tls_cert": path_or_none,
    "tls_key": path_or_none,
    "trusted_proxies": networks,
    "max_sessions": partial(number, least=1, most=1_000_000),
    "inputs_per_minute": partial(number, least=1, most=1_000_000),
    "redis_memory_mb": partial(number, least=16, most=1_000_000),
    "ice_host_addresses": ip_addresses,
    "ice_servers": ice_servers,
    "turn_secret": text,
    "relay": relay,
    "public_address": ip_address_or_none,
    "udp_ports": port_range,
    "trace_layout": partial(one_of, get_args(Layout)),
    "trace_content": boolean,
}
"""Setting → function that reads and checks its value."""


def command_token() -> str:
    """The token that commands show to a service, from ORCH_TOKEN: other users could read an argument."""
    return os.environ.get(TOKEN, "")


def _refuse_unknown(variables: Mapping[str, str]) -> None:
    known = {f"ORCH_{name.upper()}" for name in _DEFAULTS}
    if unknown := sorted({name for name in variables if name.startswith("ORCH_")} - known - _NOT_OURS):
        close = get_close_matches(unknown[0], known, n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
        raise SettingsError(f"unknown setting {', '.join(unknown)}; {meant}")
