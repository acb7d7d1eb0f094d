"""The console in a real browser: each task of an engineer with a call that went wrong, by keyboard alone."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from events.codec import encode
from events.recording import Header, dump, parse, steps
from orchestrator.console.library import Folder
from tests.browser.chromium import Chromium, chromium_path
from tests.console.conftest import FIXTURES, serving
from tests.outputs.test_hostile_text import HOSTILE, a_log, never_in

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
    pytest.mark.asyncio(loop_scope="module"),
]
LIBRARY = Folder(FIXTURES)
STOP = [step[0].version for step in steps(parse((FIXTURES / "barge_in.jsonl").read_bytes(), "").events())].index(79)
"""The step in which the user interrupts."""
TOOLS = ("MODEL_RESPONDED", "TOOL_CALLED", "TOOL_RETURNED")
MAIN = "document.querySelector('main').innerText"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_browser() -> AsyncIterator[Chromium]:
    async with Chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console() -> AsyncIterator[str]:
    async with serving(LIBRARY) as url:
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def page(one_browser: Chromium) -> AsyncIterator[Chromium]:
    one_browser.console.clear()
    await one_browser.view(1280, 900)
    yield one_browser
    assert one_browser.console == []


async def open_at(page: Chromium, address: str, sign: str) -> None:
    """Open a page and wait until it shows a sign of its content."""
    await page.goto(address)
    await page.wait_for(f"document.querySelector({json.dumps(sign)}) !== null")


async def tab_to(page: Chromium, selector: str) -> None:
    """Press Tab until the element has the focus: the keyboard reaches it."""
    for _ in range(150):
        if await page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
            return
        await page.press("Tab")
    raise AssertionError(f"the keyboard does not reach {selector}")


async def type_keys(page: Chromium, text: str) -> None:
    for letter in text:
        await page.press(letter, letter)


async def test_the_slowest_turn_of_a_day_is_found_from_the_list(page: Chromium, console: str) -> None:
    """Day and order are in the address; the link of the slowest turn shows where its time went."""
    await open_at(page, console, "tbody tr")
    await tab_to(page, "input[name=day]")
    await type_keys(page, "11222026")
    await page.wait_for("location.search === '?day=2026-11-22'")
    await tab_to(page, "select[name=sort]")
    await page.press("ArrowDown")
    await page.press("Enter", "\r")
    await page.wait_for("location.search === '?day=2026-11-22&sort=slowest'")
    await page.wait_for("document.querySelector('td[data-name=slowest] a')?.textContent === '570 ms'")
    assert await page.evaluate("document.querySelectorAll('tbody tr').length") == 4
    await tab_to(page, "td[data-name=slowest] a")
    await page.press("Enter", "\r")
    await page.wait_for("document.querySelector('.waterfall') !== null")
    text = await page.evaluate(MAIN)
    assert "The first audio came 570 ms after the end of the words." in text
    assert "transcription" in text


async def test_an_interrupted_answer_shows_which_words_were_heard(page: Chromium, console: str) -> None:
    """Beside the lanes, from the list of interrupted sessions; the words that nobody heard are struck out."""
    await open_at(page, f"{console}/?q=barge_in.jsonl&sort=slowest", "tbody tr")
    await tab_to(page, "input[name=interrupted]")
    await page.press(" ", " ")
    await page.wait_for("location.search === '?q=barge_in.jsonl&sort=slowest&interrupted=1'")
    await tab_to(page, "td.whole a[href='/sessions/barge_in.jsonl']")
    await page.press("Enter", "\r")
    heard, unheard = "document.querySelector('.heard').innerText", "document.querySelector('.unheard').innerText"
    # A transcript has no text until a frame has found it in sight (content-visibility).
    await page.wait_for(f"document.querySelector('.said.agent') !== null && {heard} !== ''")
    assert await page.evaluate(heard) == "We are open every"
    assert (
        await page.evaluate(unheard) == "day from nine in the morning to six in the evening, except on public holidays."
    )
    assert "interrupted after 1.4 s" in await page.evaluate(MAIN)


async def test_the_cursor_goes_through_states_causes_and_views(page: Chromium, console: str) -> None:
    """Why did the agent stop? Step to the stop, look at the state, and ask for the proven causes."""
    await open_at(page, f"{console}/sessions/barge_in.jsonl", ".said.agent")
    await tab_to(page, "input[name=scrub]")
    await page.press("End")
    await page.wait_for(f"{MAIN}.includes('ENDED (goodbye)') || {MAIN}.includes('version 12')")
    await page.press("Home")
    for _ in range(STOP):
        await page.press("ArrowRight")
    await page.wait_for("location.search === '?v=79'")  # the address follows the cursor
    await tab_to(page, ".events a[href*='v=81']")
    assert "USER_INTERRUPTED" in await page.evaluate(MAIN)
    await page.press("Enter", "\r")
    await tab_to(page, "nav.views a[href*='view=state']")
    await page.press("Enter", "\r")
    await page.wait_for(f"{MAIN}.includes('What the step changed')")
    changed = await page.evaluate("document.querySelector('dl.fields').innerText")
    assert "SPEAKING → INTERRUPT" in changed.replace("\n", " ")
    await tab_to(page, "nav.views a[href*='view=why']")
    await page.press("Enter", "\r")
    await page.wait_for("document.querySelector('ol.causes') !== null")
    assert "✓ without it, it is decided otherwise" in await page.evaluate(MAIN)
    await tab_to(page, "ol.causes a")
    await page.press("Enter", "\r")
    assert await page.evaluate("new URLSearchParams(location.search).get('view')") == "why"


async def test_a_policy_is_tried_on_one_call_and_on_all_of_a_day(page: Chromium, console: str) -> None:
    """The address holds the change, so the link shows the same to a colleague."""
    name = "failures/words_lost_in_the_interruption.jsonl"
    where = f"{console}/sessions/{name.replace('/', '%2F')}?view=what-if"
    await open_at(page, where, "form.policy")
    await tab_to(page, "input[name=slider]")
    for _ in range(2):
        await page.press("ArrowRight")
    await page.wait_for("location.search.endsWith('set=interruption.min_words%3D2')")
    await page.wait_for("document.querySelector('.beside .differs') !== null")
    text = await page.evaluate(MAIN)
    is_said = text.index("results of services and playback are simulated")
    assert is_said < text.index("median wait for an answer")
    assert await page.evaluate("document.querySelectorAll('table.changes tbody tr').length") > 1
    assert await page.evaluate("document.querySelectorAll('.timeline canvas').length") == 3

    await open_at(page, f"{console}/?day=1970-01-01&set=interruption.min_words%3D2", "form.policy")
    await tab_to(page, "form.policy button")
    await page.press("Enter", "\r")
    await page.wait_for(f"{MAIN}.includes('sessions decide otherwise.')", timeout_s=20)
    named = await page.evaluate("[...document.querySelectorAll('details ul a')].map((link) => link.textContent)")
    assert name in named


async def test_a_policy_is_tried_also_behind_a_call_that_cannot_be_folded(page: Chromium, tmp_path: Path) -> None:
    """The table has the others; the call is named below it, with the reason."""
    lines = (FIXTURES / "barge_in.jsonl").read_bytes().splitlines(keepends=True)
    for name, kept in {"a.jsonl": lines, "b.jsonl": lines[:20] + lines[60:], "c.jsonl": lines}.items():
        (tmp_path / name).write_bytes(b"".join(kept))
    async with serving(Folder(tmp_path)) as url:
        await open_at(page, f"{url}/?set=interruption.min_words%3D2", "form.policy")
        await tab_to(page, "form.policy button")
        await page.press("Enter", "\r")
        await page.wait_for(f"{MAIN}.includes('of 2 sessions decide otherwise.')", timeout_s=20)
        below = "document.querySelector('table.changes ~ p.bad')"
        assert (await page.evaluate(f"{below}.innerText")).startswith("b.jsonl is not in the table: ")
        assert await page.evaluate(f"{below}.querySelector('a').pathname") == "/sessions/b.jsonl"


async def test_a_dropped_recording_opens(page: Chromium, console: str, tmp_path: Path) -> None:
    """On any page; a file that is no recording gets a sentence."""
    file = tmp_path / "from a colleague.jsonl"
    file.write_bytes((FIXTURES / "real_call.jsonl").read_bytes())
    await open_at(page, console, "tbody tr")
    await page.drop(file)
    await page.wait_for("document.querySelector('.said') !== null")
    assert await page.evaluate("document.querySelector('h1').innerText") == "dropped/from a colleague.jsonl"
    (tmp_path / "notes.txt").write_text("buy milk")
    await page.drop(tmp_path / "notes.txt")
    await page.wait_for("document.querySelector('[role=alert]')?.innerText.includes('notes.txt')")
    page.console.clear()  # the browser notes the refusal


async def test_a_recording_opens_by_keyboard(page: Chromium, console: str, tmp_path: Path) -> None:
    """Tab reaches the field, Enter opens the browser's dialogue, and its file opens as a dropped one does."""
    await open_at(page, console, "tbody tr")
    await tab_to(page, "input[type=file]")
    assert await page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle") == "solid"
    await page.choose_file("Enter", FIXTURES / "real_call.jsonl")
    await page.wait_for("document.querySelector('.said') !== null")
    assert await page.evaluate("document.querySelector('h1').innerText") == "dropped/real_call.jsonl"
    await open_at(page, console, "tbody tr")
    (tmp_path / "notes.jsonl").write_text("buy milk")
    await tab_to(page, "input[type=file]")
    await page.choose_file("Enter", tmp_path / "notes.jsonl")
    await page.wait_for("document.querySelector('[role=alert]')?.innerText.includes('notes.jsonl')")
    page.console.clear()  # the browser notes the refusal


