"""Reads pages of sessions from the SQL history, with the filters of projections/summary.py."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, tuple_

from projections.history import tables
from projections.history.fold import Row
from projections.history.store import History
from projections.summary import Wanted

_IDS_AT_ONCE = 500
_session, _turn = tables.sessions.c, tables.turns.c


async def listed(history: History, wanted: Wanted, ids: Iterable[str] | None = None) -> list[tuple[Row, list[Row]]]:
    """Return (row of the session, rows of its turns) for each session of a page. `ids`: list only these sessions; None:
    all sessions. Raises HistoryError if the database fails.

    If there is a next page, the list has more sessions than a page. Pass it to `Wanted.page`, which removes the extra
    sessions. The filter `wanted.state` is not applied: the history does not know which sessions are live.
    """
    found: list[tuple[Row, list[Row]]] = []
    for part in [None] if ids is None else _parts(ids):
        query = _page(wanted) if part is None else _page(wanted).where(_session.session_id.in_(part))
        sessions = [dict(row) for row in await history.rows(query)]
        turns = await turns_of(history, [row["session_id"] for row in sessions])
        found += [(row, turns[row["session_id"]]) for row in sessions]
    return found


async def turns_of(history: History, ids: Iterable[str]) -> dict[str, list[Row]]:
    """Return session id → the rows of its turns, with only the columns that a summary needs."""
    found: dict[str, list[Row]] = defaultdict(list)
    columns = (_turn.session_id, _turn.turn, _turn.response_us, _turn.fallback, _turn.outcome)
    for part in _parts(ids):
        for row in await history.rows(select(*columns).where(_turn.session_id.in_(part))):
            found[row["session_id"]].append(dict(row))
    return found


async def known(history: History, ids: Iterable[str]) -> dict[str, int]:
    """Return session id → its last version in the history. Sessions that the history does not have are left out."""
    found: dict[str, int] = {}
    for part in _parts(ids):
        rows = await history.rows(select(_session.session_id, _session.version).where(_session.session_id.in_(part)))
        found |= {row["session_id"]: row["version"] for row in rows}
    return found


async def whole(history: History, ids: Iterable[str]) -> set[str]:
    """Return the ids of the sessions that have ended according to the history."""
    found: set[str] = set()
    for part in _parts(ids):
        ended = select(_session.session_id).where(_session.session_id.in_(part), _session.ended_us.is_not(None))
        found |= {row["session_id"] for row in await history.rows(ended)}
    return found


def _page(wanted: Wanted) -> Select[Any]:
    slowest = func.coalesce(_of_its_turns(func.max(_turn.response_us)), 0)
    begin, end = wanted.between_us
    query = select(tables.sessions).where(_session.opened_us >= begin, _session.opened_us < end)
    if wanted.text:
        query = query.where(func.lower(_session.session_id).contains(wanted.text, autoescape=True))
    if wanted.outcome:
        ended, phase = _session.end_reason, _session.phase
        query = query.where(or_(ended == wanted.outcome, and_(ended == "", phase == wanted.outcome)))
    if wanted.slower_us:
        query = query.where(slowest >= wanted.slower_us)
    if wanted.is_failed:
        failed = or_(_turn.fallback != "", _turn.outcome == "failed")
        query = query.where(_of_its_turns(func.count(), failed) > 0)
    if wanted.is_interrupted:
        query = query.where(_session.interruptions > 0)
    order: list[ColumnElement[Any]] = [_session.opened_us, _session.session_id]
    if wanted.sort == "slowest":
        order.insert(0, slowest)
    if wanted.after_key:
        query = query.where(tuple_(*order) < tuple_(*map(literal, (*wanted.after, wanted.after_key))))
    return query.order_by(*(column.desc() for column in order)).limit(wanted.size + 1)


def _of_its_turns(what: Any, only: Any = True) -> Any:
    rows = select(what).where(_turn.session_id == _session.session_id)
    return (rows if only is True else rows.where(only)).scalar_subquery()


def _parts(ids: Iterable[str]) -> list[list[str]]:
    wanted = sorted(ids)
    return [wanted[start : start + _IDS_AT_ONCE] for start in range(0, len(wanted), _IDS_AT_ONCE)]
