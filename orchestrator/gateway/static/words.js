// Everything the page says to people: phases, troubles and what to do about them.

export const PHASES = {
  NONE: { title: "Not connected", hint: "Start a call and speak, or connect and type." },
  IDLE: { title: "Idle", hint: "The conversation is open and about to begin." },
  LISTENING: { title: "Listening", hint: "Speak now, or type below.", silentHint: "Type below, or start a call and speak." },
  THINKING: { title: "Thinking", hint: "Looking for an answer." },
  SPEAKING: { title: "Speaking", hint: "The agent answers. Interrupt it whenever you like." },
  INTERRUPT: { title: "Interrupted", hint: "You have the floor." },
  ENDED: { title: "Ended", hint: "This conversation is over. Start another one whenever you like." },
};

const FAILED = "Something did not work just now. Please say it again.";

/** What the user does about a phase that was reached because something failed; by the reason's name. */
const AFTER_FAILURE = {
  service_failed: FAILED,
  answer_deadline: FAILED,
  intent_deadline: FAILED,
  stt_deadline: "I did not hear that. Please say it again.",
  tts_deadline: FAILED,
  playback_deadline: FAILED,
  too_many_failures: "The service could not go on with this conversation. Please try again later.",
  internal_error: "The service could not go on with this conversation. Please try again later.",
};

/** The words of a phase, with what to do when a failure led to it; `hears` says whether there is a microphone. */
export function phaseWords(phase, reason, hears) {
  const { title, hint, silentHint } = PHASES[phase];
  return { title, hint: AFTER_FAILURE[reason] ?? (hears ? hint : (silentHint ?? hint)) };
}

export const AWAY = { title: "Reconnecting", hint: "The conversation waits for you." };
export const JOINING = { title: "Connecting", hint: "One moment." };

const CLOSED = {
  1008: {
    title: "The server refused this page",
    text: "It does not accept this address as an origin, or could not read what the page sent. " +
      "Open the console under an address that the server allows, then reload.",
  },
  1009: {
    title: "The message was too big for the server",
    text: "Send less at once. Start a new conversation to go on.",
  },
  1013: {
    title: "The server is full or not ready",
    text: "It takes no more conversations just now. The page tries again by itself.",
  },
  4401: {
    title: "The server does not let this page in",
    text: "Its token is missing, used or too old. Load the page again; where it asks for a token, show one.",
  },
  4404: {
    title: "This conversation no longer exists",
    text: "It ended while you were away. Start a new one.",
  },
};

/** What to say when the server closed with `code`; `rejoining` tells a lost conversation from one never begun. */
export function closeWords(code, reason, rejoining) {
  const known = CLOSED[code];
  const detail = reason ? ` The server says: ${reason}` : "";
  if (known) return { title: known.title, text: known.text + detail };
  if (rejoining) {
    return {
      title: "The connection was lost",
      text: `Your conversation is kept for a while; the page comes back to it by itself (code ${code}).${detail}`,
    };
  }
  return {
    title: "The server cannot be reached",
    text: `Is it running? The page tries again by itself (code ${code}).${detail}`,
  };
}

const MICROPHONE = {
  NotAllowedError: {
    title: "The microphone is not allowed",
    text: "Allow the microphone for this page (the icon beside the address), and in the settings of your system, " +
      "then start the call again. Until then you can type.",
  },
  NotFoundError: {
    title: "No microphone was found",
    text: "Plug one in or switch it on, then start the call again. Until then you can type.",
  },
  NotReadableError: {
    title: "The microphone is busy",
    text: "Another program is using it, or the system does not hand it out. Close the other program, then start the " +
      "call again. Until then you can type.",
  },
  SecurityError: {
    title: "The browser forbids the microphone here",
    text: "A policy of the browser or of this page's server blocks it. Until it is lifted you can type.",
  },
  InsecureContext: {
    title: "This page is not secure, so there is no microphone",
    text: "Browsers give the microphone only to https:// pages and to localhost. Open the console under one of " +
      "these. Until then you can type.",
  },
  NoMediaDevices: {
    title: "This browser gives no microphone",
    text: "It is switched off (a privacy setting, an extension or a policy), or the browser is too old. Allow it, or " +
      "use another browser. Until then you can type.",
  },
  Waiting: {
    title: "The browser has not given the microphone yet",
    text: "Look for its question beside the address, and answer it. Until then you can type.",
  },
  Unplugged: {
    title: "The microphone stopped",
    text: "It was unplugged or its permission was taken away. Start the call again when it is back; until then you can type.",
  },
};

/** What to say when the microphone cannot be had; `kind` is the name of the browser's error or one of our own. */
export function microphoneWords(kind, message) {
  return MICROPHONE[kind] ?? {
    title: "The microphone cannot be used",
    text: `The browser says: ${message || kind}. Until this is solved you can type.`,
  };
}

const CALL = {
  refused: { title: "The server could not take the call", text: "You can go on by typing, or start the call again." },
  unsupported: {
    title: "This browser cannot make calls",
    text: "Its WebRTC is switched off (a privacy setting, an extension or a policy) or missing. Allow it for this " +
      "page, or use another browser. You can go on by typing.",
  },
  browser: {
    title: "The browser could not make the call",
    text: "You can go on by typing, or start the call again; if that does not help, try another browser.",
  },
  unanswered: { title: "The server did not answer the call", text: "You can go on by typing, or start the call again." },
  blocked: {
    title: "The sound does not get through",
    text: "A firewall or the network between you and the server blocks the call. You can go on by typing.",
  },
  lost: { title: "The call breaks off again and again", text: "You can go on by typing, or start the call again." },
  broken: { title: "The sound is interrupted", text: "The call is being put through again." },
};

/** What to say when a call cannot be had or was lost. */
export function callWords(kind, detail) {
  const { title, text } = CALL[kind];
  return { title, text: detail ? `${text} (${detail})` : text };
}

export const NO_SOUND = {
  title: "The browser keeps this page silent",
  text: "It waits for a click before it plays sound.",
  action: "Play sound",
};

export const NO_LEVELS = "This browser cannot show how loud it is. The call does not depend on it.";

/** What to say of a failure that nothing else explains. */
export function pageWords(message) {
  return {
    title: "Something in this page does not work",
    text: `What does not depend on it goes on. If you miss something, reload the page or use another browser. (${message})`,
  };
}
