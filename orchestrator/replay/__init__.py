"""Replay: run a recording through today's reducer and compare. Pure; needs no Redis."""
