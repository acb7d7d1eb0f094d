"""Conversations over a real node and a real Redis: one path, one current task, nothing crosses over."""

import asyncio
from collections import defaultdict

from events.derived import AnswerEnded, CommandIssued, StateChanged
from events.envelope import Event
from events.inputs import BargeIn, HandlerAttached, SessionCloseRequested, SpeechStarted, SttFinal, TtsComplete
from orchestrator.runtime.live_session import LiveSession
from orchestrator.session.conversation import Line
from tests.runtime.conftest import MakeNode, Place
from tests.runtime.support import Running, StubClient, StubHandler, soon


def running_groups() -> dict[str, set[str]]:
    """Session → the task groups (session#epoch) of which something runs that nobody has cancelled."""
    groups: dict[str, set[str]] = defaultdict(set)
    for task in asyncio.all_tasks():
        group, stage, _ = task.get_name().partition(":")
        if "#" in group and stage and not task.cancelling():
            groups[group.partition("#")[0]].add(group)
    return groups


def at_most_one_group(live: LiveSession, event: Event) -> None:
    for session_id, groups in running_groups().items():
        assert len(groups) <= 1, f"{session_id} runs {groups} at {event}"


async def test_a_text_conversation_goes_through_all_phases(running: Running) -> None:
    """Phases, commands and golden lines of a whole conversation in text."""
    client = StubClient()
    live = await running.listening(client)
    running.watch.on_commit = at_most_one_group
    running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    running.node.report(SessionCloseRequested(session_id=live.session_id, reason="goodbye"))
    await running.watch.phase(live.session_id, "ENDED")
    phases = [event.to_phase for event in running.watch.all(live.session_id, StateChanged)]
    assert phases == ["IDLE", "LISTENING", "THINKING", "SPEAKING", "LISTENING", "ENDED"]
    issued = [event.name for event in running.watch.all(live.session_id, CommandIssued)]
    assert {"ClassifyIntent", "AnswerQuestion", "Speak", "SetMicrophone", "CloseSession"} <= set(issued)
    lines = running.watch.golden(live.session_id)
    assert [line for line in lines if "STT FINAL" in line or "LISTENING" in line]
    assert any("TTS stream | chunks=0" in line for line in lines)
    (asked,) = [e for e in running.watch.all(live.session_id, CommandIssued) if e.name == "ClassifyIntent"]
    assert running.stubs.keys("intent") == [asked.idempotency_key] == [asked.command_id]


async def test_a_spoken_conversation_is_played_and_can_be_interrupted(running: Running) -> None:
    """With a handler the answer is played; speech over it stops it, and the next turn starts."""
    live = await running.listening()
    running.watch.on_commit = at_most_one_group
    handler = StubHandler(plays_to_the_end=False)
    live.handler = handler
    running.node.report(HandlerAttached(session_id=live.session_id, handler_id=handler.handler_id))
    running.node.report(SttFinal(session_id=live.session_id, text="tell me a story"))
    await running.watch.event(live.session_id, TtsComplete)
    running.node.report(SpeechStarted(session_id=live.session_id))
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert "stop answer-1" in handler.told
    assert not running_groups()[live.session_id]
    running.node.report(SttFinal(session_id=live.session_id, text="a shorter one"))
    await running.watch.event(live.session_id, TtsComplete, 2)
    assert [told for told in handler.told if told.startswith("play")] == ["play answer-1", "play answer-2"]


async def test_words_that_supersede_others_cancel_their_task(running: Running) -> None:
    """Typed text in THINKING: the first turn's work is cancelled, the second's answers, nothing of both runs on."""
    live = await running.listening()
    running.watch.on_commit = at_most_one_group
    running.stubs.hold("answer")
    running.node.report(SttFinal(session_id=live.session_id, text="first", via="text"))
    await soon(lambda: bool(running.stubs.keys("answer")))
    running.node.report(SttFinal(session_id=live.session_id, text="second", via="text"))
    await running.watch.phase(live.session_id, "THINKING", 2)
    running.stubs.release("answer")
    await running.watch.phase(live.session_id, "LISTENING", 2)
    assert running.stubs.cancelled == ["answer"]
    said = [event.payload["text"] for event in running.watch.all(live.session_id, CommandIssued, name="Speak")]
    assert said == ["You said second."]


