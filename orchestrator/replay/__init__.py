"""Replay: run a recording through today's reducer, and compare the results with the recording. Pure; needs no Redis."""
