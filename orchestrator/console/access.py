"""Who may use the console: bearers of the service's tokens, shown once in a form, or everybody on this machine."""

import json
import re
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from aiohttp import web

from orchestrator.gateway.access.credentials import COOKIE, Credentials, Proxies
from orchestrator.gateway.access.guard import Authenticate, Guard
from orchestrator.gateway.access.own_tokens import COOKIE_S, OwnTokens
from orchestrator.gateway.access.pages import LOGIN, token_in_form
from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.web_names import is_loopback

_OWN_PATH = re.compile(r"/(?![/\\])[^\x00-\x20\x7f]*")
"""A path on this host: browsers take // and /\\ for the beginning of another host."""
_LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>orch console</title></head>
<body><main><h1>orch console</h1><p>Show a token that may read_sessions (docs/security.md).</p>
<form method="post" action="{action}"><p><label>Token
<input type="password" name="token" autocomplete="off" required autofocus></label>
<button>Show it</button></p></form></main></body></html>
"""


@dataclass(frozen=True, slots=True)
class Access:
    """Scopes of a reader. Without `reads_words`, the words of conversations are redacted before anything is computed
    from them.
    """

    reads_words: bool = True
    reader: str = ""
    """Who it is; the hash of a token's subject."""


class PublicAddressError(ValueError):
    """The console must not listen there; the message says why."""


class ConsoleGuard:
    """Checks each request. Without `authenticate`, everybody who can connect may see and read everything."""

    def __init__(
        self, authenticate: Authenticate | None = None, secret: bytes = b"", proxies: Proxies | None = None
    ) -> None:
        """`secret` signs cookies: with that of the service, its cookies count here, too."""
        self._own = OwnTokens(lambda: secret)
        self._guard = Guard(authenticate, self._own, proxies)

    async def access(self, request: web.Request) -> Access:
        """The scopes of a request, by its token or cookie. Raises AccessRefused."""
        grant = await self._guard.may(request, "read_sessions")
        return Access(reads_words="read_words" in grant.may, reader=grant.subject)

    async def login(self, request: web.Request) -> web.Response:
        """Exchange a token in a form for a cookie, and lead to the page that was asked for. Raises AccessRefused."""
        grant = await self._guard.grant(request, Credentials(bearer=await token_in_form(request)))
        if "read_sessions" not in grant.may:
            raise AccessRefused("this token does not allow to read_sessions", 403)
        to = quote(request.query.get("to", "/"), safe="/?=&%:+,~.-_")
        answer = web.Response(status=303, headers={"Location": to if _OWN_PATH.fullmatch(to) else "/"})
        answer.set_cookie(
            f"{COOKIE}{request.url.port or ''}",
            self._own.cookie(grant),
            max_age=COOKIE_S,
            httponly=True,
            samesite="Lax",  # a link from a colleague opens; other pages cannot POST (Origin)
            secure=self._guard.is_secure(request),
        )
        return answer

    def refusal(self, request: web.Request, refused: AccessRefused) -> web.Response:
        """The answer to a refused request: a page without a token is a form to show one."""
        answer = refused.response()
        if refused.status == 401 and request.method == "GET" and not request.path.startswith(("/api/", "/static/")):
            action = f"{LOGIN}?to={quote(request.raw_path, safe='')}"
            answer.text, answer.content_type = _LOGIN_PAGE.format(action=escape(action)), "text/html"
        else:
            answer.text, answer.content_type = json.dumps({"problem": str(refused)}), "application/json"
        answer.headers["Cache-Control"] = "no-store"
        return answer


def refuse_public(host: str) -> None:
    """Raise PublicAddressError unless only this machine can connect to an address."""
    if not is_loopback(host):
        raise PublicAddressError(
            f"the console shows what callers said, and without keys it asks for no token, so it listens only on this "
            f"machine, not on {host!r}: set ORCH_AUTH_KEYS (docs/security.md), or use --host 127.0.0.1 and reach it "
            "from elsewhere through ssh -L"
        )
