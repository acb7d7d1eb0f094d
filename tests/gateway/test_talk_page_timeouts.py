"""The timeouts of the talk page beside those of the server that they depend on."""

import re

from orchestrator.gateway.call import REGISTER_S
from orchestrator.media.ice import RELAY_S
from orchestrator.media.opus import REST_MS
from orchestrator.media.settings import MediaSettings
from orchestrator.media.utterance import OPEN_WITHIN_S
from orchestrator.session.policy import Policy
from tests.gateway.talk_page_server import STATIC


def milliseconds(name: str) -> int:
    """A constant of call.js."""
    (value,) = re.findall(rf"^const {name} = (\d+);", (STATIC / "call.js").read_text("utf-8"), re.MULTILINE)
    return int(value)


def test_an_offer_is_not_given_up_while_the_server_may_still_answer_it():
    """Opening speech-to-text, a relay, and registering the call each have a limit; the sum counts."""
    assert milliseconds("ANSWER_MS") > 1000 * (OPEN_WITHIN_S + RELAY_S + REGISTER_S)


def test_a_dead_call_is_noticed_after_four_lost_packets_and_before_the_server_gives_its_answer_up():
    """A silent agent sends few packets; the end of an answer waits for a caller whose network has changed."""
    silent_ms, lost_caller_ms = milliseconds("SILENT_MS"), MediaSettings().lost_caller_ms
    assert silent_ms >= 5 * REST_MS
    assert silent_ms + 2 * milliseconds("WATCH_MS") < lost_caller_ms < Policy().deadlines.playback_grace_ms
