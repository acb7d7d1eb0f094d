"""What a Redis promises to keep is said in words, and what is weak about it."""

from dataclasses import replace

import pytest

from orchestrator.runtime.redis.durability import Durability, durability
from tests.runtime.conftest import Place

SOUND = Durability("redis", "7.2.4", "yes", "always", "yes", 2**30, "noeviction")


def test_a_sound_server_gets_no_words() -> None:
    """Nothing to warn of, nothing to know."""
    assert (SOUND.warnings(), SOUND.notes()) == ([], [])
    assert SOUND.line() == (
        "redis: version 7.2.4, appendonly yes, appendfsync always, aof-load-truncated yes, "
        "maxmemory 1,073,741,824 bytes, maxmemory-policy noeviction"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "6.0.16"}, "6.2 or newer"),
        ({"appendonly": "no"}, "a restart of Redis loses every conversation"),
        ({"appendfsync": "no"}, "may lose about 30 s"),
        ({"maxmemory_policy": "allkeys-lru"}, "set maxmemory-policy noeviction"),
    ],
)
def test_what_may_harm_a_caller_is_a_warning_with_what_to_do(change: dict[str, str], words: str) -> None:
    """One sentence each."""
    (warning,) = replace(SOUND, **change).warnings()
    assert words in warning


def test_what_one_ought_to_know_is_no_warning() -> None:
    """The usual everysec; no limit to memory, where no policy can throw anything away."""
    usual = replace(SOUND, appendfsync="everysec", maxmemory=0, maxmemory_policy="allkeys-lru")
    assert usual.warnings() == []
    assert ["two seconds" in usual.notes()[0], "no limit" in usual.notes()[1]] == [True, True]


async def test_the_embedded_server_is_sound(place: Place) -> None:
    """Asked of the real one."""
    (found,) = await durability(place.redis)
    assert (found.appendonly, found.appendfsync, found.warnings()) == ("yes", "everysec", [])
