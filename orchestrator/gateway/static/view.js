// Shows the conversation: puts facts into the page's elements and reports what the user does. Decides nothing.

import { NO_LEVELS, phaseWords } from "./words.js";

const MOST_LOG_LINES = 1000;
const COLOURS = [["🟢", "IDLE"], ["🔵", "LISTENING"], ["🟡", "THINKING"], ["🔴", "SPEAKING"], ["🟣", "INTERRUPT"]];

const find = (id) => document.getElementById(id);

/** Keeps the end of a list in sight while it grows or the window changes, unless the reader scrolled up. */
class Follower {
  constructor(scroller) {
    this.scroller = scroller;
    this.following = true;
    scroller.addEventListener("scroll", () => {
      this.following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
    });
    if (window.ResizeObserver) new ResizeObserver(() => this.follow()).observe(scroller);
  }

  follow() {
    if (this.following) this.scroller.scrollTop = this.scroller.scrollHeight;
  }
}

export class View {
  constructor({ onStart, onConnect, onHangUp, onInterrupt, onMute, onText }) {
    find("start-call").onclick = onStart;
    find("connect").onclick = onConnect;
    find("hang-up").onclick = onHangUp;
    find("mute").onclick = onMute;
    find("interrupt").onclick = () => this.canInterrupt && onInterrupt();
    document.addEventListener("keydown", (event) => {
      // In an input method, Escape means the word that is being composed; 229: so says a browser without isComposing.
      const composing = event.isComposing || event.keyCode === 229;
      if (event.key === "Escape" && !composing && this.canInterrupt) onInterrupt();
    });
    find("type-form").onsubmit = (event) => {
      event.preventDefault();
      const text = find("typed").value.trim();
      if (text && onText(text)) find("typed").value = "";
    };
    this.canInterrupt = false;
    this.hears = false; // whether a call carries the user's voice
    this.words = () => phaseWords("NONE", "", false);
    this.replies = new Map();
    this.conversation = new Follower(find("conversation-scroll"));
    this.lines = new Follower(find("log"));
    this.countdown = null;
  }

  /** The big state; `words` replace those of the phase while the page is not connected. */
  phase(phase, { reason = "", turn = 0, words } = {}) {
    document.body.dataset.phase = phase;
    this.words = () => words ?? phaseWords(phase, reason, this.hears);
    this.#say();
    find("phase-detail").textContent = turn ? `turn ${turn}` : "";
  }

