"""Settings: from the environment, from a program, and what is refused."""

from pathlib import Path

import pytest

from orchestrator.safe_text import safe_error
from orchestrator.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORCH_PORT", "ORCH_DATA_DIR", "ORCH_HOST", "ORCH_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def test_what_a_program_leaves_out_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gives counts, even where the environment says otherwise; an explicit mapping is the whole environment."""
    monkeypatch.setenv("ORCH_PORT", "9000")
    monkeypatch.setenv("ORCH_DATA_DIR", "/somewhere")
    assert (Settings().port, Settings().data_dir) == (9000, Path("/somewhere"))
    assert (Settings(port=0).port, Settings(port=0).data_dir) == (0, Path("/somewhere"))
    assert Settings(data_dir="x").data_dir == Path("x")
    assert Settings.from_environment({}).port == 8080
    assert Settings.from_environment({"ORCH_PORT": "1"}).data_dir != Path("/somewhere")
    monkeypatch.setenv("ORCH_PORT", "")
    assert Settings().port == 8080, "empty is not set"


def test_values_may_be_texts_as_in_the_environment(tmp_path: Path) -> None:
    """Folders, lists, numbers and switches; `~` as in a shell, blanks around a URL as in a copied one."""
    settings = Settings(
        port="80",
        data_dir="~/calls",
        content_dir=str(tmp_path),
        policy_file="policy.yaml",
        allowed_origins="https://a.example, https://b.example/",
        ice_host_addresses=["127.0.0.1"],
        trace_content="true",
        redis_url=" redis://127.0.0.1:6379/0\n",
    )
    assert settings.data_dir == Path.home() / "calls"
    assert (settings.content_dir, settings.policy_file) == (tmp_path, Path("policy.yaml"))
    assert settings.allowed_origins == ("https://a.example:443", "https://b.example:443")
    assert settings.ice_host_addresses == ("127.0.0.1",)
    assert (settings.port, settings.trace_content) == (80, True)
    assert settings.redis_url == "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"port": "http"}, "ORCH_PORT='http' is wrong: it must be a whole number from 0 to 65535"),
        ({"port": 70_000}, "ORCH_PORT=70000 is wrong"),
        ({"port": True}, "ORCH_PORT=True is wrong"),
        ({"port": 80.5}, "ORCH_PORT=80.5 is wrong"),
        ({"max_sessions": -1}, "ORCH_MAX_SESSIONS=-1 is wrong"),
        ({"data_dir": None}, "ORCH_DATA_DIR=None is wrong: it must be a path"),
        ({"data_dir": 5}, "ORCH_DATA_DIR=5 is wrong: it must be a path"),
        ({"data_dir": "a\0b"}, "ORCH_DATA_DIR='a.x00b' is wrong"),
        ({"data_dir": "~nobody-of-this-name/x"}, "ORCH_DATA_DIR='~nobody-of-this-name/x' is wrong"),
        ({"host": None}, "ORCH_HOST=None is wrong: it must be text"),
        ({"recognizer": "all"}, "ORCH_RECOGNIZER='all' is wrong: it may be open, domain, phrases or general"),
        ({"trace_content": "yes"}, "ORCH_TRACE_CONTENT='yes' is wrong: it may be true or false"),
        ({"trace_content": 1}, "ORCH_TRACE_CONTENT=1 is wrong"),
        ({"allowed_origins": "example.org"}, "ORCH_ALLOWED_ORIGINS='example.org' is wrong"),
        ({"ice_host_addresses": "localhost"}, "ORCH_ICE_HOST_ADDRESSES='localhost' is wrong"),
        ({"redis_url": "foo"}, "ORCH_REDIS_URL='foo' is wrong: it must be redis://HOST:PORT/DATABASE"),
        ({"redis_url": 5}, "ORCH_REDIS_URL=5 is wrong"),
        ({"intent_url": "localhost:8001"}, "ORCH_INTENT_URL='localhost:8001' is wrong"),
        ({"sql_url": "history.db"}, "ORCH_SQL_URL='history.db' is wrong"),
        ({"sql_url": "postgresql://u:p@ss@host/db"}, "ORCH_SQL_URL is wrong .its value is not shown"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_given(wrong: dict[str, object], words: str) -> None:
    """Not as a TypeError somewhere deep inside; the variable, the value and what it may be."""
    with pytest.raises(SettingsError, match=words):
        Settings(**wrong)


def test_a_variable_with_a_typing_error_is_refused_in_programs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was meant."""
    monkeypatch.setenv("ORCH_ANSWER_ULR", "http://127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"unknown setting ORCH_ANSWER_ULR; did you mean ORCH_ANSWER_URL\?"):
        Settings(port=0)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://user:p%40ss@host:6379/3?protocol=3",
        "redis://:p@ss@host",
        "rediss://host",
        "redis+cluster://[::1]:7000",
        "unix:///tmp/@orch/redis.sock",
        "unix:///tmp/redis.sock?db=2&password=x",
    ],
)
def test_a_url_that_redis_py_understands_is_kept(url: str) -> None:
    """Nothing that worked is refused."""
    assert Settings(redis_url=url).redis_url == url


