"""Which session an event of an outside producer belongs to: the three routing rules, in the one place that knows them.

1. The id is a live session. 2. Else it is a known handler, and the handler's session is live. 3. Else: nobody's.
"""

from collections.abc import Awaitable, Callable

from events.envelope import Input

IsLive = Callable[[str], Awaitable[bool]]
SessionOfHandler = Callable[[str], Awaitable[str]]


class UnroutableError(Exception):
    """An event belongs to no session; the message says which rules failed."""


async def route(event: Input, is_live: IsLive, session_of: SessionOfHandler) -> Input:
    """The event, addressed to the session it belongs to. Raises UnroutableError."""
    if event.session_id and await is_live(event.session_id):
        return event
    for handler_id in dict.fromkeys((event.session_id, event.handler_id)):
        session_id = await session_of(handler_id) if handler_id else ""
        if session_id and await is_live(session_id):
            return event.model_copy(update={"session_id": session_id, "handler_id": handler_id})
    raise UnroutableError(
        f"{type(event).model_fields['type'].default} belongs to no session: "
        f"rule 1: {event.session_id or '(no session_id)'} is no live session; "
        f"rule 2: {event.handler_id or event.session_id or '(no handler_id)'} is no handler of a live session"
    )
