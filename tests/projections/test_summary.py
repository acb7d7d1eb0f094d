"""Shows which queries of a list of sessions are refused, before they reach a library or a database."""

import pytest

from projections.summary import BadQueryError, Summary, Wanted

FAR = 2**63


@pytest.mark.parametrize(
    ("after", "sort"),
    [
        ("99999999999999999999~x", "time"),
        (f"{FAR}~x", "time"),
        (f"{FAR - 1}~{FAR}~x", "slowest"),
        (f"{'9' * 5_000}~x", "time"),
        ("5~x", "slowest"),
        ("5~", "time"),
        ("5~7~", "slowest"),
        ("x~5~7", "slowest"),
        ("-5~x", "time"),
        ("²~x", "time"),
        ("~x", "time"),
    ],
)
def test_a_cursor_that_no_page_of_this_order_gave_is_refused(after: str, sort: str) -> None:
    """Numbers beyond 64 bits, or too few of them, would fail in a comparison or in SQL."""
    with pytest.raises(BadQueryError, match="take `next` of the page before"):
        Wanted.from_query({"after": after, "sort": sort})


@pytest.mark.parametrize("sort", ["time", "slowest"])
@pytest.mark.parametrize("key", ["auto_session_1", "7~x", "5~7~x.jsonl"])
def test_the_cursor_of_a_session_leads_behind_it(key: str, sort: str) -> None:
    """Also where its key looks like a number of the cursor."""
    one = Summary(key, key, "file", "", FAR - 1, 9, 1, 1, 812_000, 0, 0)
    wanted = Wanted.from_query({"sort": sort})
    behind = Wanted.from_query({"sort": sort, "after": wanted.cursor(one)})
    assert (*behind.after, behind.after_key) == wanted.place(one)
    assert not behind.matches(one)


@pytest.mark.parametrize("name", ["q", "state", "outcome", "after"])
def test_a_filter_with_a_nul_is_refused(name: str) -> None:
    """PostgreSQL takes none in a text."""
    with pytest.raises(BadQueryError, match=f"{name}: leave out the NUL"):
        Wanted.from_query({name: "5~a\0"})
