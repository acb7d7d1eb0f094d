"""Measures a call in Chromium with the demo agent: from the caller's last sound to the agent's first, and from the
caller's first sound over the agent to the agent's last.

Both are taken in the page, on one clock, from the sound of the microphone and the sound that the page plays; network
and jitter buffer are part of them. The microphone plays ten questions in the natural voice, then five of them with
words spoken over the answer. Prints p50 and p95 beside the endpoint's wait, without and with speculation. Needs a quiet
machine; takes four minutes.
Run: `uv run python -m bench.in_a_browser`
"""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.spoken import median, percentile
from orchestrator.media.settings import MediaSettings
from orchestrator.session.policy import Policy
from tests.browser.chromium import Chromium
from tests.calls.service import Service
from tests.calls.test_in_a_browser import microphone_file, start_call
from tests.media.speech import speak

QUESTIONS = (
    *("hello", "what can you do", "when are you open", "do you have oat milk", "can I bring my dog"),
    *("where are you", "do you have parking", "when do you close", "do you have wifi", "can I book a table"),
)
OVER = "Sorry, I have another question."
GAP_S, OVER_AFTER_S = 9.0, 2.5
LOUD = 0.02
TOGETHER_S = 0.6
"""Sounds with a shorter silence between them are one utterance."""
TAPS_JS = """(() => {
  const heard = (window.heard = { caller: [], agent: [] });
  let context = null;
  const tap = (stream, into) => {
    context ??= new AudioContext();
    const node = context.createScriptProcessor(256, 1, 1);
    node.onaudioprocess = (event) => {
      const loud = event.inputBuffer.getChannelData(0).some((sample) => Math.abs(sample) > %LOUD);
      if (loud) into.push(event.playbackTime);
    };
    context.createMediaStreamSource(stream).connect(node).connect(context.destination);
  };
  const open = MediaDevices.prototype.getUserMedia;
  const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  MediaDevices.prototype.getUserMedia = async function () {
    const stream = await open.call(this, { audio: raw });
    tap(stream, heard.caller);
    return stream;
  };
  const Peer = window.RTCPeerConnection;
  window.RTCPeerConnection = function (...how) {
    const peer = new Peer(...how);
    peer.addEventListener("track", (event) => tap(new MediaStream([event.track]), heard.agent));
    return peer;
  };
  window.RTCPeerConnection.prototype = Peer.prototype;
})()""".replace("%LOUD", str(LOUD))

Span = tuple[float, float]


def spans(times_s: list[float]) -> list[Span]:
    """(begin, end) of each utterance, in seconds of the page's audio clock."""
    found: list[Span] = []
    for at_s in times_s:
        if found and at_s - found[-1][1] < TOGETHER_S:
            found[-1] = found[-1][0], at_s
        else:
            found.append((at_s, at_s))
    return found


async def heard(policy: dict[str, object], *parts: bytes | float) -> tuple[list[Span], list[Span]]:
    """The caller's and the agent's utterances of one call."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "policy.json").write_text(json.dumps(policy))
        mic = microphone_file(folder / "mic.wav", 3.0, *parts, 30.0)
        settings: dict[str, Any] = {"ORCH_POLICY_FILE": str(folder / "policy.json")}
        async with Service(folder / "data", **settings) as service, Chromium(mic_file=mic) as page:
            await page.command("Page.addScriptToEvaluateOnNewDocument", source=TAPS_JS)
            await start_call(page, service)
            length_s = sum(part if isinstance(part, float) else len(part) / 32_000 for part in parts)
            await asyncio.sleep(3.0 + length_s + 8.0)
            told = await page.evaluate("heard")
    return spans(told["caller"]), spans(told["agent"])


def show(name: str, values_ms: list[float], expected: int, goal: str) -> None:
    print(
        f"{name:44} p50 {median(values_ms):4.0f}  p95 {percentile(values_ms, 95):4.0f} ms"
        f"  ({len(values_ms)} of {expected}; goal {goal})",
        flush=True,
    )


async def answers_ms(policy: dict[str, object]) -> list[float]:
    """From the end of each question to the agent's first sound."""
    parts = [part for question in QUESTIONS for part in (speak(question), GAP_S)]
    caller, agent = await heard(policy, *parts)
    waits = []
    for (_, end), following in zip(caller, [*caller[1:], (float("inf"), 0.0)], strict=True):
        first = next((begin for begin, _ in agent if end < begin < following[0]), None)
        if first is not None:
            waits.append(1_000 * (first - end))
    return waits


async def silences_ms() -> list[float]:
    """From the first sound of words spoken over the agent to the agent's last sound."""
    parts = [part for question in QUESTIONS[1:6] for part in (speak(question), OVER_AFTER_S, speak(OVER), GAP_S)]
    caller, agent = await heard({}, *parts)
    return [1_000 * (end - over) for over, _ in caller for begin, end in agent if begin < over < end]


async def main() -> None:
    rules, vad_ms = Policy().endpointing, MediaSettings().silence_ms
    waits = f"{vad_ms + rules.complete_ms} to {vad_ms + rules.incomplete_ms} ms"
    show("end of speech → agent heard", await answers_ms({}), len(QUESTIONS), f"the endpoint's {waits} + 200 ms")
    eager: dict[str, object] = {"speculation": {"tries": 2}}
    show("the same with speculation", await answers_ms(eager), len(QUESTIONS), "350 ms")
    show("mouth to silence", await silences_ms(), 5, "110 ms")


if __name__ == "__main__":
    asyncio.run(main())
