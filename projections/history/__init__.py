"""The history: SQL tables of sessions, turns and transcripts, and an archive of every event."""
