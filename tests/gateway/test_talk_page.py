"""The talk page in a real browser: what it shows, what it sends, and what it says when something is wrong."""

import asyncio
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.gateway.messages import (
    AckMessage,
    BargeInMessage,
    ClearTextMessage,
    EndedMessage,
    ErrorMessage,
    GoodbyeMessage,
    HeardMessage,
    LogMessage,
    PhaseMessage,
    PlaybackStartMessage,
    PlaybackStopMessage,
    ReplyMessage,
    SessionMessage,
    TextMessage,
    TranscriptMessage,
)
from tests.browser.chromium import Chromium, chromium_path
from tests.gateway.talk_page_server import PageServer, Wire

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
    pytest.mark.asyncio(loop_scope="module"),
]

SESSION = "auto_session_12345"
READY = SessionMessage(session_id=SESSION, resume_token="token-1")
LISTENING = PhaseMessage(phase="LISTENING", reason="client_connected")
LOG = [
    f"[{SESSION}] 🟢 IDLE",
    f"[{SESSION}] 🔵 LISTENING (client_connected)",
    f"[{SESSION}] STT FINAL | text=hello",
    f"[{SESSION}] 🟡 THINKING",
    f"[{SESSION}] Processing complete in 300ms",
    f"[{SESSION}] 🔴 SPEAKING",
]
TEXT_OF = "document.querySelector('{}').innerText"
NOTICES = TEXT_OF.format("#notices")


@pytest_asyncio.fixture(loop_scope="module")
async def page(one_browser: Chromium, server: PageServer) -> Chromium:
    await one_browser.goto("about:blank")  # the page of the test before may still be reconnecting
    one_browser.console.clear()
    await one_browser.view(1280, 800)
    await one_browser.goto(server.url)
    return one_browser


async def connect(page: Chromium, server: PageServer) -> Wire:
    """A text conversation that listens."""
    await page.click("#connect")
    wire = await server.connection()
    await wire.send(READY, LISTENING)
    await page.wait_for("orch.phase === 'LISTENING'")
    return wire


async def a_lively_conversation(wire: Wire) -> None:
    """Two turns, the second one interrupted, and the user speaking again."""
    await wire.send(
        *(LogMessage(line=line) for line in LOG),
        TranscriptMessage(text="hel", is_final=False),
        TranscriptMessage(text="Hello", is_final=True),
        ReplyMessage(playback_id="p1", text="Hi! How can I help?", turn=1),
        TranscriptMessage(text="When do you open on Sunday?", is_final=True),
        ReplyMessage(playback_id="p2", text="On Sundays we open at ten, and at seven there is a concert.", turn=2),
        PhaseMessage(phase="SPEAKING", turn=2),
        PlaybackStartMessage(playback_id="p2"),
        PlaybackStopMessage(playback_id="p2"),
        TranscriptMessage(text="no wai", is_final=False),
    )


async def test_the_page_shows_what_is_said_and_every_line_of_the_log(page: Chromium, server: PageServer) -> None:
    """A person can follow the conversation and its log, and nothing breaks the content security policy."""
    wire = await connect(page, server)
    await a_lively_conversation(wire)
    await page.wait_for("orch.partial === 'no wai'")

    assert await page.evaluate("orch.log") == LOG
    assert await page.evaluate("[...document.querySelectorAll('#log li')].map(x => x.textContent)") == [
        line.removeprefix(f"[{SESSION}] ") for line in LOG
    ]
    assert await page.evaluate("orch.conversation") == [
        {"who": "user", "text": "Hello"},
        {"who": "agent", "text": "Hi! How can I help?"},
        {"who": "user", "text": "When do you open on Sunday?"},
        {"who": "agent", "text": "On Sundays we open at ten, and at seven there is a concert."},
    ]
    said = await page.evaluate(TEXT_OF.format("#conversation"))
    assert "Hi! How can I help?" in said
    assert said.endswith("interrupted")
    assert await page.evaluate(TEXT_OF.format("#partial")) == "You\nno wai"
    assert await page.evaluate(TEXT_OF.format("#session-id")) == SESSION

    await wire.send(ClearTextMessage(), LogMessage(line="cleared"))
    await page.wait_for("orch.log.at(-1) === 'cleared'")
    assert await page.evaluate("document.querySelector('#partial').hidden")
    assert page.console == []


