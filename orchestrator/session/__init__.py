"""The session core: a pure reducer over events. The package has no I/O, clock, random, environment or logging."""

REDUCER_VERSION = "0.2.0"
"""Version of the decision rules; each recording names its own. Raise it with every change of a decision."""
