"""An error that leaves the process carries no secret, and no words where words are masked."""

import json
import logging
from collections.abc import Iterator

import aiohttp
import pytest
from pydantic import BaseModel
from redis.exceptions import ResponseError
from sqlalchemy.exc import DataError

from orchestrator import safe_text
from orchestrator.safe_log import MOST_IN_A_WINDOW, SafeLog
from orchestrator.safe_text import named_error, protect, safe_error, safe_traceback, safe_url, without_secrets
from orchestrator.services.failures import ServiceError
from orchestrator.services.http_clients import Endpoint

CANARY = "kanarie8Xq"
WORDS = "my knee hurts"


class Asked(BaseModel):
    turn: int


def raised(make: object) -> BaseException:
    try:
        make()  # type: ignore[operator]
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}@host:6379/0",
        f"rediss://user:{CANARY}@host:6379/0",
        f"redis://:a/{CANARY}@host",
        f"redis://:12/{CANARY}@host",
        f"redis://user:a?{CANARY}@host",
        f"redis://user:a#{CANARY}@host",
        f"redis://user:a@{CANARY}@host",
        f"http://host/v1?key={CANARY}",
        f"http://host?{CANARY}",
        f"http://host/v1#{CANARY}",
        f"http://{CANARY}@host/v1",
        f"user:{CANARY}@host:5432/orch",
        f"host/v1?token={CANARY}",
        f"postgresql://user:{CANARY}@[::1/orch",
        f"http://host:{CANARY}@/",
    ],
)
def test_a_url_in_any_text_shows_no_secret(url: str) -> None:
    """Well-formed or not, as a URL of its own and inside an exception's text."""
    assert CANARY not in safe_url(url)
    if "://" in url:
        for text in (url, f"cannot connect to {url}: refused", f"({url!r})", f"see <{url}>."):
            assert CANARY not in without_secrets(text)
            assert CANARY not in safe_error(ValueError(text))


def test_a_url_keeps_what_tells_where_it_leads() -> None:
    """Who reads the log must know which service it was."""
    assert safe_url("http://user:pw@host:8080/v1/query?key=x#y") == "http://host:8080/v1/query"
    assert without_secrets("no answer from http://host/v1, status 500") == "no answer from http://host/v1, status 500"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"api_key={CANARY}",
        f"X-Api-Key: {CANARY}",
        f"password: {CANARY}",
        f'{{"access_token": "{CANARY}"}}',
        f"invalid token '{CANARY}'".replace("token ", "token="),
        f"Basic {CANARY}aaaa==",
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    """A service may repeat what it was sent."""
    assert CANARY not in without_secrets(text)