async def test_tools_and_the_model_are_shown_in_the_lanes_and_at_each_step(page: Chromium, console: str) -> None:
    """A tool's bar has its name and result, also if the user interrupts; each step, what was asked and answered."""
    name = "failures/tool_result_after_the_interruption.jsonl"
    where = f"{console}/sessions/{name.replace('/', '%2F')}"
    await open_at(page, f"{where}?view=turn&turn=1", ".waterfall")
    tool, model = "execute_tool create_reservation", "chat local"
    bars = {bar["name"]: bar for bar in await page.evaluate("orch.session.bars")}
    assert (bars[tool]["lane"], bars[tool]["turn"], bars[tool]["label"]) == ("THINK", 1, '{"order":1}')
    assert (bars[model]["lane"], bars[model]["turn"]) == ("THINK", 1)
    waterfall = await page.evaluate("document.querySelector('.waterfall').innerText")
    assert all(name.replace("_", " ") in waterfall for name in (tool, model))
    shown = {
        "MODEL_RESPONDED": 'response\n{"tool_calls":[{"name":"create_reservation","arguments":{"people":6}}]}',
        "TOOL_CALLED": 'arguments\n{"people":6}',
        "TOOL_RETURNED": 'result\n{"order":1}',
    }
    for kind, words in shown.items():
        event = await page.evaluate(f"orch.session.events.find((event) => event.name === '{kind}')")
        assert event["lane"] == "THINK"
        await open_at(page, f"{where}?v={event['version']}", ".events")
        assert words in await page.evaluate("document.querySelector('dl.fields').innerText")