async def test_a_reply_that_comes_again_is_shown_once(page: Chromium, server: PageServer) -> None:
    """Who rejoins while it is being said is told it a second time."""
    wire = await connect(page, server)
    for text in ("Hi! How can I help?", "Hi! How can I help?"):
        await wire.send(ReplyMessage(playback_id="p1", text=text, turn=1))
    await wire.send(LogMessage(line="both were sent"))
    await page.wait_for("orch.log.at(-1) === 'both were sent'")
    assert await page.evaluate("orch.conversation") == [{"who": "agent", "text": "Hi! How can I help?"}]
    assert await page.evaluate("document.querySelectorAll('#conversation .agent').length") == 1


async def test_without_a_microphone_the_page_does_not_say_speak_now(page: Chromium, server: PageServer) -> None:
    """The hint names a way that is open."""
    await connect(page, server)
    assert await page.evaluate(TEXT_OF.format("#phase-hint")) == "Type below, or start a call and speak."


async def test_an_interrupted_answer_shows_how_much_was_heard(page: Chromium, server: PageServer) -> None:
    """The rest is struck out, and a screen reader says that it was not heard."""
    wire = await connect(page, server)
    await wire.send(
        ReplyMessage(playback_id="p1", text="We open at ten.", turn=1),
        PlaybackStopMessage(playback_id="p1"),
        HeardMessage(playback_id="p1", text="We open"),
        AckMessage(message_id="m1"),
        LogMessage(line="seen"),
    )
    await page.wait_for("orch.log.length === 1")
    assert await page.evaluate(TEXT_OF.format("#conversation s")) == " at ten."
    assert "We open not heard: at ten." in await page.evaluate(
        "document.querySelector('#conversation').textContent.replace(/\\s+/g, ' ')"
    )
    assert page.console == []


async def test_the_focus_stays_on_the_page_after_hanging_up(page: Chromium, server: PageServer) -> None:
    """Of the button, and of the field for typed words, which both go away."""
    for where in ("#hang-up", "#typed"):
        wire = await connect(page, server)
        await page.evaluate(f"document.querySelector('{where}').focus()")
        await page.evaluate("document.querySelector('#hang-up').click()")
        await wire.send(EndedMessage(reason="goodbye"))
        await wire.close(1000)
        await page.wait_for("orch.link === 'idle'")
        assert await page.evaluate("document.activeElement.id") == "start-call", where


async def test_each_phase_has_its_own_words_and_colour(page: Chromium, server: PageServer) -> None:
    """One look tells the phase, and so does a screen reader."""
    wire = await connect(page, server)
    seen = {}
    for phase in ("IDLE", "LISTENING", "THINKING", "SPEAKING", "INTERRUPT"):
        await wire.send(PhaseMessage(phase=phase, reason="why", turn=7))
        await page.wait_for(f"orch.phase === '{phase}' && !document.getAnimations().length")
        words = await page.evaluate(TEXT_OF.format("#phase"))
        seen[words] = await page.evaluate("getComputedStyle(document.querySelector('#state')).backgroundColor")
    assert list(seen) == ["Idle", "Listening", "Thinking", "Speaking", "Interrupted"]
    assert len(set(seen.values())) == 5
    assert await page.evaluate(TEXT_OF.format("#phase-detail")) == "turn 7"
    assert await page.evaluate("document.querySelector('#phase').closest('[aria-live=polite]') !== null")


async def test_typed_words_reach_the_server(page: Chromium, server: PageServer) -> None:
    """The page is of use without a microphone: connect, type, press Enter."""
    wire = await connect(page, server)
    assert await page.evaluate("document.activeElement.id") == "typed"
    await page.type_text("  When do you open? ")
    await page.press("Enter", "\r")
    words = await wire.receive()
    assert isinstance(words, TextMessage)
    assert words.text == "When do you open?"
    assert await page.evaluate("document.querySelector('#typed').value") == ""


async def test_typed_words_are_sent_again_until_the_server_has_them(page: Chromium, server: PageServer) -> None:
    """What was acknowledged is not."""
    wire = await connect(page, server)
    sent = []
    for words in ("first", "second"):
        await page.type_text(words)
        await page.press("Enter", "\r")
        sent.append(await wire.receive())
    first, second = sent
    assert isinstance(first, TextMessage)
    await wire.send(AckMessage(message_id=str(first.message_id)), LogMessage(line="seen"))
    await page.wait_for("orch.log.length === 1")
    wire.drop()
    again = await server.connection()
    await again.send(READY, LISTENING)
    assert await again.receive() == second


