"""The data of the console's pages: the same as the command line's, for every recording; and what it refuses."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.console.access import PublicAddressError, refuse_public
from orchestrator.console.library import Folder
from projections.exports import FORMS
from tests.cli.service import ROOT, environment, orch
from tests.console.conftest import FIXTURES, serving

CALLS = ("barge_in.jsonl", "real_barge_in.jsonl", "failures/too_few_words.jsonl", "failures/crash_in_speaking.jsonl")


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(ROOT)
    return environment(tmp_path)


async def get(url: str, *, status: int = 200) -> Any:
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json(content_type=None)


async def text(url: str) -> str:
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.text()


async def post(url: str, body: Any, *, status: int = 200, **headers: str) -> Any:
    async with aiohttp.ClientSession() as client, client.post(url, json=body, headers=headers) as answer:
        assert answer.status == status, await answer.text()
        return await answer.text() if status == 200 else (await answer.json())["problem"]


def at(console: str, call: str, more: str = "") -> str:
    return f"{console}/api/sessions/{call.replace('/', '%2F')}{more}"


@pytest.mark.parametrize("call", CALLS)
async def test_a_page_says_what_orch_show_says(call: str, console: str, env: dict[str, str]) -> None:
    """Event by event, and in the data of the page."""
    shown = orch("show", str(FIXTURES / call), "--json", env=env).stdout
    assert [json.loads(line) for line in (await text(at(console, call, "/log"))).splitlines()] == [
        json.loads(line) for line in shown.splitlines()
    ]
    page = await get(at(console, call))
    events = [json.loads(line) for line in shown.splitlines()]
    assert [one["version"] for one in page["events"]] == [one["version"] for one in events]
    assert [one["at"] + page["opened_us"] for one in page["events"]] == [one["at_us"] for one in events]


@pytest.mark.parametrize("call", CALLS)
async def test_why_is_the_json_of_orch_why(call: str, console: str, env: dict[str, str]) -> None:
    """At each kind of place."""
    for place in ("STATE_CHANGED[3]", "12", "1s"):
        told = json.loads(orch("why", str(FIXTURES / call), place, "--json", env=env).stdout)
        assert await get(at(console, call, f"/why?at={place}")) == told


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("change", ["interruption.min_words=2", "endpointing.incomplete_ms=200"])
async def test_a_what_if_is_the_json_of_orch_replay(call: str, change: str, console: str, env: dict[str, str]) -> None:
    """Of one session; of a selection, the lines of --jsonl."""
    file = str(FIXTURES / call)
    told = json.loads(orch("replay", file, "--set", change, "--json", env=env).stdout)
    (part, field), value = change.partition("=")[0].split("."), json.loads(change.partition("=")[2])
    settings = {part: {field: value}}
    found = json.loads(await post(at(console, call, "/what-if"), {"settings": settings}))
    assert found["report"] == told
    assert found["new"]["summary"]["session_id"] == found["old"]["summary"]["session_id"]

    lines = (await post(f"{console}/api/what-if", {"settings": settings, "query": {"q": call}})).splitlines()
    jsonl = orch("replay", file, "--set", change, "--jsonl", env=env).stdout.splitlines()
    line = next(one for one in map(json.loads, lines) if one["key"] == call)
    del line["key"]
    assert line.pop("has_more") is False
    assert [line] == [json.loads(one) for one in jsonl]
    assert json.loads(lines[-1])["sessions"] == len(lines) - 1


@pytest.mark.parametrize("form", FORMS)
async def test_an_export_is_the_file_of_orch_export(
    form: str, console: str, env: dict[str, str], tmp_path: Path
) -> None:
    """In each format, redacted as well."""
    for redact, option in (("", "none"), ("&redact=1", "default")):
        file = tmp_path / "out"
        orch("export", str(FIXTURES / CALLS[0]), "--format", form, "--redact", option, "-o", str(file), env=env)
        async with (
            aiohttp.ClientSession() as client,
            client.get(at(console, CALLS[0], f"/export?format={form}{redact}")) as answer,
        ):
            assert "attachment" in answer.headers["Content-Disposition"]
            data = await answer.read()
        if form == "jsonl":  # the header of a fixture tells a story
            data, written = data.partition(b"\n")[2], file.read_bytes().partition(b"\n")[2]
            assert data == written
        else:
            assert data == file.read_bytes()


async def test_filters_and_pages_select_sessions(console: str) -> None:
    """Each page continues behind the one before; no session twice, none missing."""
    everything = (await get(f"{console}/api/sessions?size=500"))["sessions"]
    assert len(everything) > 100
    found, after = [], ""
    while True:
        page = await get(f"{console}/api/sessions?size=7&sort=slowest&after={after}")
        found += page["sessions"]
        if not (after := page["next"]):
            break
    assert sorted(one["key"] for one in found) == sorted(one["key"] for one in everything)
    waits = [one["slowest_us"] or 0 for one in found]
    assert waits == sorted(waits, reverse=True)
    for query, passes in {
        "failed=1": lambda one: one["failures"] > 0,
        "interrupted=1": lambda one: one["interruptions"] > 0,
        "slower_ms=1000": lambda one: (one["slowest_us"] or 0) >= 1_000_000,
        "outcome=goodbye": lambda one: one["outcome"] == "goodbye",
        "day=2026-11-22": lambda one: one["opened_us"] > 1e12,
        "q=BARGE": lambda one: "barge" in one["key"],
    }.items():
        some = (await get(f"{console}/api/sessions?size=500&{query}"))["sessions"]
        assert some == [one for one in everything if passes(one)], query
        assert 0 < len(some) < len(everything), query


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/sessions/nobody", 404, "no session 'nobody'"),
        ("/api/sessions/barge_in.jsonl/why?at=9999", 404, "nothing in this log is at 9999; it ends at version 131"),
        ("/api/sessions/barge_in.jsonl/why?at=soon", 400, "no such place: 'soon'"),
        ("/api/sessions/barge_in.jsonl/export?format=pdf", 400, "format=pdf: write jsonl"),
        ("/api/sessions?day=yesterday", 400, "day=yesterday: write a day of UTC"),
        ("/api/sessions?sort=size", 400, "sort=size: write time or slowest"),
        ("/api/sessions?slower_ms=fast", 400, "slower_ms=fast: write a whole number"),
        ("/api/sessions?after=x", 400, "after=x: take `next`"),
        ("/api/sessions?after=99999999999999999999~x", 400, "after=99999999999999999999~x: take `next`"),
        ("/api/sessions?after=5~x&sort=slowest", 400, "after=5~x: take `next`"),
    ],
)
async def test_a_request_that_cannot_be_answered_gets_a_sentence(
    path: str, status: int, words: str, console: str
) -> None:
    assert words in (await get(console + path, status=status))["problem"]


async def test_a_change_that_cannot_be_tried_gets_a_sentence(console: str) -> None:
    url = at(console, CALLS[0], "/what-if")
    wrong = {"settings": {"interruption": {"min_word": 2}}}
    assert "did you mean min_words?" in await post(url, wrong, status=400)
    assert "version 38 is no input" in await post(url, {"without": [38]}, status=400)
    assert "as an object" in await post(url, {"settings": [1]}, status=400)


async def test_a_change_over_a_list_goes_on_behind_a_session_that_cannot_be_folded(tmp_path: Path) -> None:
    """It is named with the reason, and no part of the sum."""
    lines = (FIXTURES / CALLS[0]).read_bytes().splitlines(keepends=True)
    for name, kept in {"a.jsonl": lines, "b.jsonl": lines[:20] + lines[60:], "c.jsonl": lines}.items():
        (tmp_path / name).write_bytes(b"".join(kept))
    async with serving(Folder(tmp_path)) as console:
        listed = [one["key"] for one in (await get(f"{console}/api/sessions"))["sessions"]]
        assert sorted(listed) == ["a.jsonl", "b.jsonl", "c.jsonl"]
        asked = {"settings": {"interruption": {"min_words": 2}}}
        *each, total = map(json.loads, (await post(f"{console}/api/what-if", asked)).splitlines())
    assert [one["key"] for one in each] == listed
    problems = {one["key"]: one["problem"] for one in each if "problem" in one}
    assert problems.keys() == {"b.jsonl"}
    assert "does not follow from what is before it" in problems["b.jsonl"]
    assert total["sessions"] == 2


async def test_a_change_over_a_list_needs_filters_that_can_be_read(console: str) -> None:
    for query in (5, ["q"], {"q": 5}):
        assert "query as an object" in await post(f"{console}/api/what-if", {"query": query}, status=400)


async def test_only_the_consoles_own_pages_are_answered(console: str) -> None:
    """A foreign page cannot ask, neither by a name of its own for this address nor by a form."""
    async with aiohttp.ClientSession() as client:
        async with client.get(f"{console}/api/sessions", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 421
        async with client.get(console) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
    assert "another page" in await post(f"{console}/api/what-if", {}, status=403, Origin="https://evil.example")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_the_console_listens_on_this_machine_alone(host: str) -> None:
    with pytest.raises(PublicAddressError, match="only on this machine"):
        refuse_public(host)
    for local in ("127.0.0.1", "::1", "localhost"):
        refuse_public(local)


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The others are listed all the same."""
    (tmp_path / "good.jsonl").write_bytes((FIXTURES / CALLS[0]).read_bytes())
    (tmp_path / "bad.jsonl").write_text("not a recording\n")
    async with serving(Folder(tmp_path)) as console:
        found = await get(f"{console}/api/sessions")
        assert [one["key"] for one in found["sessions"]] == ["good.jsonl"]
        assert "bad.jsonl" in found["unreadable"]["bad.jsonl"]
        assert "not the header" in (await get(f"{console}/api/sessions/bad.jsonl", status=422))["problem"]


async def test_a_link_that_leads_nowhere_is_named_and_a_hidden_file_is_not_listed(tmp_path: Path) -> None:
    """Such as Emacs' lock file. The other recordings are shown; `orch replay` of the folder finds them, too."""
    (tmp_path / "good.jsonl").write_bytes((FIXTURES / CALLS[0]).read_bytes())
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    (tmp_path / ".#good.jsonl").symlink_to("olga@machine.4711")
    async with serving(Folder(tmp_path)) as console:
        found = await get(f"{console}/api/sessions")
        assert [one["key"] for one in found["sessions"]] == ["good.jsonl"]
        assert found["unreadable"].keys() == {"gone.jsonl"}
        assert "No such file" in (await get(f"{console}/api/sessions/gone.jsonl", status=422))["problem"]
    (tmp_path / "gone.jsonl").unlink()
    assert orch("replay", str(tmp_path), env=environment(tmp_path)).exit_code == 0
