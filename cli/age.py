"""How old something must be, as it is said on the command line: 90d, 12h, 30m."""

import re
import time

_UNITS = {"m": 60, "h": 3_600, "d": 86_400}


class BadAgeError(ValueError):
    """It is no age; the message says how one looks."""


def before_us(age: str) -> int:
    """The moment so long ago, in microseconds since 1970. Raises BadAgeError."""
    found = re.fullmatch(r"(\d{1,6})([mhd])", age)
    if found is None:
        raise BadAgeError(f"{age!r} is no age; say 90d, 12h or 30m")
    return int((time.time() - int(found[1]) * _UNITS[found[2]]) * 1_000_000)
