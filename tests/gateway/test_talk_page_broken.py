"""The console in browsers that lack or refuse something: a call is held if it can be, and every failure has words."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.gateway.messages import (
    PhaseMessage,
    PlaybackStartMessage,
    PlaybackStopMessage,
    SessionMessage,
    TextMessage,
)
from tests.browser.chromium import Chromium, chromium_path
from tests.gateway.talk_page_server import PageServer, Wire
from tests.gateway.test_talk_page_call import answered

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium_path() is None, reason="no Chromium: install one or set ORCH_CHROMIUM"),
    pytest.mark.asyncio(loop_scope="module"),
]

READY = SessionMessage(session_id="auto_session_1", resume_token="token-1")
NOTICES = "document.querySelector('#notices').innerText"
SHOWN = "document.querySelector('main').innerText"
REFUSED = "throw new DOMException('not here', 'NotSupportedError');"
NO_LEVELS = "cannot show how loud it is"

COSTS_NOTHING = {
    "no Web Audio": ("delete window.AudioContext; delete window.webkitAudioContext;", NO_LEVELS),
    "Web Audio refuses": (f"window.AudioContext = class {{ constructor() {{ {REFUSED} }} }};", NO_LEVELS),
    "another sample rate": (f"AudioContext.prototype.createMediaStreamSource = () => {{ {REFUSED} }};", NO_LEVELS),
    "no analyser": ("delete BaseAudioContext.prototype.createAnalyser;", NO_LEVELS),
    "no samples": ("delete AnalyserNode.prototype.getFloatTimeDomainData;", NO_LEVELS),
    "samples end": (
        "const real = AnalyserNode.prototype.getFloatTimeDomainData; let calls = 0;"
        f"AnalyserNode.prototype.getFloatTimeDomainData = function (into) {{ if (++calls > 9) {{ {REFUSED} }}"
        " return real.call(this, into); };",
        NO_LEVELS,
    ),
    "a context that does not close": ("AudioContext.prototype.close = () => Promise.reject(new Error('no'));", ""),
    "no jitter buffer target": (
        f"Object.defineProperty(RTCRtpReceiver.prototype, 'jitterBufferTarget', {{ set() {{ {REFUSED} }} }});",
        "",
    ),
    "no connectionState": (
        "Object.defineProperty(RTCPeerConnection.prototype, 'connectionState', { get: () => undefined });"
        "Object.defineProperty(RTCPeerConnection.prototype, 'onconnectionstatechange', { set() {} });",
        "",
    ),
    "an old setLocalDescription": (
        "const real = RTCPeerConnection.prototype.setLocalDescription;"
        "RTCPeerConnection.prototype.setLocalDescription = function (description) {"
        " if (!description) throw new TypeError('Not enough arguments'); return real.call(this, description); };",
        "",
    ),
    "no media clock": ("delete RTCRtpReceiver.prototype.getSynchronizationSources;", ""),
    "no statistics": (
        "RTCRtpReceiver.prototype.getStats = RTCPeerConnection.prototype.getStats"
        " = () => Promise.reject(new Error('no'));",
        "",
    ),
    "no ResizeObserver": ("delete window.ResizeObserver;", ""),
    "no storage": (
        f"for (const name of ['localStorage', 'sessionStorage'])"
        f" Object.defineProperty(window, name, {{ get() {{ {REFUSED} }} }});",
        "",
    ),
    "sound needs a click": (
        "HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException('no click', 'NotAllowedError'));",
        "keeps this page silent",
    ),
}

HAS_WORDS = {
    "no WebRTC": ("delete window.RTCPeerConnection;", "This browser cannot make calls"),
    "WebRTC refuses": (
        f"window.RTCPeerConnection = class {{ constructor() {{ {REFUSED} }} }};",
        "The browser could not make the call",
    ),
    "no transceiver": ("delete RTCPeerConnection.prototype.addTransceiver;", "The browser could not make the call"),
    "no offer": (
        "RTCPeerConnection.prototype.createOffer = () => Promise.reject(new Error('no codec'));",
        "The browser could not make the call",
    ),
    "an offer that never comes": (
        "RTCPeerConnection.prototype.createOffer = () => new Promise(() => {});",
        "The browser could not make the call",
    ),
    "no local description": (
        "RTCPeerConnection.prototype.setLocalDescription = () => Promise.reject(new Error('no'));",
        "The browser could not make the call",
    ),
    "no media devices": (
        "Object.defineProperty(Navigator.prototype, 'mediaDevices', { get: () => undefined });",
        "This browser gives no microphone",
    ),
    "media devices throw": (
        f"Object.defineProperty(Navigator.prototype, 'mediaDevices', {{ get() {{ {REFUSED} }} }});",
        "The microphone cannot be used",
    ),
    "no getUserMedia": ("delete MediaDevices.prototype.getUserMedia;", "This browser gives no microphone"),
    "a microphone without sound": (
        "MediaDevices.prototype.getUserMedia = async () => new MediaStream();",
        "No microphone was found",
    ),
    "a track that refuses": (
        f"Object.defineProperty(MediaStreamTrack.prototype, 'onended', {{ set() {{ {REFUSED} }} }});",
        "The microphone cannot be used",
    ),
}


@contextlib.asynccontextmanager
async def page_with(browser: Chromium, server: PageServer, js: str) -> AsyncIterator[Chromium]:
    """The console in a browser that `js` has changed before the page runs."""
    added = await browser.command("Page.addScriptToEvaluateOnNewDocument", source=f"{{ {js} }}")
    browser.console.clear()
    try:
        await browser.goto(server.url)
        yield browser
    finally:
        await browser.command("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])
        await browser.goto("about:blank")


async def start(page: Chromium, server: PageServer) -> Wire:
    await page.click("#start-call")
    wire = await server.connection()
    await wire.send(READY, PhaseMessage(phase="LISTENING"))
    await page.wait_for("orch.link === 'open'")
    return wire


def exceptions(page: Chromium) -> list[str]:
    return [text for level, text in page.console if level == "exception"]


@pytest.mark.parametrize("what", COSTS_NOTHING)
async def test_what_a_call_does_not_need_never_costs_it(one_browser: Chromium, server: PageServer, what: str) -> None:
    """A meter, a statistic or a wish that the browser refuses: the call is held, the agent is let through, and what is
    missing is said.
    """
    js, words = COSTS_NOTHING[what]
    async with page_with(one_browser, server, js) as page:
        wire = await start(page, server)
        async with answered(page, wire) as agent:
            agent.voice.speaking = True
            async with asyncio.TaskGroup() as both:  # it is muted for 300 ms
                both.create_task(page.wait_for("orch.muted"))
                both.create_task(
                    wire.send(PlaybackStartMessage(playback_id="p1"), PlaybackStopMessage(playback_id="p1"))
                )
            await wire.send(PlaybackStartMessage(playback_id="p2"))
            await page.wait_for("!orch.muted")
            await page.wait_for(f"{SHOWN}.includes('{words}')")
            assert await page.evaluate("orch.call") == "on"
            assert "does not work" not in await page.evaluate(NOTICES)
            await page.evaluate("document.querySelector('#hang-up').click()")  # where it is, however the page moves
            await page.wait_for("orch.call === 'none'")
        assert exceptions(page) == []


@pytest.mark.parametrize("what", HAS_WORDS)
async def test_a_call_that_cannot_be_held_is_explained(one_browser: Chromium, server: PageServer, what: str) -> None:
    """The user learns what the browser lacks, and the conversation goes on in text."""
    js, words = HAS_WORDS[what]
    async with page_with(one_browser, server, js) as page:
        wire = await start(page, server)
        await page.wait_for(f"orch.call === 'none' && {NOTICES}.includes('{words}')")
        assert "typ" in await page.evaluate(NOTICES), "the way out is to type"
        assert await page.evaluate("orch.link") == "open"
        await page.evaluate("document.querySelector('#typed').focus()")
        await page.type_text("hello")
        await page.press("Enter", "\r")
        typed = await wire.receive()
        assert isinstance(typed, TextMessage), f"{typed} was sent before"
        assert exceptions(page) == []


async def test_a_question_for_the_microphone_that_nobody_answers_is_named(
    one_browser: Chromium, server: PageServer
) -> None:
    """The browser's question is easily overlooked; the page points to it, and takes its words back afterwards."""
    js = (
        "const real = MediaDevices.prototype.getUserMedia; const asked = new Promise((go) => { window.allow = go; });"
        "MediaDevices.prototype.getUserMedia = async function (what) { await asked; return real.call(this, what); };"
    )
    async with page_with(one_browser, server, js) as page:
        wire = await start(page, server)
        await page.wait_for(f"{NOTICES}.includes('has not given the microphone yet')")
        await page.evaluate("window.allow()")
        async with answered(page, wire):
            assert await page.evaluate(NOTICES) == ""


