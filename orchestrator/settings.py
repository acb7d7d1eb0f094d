"""The ORCH_… settings, read from the environment here and nowhere else, and handed down."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from projections.span import Layout

Recognition = Literal["domain", "phrases", "general"]
"""What is understood: the words of the content, exactly its phrases, or any English, less well."""


class SettingsError(ValueError):
    """A setting is wrong; the message names the variable and says what it may be."""


def default_data_dir() -> Path:
    """Where conversations are kept between runs."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "orch"


def _words(value: str) -> tuple[str, ...]:
    return tuple(word for word in value.replace(",", " ").split() if word)


def _address(value: str) -> str:
    if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname:
        raise ValueError("it must be a URL that clients reach this node at, such as http://10.0.0.7:8080")
    return value.rstrip("/")


def _one_of(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"it may be {', '.join(words[:-1])} or {words[-1]}")
        return value

    return read


@dataclass(frozen=True, slots=True)
class Settings:
    """Each field is the environment variable `ORCH_<FIELD>`; what is not set has the default given here."""

    host: str = "127.0.0.1"
    port: int = 8080
    address: str = ""
    """Where clients reach this very node, such as http://10.0.0.7:8080; empty: host and port, if the host is one."""
    redis_url: str = ""
    """Empty: an embedded server."""
    data_dir: Path = field(default_factory=default_data_dir)
    """Holds the embedded server's append-only file, and the history where it is a file."""
    sql_url: str = ""
    """The database of the history; empty: history.db in the data directory."""
    intent_url: str = ""
    answer_url: str = ""
    tts_url: str = ""
    """Empty: the embedded reference services."""
    content_dir: Path | None = None
    """intents.yaml and knowledge/*.md of the reference services; none: the content that orch carries."""
    recognizer: Recognition = "domain"
    policy_file: Path | None = None
    """YAML or JSON (docs/policy.md); what it leaves out has its default."""
    allowed_origins: tuple[str, ...] = ()
    """Other pages that may connect, such as https://example.org."""
    max_sessions: int = 20
    ice_host_addresses: tuple[str, ...] = ()
    """Local addresses for WebRTC; empty: all but loopback."""
    trace_layout: Layout = "session"
    """session: a conversation is one trace; turn: each of its turns is one."""
    trace_content: bool = False
    """Whether traces tell what was said."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Raises SettingsError, also for an ORCH_ variable that does not exist (a typing error hides nothing)."""
        known = {f"ORCH_{one.name.upper()}": one.name for one in fields(cls)}
        ours = {name: value for name, value in environment.items() if name.startswith("ORCH_")}
        if unknown := sorted(ours.keys() - known.keys() - _NOT_OURS):
            raise SettingsError(f"unknown setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        values: dict[str, Any] = {}
        for variable, value in ours.items():
            if variable in known and value:
                try:
                    values[known[variable]] = _READ.get(known[variable], str)(value)
                except ValueError as error:
                    raise SettingsError(f"{variable}={value!r} is wrong: {error}") from error
        return cls(**values)

    @property
    def is_private(self) -> bool:
        """Whether only this machine can connect; otherwise users' words are masked in logs."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def is_everywhere(self) -> bool:
        """Whether it listens on all addresses: then the host is none that anybody could connect to."""
        return self.host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


_NOT_OURS = frozenset({"ORCH_CHROMIUM", "ORCH_KILLS"})
"""Read by the tests."""
_READ: dict[str, Callable[[str], Any]] = {
    "port": int,
    "max_sessions": int,
    "data_dir": Path,
    "content_dir": Path,
    "policy_file": Path,
    "address": _address,
    "recognizer": _one_of(*get_args(Recognition)),
    "trace_layout": _one_of(*get_args(Layout)),
    "trace_content": lambda value: _one_of("true", "false")(value) == "true",
    "allowed_origins": _words,
    "ice_host_addresses": _words,
}
