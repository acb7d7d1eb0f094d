"""The operators' side of the door: who may see the talk page, metrics and readiness, and how a page logs in."""

from aiohttp import web

from orchestrator.gateway.access.credentials import COOKIE, Credentials, read_credentials
from orchestrator.gateway.access.guard import Guard
from orchestrator.gateway.access.own_tokens import COOKIE_S, OwnTokens
from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.gateway.origin import AllowedNames
from orchestrator.grant import SCOPES, Grant

DEVELOPER = Grant(subject="developer", may=SCOPES)
"""The user who opens the page of a service that only this machine can reach."""
LOGIN = "/login"
_LOGIN_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>orch</title></head>
<body><form method="post" action="login"><p>This page is for operators: show a token once (docs/security.md).</p>
<p><label>Token <input type="password" name="token" autocomplete="off" required autofocus></label>
<button>Show it</button></p></form></body></html>
"""


class Pages:
    """Checks the requests that open no conversation."""

    def __init__(self, guard: Guard, own: OwnTokens, names: AllowedNames, *, is_development: bool) -> None:
        self._guard = guard
        self._own = own
        self._names = names
        self._is_development = is_development

    async def check(self, request: web.Request) -> None:
        """Let a request pass to its handler. Raises AccessRefused."""
        if request.path != LOGIN and not self._is_development:
            await self._guard.may(request, "operate")

    def give_cookie(self, request: web.Request, page: web.StreamResponse) -> None:
        """On a service that only this machine can reach, the page comes in without being asked for a token."""
        if self._is_development:
            self._set_cookie(request, page, DEVELOPER.hidden())

    async def login(self, request: web.Request) -> web.Response:
        """Exchange a token, in the form or as Authorization, for a cookie of COOKIE_S. Raises AccessRefused."""
        if not self._names.may_connect(request):
            raise AccessRefused("this page may not log in here: wrong Origin", 403)
        shown = read_credentials(request)
        if not shown.bearer:
            shown = Credentials(bearer=await token_in_form(request))
        grant = await self._guard.grant(request, shown)
        if "operate" not in grant.may:
            raise AccessRefused("this token does not allow to operate", 403)
        answer = web.Response(status=303, headers={"Location": "./"})
        self._set_cookie(request, answer, grant)
        return answer

    def refusal(self, request: web.Request, refused: AccessRefused) -> web.Response:
        """The answer to a refused request. A browser that asks for a page without a token gets a form to show one."""
        answer = refused.response()
        if refused.status == 401 and request.path == "/" and request.method == "GET":
            answer.text = _LOGIN_PAGE
            answer.content_type = "text/html"
        return answer

    def _set_cookie(self, request: web.Request, answer: web.StreamResponse, grant: Grant) -> None:
        answer.set_cookie(
            f"{COOKIE}{request.url.port or ''}",
            self._own.cookie(grant),
            max_age=COOKIE_S,
            httponly=True,
            samesite="Strict",
            secure=self._guard.is_secure(request),
        )


async def token_in_form(request: web.Request) -> str:
    """The token that a form shows; empty: it shows none."""
    if request.content_type != "application/x-www-form-urlencoded":
        return ""
    return str((await request.post()).get("token", "")).strip()