async def test_a_failure_that_nothing_else_explains_has_words(one_browser: Chromium, server: PageServer) -> None:
    """Whatever breaks in the page, and whenever: it does not happen in silence."""
    for broken in ("() => { throw new Error('odd'); }", "() => { Promise.reject(new Error('odd')); }"):
        async with page_with(one_browser, server, "") as page:
            await page.evaluate(f"{{ setTimeout({broken}); }}")
            await page.wait_for(f"{NOTICES}.includes('odd')")
            assert "reload the page" in await page.evaluate(NOTICES)


@pytest.mark.parametrize("how", ["isComposing: true", "keyCode: 229"])
async def test_escape_in_an_input_method_does_not_interrupt(
    one_browser: Chromium, server: PageServer, how: str
) -> None:
    """It takes back the word that is being composed; the agent speaks on. A plain Escape interrupts as ever."""
    async with page_with(one_browser, server, "") as page:
        await page.click("#connect")
        wire = await server.connection()
        await wire.send(READY, PhaseMessage(phase="SPEAKING", turn=1), PlaybackStartMessage(playback_id="p1"))
        await page.wait_for("orch.phase === 'SPEAKING' && orch.playback_id === 'p1'")
        await page.evaluate(
            f"document.querySelector('#typed').dispatchEvent(new KeyboardEvent('keydown',"
            f" {{ key: 'Escape', bubbles: true, {how} }}))"
        )
        await page.evaluate("document.querySelector('#typed').focus()")
        await page.type_text("日本")
        await page.press("Enter", "\r")
        assert isinstance(await wire.receive(), TextMessage), "and no barge_in before it"


@pytest.mark.parametrize(
    ("phase", "reason", "words"),
    [
        ("LISTENING", "service_failed", "say it again"),
        ("LISTENING", "tts_deadline", "say it again"),
        ("ENDED", "too_many_failures", "try again later"),
    ],
)
async def test_a_phase_after_a_failure_says_what_to_do(
    one_browser: Chromium, server: PageServer, phase: str, reason: str, words: str
) -> None:
    """In the words of the caller, who knows no services."""
    async with page_with(one_browser, server, "") as page:
        await page.click("#connect")
        wire = await server.connection()
        await wire.send(READY, PhaseMessage(phase=phase, reason=reason))  # type: ignore[arg-type]
        await page.wait_for(f"document.querySelector('#phase-hint').innerText.includes('{words}')")
