// Holds the call: the microphone goes out, the agent's voice comes in, and a broken call is put through again.

import { LevelMeter } from "./levels.js";
import { MicrophoneProblem, openMicrophone } from "./microphone.js";

const ASKING_MS = 5000; // for the microphone, before the page reminds the user of the browser's question
const OFFER_MS = 5000; // for the browser to describe the call
const ANSWER_MS = 18000; // the server may take 16.5 s: for speech-to-text, its relay and Redis
const ANSWER_AGAIN_MS = 5000; // the same in a call that was on: its WebSocket may hang on a network that is gone
const CONNECT_MS = 20000; // longer than the browser's own ICE checks, which usually say first that they failed
const MOST_FAILURES = 3;
const STEADY_MS = 10000; // a call that holds until then has not failed
const WATCH_MS = 250;
const SILENT_MS = 2000; // without a packet: of a silent server, four lost ones in a row; the browser needs about 6 s

/**
 * States: `none`, `asking` (for the microphone), `connecting`, `on`, `broken` (sound is interrupted).
 * `send(message)` says whether it was sent; `onState(state)`, `onProblem(kind, detail)` and `onMicrophone(kind, message)`
 * tell the page, `onSilenced(play)` that a click is needed for sound; `onLevels({microphone, agent})` feeds its meters,
 * `onNoLevels(name)` says that this browser cannot measure one of them; `onLost()` that nothing arrives any more: the
 * network may be another one by now, so the page should connect anew, and calls `connected()` then.
 *
 * No method throws: each failure of the browser ends in one of these callbacks.
 */
export class Call {
  constructor({ playback, audio, send, onState, onProblem, onMicrophone, onSilenced, ...rest }) {
    Object.assign(this, { playback, audio, send, onState, onProblem, onMicrophone, onSilenced, ...rest });
    this.state = "none";
    this.attempt = null; // the latest start(); an older one that gets its microphone late gives it back
    this.stream = null;
    this.connection = null;
    this.deadline = null; // of the step that the call is in
    this.watched = null; // the connection whose packets are looked at
    this.mayRenew = false; // an offer that nobody answers is a reason to connect anew, once after the call was on
    this.failures = 0;
    this.iceServers = []; // those that the service names for this client
    this.context = null;
    this.meters = {};
  }

  /** Asks for the microphone, then calls; call it from a click, or the browser keeps the sound off. */
  async start() {
    if (this.state !== "none") return;
    const attempt = Symbol("attempt");
    this.attempt = attempt;
    this.#become("asking");
    const reminder = setTimeout(() => this.attempt === attempt && this.onMicrophone("Waiting", ""), ASKING_MS);
    try {
      const stream = await openMicrophone();
      if (this.attempt !== attempt) return stopTracks(stream); // hung up meanwhile
      this.#use(stream);
    } catch (error) {
      if (this.attempt !== attempt) return;
      this.stop();
      this.onMicrophone(error.kind ?? error.name, error.message);
      return;
    } finally {
      clearTimeout(reminder);
    }
    await this.offer();
  }

  /** Calls the server, in place of any earlier attempt; does nothing without microphone or connection. */
  async offer() {
    if (!this.stream) return;
    this.#hangUpMedia();
    this.#become("connecting");
    let connection = null;
    try {
      connection = this.#connection();
      this.connection = connection;
      this.#within(OFFER_MS, () => this.#fail("browser", "it does not describe the call"));
      // With an argument: older browsers know no other way.
      await connection.setLocalDescription(await connection.createOffer());
      if (this.connection !== connection) return;
      // The offer leaves at once: the server learns our address from our checks, so gathering would only cost time.
      clearTimeout(this.deadline);
      const sent = this.send({ type: "webrtc_offer", sdp: connection.localDescription.sdp });
      if (sent) this.#within(this.mayRenew ? ANSWER_AGAIN_MS : ANSWER_MS, () => this.#unanswered());
    } catch (error) {
      if (this.connection === connection) this.#fail(window.RTCPeerConnection ? "browser" : "unsupported", error.message);
    }
  }

  async answered(sdp) {
    const connection = this.connection;
    if (connection?.signalingState !== "have-local-offer") return;
    this.#within(CONNECT_MS, () => this.#callAgain());
    try {
      await connection.setRemoteDescription({ type: "answer", sdp });
    } catch (error) {
      if (this.connection === connection) this.#fail("refused", error.message);
    }
  }

  /** The server said it cannot take the call. */
  refused(message) {
    if (this.state !== "none") this.#fail("refused", message);
  }

  /** The server has lost the call's audio; browsers notice it late. A call that is being connected is a newer one. */
  lost() {
    if (this.state === "on" || this.state === "broken") this.#callAgain("lost");
  }

  /** The conversation is connected (again): call, unless the sound never stopped. */
  async connected() {
    if (!this.stream) return;
    const connection = this.connection;
    this.playback.rejoined();
    if (this.state === "on" && (await this.playback.isAlive())) return;
    if (this.connection === connection) await this.offer();
  }

