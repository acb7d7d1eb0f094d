"""Conversations of a service: live and ended ones from Redis, archived ones from the SQL history."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from redis.asyncio import Redis

from events.codec import decode
from events.envelope import Event
from events.recording import steps
from orchestrator.console.library import NoSuchSessionError
from orchestrator.replay.replay import REDUCER_ERRORS
from orchestrator.runtime.redis.keys import Keys
from orchestrator.runtime.redis.logs import (
    UnknownSessionError,
    follow_steps,
    last_versions,
    list_sessions,
    read_lines,
    read_log,
)
from projections.history.listing import known, listed, whole
from projections.history.store import History
from projections.summary import State, Summary, Wanted, summary, summary_of

FRESH_S = 1.0
"""How long the list of sessions in Redis is kept: reading it scans all keys."""
PACE_S = 0.1
"""Pause between two readings of a followed session: steps committed meanwhile come together. A reader sees no
difference, and viewers of a busy service cost less.
"""
_OF_REDIS = ("live", "ended")


class Stored:
    """The sessions of one Redis and, if there is one, of its history."""

    def __init__(self, redis: Redis, keys: Keys, history: History | None) -> None:
        self._redis, self._keys, self._history = redis, keys, history
        self._read_s = -FRESH_S
        self._is_live: dict[str, bool] = {}
        """Session in Redis → whether it is live."""
        self._from_logs: dict[str, tuple[int, Summary | str]] = {}
        """Session → last version and summary, of sessions that the history does not have, or not to their end. A text
        instead of the summary says why the log cannot be read.
        """

    @property
    def unreadable(self) -> dict[str, str]:
        """Session → why its log in Redis cannot be read, as after a rollback to an older orch."""
        return {one: found for one, (_, found) in self._from_logs.items() if isinstance(found, str)}

    async def page(self, wanted: Wanted) -> tuple[list[Summary], str]:
        await self._look()
        found = {one.key: one for one in await self._ahead_of_history()}
        if self._history is not None:
            ids = [one for one in self._is_live if self._state(one) == wanted.state]
            archived = await self._archived(wanted, ids if wanted.state in _OF_REDIS else None)
            for one in archived:  # the history may have got a session since it was asked for it
                if one.key not in found or one.last_us >= found[one.key].last_us:
                    found[one.key] = one
        return wanted.page(found.values())

    async def log(self, key: str) -> list[Event]:
        try:
            return await read_log(self._redis, self._keys, key)
        except UnknownSessionError:
            lines = await self._history.lines(key) if self._history is not None else []
        if not lines:
            raise NoSuchSessionError(f"no session {key!r} in Redis or in the history")
        return [decode(line) for line in lines]

    async def state(self, key: str) -> State:
        await self._look()
        return self._state(key)

    def source(self, key: str) -> str:
        return key

    async def follow(self, key: str, after: int) -> AsyncGenerator[list[list[Event]], None]:
        async with aclosing(follow_steps(self._redis, self._keys, key, after)) as news:
            async for found in news:
                new = [step for lines in found for step in steps(map(decode, lines))]
                yield new
                if any(event.type == "SESSION_ENDED" for step in new for event in step):  # type: ignore[attr-defined]
                    return
                await asyncio.sleep(PACE_S)

    def _state(self, session_id: str) -> State:
        is_live = self._is_live.get(session_id)
        return "archived" if is_live is None else "live" if is_live else "ended"

    async def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._read_s >= FRESH_S:
            self._is_live = await list_sessions(self._redis, self._keys)
            self._read_s = now_s

    async def _ahead_of_history(self) -> list[Summary]:
        """Summaries of the sessions of which Redis has more than the history, from their logs."""
        history = self._history
        done = await whole(history, self._is_live) if history is not None else set[str]()
        rest = [one for one in self._is_live if one not in done]
        there = await known(history, rest) if history is not None else {}
        last = await last_versions(self._redis, self._keys, rest)
        versions = {one: version for one, version in last.items() if version > there.get(one, 0)}
        for session_id, version in versions.items():
            if self._from_logs.get(session_id, (0,))[0] != version:
                self._from_logs[session_id] = version, await self._from_log(session_id)
        self._from_logs = {one: self._from_logs[one] for one in versions}
        summaries = [one for _, one in self._from_logs.values() if isinstance(one, Summary)]
        return [replace(one, state=self._state(one.key)) for one in summaries]

    async def _from_log(self, session_id: str) -> Summary | str:
        """The summary of a session from its log in Redis, or why the log cannot be read."""
        lines = await read_lines(self._redis, self._keys, session_id)
        try:
            return summary_of([decode(line) for line in lines], session_id, self._state(session_id))
        except REDUCER_ERRORS as error:
            return f"{session_id}: {str(error) or type(error).__name__}"

    async def _archived(self, wanted: Wanted, ids: list[str] | None) -> list[Summary]:
        """A page's worth of sessions from the history. Reads on where the state filters too many out."""
        assert self._history is not None, "the caller has looked"
        found: list[Summary] = []
        while True:
            rows = await listed(self._history, wanted, ids)
            page = [self._summary(*row) for row in rows]
            found += [one for one in page if wanted.matches(one)]
            if ids is not None or len(page) <= wanted.size or len(found) > wanted.size:
                return found
            *after, key = wanted.place(page[-1])
            wanted = replace(wanted, after=tuple(map(int, after)), after_key=str(key))

    def _summary(self, session: dict[str, object], turns: list[dict[str, object]]) -> Summary:
        key = str(session["session_id"])
        return summary(session, turns, key, self._state(key))
