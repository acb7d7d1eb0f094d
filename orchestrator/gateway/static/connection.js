// Keeps one conversation connected to the server, through drops, restarts and refusals.

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 8000;
const MOVE_MS = 100; // at most, before a conversation that moved is joined at its new place
const PATIENCE_MS = 10000; // for the server's `session`; a socket that hangs is as bad as none
const SIGN_MS = 5000; // for a message of the server after typed words; doubled by each renewal until an `ack`
const FAREWELL_MS = 2000; // for the server's close after our goodbye
const REFUSALS = new Set(["not_allowed", "turn_limit"]);
const FINAL_CODES = new Set([1000, 1008, 1009, 4401, 4404]);
const REFUSED = 4401; // of this page: the server refused our token, by an HTTP status that browsers hide

/**
 * States: `idle` (nothing wanted), `connecting`, `open` (the server said `session`), `waiting` (for the next attempt).
 * `onStatus({state, rejoining, code, reason, retryInMs})` is called on each change, `onMessage(message)` for the rest.
 */
export class Connection {
  constructor(url, { onStatus, onMessage }) {
    this.url = url;
    this.onStatus = onStatus;
    this.onMessage = onMessage;
    this.state = "idle";
    this.sessionId = null;
    this.resumeToken = null;
    this.failures = 0;
    this.tried = url; // where the latest socket goes
    this.place = url; // where the conversation was last heard of
    this.elsewhere = null; // the address that `moved` named, until it was tried
    this.leaving = false; // after a goodbye or `ended`, no close code is a reason to come back
    this.socket = null;
    this.timer = null;
    this.unacknowledged = new Map(); // typed words by message id: they are sent again after a reconnection
    this.page = Math.random().toString(36).slice(2); // not crypto.randomUUID: it needs a secure context
    this.typed = 0;
    this.hanging = null; // the timer that takes the socket for dead
    this.renewals = 0; // by that timer, since words were last acknowledged
    window.addEventListener("online", () => this.#networkChanged());
  }

  /** Opens a conversation unless there is one. */
  open() {
    if (this.state !== "idle") return;
    this.leaving = false;
    this.#connect();
  }

  /** Sends a message if the conversation is open; says whether it did. */
  send(message) {
    if (this.state !== "open") return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  /** As send, for words that must not be lost: they are repeated until the server has them in its log. */
  type(text) {
    const message = { type: "text", text, message_id: `${this.page}-${this.typed + 1}` };
    if (!this.send(message)) return false;
    this.typed += 1;
    this.unacknowledged.set(message.message_id, message);
    if (this.unacknowledged.size === 1) this.#expectSign(); // else it is expected already
    return true;
  }

  /** Tries at once instead of waiting any longer. */
  retryNow() {
    if (this.state === "waiting") this.#connect();
  }

  /** Comes back over a new socket: the old one may hang on a network that is gone, and nothing says so for minutes. */
  renew() {
    if (this.state === "open" && !this.leaving) this.#again(this.place);
  }

  /** Ends the conversation: with a goodbye if the server can hear it, and in any case soon. */
  hangUp() {
    if (!this.send({ type: "goodbye" })) {
      this.#finish({ code: 1000, reason: "" });
      return;
    }
    this.leaving = true;
    this.#after(FAREWELL_MS, () => this.#finish({ code: 1000, reason: "" }));
  }

  #again(place) {
    this.#drop();
    this.elsewhere = place;
    this.#connect();
  }

  /** The browser has a network again: what was begun on another one may hang. */
  #networkChanged() {
    if (this.state === "connecting" && this.socket) this.#again(this.tried);
    else this.renew();
    this.retryNow();
  }