  get muted() {
    return this.stream ? !this.stream.getAudioTracks()[0].enabled : false;
  }

  set muted(muted) {
    if (this.stream) this.stream.getAudioTracks()[0].enabled = !muted;
  }

  stop() {
    this.attempt = null;
    this.#hangUpMedia();
    if (this.stream) stopTracks(this.stream);
    this.stream = null;
    this.meters.microphone?.close();
    tryTo(() => this.context?.close());
    this.context = null;
    this.meters = {};
    this.failures = 0;
    this.mayRenew = false;
    this.#become("none");
  }

  #use(stream) {
    this.stream = stream;
    stream.getAudioTracks()[0].onended = () => {
      this.stop();
      this.onMicrophone("Unplugged", "");
    };
    this.#measure("microphone", stream);
  }

  /** Shows how loud a stream is, where the browser can tell. The call does not depend on it. */
  #measure(name, stream) {
    const noLevels = (error) => {
      console.warn(`no level of ${name}: ${error.message}`);
      this.onNoLevels(name);
    };
    try {
      this.context ??= new AudioContext();
      this.meters[name] = new LevelMeter(this.context, stream, (level) => this.onLevels({ [name]: level }), noLevels);
    } catch (error) {
      noLevels(error);
    }
  }

  #connection() {
    const connection = new RTCPeerConnection({ iceServers: this.iceServers });
    const [track] = this.stream.getAudioTracks();
    const transceiver = connection.addTransceiver(track, { direction: "sendrecv", streams: [this.stream] });
    const changed = () => this.#connectionChanged(connection);
    connection.onconnectionstatechange = connection.oniceconnectionstatechange = changed;
    connection.ontrack = (event) => {
      try {
        this.#hear(event.track, transceiver.receiver);
      } catch (error) {
        if (this.connection === connection) this.#fail("browser", error.message);
      }
    };
    return connection;
  }

  #hear(track, receiver) {
    const stream = new MediaStream([track]);
    // As little delay as the network allows; an interruption must be heard at once.
    tryTo(() => (receiver.jitterBufferTarget = 0));
    this.audio.srcObject = stream;
    this.playback.attach(this.connection, receiver);
    this.#play();
    this.#measure("agent", stream);
  }

  async #play() {
    try {
      await this.audio.play();
    } catch (error) {
      // An AbortError only says that the call was replaced before its first packet.
      if (error.name !== "AbortError") this.onSilenced(() => this.#unsilence());
    }
  }

  async #unsilence() {
    tryTo(() => this.context?.resume());
    await this.audio.play();
  }

  #connectionChanged(connection) {
    if (this.connection !== connection) return;
    const state = connection.connectionState ?? connection.iceConnectionState; // some browsers know the latter alone
    if (state === "connected" || state === "completed") {
      if (this.state === "on") return; // both states of the connection say so
      this.mayRenew = true;
      this.#within(STEADY_MS, () => (this.failures = 0));
      this.#become("on");
      this.#watch(connection);
    } else if (state === "disconnected") {
      if (this.state === "on") clearTimeout(this.deadline); // a call that breaks has not held
      this.#become("broken");
    } else if (state === "failed") {
      this.#callAgain();
    }
  }

  /**
   * Looks whether audio arrives, until it does no more, also while the browser calls the connection interrupted.
   * Without statistics it sees nothing, and waits for the browser.
   */
  async #watch(connection) {
    if (this.watched === connection) return; // the connection has recovered
    this.watched = connection;
    let [packets, since] = [0, performance.now()];
    while (this.connection === connection) {
      const received = await this.playback.packetsReceived();
      if (this.connection !== connection) return;
      if (received !== packets) [packets, since] = [received, performance.now()];
      if (packets && performance.now() - since > SILENT_MS) {
        this.watched = null;
        this.#become("broken");
        this.onLost();
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
    }
  }

  #unanswered() {
    if (!this.mayRenew) return this.#fail("unanswered");
    this.mayRenew = false;
    this.onLost();
  }

  #callAgain(kind = "blocked") {
    this.failures += 1;
    if (this.failures >= MOST_FAILURES) {
      this.#fail(kind);
      return;
    }
    this.#become("broken");
    this.offer();
  }

  #fail(kind, detail = "") {
    this.stop();
    this.onProblem(kind, detail);
  }

  #hangUpMedia() {
    clearTimeout(this.deadline);
    this.meters.agent?.close();
    delete this.meters.agent;
    this.playback.detach();
    this.audio.srcObject = null;
    const connection = this.connection;
    this.connection = null;
    tryTo(() => connection?.close());
  }

  /** The step that the call is in may take so long; then `late` runs. The next step replaces it. */
  #within(ms, late) {
    clearTimeout(this.deadline);
    this.deadline = setTimeout(late, ms);
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.onState(state);
  }
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** Does what nothing depends on; a browser that refuses is named in its own console. */
async function tryTo(action) {
  try {
    await action();
  } catch (error) {
    console.warn(error);
  }
}