async def test_the_user_interrupts_by_button_or_escape_while_the_agent_speaks(
    page: Chromium, server: PageServer
) -> None:
    """A barge-in names the playback it means; outside of SPEAKING there is nothing to interrupt."""
    wire = await connect(page, server)
    await page.press("Escape")
    await wire.send(PhaseMessage(phase="SPEAKING", turn=1), PlaybackStartMessage(playback_id="p1"))
    await page.wait_for("orch.playback_id === 'p1'")
    await page.click("#interrupt")
    assert await wire.receive() == BargeInMessage(playback_id="p1")
    await page.press("Escape")
    assert await wire.receive() == BargeInMessage(playback_id="p1")


async def test_hanging_up_says_goodbye_and_does_not_come_back(page: Chromium, server: PageServer) -> None:
    """The end of a conversation is shown as an end, not as a fault; the next one begins afresh."""
    wire = await connect(page, server)
    await wire.send(LogMessage(line="old"))
    await page.click("#hang-up")
    assert await wire.receive() == GoodbyeMessage()
    await wire.send(EndedMessage(reason="goodbye"))
    await wire.close(1000)
    await page.wait_for("orch.link === 'idle' && orch.phase === 'ENDED'")
    assert await page.evaluate(NOTICES) == ""
    assert server.untaken() == 0

    wire = await connect(page, server)
    assert wire.query == {}
    assert await page.evaluate("orch.log") == []


async def test_leaving_the_page_says_goodbye(page: Chromium, server: PageServer) -> None:
    """The server need not wait for someone who closed the tab."""
    wire = await connect(page, server)
    await page.goto("about:blank")
    assert await wire.receive() == GoodbyeMessage()


async def test_a_dropped_connection_is_rejoined(page: Chromium, server: PageServer) -> None:
    """The page comes back by itself to the same conversation, and says so meanwhile."""
    wire = await connect(page, server)
    await wire.send(TranscriptMessage(text="Hello", is_final=True))
    await page.wait_for("orch.conversation.length === 1")
    wire.drop()
    wire = await server.connection()
    assert wire.query == {"session_id": SESSION, "resume_token": "token-1"}
    assert "The connection was lost" in await page.evaluate(NOTICES)
    assert await page.evaluate(TEXT_OF.format("#phase")) == "Reconnecting"

    await wire.send(SessionMessage(session_id=SESSION, resume_token="token-2"), PhaseMessage(phase="THINKING", turn=1))
    await page.wait_for("orch.link === 'open' && orch.phase === 'THINKING'")
    assert await page.evaluate(NOTICES) == ""
    assert await page.evaluate("orch.conversation.length") == 1

    await wire.close(1012)
    assert (await server.connection()).query["resume_token"] == "token-2"


async def test_a_full_server_is_asked_again_less_and_less_often(page: Chromium, server: PageServer) -> None:
    """1013 is explained, and the pauses grow, so that many pages do not keep a server down."""
    await page.click("#connect")
    times = []
    for _ in range(4):
        wire = await server.connection()
        times.append(asyncio.get_running_loop().time())
        await wire.close(1013, "64 conversations are running")
    await page.wait_for("orch.link === 'waiting'")
    notice = await page.evaluate(NOTICES)
    assert "The server is full or not ready" in notice
    assert "64 conversations are running" in notice
    assert "Next attempt in" in await page.evaluate(TEXT_OF.format("#link"))
    assert times[3] - times[2] > 0.45  # half a second at least; timers may be a little early

    await page.click("#notices button")
    wire = await server.connection()
    await wire.send(READY, LISTENING)
    await page.wait_for("orch.link === 'open'")
    assert await page.evaluate(NOTICES) == ""


async def test_a_refusal_for_good_is_explained_and_not_repeated(page: Chromium, server: PageServer) -> None:
    """After 1008, 1009 and 4404 the page says what to do, and leaves the server alone."""
    for code, words in (
        (1008, "The server refused this page"),
        (1009, "too big"),
        (4404, "no longer exists"),
    ):
        wire = await connect(page, server)
        await wire.close(code, "the reason")
        await page.wait_for("orch.link === 'idle'")
        notice = await page.evaluate(NOTICES)
        assert words in notice
        assert "the reason" in notice
        assert await page.evaluate(TEXT_OF.format("#phase")) == "Not connected"
    assert server.untaken() == 0