  #say() {
    const { title, hint } = this.words();
    for (const [id, text] of [["phase", title], ["phase-hint", hint]]) {
      if (find(id).textContent !== text) find(id).textContent = text; // the same again would be read aloud again
    }
  }

  session(id) {
    this.sessionId = id;
    find("session").hidden = !id;
    find("session-id").textContent = id ?? "";
    find("to-console").href = id ? `console?${new URLSearchParams({ session: id })}` : "console";
  }

  /** The small connection sign; counts down while the page waits for its next attempt. */
  link(state, rejoining, retryInMs) {
    clearInterval(this.countdown);
    document.body.dataset.link = state;
    const texts = { idle: "Not connected", open: "Connected", connecting: rejoining ? "Reconnecting…" : "Connecting…" };
    if (state !== "waiting") {
      find("link-text").textContent = texts[state];
      return;
    }
    const at = performance.now() + retryInMs;
    const show = () => {
      const seconds = Math.max(1, Math.ceil((at - performance.now()) / 1000));
      find("link-text").textContent = `Next attempt in ${seconds} s`;
    };
    show();
    this.countdown = setInterval(show, 500);
  }

  /** Which buttons make sense; the focus never stays on one that vanished. */
  actions({ link, call, phase, muted }) {
    const focused = document.activeElement;
    const open = link === "open";
    const inCall = call !== "none";
    this.hears = call === "on" || call === "broken";
    this.#say();
    this.canInterrupt = open && phase === "SPEAKING";
    find("start-call").hidden = inCall;
    find("start-call").classList.toggle("primary", link === "idle");
    find("connect").hidden = link !== "idle";
    find("hang-up").hidden = link === "idle";
    find("mute").hidden = !inCall || call === "asking";
    find("mute").setAttribute("aria-pressed", String(muted));
    find("interrupt").hidden = link === "idle";
    find("interrupt").disabled = false;
    find("interrupt").setAttribute("aria-disabled", String(!this.canInterrupt));
    find("meters").hidden = !inCall || call === "asking";
    find("send").disabled = !open;
    find("typed").disabled = link === "idle"; // not while the page is away: that would take the focus from a writer
    find("typed").placeholder = link === "idle" ? "Connect first, then type here" : "Type instead of speaking";
    if (focused?.hidden || focused?.disabled) document.querySelector(".actions button:not([hidden])").focus();
  }

  focusInput() {
    find("typed").focus();
  }

  levels({ microphone, agent }) {
    const shown = (level) => Math.min(1, Math.sqrt(level) * 1.4); // quiet speech should be visible
    if (microphone !== undefined) find("mic-level").value = shown(microphone);
    if (agent !== undefined) find("remote-level").value = shown(agent);
  }

  /** Says that a level cannot be shown, in its place; without a name, all can be again. */
  noLevel(name = null) {
    const meters = { microphone: find("mic-level"), agent: find("remote-level") };
    for (const [one, meter] of Object.entries(meters)) {
      if (!name || one === name) meter.parentElement.hidden = Boolean(name);
    }
    find("no-levels").textContent = name ? NO_LEVELS : "";
  }

  partial(text) {
    find("partial").hidden = !text;
    find("partial-text").textContent = text;
    this.#settle();
  }

  said(who, text, playbackId) {
    const item = document.createElement("li");
    const name = document.createElement("span");
    const words = document.createElement("span");
    item.className = `said ${who}`;
    name.className = "who";
    words.className = "words";
    name.textContent = who === "user" ? "You" : "Agent";
    words.textContent = text;
    words.dir = "auto"; // what is said in Arabic or Hebrew runs from right to left
    item.append(name, words);
    if (playbackId) this.replies.set(playbackId, item);
    find("conversation").append(item);
    this.#settle();
  }

  /** Replaces the words of a reply. */
  reword(playbackId, text) {
    this.replies.get(playbackId).querySelector(".words").textContent = text;
    this.conversation.follow();
  }

  /** Adds to a reply that is being spoken while it is written. */
  saidMore(playbackId, text) {
    const words = this.replies.get(playbackId)?.querySelector(".words");
    if (words) words.textContent += text;
    this.conversation.follow();
  }

  /** Marks a reply that was cut off. */
  interrupted(playbackId) {
    const item = this.replies.get(playbackId);
    if (!item || item.dataset.interrupted) return;
    item.dataset.interrupted = "true";
    const note = document.createElement("span");
    note.className = "note";
    note.textContent = "interrupted";
    item.append(note);
    this.conversation.follow();
  }

  /** A line of the log, without the session's id: the head of the page has it. */
  log(line) {
    const item = document.createElement("li");
    const own = `[${this.sessionId}] `;
    item.textContent = line.startsWith(own) ? line.slice(own.length) : line;
    const colour = COLOURS.find(([sign]) => line.includes(sign));
    if (colour) item.dataset.phase = colour[1];
    find("log-lines").append(item);
    if (find("log-lines").childElementCount > MOST_LOG_LINES) find("log-lines").firstElementChild.remove();
    this.lines.follow();
  }

  /** Shows how much of a reply was heard: the rest is struck out. */
  heard(playbackId, text) {
    const words = this.replies.get(playbackId)?.querySelector("[dir]");
    if (!words?.textContent.startsWith(text) || words.textContent === text) return;
    const rest = document.createElement("s");
    const before = document.createElement("span");
    rest.textContent = words.textContent.slice(text.length);
    before.className = "visually-hidden";
    before.textContent = " not heard: ";
    words.replaceChildren(text, before, rest);
  }

  /** Empties the page for the next conversation. */
  clear() {
    find("conversation").replaceChildren();
    find("log-lines").replaceChildren();
    this.replies.clear();
    this.partial("");
  }

  /** One notice per kind; the newest replaces the older. `action` is {label, run}. */
  notice(kind, { title, text }, action) {
    const shown = document.querySelector(`[data-notice="${kind}"]`);
    if (shown?.dataset.said === title + text) return; // saying it again would only make screen readers repeat it
    shown?.remove();
    const notice = document.createElement("div");
    notice.className = "notice";
    Object.assign(notice.dataset, { notice: kind, said: title + text });
    const words = document.createElement("p");
    const strong = document.createElement("strong");
    strong.textContent = title;
    words.append(strong, ` ${text}`);
    notice.append(words);
    if (action) notice.append(this.#button(action.label, action.run));
    notice.append(this.#button("Dismiss", () => notice.remove()));
    find("notices").append(notice);
  }

  clearNotice(kind) {
    document.querySelector(`[data-notice="${kind}"]`)?.remove();
  }

  #button(label, run) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.onclick = run;
    return button;
  }

  #settle() {
    find("empty").hidden = find("conversation").childElementCount > 0 || !find("partial").hidden;
    this.conversation.follow();
  }
}
