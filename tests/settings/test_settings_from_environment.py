"""Settings that are wrong are named, with what they may be; and the names in headers are read strictly."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.settings import Settings, SettingsError
from orchestrator.web_names import host_name, whole_origin

WRONG = (
    *(
        ("ALLOWED_ORIGINS", value)
        for value in ("example.org", "ftp://a", "https://a/b", "https://u@a", "null", "https://a:x")
    ),
    *(("ALLOWED_HOSTS", value) for value in ("http://a", "a/b", "u@a", "[::1", "a:", "a:x", "a?b")),
    *(("MAX_SESSIONS", value) for value in ("0", "-1", "many", "1.5")),
    *(("INPUTS_PER_MINUTE", value) for value in ("0", "fast")),
    *(("REDIS_MEMORY_MB", value) for value in ("0", "15", "1GB")),
)


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    """With its value, also where it is one of a list; but not with an address that may hold a password."""
    given_value = f"fine.example {value}" if name == "ALLOWED_HOSTS" else value
    with pytest.raises(SettingsError, match=f"ORCH_{name}(=.*)? is wrong") as error:
        Settings.from_environment({f"ORCH_{name}": given_value})
    may_hold_a_password = "://" in value and ("@" in value or ":x" in value)
    assert (value in str(error.value)) != may_hold_a_password


def test_lists_of_names_are_read_whole() -> None:
    """Each in its canonical form."""
    settings = Settings.from_environment(
        {
            "ORCH_ALLOWED_ORIGINS": "https://A.example, http://b.example:80",
            "ORCH_ALLOWED_HOSTS": "A.example b.example:8080 [FD00::1]:80 fd00::2",
        }
    )
    assert settings.allowed_origins == ("https://a.example:443", "http://b.example:80")
    assert settings.allowed_hosts == ("a.example", "b.example", "fd00::1", "fd00::2")
    assert replace(settings).allowed_hosts == settings.allowed_hosts


@given(st.one_of(st.text(), st.from_regex(r"\A(https?:)?//[\[\]@:/?#a-z0-9.%\\ -]*\Z")))
@example("http://[::1%25eth0]:8")
@example("http://a:99999")
def test_any_header_is_a_name_or_a_value_error(text: str) -> None:
    """And what is a name names itself."""
    for read in (whole_origin, host_name):
        try:
            name = read(text)
        except ValueError:
            continue
        assert read(f"[{name}]" if read is host_name and ":" in name else name) == name
