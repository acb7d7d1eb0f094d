// Decides when the agent is heard and knows when it has been: mute on stop, report at the mark.

const POLL_MS = 4;
const ALIVE_MS = 1000; // a silent server sends a packet every 400 ms, and one may be lost
const GIVE_UP_MS = 5000;
const USUAL_PLAYOUT_MS = 30;
const LONGEST_PLAYOUT_MS = 300;
const REMEMBERED_STOPS = 100;
const MUTED_MS = 300; // longer than a jitter buffer; the next answer may be here before its `playback_start`
const RTP_TICKS_PER_MS = 48;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What the user hears of the agent, playback by playback. `report(playback_id)` says one was heard to its end. */
export class Playback {
  constructor(audio, report) {
    this.audio = audio;
    this.report = report;
    this.current = null; // the playback being heard: {id, rtpAtStart}
    this.stopped = new Set();
    this.muting = null; // the timer that ends it
    this.connection = null;
    this.receiver = null;
  }

  attach(connection, receiver) {
    this.connection = connection;
    this.receiver = receiver;
    this.audio.muted = false;
  }

  detach() {
    this.connection = this.receiver = this.current = null;
  }

  /** A new conversation begins, which names its playbacks as the one before did. */
  forget() {
    this.stopped.clear();
    this.current = null;
    this.audio.muted = false;
  }

  /** A `playback_start` may have been missed while the page was away; better heard than lost. */
  rejoined() {
    this.audio.muted = false;
  }

  start(id) {
    if (this.stopped.has(id)) return; // a late start must not bring back what the user cut off
    this.current = { id, rtpAtStart: this.#rtpNow() };
    this.audio.muted = false;
  }

  stop(id) {
    this.stopped.add(id);
    if (this.stopped.size > REMEMBERED_STOPS) this.stopped.delete(this.stopped.values().next().value);
    if (this.current && this.current.id !== id) return; // something newer is being heard already
    this.current = null;
    this.audio.muted = true; // the jitter buffer still holds some of it
    clearTimeout(this.muting);
    this.muting = setTimeout(() => (this.audio.muted = false), MUTED_MS);
  }

  /** About how much of the current playback was heard, by the clock of the media, or undefined. */
  positionMs() {
    const [start, now] = [this.current?.rtpAtStart, this.#rtpNow()];
    if (start === undefined || start === null || now === null) return undefined;
    return Math.max(0, Math.round(((now - start) | 0) / RTP_TICKS_PER_MS));
  }

  /** Whether audio is arriving: the server sends packets all the time, a few even while it says nothing. */
  async isAlive() {
    const before = await this.packetsReceived();
    await pause(ALIVE_MS);
    return (await this.packetsReceived()) > before;
  }

  /** Waits until the packet with timestamp `rtp` has been heard, then reports; silent if it never is. */
  async mark(id, rtp) {
    const receiver = this.receiver;
    const until = performance.now() + GIVE_UP_MS;
    const counts = () => this.receiver === receiver && !this.stopped.has(id);
    if (!receiver) return;
    while (counts() && !this.#reached(rtp)) {
      if (performance.now() > until) {
        // The server has a timer for this. To claim that the user heard it would be a lie.
        console.warn(`playback ${id}: the mark was not reached in ${GIVE_UP_MS} ms`);
        return;
      }
      await pause(POLL_MS);
    }
    await pause(await this.#playoutMs());
    if (!counts()) return;
    if (this.current?.id === id) this.current = null;
    this.report(id);
  }

  /** The media clock of what is being heard, or null where there is none, or the browser does not tell it. */
  #rtpNow() {
    try {
      return this.receiver?.getSynchronizationSources()[0]?.rtpTimestamp ?? null;
    } catch (error) {
      console.debug(error);
      return null;
    }
  }

  /** How many packets of the agent's audio have arrived in this call; 0 where the browser does not tell. */
  async packetsReceived() {
    // Not the RTP time: that goes on for a while after the last packet, as the jitter buffer runs dry.
    const stats = await statsOf(this.receiver);
    return [...stats.values()].find((entry) => entry.type === "inbound-rtp")?.packetsReceived ?? 0;
  }

  #reached(rtp) {
    const now = this.#rtpNow();
    return now !== null && ((now - rtp) | 0) >= 0; // `| 0` makes it right across the wrap at 2^32
  }

  /** How long a packet that was handed over still takes to the loudspeaker. */
  async #playoutMs() {
    const stats = await statsOf(this.connection);
    for (const entry of stats.values()) {
      if (entry.type !== "media-playout" || !entry.totalSamplesCount) continue;
      return Math.min(LONGEST_PLAYOUT_MS, (1000 * entry.totalPlayoutDelay) / entry.totalSamplesCount);
    }
    return USUAL_PLAYOUT_MS;
  }
}

/** The statistics of a connection or a part of it; none where the browser does not tell them. */
async function statsOf(source) {
  try {
    return (await source?.getStats()) ?? new Map();
  } catch (error) {
    console.debug(error);
    return new Map();
  }
}
