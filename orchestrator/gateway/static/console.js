// Wires the page together: connection, call, playback and view; and shows tests what it knows as `window.orch`.

import { Call } from "./call.js";
import { Connection } from "./connection.js";
import { Playback } from "./playback.js";
import { View } from "./view.js";
import { AWAY, JOINING, NO_SOUND, callWords, closeWords, microphoneWords, pageWords } from "./words.js";

const REMEMBERED = 5000;
const audio = document.getElementById("agent");
const now = { session_id: null, phase: "NONE", turn: 0, link: "idle", call: "none", partial: "" };
const heard = { log: [], conversation: [], errors: [] };

const view = new View({
  onStart: () => begin(true),
  onConnect: () => begin(false),
  onHangUp: hangUp,
  onInterrupt: () => connection.send(bargeIn()),
  onMute: toggleMute,
  onText: (text) => connection.type(text),
});
const playback = new Playback(audio, (id) => connection.send({ type: "playback_done", playback_id: id }));
const call = new Call({
  playback,
  audio,
  send: (message) => connection.send(message),
  onState: callChanged,
  onProblem: (kind, detail) => view.notice("call", callWords(kind, detail)),
  onMicrophone: (kind, message) => view.notice("microphone", microphoneWords(kind, message)),
  onSilenced: (play) => view.notice("sound", NO_SOUND, { label: NO_SOUND.action, run: () => playSound(play) }),
  onLevels: (levels) => view.levels(levels),
  onNoLevels: (name) => view.noLevel(name),
  onLost: () => connection.renew(),
});
const address = new URL("orchestrate", document.baseURI);
address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
const connection = new Connection(address, { onStatus: connectionChanged, onMessage: received });

/** What each message of the server does to the page (docs/websocket.md). */
const ACTIONS = {
  session: ({ session_id, ice_servers }) => {
    call.iceServers = ice_servers ?? [];
    now.session_id = session_id;
    view.session(session_id);
  },
  phase: ({ phase, reason, turn }) => {
    Object.assign(now, { turn });
    view.phase(phase, { reason, turn });
    update({ phase });
  },
  transcript: ({ text, is_final }) => {
    partial(is_final ? "" : text);
    if (is_final) said("user", text);
  },
  clear_text: () => partial(""),
  reply: ({ playback_id, text }) => {
    if (view.replies.has(playback_id)) view.reword(playback_id, text); // it comes again to a page that rejoins
    else said("agent", text, playback_id);
  },
  reply_more: ({ playback_id, text }) => view.saidMore(playback_id, text),
  log: ({ line }) => {
    remember(heard.log, line);
    view.log(line);
  },
  webrtc_answer: ({ sdp }) => call.answered(sdp),
  playback_start: ({ playback_id }) => playback.start(playback_id),
  playback_stop: ({ playback_id }) => {
    playback.stop(playback_id);
    view.interrupted(playback_id);
  },
  playback_mark: ({ playback_id, rtp }) => playback.mark(playback_id, rtp),
  error: ({ code, message }) => {
    remember(heard.errors, { code, message });
    if (code === "call_failed") call.refused(message);
    else if (code === "call_lost") call.lost();
    else view.notice("server", { title: "The server reports a problem.", text: message });
  },
  heard: ({ playback_id, text }) => view.heard(playback_id, text),
  ack: () => {}, // the connection forgets the words that it would send again
  moved: () => {}, // the connection follows by itself
  ended: ({ reason }) => {
    call.stop();
    view.phase("ENDED", { reason });
    update({ phase: "ENDED" });
  },
};

function received(message) {
  const action = ACTIONS[message.type];
  if (action) action(message);
  else console.debug(`ignored a message of type ${message.type}: this page does not know it`);
}

