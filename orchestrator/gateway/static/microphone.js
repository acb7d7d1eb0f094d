// Gets the user's microphone, or says precisely why there is none.

/** Why there is no microphone; `kind` is what words.js explains. */
export class MicrophoneProblem extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

/** The microphone's stream, with the browser's echo canceller: without it the agent would interrupt itself. */
export async function openMicrophone() {
  if (!window.isSecureContext) throw new MicrophoneProblem("InsecureContext", "");
  let stream;
  try {
    if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneProblem("NoMediaDevices", "");
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    throw new MicrophoneProblem(error.kind ?? error.name, error.message);
  }
  if (!stream.getAudioTracks().length) throw new MicrophoneProblem("NotFoundError", "");
  return stream;
}