@pytest.mark.parametrize(
    "url", ["sqlite:///a@b/history.db", "sqlite://", "postgresql://u:p%40s@host:5432/db", "postgres://h/d"]
)
def test_a_url_that_names_a_database_is_kept(url: str) -> None:
    """Nothing that worked is refused."""
    assert Settings(sql_url=url).sql_url == url


@pytest.mark.parametrize(
    "written",
    [
        "Authorization: Bearer s3cr3t-of-ours\nX-Tenant: café",
        '{"Authorization": "Bearer s3cr3t-of-ours", "X-Tenant": "café"}',
        {"Authorization": "Bearer s3cr3t-of-ours", "X-Tenant": "café"},
        "@FILE",
    ],
)
def test_headers_of_a_service_are_read_and_shown_nowhere(written: object, tmp_path: Path) -> None:
    """As lines, JSON, a mapping, or a file; their values are in no representation and no error."""
    if written == "@FILE":
        file = tmp_path / "headers"
        file.write_text("Authorization: Bearer s3cr3t-of-ours\n\nX-Tenant: café\n")
        written = f"@{file}"
    settings = Settings(answer_headers=written)  # type: ignore[arg-type]
    assert settings.answer_headers == {"Authorization": "Bearer s3cr3t-of-ours", "X-Tenant": "café"}
    for shown in (repr(settings), str(settings.answer_headers), safe_error(ValueError("it said s3cr3t-of-ours"))):
        assert "s3cr3t" not in shown
    assert "'Authorization': ***" in repr(settings)


def test_the_representation_of_settings_has_no_password() -> None:
    """A program may log its settings."""
    assert "hunter2" not in repr(Settings(redis_url="redis://:hunter2@host"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("Bearer s3cr3t", "a line is no `Name: value`"),
        ("{s3cr3t", "it is no JSON object"),
        ('{"Authorization": 3}', "the value of the header Authorization must be text in one line"),
        ({"A": "s3cr3t\r\nB: c"}, "the value of the header A must be text in one line"),
        ({"A b": "s3cr3t"}, "a line is no `Name: value`"),
        ("Host: s3cr3t", "the header Host is set by orch itself"),
        ("@/nowhere", "the file cannot be read: No such file"),
        (5, "it must be text"),
    ],
)
def test_wrong_headers_are_refused_without_being_shown(wrong: object, words: str) -> None:
    """The variable and the mistake; the value may be a secret."""
    with pytest.raises(SettingsError, match=f"ORCH_TTS_HEADERS.*{words}") as caught:
        Settings(tts_headers=wrong)  # type: ignore[arg-type]
    assert "s3cr3t" not in str(caught.value)


def test_a_file_gives_what_the_environment_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` in the working directory, for programs as for commands; a change of it counts at once."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".env"
    file.write_text("export ORCH_PORT=9000\n# a comment\nORCH_HOST='::1'\nOTHER=1\n")
    assert (Settings().port, Settings.from_environment().host) == (9000, "::1")
    monkeypatch.setenv("ORCH_PORT", "9001")
    assert (Settings().port, Settings.from_environment({}).host) == (9001, "127.0.0.1")
    file.write_text("ORCH_PROT=1\n")
    with pytest.raises(SettingsError, match=r"unknown setting ORCH_PROT; did you mean ORCH_PORT\?"):
        Settings()
    file.write_bytes(b"ORCH_HOST=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env cannot be read: it is no UTF-8 text"):
        Settings()


def test_a_child_process_gets_every_setting_by_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each field comes back as it was, also an empty one that a file `.env` would fill."""
    settings = Settings(
        host="::1",
        port=0,
        data_dir=tmp_path / "with blanks",
        redis_url="redis://:secret@127.0.0.1:6379/0",
        answer_headers={"Authorization": "Bearer secret", "X-Name": "Käthe: {1}"},
        policy_file=None,
        allowed_origins=("https://a.example", "https://b.example"),
        auth_keys="keys.json",
        trusted_proxies=["10.0.0.0/8", "::1"],
        udp_ports=(40_000, 40_999),
        trace_content=True,
    )
    variables = settings.to_environment()
    assert Settings.from_environment(variables) == settings
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("ORCH_AUTH_ISSUER=elsewhere\nORCH_ALLOWED_HOSTS=elsewhere\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == settings