async def test_hostile_text_is_text(page: Chromium, tmp_path: Path) -> None:
    """Markup does not run, marks of direction reorder nothing, terminal escapes are visible, in all views: of users,
    services, models and tools.
    """
    html = "<img src=x onerror=window.owned=1><script>window.owned=1</script>"
    for number, hostile in enumerate(HOSTILE.values()):
        log = map(encode, a_log(hostile + html))
        (tmp_path / f"hostile {number} {html.replace('/', '')}.jsonl").write_bytes(dump(Header(story=hostile), log))
    everything = map(encode, a_log(" ".join(HOSTILE.values()) + html))
    (tmp_path / "everything.jsonl").write_bytes(dump(Header(), everything))
    async with serving(Folder(tmp_path)) as url:
        await open_at(page, url, "tbody tr")
        texts = [await page.evaluate("document.body.innerText")]
        for view in ("step", "state", "why", "turn", "share"):
            await open_at(page, f"{url}/sessions/everything.jsonl?v=14&view={view}", ".said")
            await page.wait_for("!document.querySelector('[role=status]')")
            texts.append(await page.evaluate("document.body.innerText"))
        for event in a_log("x"):
            if event.type in TOOLS:  # type: ignore[attr-defined]
                await open_at(page, f"{url}/sessions/everything.jsonl?v={event.version}", ".said")
                texts.append(await page.evaluate("document.querySelector('.events').parentElement.innerText"))
                assert f"Version {event.version}, {event.type}" in texts[-1]  # type: ignore[attr-defined]
        assert len(texts) == 6 + len(TOOLS)
        assert [found for text in texts if (found := never_in(text, keep="\n\t"))] == []
        assert not await page.evaluate("'owned' in window")
        assert all("<script>window.owned=1" in text for text in texts)


async def test_going_through_a_long_session_asks_the_server_nothing(page: Chromium, tmp_path: Path) -> None:
    """The states that the browser shows are evolve's, whichever way the cursor came."""
    asked: list[str] = []
    async with serving(LIBRARY, look=lambda request: asked.append(request.path)) as url:
        await open_at(page, f"{url}/sessions/real_barge_in.jsonl?view=state", ".said")
        before = len(asked)
        states = await page.evaluate(
            """(async () => {
              const { Session, ask } = await import("/static/data.js");
              const session = new Session(await ask("/api/sessions/real_barge_in.jsonl"));
              const found = [];
              const order = [...session.steps.keys(), 3, 40, 2, 30, 31, 29, session.steps.length - 1, 0];
              for (const step of order) { session.goTo(step); found.push([step, JSON.stringify(session.state)]); }
              return found;
            })()"""
        )
        by_step: dict[int, str] = {}
        for step, state in states:
            assert json.loads(by_step.setdefault(step, state)) == json.loads(state)
        slider = "document.querySelector('input[name=scrub]')"
        await page.evaluate(
            f"for (let at = 0; at <= {slider}.max; at++) {{ {slider}.value = at;"
            f" {slider}.dispatchEvent(new Event('input', {{ bubbles: true }})); }}"
        )
        await page.wait_for(f"{MAIN}.includes('ENDED')")
        assert asked[before:] == ["/static/data.js", "/api/sessions/real_barge_in.jsonl"] or asked[before:] == [
            "/api/sessions/real_barge_in.jsonl"
        ]