async def test_an_unreachable_server_is_explained(page: Chromium, server: PageServer) -> None:
    """Without a server the page keeps trying, says so, and lets the user give up."""
    await server.stop_listening()
    await page.click("#connect")
    await page.wait_for("orch.link === 'waiting'")
    assert "The server cannot be reached" in await page.evaluate(NOTICES)
    await page.click("#hang-up")
    await page.wait_for("orch.link === 'idle'")
    assert await page.evaluate(NOTICES) == ""


async def test_an_error_of_the_server_is_shown(page: Chromium, server: PageServer) -> None:
    """The server's own sentence reaches the user; markup in it stays text."""
    wire = await connect(page, server)
    await wire.send(ErrorMessage(code="bad_message", message="<b>no</b> such field"))
    await page.wait_for("orch.errors.length === 1")
    assert "<b>no</b> such field" in await page.evaluate(NOTICES)


@pytest.mark.parametrize(
    ("microphone", "words", "remedy"),
    [
        ("denied", "The microphone is not allowed", "Allow the microphone for this page"),
        ("none", "No microphone was found", "Plug one in"),
    ],
)
async def test_a_microphone_that_cannot_be_had_is_explained(
    server: PageServer, microphone: str, words: str, remedy: str
) -> None:
    """The user learns what is wrong and what to do, and can type meanwhile."""
    async with Chromium(microphone=microphone) as browser:  # type: ignore[arg-type]
        await browser.goto(server.url)
        await browser.click("#start-call")
        wire = await server.connection()
        await wire.send(READY, LISTENING)
        await browser.wait_for(f"{NOTICES}.includes('{words}') && orch.link === 'open'")
        assert remedy in await browser.evaluate(NOTICES)
        assert await browser.evaluate("orch.call") == "none"
        assert not await browser.evaluate("document.querySelector('#typed').disabled")


async def test_a_page_that_is_not_secure_says_why_there_is_no_microphone(server: PageServer) -> None:
    """Plain http to a host that is not this one has no microphone; the page names the way out."""
    async with Chromium(flags=("--host-resolver-rules=MAP console.test 127.0.0.1",)) as browser:
        await browser.goto(f"http://console.test:{server.port}/")
        await browser.click("#start-call")
        await browser.wait_for(f"{NOTICES}.includes('This page is not secure')")
        assert "https://" in await browser.evaluate(NOTICES)
        await server.connection()


async def test_every_control_has_a_name_and_the_keyboard_reaches_it(page: Chromium, server: PageServer) -> None:
    """Nothing on the page needs eyes or a mouse."""
    await page.press("Tab")
    assert await page.evaluate("document.activeElement.id") == "start-call"
    await page.press("Tab")
    await page.press("Enter", "\r")
    wire = await server.connection()
    await wire.send(READY, PhaseMessage(phase="SPEAKING", turn=1))
    await page.wait_for("orch.phase === 'SPEAKING'")
    tree = (await page.command("Accessibility.getFullAXTree"))["nodes"]
    controls = {"button", "textbox", "meter", "log", "region"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"] and node["role"]["value"] in controls
    ]
    assert ("textbox", "Type instead of speaking") in named
    assert ("log", "Live log") in named
    assert [role for role, name in named if not name] == []


@pytest.mark.parametrize(("width", "height", "dark"), [(360, 740, False), (800, 900, True), (1600, 900, False)])
async def test_the_page_fits_narrow_and_wide_windows(
    page: Chromium, server: PageServer, tmp_path: Path, width: int, height: int, dark: bool
) -> None:
    """Nothing is cut off at the side, and a picture of each remains for people to look at."""
    await page.view(width, height, dark=dark)
    wire = await connect(page, server)
    await wire.send(LogMessage(line="x" * 400), TranscriptMessage(text="y" * 400, is_final=True))
    await a_lively_conversation(wire)
    await page.wait_for("orch.partial === 'no wai'")
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    picture = tmp_path / f"console-{width}.png"
    await page.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
