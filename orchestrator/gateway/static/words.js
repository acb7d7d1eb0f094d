// Everything the page says to people: phases, troubles and what to do about them.

export const PHASES = {
  NONE: { title: "Not connected", hint: "Start a call and speak, or connect and type." },
  IDLE: { title: "Idle", hint: "The conversation is open and about to begin." },
  LISTENING: { title: "Listening", hint: "Speak now, or type below." },
  THINKING: { title: "Thinking", hint: "Looking for an answer." },
  SPEAKING: { title: "Speaking", hint: "The agent answers. Interrupt it whenever you like." },
  INTERRUPT: { title: "Interrupted", hint: "You have the floor." },
  ENDED: { title: "Ended", hint: "This conversation is over. Start another one whenever you like." },
};

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
  unanswered: { title: "The server did not answer the call", text: "You can go on by typing, or start the call again." },
  blocked: {
    title: "The sound does not get through",
    text: "A firewall or the network between you and the server blocks the call. You can go on by typing.",
  },
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
