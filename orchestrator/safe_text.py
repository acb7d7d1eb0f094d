"""Makes text safe to leave the process: errors without secrets or users' words, lines that cannot drive a terminal."""

import re
from collections.abc import Iterator
from traceback import format_tb
from unicodedata import category
from urllib.parse import unquote

HIDDEN = "***"
MOST_OF_AN_ERROR = 500
"""Limit in characters: longer errors do not fit into an event (Note)."""
SHORTEST_SECRET = 6
"""Shorter secrets cannot be distinguished from ordinary text, so they are hidden in URLs alone."""

_NAME = re.compile(r"[\w.:/-]{1,64}")
_URL = re.compile(r"""[A-Za-z][\w+.-]{0,40}://[^\s<>"'`]{1,4096}""")
_PAIR = re.compile(
    r"(?i)\b([\w-]{0,40}(?:passw(?:or)?d|pwd|secret|token|api[-_]?key|access[-_]?key|authorization|credentials?)"
    r"""[\w-]{0,40})(["']?\s{0,3}[=:]\s{0,3}["']?)(?:(?:bearer|basic)\s{1,3})?[^\s"',;&)]{1,4096}"""
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s{1,3}[\w.~+/=-]{8,4096}")
_JOINER = re.compile(
    r"(?<=[^\x00-\xa0\u200b-\u200f\u2028-\u202f])([\u200c\u200d])(?=[^\x00-\xa0\u200b-\u200f\u2028-\u202f])"
)
"""A joiner between two characters of a script or an emoji, where it is part of the spelling."""
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_OF_A_PIPELINE = re.compile(r"^Command # \d+ .*? of pipeline caused error: ", re.DOTALL)  # redis-py quotes the command
_WHOSE_TEXT_IS_KNOWN = frozenset({"orchestrator", "events", "projections", "cli", "redis", "faststream", "sqlalchemy"})
_HARMLESS = re.compile(r"[a-z]{0,11}|verify-\w+|\d{1,6}")
"""Query values that are no secrets, such as `require` in sslmode=require: they occur in other texts, too."""
_known_secrets: set[str] = set()


def protect(*values: str) -> None:
    """Hide these secrets in all texts from now on. The secrets of a URL are its password and the values of its query;
    without a password, its user. A password equal to the user name is no secret.
    """
    for value in values:
        for secret in _secrets_of(value):
            if len(secret) >= SHORTEST_SECRET:
                _known_secrets.update((secret, unquote(secret)))


def _secrets_of(value: str) -> Iterator[str]:
    scheme, is_url, rest = value.partition("://")
    if not is_url or not re.fullmatch(r"[\w+.-]+", scheme):
        yield value
        return
    credentials, has_any, after = rest.rpartition("@")
    if has_any:
        user, _, password = credentials.partition(":")
        if password != user:
            yield password or user
    for pair in after.partition("#")[0].partition("?")[2].split("&"):
        if not _HARMLESS.fullmatch(value := pair.partition("=")[2]):
            yield value


def safe_url(url: str) -> str:
    """A URL without user, password, query and fragment. Of a malformed URL, only the parts that cannot be secret."""
    scheme, is_url, rest = url.partition("://")
    if not is_url:
        return one_line(re.split(r"[?#]", url.rpartition("@")[2])[0])[:200]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    after = rest[len(authority) :]
    if "@" in after:  # an @ or a / in a password that should have been percent-encoded: where it ends is unknown
        return one_line(f"{scheme}://{HIDDEN}")
    return one_line(f"{scheme}://{authority.rpartition('@')[2]}{re.split('[?#]', after)[0]}")[:500]


def without_secrets(text: str) -> str:
    """The text without known secrets and without likely ones: in URLs, after `password=` or `Bearer`."""
    for secret in sorted(_known_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _URL.sub(lambda url: safe_url(url[0]), text)
    text = _PAIR.sub(rf"\1\2{HIDDEN}", text)
    return _BEARER.sub(rf"\1 {HIDDEN}", text)


def safe_error(error: BaseException, *, mask: bool = False) -> str:
    """An error's message in one line without secrets; with `mask` also without words of users and services.

    A masked `ServiceError` becomes its `in_our_words`. Of exceptions that user code may raise with any text, `mask`
    keeps only the name.
    """
    name = type(error).__name__
    text = _validation(error) or (_masked(error) if mask else _whole(error))
    if not text:
        return name
    return one_line(without_secrets(text[: 4 * MOST_OF_AN_ERROR]))[:MOST_OF_AN_ERROR]


def named_error(error: BaseException, *, mask: bool = False) -> str:
    """`safe_error` with the exception's name before it."""
    name, text = type(error).__name__, safe_error(error, mask=mask)
    return name if text == name else f"{name}: {text}"[:MOST_OF_AN_ERROR]


def safe_traceback(error: BaseException, *, mask: bool = False) -> str:
    """The traceback of an error and its causes, with safe messages. The oldest cause stands first."""
    parts: list[str] = []
    seen: set[int] = set()
    this: BaseException | None = error
    while this is not None and id(this) not in seen and len(parts) < 10:
        seen.add(id(this))
        came_by = f"Traceback (most recent call last):\n{''.join(format_tb(this.__traceback__))}"
        parts.append((came_by if this.__traceback__ else "") + named_error(this, mask=mask))
        this = this.__cause__ or (None if this.__suppress_context__ else this.__context__)
    return printable("\nThat led to:\n".join(reversed(parts)), keep="\n\t")


def printable(text: str, keep: str = "") -> str:
    """The text without characters that drive a terminal or reorder text.

    Controls (C0, C1 and line ends, except those in `keep`) become a space. Joiners stay inside of words and emoji.
    Bidirectional overrides and all other format characters become their code, noncharacters and surrogates U+FFFD.
    """
    if text.isprintable():
        return text
    parts = _JOINER.split(text)  # every other part is a joiner that stays
    return "".join(
        part if at % 2 else "".join(one if one in keep else _shown(one) for one in part)
        for at, part in enumerate(parts)
    )


def escaped(text: str) -> str:
    """The text with unprintable characters as JSON escapes. JSON keeps its meaning; line ends and tabs stay."""
    if text.isprintable():
        return text
    parts = _JOINER.split(text)
    return "".join(part if at % 2 else "".join(map(_visible, part)) for at, part in enumerate(parts))


def one_line(text: str) -> str:
    """The text as one printable line: users' words must never forge a line or drive a terminal."""
    return " ".join(printable(text).split())


def is_name(text: str) -> bool:
    """Whether a text looks like the name of an intent. Any other text may hold the user's words: an intent service may
    return them as a name, and then traces and redacted recordings must not contain it.
    """
    return _NAME.fullmatch(text) is not None


def _shown(character: str) -> str:
    match category(character):
        case "Cc" | "Zl" | "Zp":
            return " "
        case "Cf":
            return _escape(character)
        case "Cs":
            return "\ufffd"
        case "Cn" if ord(character) & 0xFFFE == 0xFFFE or "\ufdd0" <= character <= "\ufdef":
            return "\ufffd"
        case _:
            return character


def _visible(character: str) -> str:
    return character if character in "\n\t" or character.isprintable() else _escape(character)


def _escape(character: str) -> str:
    """The four-digit Unicode escape of JSON and Python. Spaces of any width stay as they are."""
    if category(character) == "Zs":
        return character
    pair = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{pair[at] << 8 | pair[at + 1]:04x}" for at in range(0, len(pair), 2))


def _whole(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the __str__ of anybody's exception may break, too
        return ""


def _masked(error: BaseException) -> str:
    ours = getattr(error, "in_our_words", None)
    if isinstance(ours, str):
        return ours
    text = _whole(error).partition("\n")[0]
    home = type(error).__module__.partition(".")[0]
    if home in ("redis", "sqlalchemy"):
        return _QUOTED.sub("'…'", _OF_A_PIPELINE.sub("", text))
    return text if isinstance(error, OSError) or home in _WHOSE_TEXT_IS_KNOWN else ""


def _validation(error: BaseException) -> str:
    """The errors of a pydantic ValidationError without the bad values; empty for other exceptions."""
    if type(error).__name__ != "ValidationError" or not hasattr(error, "errors"):
        return ""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    problems = [f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found[:3]]
    return "; ".join(problems)
