"""Summaries of sessions for lists: computed from logs or from rows of the history, then filtered, sorted and paged."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from events.envelope import Event
from events.recording import steps
from projections.history.fold import Changes, Row, SessionHistory, new_session

State = Literal["live", "ended", "archived", "file"]
"""Where a session's log is. live, ended: in Redis. archived: only in the history (SQL). file: in a recording."""
Sort = Literal["time", "slowest"]
PAGE = 50
MOST = 500
"""Limit of the number of sessions on a page."""


class BadQueryError(ValueError):
    """A filter in a query cannot be read; the message names the filter and says what to write."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One session in a list; times in microseconds since 1970.

    >>> summary.slowest_turn, summary.slowest_us  # the turn whose answer took longest, from silence to first audio
    (3, 812_000)
    """

    key: str
    """Name of the session in links and commands: its id; for a recording, the file's name (FILE:ID if the file has more
    than one session).
    """
    session_id: str
    state: State
    outcome: str
    """Why the session ended; for a session that has not ended, its phase."""
    opened_us: int
    last_us: int
    turns: int
    slowest_turn: int | None
    slowest_us: int | None
    interruptions: int
    failures: int
    """Number of turns that failed, or that were answered with a fallback."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A query for one page of the list of sessions: filters, order, size, and the position at which the page begins."""

    text: str = ""
    """Part of a session's id or key, in lower case; empty: all sessions."""
    state: str = ""
    outcome: str = ""
    day: str = ""
    slower_us: int = 0
    """Lower limit for the latency of the slowest turn, in microseconds."""
    is_failed: bool = False
    is_interrupted: bool = False
    sort: Sort = "time"
    after: tuple[int, ...] = ()
    after_key: str = ""
    """`after` (numbers) and `after_key` (the session's key) are the sort key of the last session on the previous page
    (see `place`). Empty: this is the first page.
    """
    size: int = PAGE
    between_us: tuple[int, int] = field(default=(0, 2**63 - 1))
    """(from, before): limits for the time when a session was opened, in microseconds since 1970."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Wanted":
        """Read the filters from the query of a URL, such as `?day=2026-11-29&failed=1&sort=slowest`.

        Raises BadQueryError if a filter cannot be read.
        """
        if has_nul := [name for name, text in query.items() if "\0" in text]:
            raise BadQueryError(f"{has_nul[0][:40]}: leave out the NUL")
        order = query.get("sort", "time")
        if order not in ("time", "slowest"):
            raise BadQueryError(f"sort={order[:40]}: write time or slowest")
        sort: Sort = "slowest" if order == "slowest" else "time"
        after, after_key = _cursor(query.get("after", ""), sort)
        return cls(
            text=query.get("q", "").casefold(),
            state=query.get("state", ""),
            outcome=query.get("outcome", ""),
            day=query.get("day", ""),
            slower_us=_number(query, "slower_ms") * 1_000,
            is_failed=query.get("failed", "") == "1",
            is_interrupted=query.get("interrupted", "") == "1",
            sort=sort,
            after=after,
            after_key=after_key,
            size=min(MOST, _number(query, "size") or PAGE),
            between_us=_day(query.get("day", "")),
        )

    def matches(self, one: Summary) -> bool:
        """Whether a session passes the filters, and comes after the previous page (`after`, `after_key`)."""
        return (
            self.between_us[0] <= one.opened_us < self.between_us[1]
            and (not self.text or self.text in one.key.casefold() or self.text in one.session_id.casefold())
            and (not self.state or self.state == one.state)
            and (not self.outcome or self.outcome == one.outcome)
            and (one.slowest_us or 0) >= self.slower_us
            and (not self.is_failed or one.failures > 0)
            and (not self.is_interrupted or one.interruptions > 0)
            and (not self.after_key or self.place(one) < (*self.after, self.after_key))
        )

    def place(self, one: Summary) -> tuple[int | str, ...]:
        """Return the sort key of a session in the wanted order. Pages list the session with the highest key first."""
        return (one.slowest_us or 0, one.opened_us, one.key) if self.sort == "slowest" else (one.opened_us, one.key)

    def cursor(self, one: Summary) -> str:
        """Return the cursor of a session. In a URL, `after=CURSOR` asks for the page that begins after this session."""
        return "~".join(map(str, self.place(one)))

    def page(self, found: Iterable[Summary]) -> tuple[list[Summary], str]:
        """Return the page of the matching sessions, and the cursor for the next page; an empty cursor: no next page."""
        matching = sorted((one for one in found if self.matches(one)), key=self.place, reverse=True)
        page = matching[: self.size]
        return page, self.cursor(page[-1]) if len(matching) > len(page) else ""


def summaries(events: Iterable[Event], name: str) -> list[Summary]:
    """Summarise each session of a recording; `name` is the recording's file name.

    >>> summaries(recording.events(), "call.jsonl")[0].turns
    2
    """
    logs: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        logs[event.session_id].append(event)
    return [summary_of(log, name if len(logs) == 1 else f"{name}:{one}", "file") for one, log in logs.items()]


def summary_of(log: Sequence[Event], key: str, state: State) -> Summary:
    """Summarise the log of one session. Versions may be missing or out of order, as in a damaged file.

    `key`: name of the session in links and commands. `state`: live, ended, archived or in a file (State).
    """
    changes, history = Changes(), SessionHistory(new_session(log[0].session_id, 0))
    for step in steps(log):
        history.take([(event, b"") for event in step], changes, may_have_gaps=True)
    return summary(history.session, changes.turns.values(), key, state)


def summary(session: Row, turns: Iterable[Row], key: str, state: State) -> Summary:
    """Summarise a session from its row and the rows of its turns in the history. `key`, `state`: as in `summary_of`."""
    turns = list(turns)
    timed = [(row["response_us"], -row["turn"]) for row in turns if row["response_us"] is not None]
    slowest_us, slowest_turn = max(timed, default=(None, None))
    return Summary(
        key=key,
        session_id=session["session_id"],
        state=state,
        outcome=session["end_reason"] or session["phase"],
        opened_us=session["opened_us"],
        last_us=session["last_us"],
        turns=session["turns"],
        slowest_turn=None if slowest_turn is None else -slowest_turn,
        slowest_us=slowest_us,
        interruptions=session["interruptions"],
        failures=sum(bool(row["fallback"]) or row["outcome"] == "failed" for row in turns),
    )


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BadQueryError(f"{name}={text[:40]}: write a whole number")
    return int(text or 0)


def _day(text: str) -> tuple[int, int]:
    if not text:
        return Wanted().between_us
    try:
        begin = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        end = begin + timedelta(days=1)
    except (ValueError, OverflowError) as error:
        raise BadQueryError(f"day={text[:40]}: write a day of UTC, such as 2026-11-29") from error
    return int(begin.timestamp()) * 1_000_000, int(end.timestamp()) * 1_000_000


def _cursor(text: str, sort: Sort) -> tuple[tuple[int, ...], str]:
    """Parse a cursor of a page of sessions (`after=CURSOR`). Returns the sort key of the session after which the page
    begins: numbers, and the key of the session. Raises BadQueryError if the text is not a cursor of this order.
    """
    if not text:
        return (), ""
    count = 2 if sort == "slowest" else 1
    *numbers, key = text.split("~", count)
    if len(numbers) != count or not key or not all(map(_fits_in_sql, numbers)):
        raise BadQueryError(f"after={text[:40]}: take `next` of the page before, in the same order")
    return tuple(map(int, numbers)), key


def _fits_in_sql(number: str) -> bool:
    return number.isascii() and number.isdigit() and len(number) < 20 and int(number) < 2**63
