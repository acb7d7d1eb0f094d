"""Who may come in, by default: on loopback everything works at once, elsewhere nothing starts without keys."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from orchestrator.gateway.access.keys import new_pair
from orchestrator.gateway.access.setup import check_of
from orchestrator.settings import Settings, SettingsError
from tests.cli.service import Serve, environment, orch, orch_process


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serve]:
    service = Serve(environment(tmp_path))
    yield service
    service.stop()


def test_on_loopback_everything_works_at_once(served: Serve, tmp_path: Path) -> None:
    """A key of its own, for its user alone; chat reads it, the page gets a cookie, scripts a token; others get 401."""
    key = tmp_path / "auth_key.json"
    assert key.stat().st_mode & 0o777 == 0o600
    chat = orch_process("chat", "--url", served.url, env=environment(tmp_path), stdin="hello\n")
    assert chat.returncode == 0
    assert "the conversation is over (goodbye)" in chat.stderr
    page = requests.get(served.url, timeout=10)
    assert page.status_code == 200
    (cookie,) = page.cookies
    assert cookie.has_nonstandard_attr("HttpOnly")
    address = f"{served.url}/orchestrate"
    assert requests.get(address, timeout=10).status_code == 401
    assert requests.get(address, cookies=page.cookies, timeout=10).status_code == 426
    _chats_without_the_key(served, tmp_path)
    token = orch("token", env=environment(tmp_path)).stdout.strip()
    shown = {"Authorization": f"Bearer {token}"}
    assert requests.get(address, headers=shown, timeout=10).status_code == 426
    served.stop()
    secret = json.loads(key.read_text())["keys"][0]["k"]
    for hidden in (secret, token, cookie.value):
        assert hidden not in served.stderr + served.stdout + chat.stdout + chat.stderr


def _chats_without_the_key(served: Serve, tmp_path: Path) -> None:
    """In one sentence that says what to do."""
    (tmp_path / "elsewhere").mkdir()
    chat = orch_process("chat", "--url", served.url, env=environment(tmp_path / "elsewhere"), stdin="hello\n")
    assert chat.returncode == 2
    assert chat.stderr.count("\n") == 1
    assert "does not let you in (401): set ORCH_TOKEN" in chat.stderr


REACHED = {
    "all addresses": {"ORCH_HOST": "::"},
    "an address of the network": {"ORCH_HOST": "127.0.0.2"},
    "a proxy's name": {"ORCH_ADDRESS": "https://calls.example"},
    "another name": {"ORCH_ALLOWED_HOSTS": "calls.example"},
    "a proxy": {"ORCH_TRUSTED_PROXIES": "127.0.0.1"},
}


@pytest.mark.parametrize("how", REACHED)
def test_a_service_that_others_can_reach_does_not_start_without_keys(tmp_path: Path, how: str) -> None:
    """Whichever setting lets others in."""
    settings = {name.removeprefix("ORCH_").lower(): value for name, value in REACHED[how].items()}
    with pytest.raises(SettingsError, match="set ORCH_AUTH_KEYS"):
        check_of(Settings(data_dir=tmp_path, auth="keys", **settings), None)
    assert list(tmp_path.iterdir()) == []


def test_it_says_so_in_one_sentence(tmp_path: Path) -> None:
    ended = orch_process("serve", "--port", "0", env=environment(tmp_path, ORCH_HOST="0.0.0.0"))
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith("✗ orch serve cannot start: others can reach this service (ORCH_")
    assert "set ORCH_AUTH_KEYS to a JWKS file or https address" in line
    assert "or ORCH_AUTH=none" in line


def test_a_service_for_everybody_says_so(tmp_path: Path) -> None:
    """At start, and in orch doctor."""
    env = environment(tmp_path, ORCH_HOST="0.0.0.0", ORCH_AUTH="none")
    service = Serve(env)
    try:
        assert "ORCH_AUTH=none: anybody who reaches this service may call" in service.stderr
        doctor = orch_process("doctor", env=env)
        assert doctor.returncode == 5
        assert "⚠ ORCH_AUTH=none: anybody" in doctor.stderr
    finally:
        service.stop()


def test_a_service_for_the_network_checks_tokens(tmp_path: Path) -> None:
    """With a key made by orch token: strangers and other keys are refused, the good token comes in."""
    made = orch("token", "--new-key", str(tmp_path / "private.json"), env=environment(tmp_path))
    (tmp_path / "public.json").write_text(made.stdout)
    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600
    assert '"d"' not in made.stdout
    settings = {
        "ORCH_HOST": "0.0.0.0",
        "ORCH_AUTH_KEYS": str(tmp_path / "public.json"),
        "ORCH_AUTH_ISSUER": "https://shop.example",
    }
    env = environment(tmp_path, **settings)
    ended = orch_process("serve", "--port", "0", env=env | {"ORCH_AUTH_ISSUER": ""})
    assert "ORCH_AUTH_ISSUER is missing" in ended.stderr
    service = Serve(env)
    try:
        address = service.url.replace("0.0.0.0", "127.0.0.1")
        for path in ("/", "/metrics", "/readyz", "/orchestrate", "/static/console.js"):
            assert requests.get(address + path, timeout=10).status_code == 401
        assert requests.get(f"{address}/healthz", timeout=10).json() == {"alive": True}
        token = orch("token", "--key", str(tmp_path / "private.json"), env=env).stdout.strip()
        chat = orch_process("chat", "--url", address, env=env | {"ORCH_TOKEN": token}, stdin="hello\n")
        assert chat.returncode == 0, chat.stderr
        again = orch_process("chat", "--url", address, env=env | {"ORCH_TOKEN": token}, stdin="hello\n")
        assert "does not let you in (403)" in again.stderr
    finally:
        service.stop()
        assert token not in service.stderr + service.stdout


MISTAKES = {
    "a right": (["--may", "fly"], "--may must be some of voice, text"),
    "a number": (["--seconds", "-1"], "--seconds must be from 0 to 604800, not -1"),
    "a long time": (["--seconds", "99999999999"], "--seconds must be from 0 to 604800, not 99999999999"),
    "conversations": (["--sessions", "-1"], "--sessions must be from 0 to 1000000, not -1"),
    "turns": (["--turns", "1000001"], "--turns must be from 0 to 1000000, not 1000001"),
    "a long subject": (["--subject", "x" * 300], "--subject must have 1 to 200 characters, not 300"),
    "nobody": (["--subject", ""], "--subject must have 1 to 200 characters, not 0"),
    "a life": (["--life", "100000"], "--life must be from 1 to 3600 seconds"),
    "no file": (["--key", "/nowhere/key.json"], "the key cannot be used"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_token_that_cannot_be_made_is_refused_in_words(tmp_path: Path, what: str) -> None:
    arguments, words = MISTAKES[what]
    ended = orch("token", *arguments, env=environment(tmp_path))
    assert ended.exit_code == 3
    assert words in ended.stderr
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1


def test_a_file_that_is_named_as_key_keeps_its_mode(tmp_path: Path) -> None:
    """Whether it is a key or not. Where others may read a private key, a warning says so."""
    env = environment(tmp_path, ORCH_AUTH_ISSUER="https://shop.example")
    key, page = tmp_path / "key.json", tmp_path / "index.html"
    page.write_text("no key")
    page.chmod(0o644)
    ended = orch("token", "--key", str(page), env=env)
    assert (ended.exit_code, page.stat().st_mode & 0o777) == (3, 0o644)
    assert f"the key cannot be used: {page}: it is not JSON" in ended.stderr
    orch("token", "--new-key", str(key), env=env)
    assert orch("token", "--key", str(key), env=env).stderr == ""
    (tmp_path / "mounted.json").symlink_to(key)
    key.chmod(0o644)
    ended = orch("token", "--key", str(tmp_path / "mounted.json"), env=env)
    assert (ended.exit_code, key.stat().st_mode & 0o777) == (0, 0o644)
    assert (
        ended.stderr == f"⚠ other users can read the private key in {tmp_path}/mounted.json: close it with chmod 600\n"
    )
    assert ended.stdout.count(".") == 2


NO_SIGNATURE = {
    "a public key": (lambda private, public: [public], r"'[0-9a-f]+' has no private part"),
    "two keys": (lambda private, _: [private, new_pair()[0]], "it has 2 keys"),
}


@pytest.mark.parametrize("what", NO_SIGNATURE)
def test_a_key_that_cannot_sign_is_refused_in_words(tmp_path: Path, what: str) -> None:
    """Named by the user, or found in the data directory."""
    keys, words = NO_SIGNATURE[what]
    env = environment(tmp_path, ORCH_AUTH_ISSUER="https://shop.example")
    file = tmp_path / "auth_key.json"
    file.write_text(json.dumps({"keys": keys(*new_pair())}))
    for arguments in (["token", "--key", str(file)], ["token"], ["chat"]):
        ended = orch(*arguments, env=env)
        assert (ended.exit_code, ended.stdout) == (3, "")
        assert re.fullmatch(rf"✗ the key .*{words}.*\n", ended.stderr), ended.stderr
