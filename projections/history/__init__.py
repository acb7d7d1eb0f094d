"""The history: what happened in all sessions, as SQL tables, and the archive of every event."""
