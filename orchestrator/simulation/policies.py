"""Draws random policies: each switch on or off, and deadlines that usually hold and that slow services miss."""

from random import Random
from typing import Any

from orchestrator.session.phrases import BACKCHANNELS
from orchestrator.session.policy import Policy
from orchestrator.simulation.words import PLEASE

FILLER = "One moment please"
LOOKING = "I am looking that up"
GREETING = "Hello, how can I help you today?"
AWAY = "Are you still there?"


def drawn(chance: Random) -> Policy:
    """Draw a policy."""
    return Policy.model_validate(_deadlines(chance) | _floor(chance) | _speech(chance) | _tools(chance))


def _deadlines(chance: Random) -> dict[str, Any]:
    return {
        "deadlines": {
            "answer_ms": chance.choice((1_000, 2_000, 4_000)),
            "floor_ms": chance.choice((1_500, 5_000)),
            "intent_ms": chance.choice((600, 1_000)),
            "playback_grace_ms": chance.choice((1_500, 3_000)),
            "reconnect_ms": chance.choice((4_000, 60_000)),
            "stt_ms": chance.choice((1_000, 3_000)),
            "tts_ms": chance.choice((800, 3_000)),
        },
        "fallback": {"failures": chance.choice((0, 1, 2, 3, 3, 5))},
        "goodbye": {
            "after_ms": chance.choice((0, 0, 0, 1)) * chance.randrange(300, chance.choice((3_000, 30_000))),
            "intent": chance.choice(("", "goodbye")),
        },
        "intent": {"skip": chance.random() < 0.2},
    }


def _floor(chance: Random) -> dict[str, Any]:
    """The parts about who speaks when: endpointing, interruption, speculation, added words."""
    return {
        "endpointing": {
            "complete_ms": chance.choice((0, 100, 250)),
            "incomplete_ms": chance.choice((0, 250, 600, 1_200)),
            "longest_ms": chance.choice((0, 800, 1_500)),
            "phrases": chance.choice(((), (PLEASE,))),
            "stable_ms": chance.choice((0, 0, 300)),
            "watchdog_ms": chance.choice((1_500, 5_000)),
        },
        "interruption": {
            "backchannels": chance.choice(((), BACKCHANNELS["en"], BACKCHANNELS["en"])),
            "boundary_ms": chance.choice((0, 0, 1_000, 3_000)),
            "false_ms": chance.choice((500, 2_000)),
            "min_speech_ms": chance.choice((0, 300, 500, 500, 1_000)),
            "min_words": chance.choice((0, 0, 1, 2, 3)),
            "pause_ms": chance.choice((0, 50, 400, 1_500)),
            "pause_playback": chance.random() < 0.8,
        },
        "speculation": {"stable_ms": chance.choice((0, 100, 200)), "tries": chance.choice((0, 0, 1, 2, 4))},
        "thinking": {"more_words": chance.choice(("merge", "merge", "supersede"))},
    }


def _tools(chance: Random) -> dict[str, Any]:
    return {
        "tools": {
            "calls": chance.choice((1, 2, 8)),
            "delay_ms": chance.choice((0, 300)),
            "limit_ms": chance.choice((800, 3_000)),
            "text": chance.choice(("", LOOKING)),
        }
    }


def _speech(chance: Random) -> dict[str, Any]:
    """The parts about unasked speech: prompts, fillers, greeting."""
    return {
        "away": {
            "after_ms": chance.choice((5_000, 8_000, 15_000)),
            "prompts": chance.choice((0, 1, 2)),
            "text": chance.choice(("", "", AWAY)),
        },
        "filler": {"delay_ms": chance.choice((0, 200, 500)), "text": chance.choice(("", FILLER))},
        "greeting": {"text": chance.choice(("", "", GREETING)), "wait_ms": chance.choice((500, 2_000))},
    }
