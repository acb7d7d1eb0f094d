// Holds the call: the microphone goes out, the agent's voice comes in, and a broken call is put through again.

import { LevelMeter } from "./levels.js";
import { MicrophoneProblem, openMicrophone } from "./microphone.js";

const ANSWER_MS = 10000;
const MOST_FAILURES = 3;

/**
 * States: `none`, `asking` (for the microphone), `connecting`, `on`, `broken` (sound is interrupted).
 * `send(message)` says whether it was sent; `onState(state)`, `onProblem(kind, detail)` and `onMicrophone(kind, message)`
 * tell the page, `onSilenced(play)` that a click is needed for sound; `onLevels({microphone, agent})` feeds its meters.
 */
export class Call {
  constructor({ playback, audio, send, onState, onProblem, onMicrophone, onSilenced, onLevels }) {
    Object.assign(this, { playback, audio, send, onState, onProblem, onMicrophone, onSilenced, onLevels });
    this.state = "none";
    this.attempt = null; // the latest start(); an older one that gets its microphone late gives it back
    this.stream = null;
    this.connection = null;
    this.answerTimer = null;
    this.failures = 0;
    this.context = null;
    this.meters = {};
  }

  /** Asks for the microphone, then calls; call it from a click, or the browser keeps the sound off. */
  async start() {
    if (this.state !== "none") return;
    const attempt = Symbol("attempt");
    this.attempt = attempt;
    this.#become("asking");
    try {
      const stream = await openMicrophone();
      if (this.attempt !== attempt) return stopTracks(stream); // hung up meanwhile
      this.#use(stream);
    } catch (error) {
      if (!(error instanceof MicrophoneProblem)) throw error;
      if (this.attempt !== attempt) return;
      this.stop();
      this.onMicrophone(error.kind, error.message);
      return;
    }
    await this.offer();
  }

  /** Calls the server, in place of any earlier attempt; does nothing without microphone or connection. */
  async offer() {
    if (!this.stream) return;
    this.#hangUpMedia();
    const connection = new RTCPeerConnection({ iceServers: [] });
    this.connection = connection;
    this.#become("connecting");
    const [track] = this.stream.getAudioTracks();
    const transceiver = connection.addTransceiver(track, { direction: "sendrecv", streams: [this.stream] });
    connection.onconnectionstatechange = () => this.#connectionChanged(connection);
    connection.ontrack = (event) => this.#hear(event.track, transceiver.receiver);
    await connection.setLocalDescription();
    if (this.connection !== connection) return;
    // The offer leaves at once: the server learns our address from our checks, so gathering would only cost time.
    const sent = this.send({ type: "webrtc_offer", sdp: connection.localDescription.sdp });
    if (sent) this.answerTimer = setTimeout(() => this.#fail("unanswered"), ANSWER_MS);
  }

  async answered(sdp) {
    clearTimeout(this.answerTimer);
    const connection = this.connection;
    if (connection?.signalingState !== "have-local-offer") return;
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
    this.context?.close();
    this.context = null;
    this.meters = {};
    this.failures = 0;
    this.#become("none");
  }

  #use(stream) {
    this.stream = stream;
    this.context = new AudioContext();
    this.meters.microphone = new LevelMeter(this.context, stream, (level) => this.onLevels({ microphone: level }));
    stream.getAudioTracks()[0].onended = () => {
      this.stop();
      this.onMicrophone("Unplugged", "");
    };
  }

  #hear(track, receiver) {
    const stream = new MediaStream([track]);
    receiver.jitterBufferTarget = 0; // as little delay as the network allows; an interruption must be heard at once
    this.audio.srcObject = stream;
    this.playback.attach(this.connection, receiver);
    this.audio.play().catch((error) => {
      // An AbortError only says that the call was replaced before its first packet.
      if (error.name !== "AbortError") this.onSilenced(() => this.#unsilence());
    });
    this.meters.agent = new LevelMeter(this.context, stream, (level) => this.onLevels({ agent: level }));
  }

  async #unsilence() {
    await Promise.all([this.audio.play(), this.context?.resume()]);
  }

  #connectionChanged(connection) {
    if (this.connection !== connection) return;
    const state = connection.connectionState;
    if (state === "connected") {
      this.failures = 0;
      this.#become("on");
    } else if (state === "disconnected") {
      this.#become("broken");
    } else if (state === "failed") {
      this.#callAgain();
    }
  }

  #callAgain() {
    this.failures += 1;
    if (this.failures >= MOST_FAILURES) {
      this.#fail("blocked");
      return;
    }
    this.offer().catch((error) => this.#fail("refused", error.message));
    this.#become("broken");
  }

  #fail(kind, detail = "") {
    this.stop();
    this.onProblem(kind, detail);
  }

  #hangUpMedia() {
    clearTimeout(this.answerTimer);
    this.meters.agent?.close();
    delete this.meters.agent;
    this.playback.detach();
    this.audio.srcObject = null;
    const connection = this.connection;
    this.connection = null;
    connection?.close();
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
