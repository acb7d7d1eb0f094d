"""How tests show tokens: as the subprotocols of a WebSocket, as docs/websocket.md says."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from orchestrator.gateway.access.own_tokens import OwnTokens
from orchestrator.grant import EVERYTHING, Grant
from orchestrator.runtime.node import Node


def joining(ids: Mapping[str, str], token: str = "") -> dict[str, Any]:
    """The options of `ws_connect` for a client that comes back with these ids, or shows this token."""
    shown = [f"resume.{ids['resume_token']}"] if ids.get("resume_token") else []
    shown += [f"bearer.{token}"] if token else []
    query = {name: value for name, value in ids.items() if name != "resume_token"}
    return {"params": query} | ({"protocols": ["orch.v1", *shown]} if shown else {})


async def refused(http: aiohttp.ClientSession, url: str, ids: Mapping[str, str] | None = None, token: str = "") -> int:
    """The HTTP status with which a client is refused before its WebSocket is accepted; 101: it was accepted."""
    try:
        socket = await http.ws_connect(f"{url}/orchestrate", **joining(ids or {}, token))
    except aiohttp.WSServerHandshakeError as error:
        return error.status
    await socket.close()
    return 101


def resume_ids(node: Node, session_id: str, number: int = 1, grant: Grant = EVERYTHING) -> dict[str, str]:
    """The ids with which a client of this session comes back."""
    token = OwnTokens(lambda: node.secret).resume(session_id, number, grant)
    return {"session_id": session_id, "resume_token": token}


def is_same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two `session` messages name the same session, each with a resume token of its own."""
    return one["session_id"] == other["session_id"] and one["resume_token"] != other["resume_token"]