async def test_a_question_carries_what_was_said_before_it(running: Running) -> None:
    """To the answer service alone; the first question of a conversation carries nothing."""
    live = await running.listening()
    for number, words in enumerate(("one", "two", "three"), 2):
        running.node.report(SttFinal(session_id=live.session_id, text=words, via="text"))
        await running.watch.phase(live.session_id, "LISTENING", number)
    so_far = [
        *(Line("user", "one"), Line("agent", "You said one.")),
        *(Line("user", "two"), Line("agent", "You said two.")),
    ]
    answers = [request for stage, request in running.stubs.asked if stage == "answer"]
    assert [request.text for request in answers] == ["one", "two", "three"]
    assert [list(request.conversation) for request in answers] == [[], so_far[:2], so_far]
    assert not [request for stage, request in running.stubs.asked if stage != "answer" and request.conversation]


async def test_of_an_interrupted_answer_the_next_question_carries_what_was_heard(running: Running) -> None:
    """Not what was synthesised, and not what was to be said: what the log says was heard."""
    live = await running.listening()
    handler = live.handler = StubHandler(plays_to_the_end=False)
    running.node.report(HandlerAttached(session_id=live.session_id, handler_id=handler.handler_id))
    running.node.report(SttFinal(session_id=live.session_id, text="tell me a long story"))
    await running.watch.event(live.session_id, TtsComplete)
    running.node.report(BargeIn(session_id=live.session_id))
    heard = (await running.watch.event(live.session_id, AnswerEnded)).heard_text
    await running.watch.phase(live.session_id, "LISTENING", 2)
    running.node.report(SttFinal(session_id=live.session_id, text="a shorter one"))
    await running.watch.event(live.session_id, TtsComplete, 2)
    assert 0 < len(heard) < len("You said tell me a long story.")
    assert running.stubs.asked[-1][1].text == "You said a shorter one."
    (_, question) = [request for stage, request in running.stubs.asked if stage == "answer"]
    assert question.conversation == (Line("user", "tell me a long story"), Line("agent", heard))


async def test_two_sessions_at_once_share_nothing(running: Running) -> None:
    """No event, line, reply or idempotency key of one session shows up in the other."""
    clients = [StubClient("browser-1"), StubClient("browser-2")]
    lives = [await running.listening(client) for client in clients]
    running.watch.on_commit = at_most_one_group
    for turn in range(1, 4):
        for live in lives:
            running.node.report(SttFinal(session_id=live.session_id, text=f"{live.session_id} {turn}", via="text"))
        for live in lives:
            await running.watch.phase(live.session_id, "LISTENING", turn + 1)
    for live, client, other in zip(lives, clients, reversed(lives), strict=True):
        assert {event.session_id for event in running.watch.events[live.session_id]} == {live.session_id}
        assert not any(other.session_id in line for line in running.watch.golden(live.session_id))
        assert client.client_id in str(running.watch.events[live.session_id])
        spoken = [event.payload["text"] for event in running.watch.all(live.session_id, CommandIssued, name="Speak")]
        assert spoken == [f"You said {live.session_id} {turn}." for turn in range(1, 4)]


async def test_nothing_is_published_or_subscribed(running: Running, place: Place) -> None:
    """Redis MONITOR during a conversation: streams and scripts alone, no PUBLISH, no SUBSCRIBE."""
    async with place.redis.monitor() as monitor:
        live = await running.listening()
        running.node.report(SttFinal(session_id=live.session_id, text="hello", via="text"))
        await running.watch.phase(live.session_id, "LISTENING", 2)
        await place.redis.echo("the end")
        seen: list[str] = []
        while not any("the end" in command for command in seen):
            seen.append((await monitor.next_command())["command"])
    names = {command.split()[0].upper() for command in seen}
    assert "XADD" in names
    assert {"EVALSHA", "XREAD"} & names
    assert not [name for name in names if "PUBLISH" in name or "SUBSCRIBE" in name]


async def test_a_session_on_each_shard_survives_a_restart(make_node: MakeNode, place: Place) -> None:
    """Many live sessions on all shards are taken over at once, each with one SESSION_RESUMED."""
    first = await make_node()
    lives = await asyncio.gather(*(first.listening(StubClient(f"browser-{n}")) for n in range(40)))
    await first.node.stop()
    second = await make_node()
    for live in lives:
        await second.watch.until(lambda live=live: bool(second.watch.events[live.session_id]))
    assert len(second.node.sessions) == 40
