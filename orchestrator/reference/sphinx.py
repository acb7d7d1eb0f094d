"""Speech-to-text by pocketsphinx: understands the phrases it is given, and little else (extra `sphinx`)."""

from collections.abc import Iterable
from typing import Literal

from orchestrator.reference.recognition import ProcessRecognition

SPEAKERS_READY = 2
SPEAKERS_LIMIT = 32
"""Limit of open utterances; each needs 3 MB (about 50 MB in mode "general")."""


class SphinxRecognition(ProcessRecognition):
    """Recognises English in a separate process.

    mode: "domain" (a small language model of the phrases, the default), "phrases" (exactly these phrases and
    nothing else), "general" (the wheel's model of general English: larger, slower, and weaker on short commands).
    phrases: the domain; words that the dictionary does not know are dropped and named in a warning.
    """

    def __init__(self, phrases: Iterable[str], *, mode: Literal["domain", "phrases", "general"] = "domain") -> None:
        phrases = list(phrases)
        if mode != "general" and not phrases:
            raise ValueError(f"the recogniser's mode {mode!r} needs phrases; without any, use 'general'")
        settings = {
            "mode": mode,
            "phrases": phrases,
            "decoders_ready": SPEAKERS_READY,
            "decoders_limit": SPEAKERS_LIMIT,
        }
        known = phrases if mode != "general" else ()
        super().__init__("orchestrator.reference.recognition_worker", settings, known)
