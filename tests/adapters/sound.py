"""Sound for stand-ins of speech services."""

import math
import struct


def tone(ms: int, rate_hz: int, pitch_hz: int = 220) -> bytes:
    """A sine of 16-bit mono PCM."""
    samples = rate_hz * ms // 1000
    return struct.pack(
        f"<{samples}h", *(round(6000 * math.sin(2 * math.pi * pitch_hz * at / rate_hz)) for at in range(samples))
    )
