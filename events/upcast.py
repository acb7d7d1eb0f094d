"""Upcasting: lifts an event of an older schema version to today's, one pure step per version."""

from collections.abc import Callable
from typing import Any

Raw = dict[str, Any]

UPCASTERS: dict[tuple[str, int], Callable[[Raw], Raw]] = {
    ("SESSION_OPENED", 1): lambda raw: raw | {"state_schema": 1},
}
"""(event type, version it lifts from) → a pure function to the next version. A schema change adds one here and keeps a
recording of the old version in fixtures/released/."""


def upcast(raw: Raw, current: int) -> Raw:
    """Lift `raw` to version `current`. Raises LookupError where a step is missing."""
    for version in range(raw.get("schema_version", 1), current):
        raw = UPCASTERS[raw["type"], version](dict(raw)) | {"schema_version": version + 1}
    return raw