def test_a_secret_of_a_setting_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any text, percent-encoded or not; values that stand in other texts, too, are left alone."""
    monkeypatch.setattr(safe_text, "_known_secrets", set())
    protect("redis://:p%40ss-9317@h", "http://h/x?key=k-551-zz", "postgresql://postgres:postgres@h/d?sslmode=require")
    told = without_secrets("it says p@ss-9317 or p%40ss-9317, k-551-zz; postgres requires: require")
    assert told == "it says *** or ***, ***; postgres requires: require"


MASKED = [
    ServiceError(f"POST http://h/query: status 500 ({WORDS})", in_our_words="POST http://h/query: status 500"),
    ServiceError(WORDS),
    ValueError(f"invalid literal for int() with base 10: '{WORDS}'"),
    KeyError(WORDS),
    raised(lambda: Asked(turn=WORDS)),
    raised(lambda: Asked.model_validate_json(json.dumps({"turn": WORDS}))),
    ResponseError(f"Command # 1 (XADD in {WORDS}) of pipeline caused error: OOM command not allowed"),
    DataError("INSERT", {}, ValueError(f"invalid input for query argument $3: '{WORDS}'")),
    aiohttp.ClientError(f"400, message: Bad status line '{WORDS}'"),
]


@pytest.mark.parametrize("error", MASKED, ids=lambda error: type(error).__name__)
def test_a_masked_error_has_none_of_the_words(error: BaseException) -> None:
    """Alone, with its name, with its traceback, and as the cause of another."""
    outer = RuntimeError("outer")
    outer.__cause__ = error
    for text in (safe_error(error, mask=True), named_error(error, mask=True), safe_traceback(outer, mask=True)):
        assert WORDS not in text
        assert text
    assert "OOM command not allowed" in safe_error(MASKED[6], mask=True)
    assert safe_error(MASKED[0], mask=True) == "POST http://h/query: status 500"


def test_an_error_whose_own_text_breaks_is_named() -> None:
    """The __str__ of anybody's exception may raise."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise TypeError

    assert safe_error(Odd()) == "Odd"
    assert safe_error(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize("url", [f"http://user:{CANARY}/x@host/v1", f"foo?key={CANARY}", f"http://h:{CANARY}/v1", ""])
async def test_a_malformed_address_of_a_service_is_refused_without_its_secret(url: str) -> None:
    """When it is wired, not in a call."""
    async with aiohttp.ClientSession() as http:
        with pytest.raises(ValueError, match="not an http") as caught:
            Endpoint(http, url, "/query", timeout_ms=1)
    assert "user" not in url or CANARY not in str(caught.value)
    assert f"key={CANARY}" not in str(caught.value)


@pytest.fixture
def logged() -> Iterator[tuple[logging.Logger, SafeLog, list[str]]]:
    """A logger behind the filter, and the lines that it writes."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger, handler, safe = logging.getLogger("orchestrator.a_test"), Lines(), SafeLog()
    handler.addFilter(safe)
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, safe, lines
    logger.removeHandler(handler)
    logger.propagate = True


Logged = tuple[logging.Logger, SafeLog, list[str]]


def test_a_record_carries_no_secret_no_words_and_no_control_character(logged: Logged) -> None:
    """Whether the error is an argument, the message or the traceback."""
    logger, _, lines = logged
    error = ValueError(f"{WORDS} http://u:{CANARY}@h \x1b[2J\u202e")
    logger.warning("it failed: %s", error)
    logger.warning(error)
    logger.warning("said %s", f"http://u:{CANARY}@h\nforged line \x9b31m\u2028")
    try:
        raise error
    except ValueError:
        logger.exception("it broke")
    text = "\n".join(lines)
    for hidden in (WORDS, CANARY, "\x1b", "\x9b", "\u202e", "\u2028", "\nforged"):
        assert hidden not in text
    assert "test_a_record_carries_no_secret" in lines[-1], "where it came from is told"


def test_on_this_machine_alone_words_are_told(logged: Logged) -> None:
    """The developer is the caller; secrets stay hidden even so."""
    logger, safe, lines = logged
    safe.mask = False
    logger.warning(
        "it failed: %s", ServiceError(f"status 500 ({WORDS}; http://u:{CANARY}@h)", in_our_words="status 500")
    )
    assert WORDS in lines[0]
    assert CANARY not in lines[0]


def test_a_flood_is_a_few_lines_and_a_count(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is the same but for its arguments; other records are not held back."""
    logger, _, lines = logged
    now = 0.0
    monkeypatch.setattr("orchestrator.safe_log.time.monotonic", lambda: now)
    for number in range(1_000):
        logger.warning("packet %d is no Opus", number)
    logger.warning("something else")
    assert len(lines) == MOST_IN_A_WINDOW + 1
    now = 11.0
    logger.error("later")
    assert lines[-2:] == ["980 more like this within 10 s: packet %d is no Opus", "later"]


def test_a_record_whose_arguments_do_not_fit_is_told_even_so(logged: Logged) -> None:
    """logging itself would print a traceback with the arguments."""
    logger, _, lines = logged
    logger.warning("%d of %s", "x")
    assert "do not fit" in lines[0]
