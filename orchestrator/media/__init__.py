"""The media connection of a session: WebRTC, voice activity, the microphone and playback."""