  /** Typed words that bring no message of the server: the socket hangs. Without words, silence is nothing unusual. */
  #expectSign() {
    clearTimeout(this.hanging);
    if (!this.unacknowledged.size) return;
    this.hanging = setTimeout(() => {
      this.renewals += 1;
      this.renew();
    }, SIGN_MS * 2 ** this.renewals);
  }

  #connect() {
    // A conversation that moved is where it was last heard of, or where everybody is sent: both are tried in turn.
    const url = new URL(this.elsewhere ?? (this.failures % 2 ? this.place : this.url));
    this.elsewhere = null;
    const place = new URL(url);
    this.tried = place;
    const shown = ["orch.v1"]; // tokens travel as subprotocols: URLs are kept in logs and histories
    if (this.sessionId) {
      url.searchParams.set("session_id", this.sessionId);
      shown.push(`resume.${this.resumeToken}`);
    }
    const socket = new WebSocket(url, shown);
    this.socket = socket;
    socket.onmessage = (event) => this.#received(event.data, place);
    let isOpen = false;
    socket.onopen = () => (isOpen = true);
    socket.onclose = (event) => (isOpen ? this.#closed(event) : this.#closedEarly(socket, event));
    this.#after(PATIENCE_MS, () => this.#closed({ code: 1006, reason: "no answer" }));
    this.#become("connecting");
  }

  #received(data, place) {
    const message = JSON.parse(data);
    if (message.type === "ack") {
      this.unacknowledged.delete(message.message_id);
      this.renewals = 0;
    }
    if (REFUSALS.has(message.code)) this.unacknowledged.clear(); // the user was told: the words are not said again
    this.#expectSign();
    if (message.type === "session") {
      const rejoined = this.sessionId === message.session_id;
      this.sessionId = message.session_id;
      this.resumeToken = message.resume_token;
      this.place = place;
      this.failures = 0;
      clearTimeout(this.timer);
      this.onMessage(message); // before the state: a call that is offered then needs the ICE servers of this message
      this.#become("open", { rejoined });
      for (const words of this.unacknowledged.values()) this.send(words);
      return;
    }
    if (message.type === "ended") this.leaving = true;
    if (message.type === "moved") {
      this.elsewhere = this.#at(message.address);
      this.place = this.elsewhere ?? this.place;
    }
    this.onMessage(message);
  }

  /** Asks why the server took no WebSocket: it refuses tokens by an HTTP status. */
  async #closedEarly(socket, event) {
    const headers = this.sessionId ? { Authorization: `Resume ${this.resumeToken}` } : {};
    const asked = new URL(this.url);
    asked.protocol = location.protocol;
    let code = event.code;
    try {
      const { status } = await fetch(asked, { headers, redirect: "error" });
      if (status === 401 || status === 403) code = REFUSED;
    } catch (error) {
      console.debug(error); // nobody answers at all
    }
    if (this.socket === socket) this.#closed({ code, reason: event.reason });
  }

  #closed({ code, reason }) {
    this.#drop();
    if (this.leaving || FINAL_CODES.has(code)) {
      this.#finish(this.leaving ? { code: 1000, reason: "" } : { code, reason });
      return;
    }
    if (this.elsewhere && this.failures === 0) {
      this.failures += 1; // sent on once more without having got in: that is a failure like others
      this.#after(MOVE_MS * Math.random(), () => this.#connect());
      this.#become("connecting");
      return;
    }
    // Half of the pause is random: a thousand pages must not come back in the same instant after a restart.
    const longest = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.failures);
    const retryInMs = Math.round(longest * (0.5 + Math.random() / 2));
    this.failures += 1;
    this.#after(retryInMs, () => this.#connect());
    this.#become("waiting", { code, reason, retryInMs });
  }

  #finish({ code, reason }) {
    const rejoining = this.sessionId !== null;
    this.#drop();
    clearTimeout(this.timer);
    this.sessionId = null;
    this.resumeToken = null;
    this.place = this.url;
    this.elsewhere = null;
    this.failures = 0;
    this.renewals = 0;
    this.unacknowledged.clear();
    this.#become("idle", { code, reason, rejoining });
  }

  /** Where a node that names its address takes connections; null if this page may not go there. */
  #at(address) {
    const url = new URL("orchestrate", address.endsWith("/") ? address : `${address}/`);
    if (location.protocol === "https:" && url.protocol !== "https:") return null;
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return url;
  }

  /** Forgets the socket first, so that nothing it still says can count. */
  #drop() {
    const socket = this.socket;
    this.socket = null;
    clearTimeout(this.hanging);
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #after(ms, action) {
    clearTimeout(this.timer);
    this.timer = setTimeout(action, ms);
  }

  #become(state, facts = {}) {
    this.state = state;
    this.onStatus({ state, rejoining: this.sessionId !== null, ...facts });
  }
}
