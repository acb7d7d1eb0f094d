"""The entrance: which session a request may have. Checked before its WebSocket is accepted, joined after that."""

import asyncio
from dataclasses import dataclass

from aiohttp import web
from redis.exceptions import RedisError

from orchestrator.gateway.access.credentials import read_credentials
from orchestrator.gateway.access.guard import Guard
from orchestrator.gateway.access.own_tokens import OwnTokens, Resume
from orchestrator.gateway.access.refusal import AccessRefused
from orchestrator.gateway.client import WebSocketClient
from orchestrator.gateway.frames import FrameCount
from orchestrator.gateway.ice_servers import IceServers
from orchestrator.gateway.lines import LinePool
from orchestrator.gateway.messages import CloseCode, SessionMessage
from orchestrator.gateway.shares import Shares
from orchestrator.grant import Grant
from orchestrator.runtime.live_session import LiveSession
from orchestrator.runtime.node import DELAYED, Node, NotReadyError
from orchestrator.runtime.openings import SpentError

_GONE = "no such session here, or its resume token was used"
_BUSY = "all lines are busy; try again later"
_TOO_OFTEN = "you come back too often, or too many do; try again later"
_ELSEWHERE = "the conversation is in another process, or on its way there"


@dataclass(frozen=True, slots=True)
class Admission:
    """What a request may have: a session that it comes back to, or that is reserved for it."""

    address: str
    grant: Grant
    session_id: str = ""
    number: int = 1
    """Of the resume token: the shown token, or else the token that the client gets."""
    comes_back: bool = False
    not_now: str = ""
    """Why no session could be reserved; the client is asked to try again later."""


class Entrance:
    """The entrance of one node."""

    def __init__(
        self, node: Node, guard: Guard, own: OwnTokens, lines: LinePool, shares: Shares, ice_servers: IceServers
    ) -> None:
        self._node = node
        self._guard = guard
        self._own = own
        self._lines = lines
        self._shares = shares
        self._ice_servers = ice_servers
        self._marking: set[asyncio.Task[None]] = set()

    async def check(self, request: web.Request) -> Admission:
        """Check the tokens of a request, without a trace of it. Raises AccessRefused."""
        shown, address = read_credentials(request), self._guard.address(request)
        resume = self._guard.resumes(request, shown)
        if resume is None:
            return Admission(address, await self._guard.may_call(request, shown))
        if not self._guard.is_open and (shown.bearer or shown.cookies):
            grant = await self._guard.grant(request, shown)
            if grant.subject != resume.grant.subject:
                raise AccessRefused("the resume token is of somebody else", 403)
        return _returning(address, resume)

    async def reserve(self, admission: Admission) -> Admission:
        """Reserve a session for a new caller. Raises AccessRefused (403): its token opens none, or no further one."""
        if not self._lines.has_room(admission.address):
            return Admission(admission.address, admission.grant, not_now=_BUSY)
        try:
            reserved = await self._node.reserve(admission.grant)
        except NotReadyError as error:
            return Admission(admission.address, admission.grant, not_now=str(error))
        except SpentError as error:
            raise AccessRefused(str(error), 403) from None
        return Admission(admission.address, admission.grant, reserved.session_id, reserved.number)

    async def join(self, admission: Admission, client: WebSocketClient, frames: FrameCount) -> LiveSession | None:
        """Connect a client whose WebSocket was accepted. None: it was refused or sent elsewhere, and closed."""
        if admission.not_now:
            await self._refused(client, admission.not_now)
            return None
        live = await (self._come_back(admission, client) if admission.comes_back else self._begin(admission, client))
        if live is None:
            return None
        number = admission.number + 1 if admission.comes_back else admission.number
        frames.when_answered(lambda: self._has_token(live, number))
        self._greet(live, client, admission, number)
        return live

    def _greet(self, live: LiveSession, client: WebSocketClient, admission: Admission, number: int) -> None:
        """Tell a client its session and phase. Replaces the session's older connection, if one is still open."""
        old, live.grant = live.client, admission.grant
        token = self._own.resume(live.session_id, number, admission.grant)
        servers = self._ice_servers.of(live.session_id) or None
        client.tell(SessionMessage(session_id=live.session_id, resume_token=token, ice_servers=servers))
        self._node.connect_client(live, client)
        self._lines.joined(live, admission.address)
        if live.open is None:
            client.tell_phase(live.state)
        else:
            self._lines.silent(live, client, admission.address)
            client.foretell_phase()
        if isinstance(old, WebSocketClient):
            why = old.drop(CloseCode.POLICY_VIOLATION, "replaced by another connection to this conversation")
            live.watch(asyncio.create_task(why, name=f"{live.session_id}:replaced"))

    def _has_token(self, live: LiveSession, number: int) -> None:
        """Refuse older resume tokens of a session from now on: its client has received this one."""
        marking = asyncio.create_task(self._mark(live.session_id, number), name=f"{live.session_id}:resume token")
        self._marking.add(marking)
        marking.add_done_callback(self._marking.discard)

    async def _mark(self, session_id: str, number: int) -> None:
        try:
            await self._node.use_resume_token(session_id, number)
        except (RedisError, OSError):  # the older token stays valid until the new one is shown
            return

    async def _begin(self, admission: Admission, client: WebSocketClient) -> LiveSession | None:
        live = self._node.welcome(admission.session_id, admission.grant)
        if live is None:  # its shard has moved, or its token was shown to another node before
            await client.send_away(_ELSEWHERE, await self._node.find(admission.session_id))
        return live

    async def _come_back(self, admission: Admission, client: WebSocketClient) -> LiveSession | None:
        """Find a session that is on this node or arrives now. Otherwise sends the client to its owner."""
        node, session_id, address = self._node, admission.session_id, ""
        if node.is_full:
            await client.send_away(DELAYED)
            return None
        if not (self._shares.may_connect(session_id) and self._lines.has_room_for_one_who_returns()):
            await self._refused(client, _TOO_OFTEN)
            return None
        if not node.owns(session_id):
            address = await node.find(session_id)
        if node.owns(session_id) and not await self._uses(admission, client):
            return None
        # Looked up after each wait, since the shard may have moved meanwhile: a session left behind hears nobody.
        live = node.session(session_id)
        if live is None and node.owns(session_id):
            live = await node.promised(session_id)
        if live is None and node.owns(session_id):
            await client.drop(CloseCode.UNKNOWN_SESSION, _GONE)
        elif live is None:
            await client.send_away(_ELSEWHERE, address or await node.find(session_id))
        return live

    async def _uses(self, admission: Admission, client: WebSocketClient) -> bool:
        """Use the resume token. False: the client was refused."""
        try:
            is_newest = await self._node.use_resume_token(admission.session_id, admission.number)
        except (RedisError, OSError):
            await client.send_away(DELAYED)
            return False
        if not is_newest:
            self._node.counters["access_refused"] += 1
            await client.drop(CloseCode.UNKNOWN_SESSION, _GONE)
        return is_newest

    async def _refused(self, client: WebSocketClient, why: str) -> None:
        self._node.counters["sessions_refused"] += 1
        await client.drop(CloseCode.TRY_AGAIN_LATER, why)


def _returning(address: str, resume: Resume) -> Admission:
    return Admission(address, resume.grant, resume.session_id, resume.number, comes_back=True)
