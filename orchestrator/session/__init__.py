"""The session core: a pure reducer over events. No I/O, clock, random, environment or logging in here."""

REDUCER_VERSION = "0.2.0"
"""Version of the decision rules, which every recording names. Raise it with every change of a decision."""
