"""Guard: decides who may come in, before anything is made for a request."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from orchestrator.gateway.access.credentials import Credentials, Proxies, read_credentials
from orchestrator.gateway.access.own_tokens import OwnTokens, Resume
from orchestrator.gateway.access.refusal import AccessRefused, AccessRequest
from orchestrator.gateway.access.tokens import Tokens
from orchestrator.grant import EVERYTHING, Grant, Scope

logger = logging.getLogger(__name__)

CHECK_S = 10.0
"""Timeout for the check of a caller."""
_NOT_NOW = "callers cannot be checked now; try again later"
Answer = Grant | None
Authenticate = Callable[[AccessRequest], Answer | Awaitable[Answer]]
"""A check of callers: gets a request, returns its grant, or None or AccessRefused to refuse it."""


def by_tokens(tokens: Tokens) -> Authenticate:
    """A check by signed tokens."""

    async def check(request: AccessRequest) -> Grant:
        if not request.token:
            raise AccessRefused("show a token: as the subprotocol bearer.… or in Authorization (docs/security.md)")
        return await tokens.read(request.token)

    return check


class Guard:
    """The checks of one gateway."""

    def __init__(self, authenticate: Authenticate | None, own: OwnTokens, proxies: Proxies | None = None) -> None:
        """`authenticate`: None lets everybody in, with every right."""
        self._authenticate = authenticate
        self._own = own
        self._proxies = proxies or Proxies()

    @property
    def is_open(self) -> bool:
        """Whether everybody may come in."""
        return self._authenticate is None

    def address(self, request: web.Request) -> str:
        return self._proxies.client(request)

    def is_secure(self, request: web.Request) -> bool:
        """Whether the client speaks TLS."""
        return self._proxies.scheme(request) == "https"

    def resumes(self, request: web.Request, shown: Credentials) -> Resume | None:
        """What the resume token of a request says; None: it shows none. Raises AccessRefused."""
        if not shown.resume:
            if request.query.get("session_id"):
                raise AccessRefused("show the resume token of this session, as the subprotocol resume.…")
            return None
        resume = self._own.read_resume(shown.resume)
        if request.query.get("session_id", resume.session_id) != resume.session_id:
            raise AccessRefused("the resume token is of another session", 403)
        return resume

    async def may_call(self, request: web.Request, shown: Credentials) -> Grant:
        """The grant of a request that opens a conversation. Raises AccessRefused."""
        grant = await self.grant(request, shown)
        if not grant.may_call:
            raise AccessRefused("this token does not allow to open conversations", 403)
        return grant

    async def may(self, request: web.Request, scope: Scope) -> Grant:
        """The grant of a request that needs one right. Raises AccessRefused."""
        grant = await self.grant(request, read_credentials(request))
        if scope not in grant.may:
            raise AccessRefused(f"this token does not allow to {scope}", 403)
        return grant

    async def grant(self, request: web.Request, shown: Credentials) -> Grant:
        """What a request may do, by its token, else by its cookie, else by what `authenticate` finds. Raises
        AccessRefused.
        """
        if self._authenticate is None:
            return EVERYTHING
        if not shown.bearer:
            for cookie in shown.cookies:
                try:
                    return self._own.read_cookie(cookie)
                except AccessRefused:
                    continue  # of another service on this host, or of before
        return await self._ask(self._authenticate, request, shown)

    async def _ask(self, authenticate: Authenticate, request: web.Request, shown: Credentials) -> Grant:
        headers = {name.lower(): ", ".join(request.headers.getall(name)) for name in request.headers}
        asked = AccessRequest(shown.bearer, headers, self.address(request), request.path)
        try:
            async with asyncio.timeout(CHECK_S):
                answer = authenticate(asked)
                grant = await answer if inspect.isawaitable(answer) else answer
        except AccessRefused:
            raise
        except Exception:  # the function of the user may raise anything
            logger.exception("the check of a caller failed")
            raise AccessRefused(_NOT_NOW, 503) from None
        if grant is None:
            raise AccessRefused("this service does not know you")
        if not isinstance(grant, Grant):
            logger.error("the check of a caller returned %s: it must return a Grant or None", type(grant).__name__)
            raise AccessRefused(_NOT_NOW, 503)
        return grant.hidden()
