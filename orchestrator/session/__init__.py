"""The session core: a pure reducer over events. No I/O, clock, random, environment or logging in here."""

REDUCER_VERSION = "0.1.0"
"""Names the rules that a recording was made under; raise it with every change of a decision."""
