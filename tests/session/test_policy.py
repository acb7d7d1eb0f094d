"""Shows which policies there are: bounds, defaults that belong together, and what a session's first event records."""

import pickle

import pytest
from pydantic import ValidationError

from orchestrator.session.policy import Policy

DAY_MS, WEEK_MS = 24 * 3_600_000, 7 * 24 * 3_600_000


def fields() -> list[tuple[str, str, object]]:
    return [(part, name, value) for part, body in Policy().recorded().items() for name, value in body.items()]


def takes(part: str, field: str, value: object) -> bool:
    try:
        return getattr(getattr(Policy.model_validate({part: {field: value}}), part), field) == value
    except ValidationError:
        return False


@pytest.mark.parametrize(("part", "field"), [(p, f) for p, f, _ in fields() if f.endswith("_ms")])
def test_every_time_has_its_bounds(part: str, field: str) -> None:
    """A day, but for the length of a conversation, and for the grace of a playback, which progress must fit into."""
    least, most = {("goodbye", "after_ms"): (0, WEEK_MS), ("deadlines", "playback_grace_ms"): (1_500, 60_000)}.get(
        (part, field), (0, DAY_MS)
    )
    assert takes(part, field, least)
    assert takes(part, field, most)
    assert not takes(part, field, least - 1)
    assert not takes(part, field, most + 1)
    assert not takes(part, field, "500")
    assert not takes(part, field, 500.0)


@pytest.mark.parametrize(
    ("part", "field"),
    [("away", "prompts"), ("fallback", "failures"), ("interruption", "min_words"), ("speculation", "tries")],
)
def test_every_number_is_a_count(part: str, field: str) -> None:
    """From none on."""
    assert takes(part, field, 0)
    assert takes(part, field, 1)
    assert not takes(part, field, -1)
    assert not takes(part, field, True)


@pytest.mark.parametrize(("part", "field"), [(p, f) for p, f, value in fields() if isinstance(value, str)])
def test_every_text_is_a_text(part: str, field: str) -> None:
    """No longer than an utterance; `more_words` is one of two."""
    if field == "more_words":
        assert takes(part, field, "merge")
        assert takes(part, field, "supersede")
        assert not takes(part, field, "")
    else:
        assert takes(part, field, "")
        assert takes(part, field, "x" * 8_000)
        assert not takes(part, field, "x" * 8_001)
    assert not takes(part, field, None)


def test_by_default_the_agent_does_nothing_of_its_own_accord() -> None:
    """Nor does it cost more than one question a turn; what users feel is what other frameworks do."""
    policy = Policy()
    assert (policy.greeting.text, policy.filler.text, policy.away.text, policy.goodbye.intent) == ("", "", "", "")
    assert (policy.goodbye.after_ms, policy.speculation.tries, policy.intent.skip) == (0, 0, False)
    assert policy.interruption.pause_playback
    assert policy.thinking.more_words == "merge"
    assert policy.endpointing.complete_ms <= policy.endpointing.incomplete_ms
    assert policy.fallback.answer
    assert policy.fallback.goodbye
    assert policy.goodbye.text


def test_what_is_recorded_is_whole_and_reads_back() -> None:
    """Nothing is left to defaults, which may change."""
    policy = Policy.model_validate({"filler": {"text": "One moment."}, "endpointing": {"phrases": ["over"]}})
    recorded = policy.recorded()
    assert Policy.read(recorded) == policy
    assert {part: [*body] for part, body in recorded.items()} == {
        part: sorted(body) for part, body in sorted(recorded.items())
    }
    assert set(recorded) == set(Policy.model_fields)


@pytest.mark.parametrize(
    "recorded", [{"n": 1}, {"filler": {"n": 1}}, {"filler": None}, {"filler": {"text": 7}}, {"intent": {"skip": 1}}]
)
def test_what_is_no_policy_is_not_read(recorded: dict) -> None:
    """A field that nobody knows is a typing error, or a newer version's."""
    assert Policy.read(recorded) is None


def test_a_policy_cannot_be_changed() -> None:
    """It holds for a whole session."""
    with pytest.raises(ValidationError, match="frozen"):
        Policy().filler.text = "x"


def test_a_policy_that_was_put_away_is_the_same() -> None:
    """A replay of many sessions pickles those of which it has not heard for long."""
    policy = Policy.model_validate({"deadlines": {"tts_ms": 1}, "away": {"text": "Are you there?"}})
    assert pickle.loads(pickle.dumps(policy)) == policy
