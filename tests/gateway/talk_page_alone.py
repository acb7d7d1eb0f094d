"""Runs a module of the talk page without the rest of the page, in Chromium, on a clock that the test moves."""

from typing import Any

from tests.browser.chromium import Chromium

CLOCK_JS = """
  const timers = new Map();
  const [later, told, connections] = [window.setTimeout, [], []];
  let [now, last] = [0, 0];
  performance.now = () => now;
  window.setTimeout = (run, ms = 0) => { timers.set(++last, { run, at: now + ms }); return last; };
  window.clearTimeout = (id) => timers.delete(id);
  /** Lets `ms` pass: each timer runs in its turn, and promises before it. */
  const pass = async (ms) => {
    const until = now + ms;
    for (;;) {
      await new Promise((go) => later(go));
      const [due] = [...timers].filter(([, { at }]) => at <= until).sort(([, one], [, other]) => one.at - other.at);
      if (!due) break;
      timers.delete(due[0]);
      now = due[1].at;
      due[1].run();
    }
    now = until;
  };
"""
CALL_JS = """
  window.RTCPeerConnection = class {
    constructor() { connections.push(this); }
    addTransceiver() { return { receiver: {} }; }
    async createOffer() { return { type: "offer", sdp: "" }; }
    async setLocalDescription(offer) { [this.localDescription, this.signalingState] = [offer, "have-local-offer"]; }
    async setRemoteDescription() { this.signalingState = "stable"; }
    close() {}
    becomes(state) { this.connectionState = state; this.onconnectionstatechange(); }
  };
  const track = { enabled: true, stop: () => {} };
  const stream = { getTracks: () => [track], getAudioTracks: () => [track] };
  MediaDevices.prototype.getUserMedia = async () => stream;
  let packets = () => 0;
  const nothing = () => {};
  const playback = { attach: nothing, detach: nothing, rejoined: nothing, packetsReceived: async () => packets() };
  const { Call } = await import("/static/call.js");
  const call = new Call({
    playback, audio: {}, send: ({ type }) => told.push(type), onState: nothing, onNoLevels: nothing,
    onLost: () => told.push("lost"), onProblem: (kind) => told.push(kind), onMicrophone: (kind) => told.push(kind),
  });
  /** Answers the latest offer and connects it. */
  const connects = async () => {
    await pass(0);
    await call.answered("");
    connections.at(-1).becomes("connected");
  };
"""

CONNECTION_JS = """
  const [sockets, nothing] = [[], () => {}];
  window.WebSocket = class {
    constructor(url) { [this.url, this.sent] = [String(url), []]; sockets.push(this); }
    send(data) { this.sent.push(JSON.parse(data).text ?? JSON.parse(data).type); }
    close() {}
    says(message) { this.onmessage({ data: JSON.stringify(message) }); }
    welcomes() { this.says({ type: "session", session_id: "s1", resume_token: "t1" }); }
  };
  const { Connection } = await import("/static/connection.js");
  const connection = new Connection(new URL("ws://127.0.0.1/orchestrate"), { onStatus: nothing, onMessage: nothing });
  connection.open();
"""


async def alone(page: Chromium, js: str) -> Any:
    """The value that `js` returns, the body of an async function. It finds `pass(ms)` and the list `told`."""
    return await page.evaluate(f"(async () => {{ {CLOCK_JS} {js} }})()")


async def call_alone(page: Chromium, js: str) -> Any:
    """As `alone`, with a `call` that is in the state `connecting`: its microphone is open, its offer is sent.

    `told` gets what it sends, "lost" where it finds its network dead, and problems. `connects()` puts it through,
    `connections.at(-1).becomes(state)` is the browser's word, `packets()` says how many packets have come.
    """
    return await alone(page, f"{CALL_JS} await call.start(); await pass(0); {js}")


async def connection_alone(page: Chromium, js: str) -> Any:
    """As `alone`, with a `connection` that is connecting. `sockets` has its WebSockets: what each of them `sent`, and
    `says(message)` and `welcomes()` for what the server says.
    """
    return await alone(page, f"{CONNECTION_JS} {js}")
