// Shows the conversation: puts facts into the page's elements and reports what the user does. Decides nothing.

import { PHASES } from "./words.js";

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
    new ResizeObserver(() => this.follow()).observe(scroller);
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
      if (event.key === "Escape" && this.canInterrupt) onInterrupt();
    });
    find("type-form").onsubmit = (event) => {
      event.preventDefault();
      const text = find("typed").value.trim();
      if (text && onText(text)) find("typed").value = "";
    };
    this.canInterrupt = false;
    this.replies = new Map();
    this.conversation = new Follower(find("conversation-scroll"));
    this.lines = new Follower(find("log"));
    this.countdown = null;
  }

  /** The big state; `words` replace those of the phase while the page is not connected. */
  phase(phase, { reason = "", turn = 0, words = PHASES[phase] } = {}) {
    document.body.dataset.phase = phase;
    find("phase").textContent = words.title;
    find("phase-hint").textContent = words.hint;
    find("phase-detail").textContent = [turn ? `turn ${turn}` : "", reason].filter(Boolean).join(" · ");
  }

  session(id) {
    find("session").hidden = !id;
    find("session-id").textContent = id ?? "";
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
    const open = link === "open";
    const inCall = call !== "none";
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
    if (document.activeElement?.hidden) document.querySelector(".actions button:not([hidden])").focus();
  }

  focusInput() {
    find("typed").focus();
  }

  levels({ microphone, agent }) {
    const shown = (level) => Math.min(1, Math.sqrt(level) * 1.4); // quiet speech should be visible
    if (microphone !== undefined) find("mic-level").value = shown(microphone);
    if (agent !== undefined) find("remote-level").value = shown(agent);
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
    name.textContent = who === "user" ? "You" : "Agent";
    words.textContent = text;
    item.append(name, words);
    if (playbackId) this.replies.set(playbackId, item);
    find("conversation").append(item);
    this.#settle();
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

  log(line) {
    const item = document.createElement("li");
    item.textContent = line;
    const colour = COLOURS.find(([sign]) => line.includes(sign));
    if (colour) item.dataset.phase = colour[1];
    find("log").append(item);
    if (find("log").childElementCount > MOST_LOG_LINES) find("log").firstElementChild.remove();
    this.lines.follow();
  }

  /** Empties the page for the next conversation. */
  clear() {
    find("conversation").replaceChildren();
    find("log").replaceChildren();
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
