"""What each command says of itself: who carries it out, which stage it starts, whether it goes on after its turn."""

import pytest

from orchestrator.session.commands import ClearText, Command, PlaybackCommand, Speak, SpeakMore

SAYS = {
    "SetMicrophone": ("Client", "", False),
    "ClearText": ("Client", "", False),
    "FinishUtterance": ("Speech", "", False),
    "ClassifyIntent": ("Services", "intent", False),
    "AnswerQuestion": ("Services", "answer", False),
    "RunTool": ("Services", "tool", True),
    "PlayFiller": ("Player", "filler", False),
    "Speak": ("Player", "speech", False),
    "SpeakMore": ("Player", "", False),
    "PausePlayback": ("Player", "", False),
    "ResumePlayback": ("Player", "", False),
    "StopPlayback": ("Player", "", False),
    "CancelTask": ("Services", "", False),
    "CancelStage": ("Services", "", False),
    "StartTimer": ("", "", False),
    "CancelTimer": ("", "", False),
    "CloseSession": ("Client", "", False),
}


def kinds(base: type[Command] = Command) -> list[type[Command]]:
    """All commands of the product: tests define some of their own."""
    found = [one for kind in base.__subclasses__() for one in (kind, *kinds(kind)) if one is not PlaybackCommand]
    return [one for one in found if one.__module__ == Command.__module__]


def test_each_command_says_what_it_is() -> None:
    assert {kind.name: (kind.carried_out_by, kind.stage, kind.outlives_turn) for kind in kinds()} == SAYS
    assert (Command.carried_out_by, Command.stage, Command.outlives_turn) == ("", "", False)


SPOKEN: dict[str, object] = {"ends": "", "from_ms": 0, "playback_id": "p1", "text": "Hello."}


@pytest.mark.parametrize("added", [{}, {"begins_ms": 1}, {"index": 1}, {"is_open": True}])
def test_a_field_that_was_added_is_recorded_only_where_it_says_something(added: dict[str, object]) -> None:
    assert Speak(**SPOKEN, **added).payload() == SPOKEN | added  # type: ignore[arg-type]


def test_fields_of_the_first_release_are_always_recorded() -> None:
    assert ClearText().payload() == {}
    more = SpeakMore(index=0, is_last=False, playback_id="p1", text="")
    assert more.payload() == {"index": 0, "is_last": False, "playback_id": "p1", "text": ""}