function connectionChanged(status) {
  const { state, code, reason, rejoining, retryInMs } = status;
  view.link(state, rejoining, retryInMs);
  if (state === "open") {
    view.clearNotice("connection");
    call.connected();
  } else if (state === "waiting") {
    const action = { label: "Try now", run: () => connection.retryNow() };
    view.notice("connection", closeWords(code, reason, rejoining), action);
  } else if (state === "idle") {
    call.stop();
    partial("");
    if (code === 1000) view.clearNotice("connection");
    else view.notice("connection", closeWords(code, reason, rejoining));
    if (now.phase !== "ENDED") now.phase = "NONE";
    if (now.phase === "NONE") view.phase("NONE");
  }
  if (state === "connecting" || state === "waiting") view.phase("NONE", { words: rejoining ? AWAY : JOINING });
  update({ link: state });
}

function callChanged(state) {
  if (state === "broken") view.notice("call", callWords("broken"));
  if (state === "on") view.clearNotice("call");
  if (state === "connecting") view.clearNotice("microphone"); // the question for it was answered
  update({ call: state });
}

/** Opens a conversation if there is none, and a call if one is wanted: both at once, neither waits for the other. */
function begin(withCall) {
  view.clearNotice("microphone");
  view.clearNotice("call");
  view.noLevel();
  if (connection.state === "idle") {
    Object.assign(now, { session_id: null, phase: "NONE", turn: 0 });
    for (const list of Object.values(heard)) list.length = 0;
    for (const kind of ["connection", "server", "sound"]) view.clearNotice(kind);
    view.clear();
    view.session(null);
    playback.forget();
    connection.open();
  }
  if (withCall) call.start();
  else view.focusInput();
}

function hangUp() {
  call.stop();
  connection.hangUp();
}

function bargeIn() {
  const [playback_id, position_ms] = [playback.current?.id, playback.positionMs()];
  return { type: "barge_in", playback_id, position_ms }; // JSON leaves out what is undefined
}

function toggleMute() {
  call.muted = !call.muted;
  update({});
}

async function playSound(play) {
  try {
    await play();
    view.clearNotice("sound");
  } catch (error) {
    const said = { title: NO_SOUND.title, text: `It refuses the click, too: ${error.message}` };
    view.notice("sound", said, { label: NO_SOUND.action, run: () => playSound(play) });
  }
}

function said(who, text, playbackId) {
  remember(heard.conversation, { who, text });
  view.said(who, text, playbackId);
}

function partial(text) {
  now.partial = text;
  view.partial(text);
}

function remember(list, item) {
  list.push(item);
  if (list.length > REMEMBERED) list.shift();
}

function update(changes) {
  Object.assign(now, changes);
  view.actions({ link: now.link, call: now.call, phase: now.phase, muted: call.muted });
}

// No failure goes unsaid: what no other part of the page explains is explained here.
window.addEventListener("error", (event) => {
  if (event.error) view.notice("page", pageWords(event.message)); // without: a ResizeObserver that is asked again
});
window.addEventListener("unhandledrejection", (event) => view.notice("page", pageWords(String(event.reason))));

// A page that goes away hangs up, so that the server need not wait for it.
window.addEventListener("pagehide", () => connection.send({ type: "goodbye" }));

/** For tests and curious people; the page itself does not use it. */
window.orch = Object.freeze({
  ...heard,
  get session_id() { return now.session_id; },
  get phase() { return now.phase; },
  get turn() { return now.turn; },
  get link() { return now.link; },
  get call() { return now.call; },
  get partial() { return now.partial; },
  get playback_id() { return playback.current?.id ?? null; },
  get position_ms() { return playback.positionMs() ?? 0; },
  get muted() { return audio.muted; },
  /** Loudness of the agent's audio as it arrives (RMS, 0 to 1). */
  remoteLevel: () => call.meters.agent?.level() ?? 0,
  /** The same as the user hears it: nothing while the page is muted. */
  heardLevel: () => (audio.muted ? 0 : call.meters.agent?.level() ?? 0),
  /** The loudest since the call began or since the last reset. */
  maxRemoteLevel: () => call.meters.agent?.max ?? 0,
  resetMaxRemoteLevel: () => { if (call.meters.agent) call.meters.agent.max = 0; },
});
