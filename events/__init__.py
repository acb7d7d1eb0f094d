"""The language of orch: every event that can happen, its canonical encoding, and recordings of it."""
