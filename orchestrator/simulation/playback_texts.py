"""The texts that one simulated playback speaks; more may come while it does."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any


class PlaybackTexts:
    """The texts in order, each with its number. `more` is called when a text is added, or the last one is known."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self.queue = deque([(int(payload.get("index", 0)), str(payload["text"]))])
        self.begins_ms = int(payload.get("begins_ms", 0))
        """Where the first of these texts begins in the audio of the whole answer."""
        self.is_complete = not payload.get("is_open", False)
        self.more: Callable[[], None] = lambda: None

    def add(self, payload: Mapping[str, Any]) -> None:
        """Add the text of a SpeakMore."""
        if payload["text"]:
            self.queue.append((int(payload["index"]), str(payload["text"])))
        self.is_complete = bool(payload["is_last"])
        self.more()
