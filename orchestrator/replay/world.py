"""The world of a what-if: one session, its recorded results by command, and a queue of the inputs to come."""

import heapq
from collections import Counter, defaultdict
from itertools import count

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event, Input, PlaybackResult, Result
from events.inputs import SessionOpened
from events.journal import ToolReturned
from orchestrator.replay.asking import Agent, Question
from orchestrator.replay.change import PRODUCER, Change, WhatIf
from orchestrator.replay.finals import Finals
from orchestrator.replay.fold_on import fold_on
from orchestrator.replay.playback import Speeches, Voice
from orchestrator.replay.recorded_tools import RecordedTools
from orchestrator.replay.simulated import Simulated
from orchestrator.replay.users_side import Floor, UsersSide
from orchestrator.session.commands import OUTSTANDING, PLAYS
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.policy import Policy
from orchestrator.session.reducer import reduce
from orchestrator.session.state import State

Asked = tuple[str, ...]
"""Matching key of a command. A recorded result answers every command with the same key."""

RECORDED, MATCHED, SIMULATED = range(3)
"""Origin of a result: recorded for this command, recorded for a command with the same key, or simulated."""


class World:
    """Runs one session of a what-if: recorded results by command, and a queue of inputs to come, ordered by time."""

    def __init__(self, log: list[Event], change: Change, found: WhatIf, agent: Agent | None) -> None:
        self._change, self._found, self._log, self._agent = change, found, log, agent
        self._commands = {event.command_id: event for event in log if isinstance(event, CommandIssued)}
        self._results: dict[str, list[tuple[int, Result]]] = defaultdict(list)
        """Command id → its recorded results, each with its index in the log."""
        self._simulated = Simulated(self._commands, self._results)
        self._tools = RecordedTools(log)
        self._returned: dict[str, tuple[int, ToolReturned]] = {}
        """Call id → the result that the agent got, and the time that it took in microseconds."""
        self._counted: set[str] = set()
        """Event ids of the recorded results that were not stale."""
        self._taken: set[str] = set()
        """Event ids of the recorded results that have answered a command."""
        self._asked: dict[Asked, list[CommandIssued]] = defaultdict(list)
        self._withdrawn_us: dict[str, int] = {}
        self._queue: list[tuple[int, int, Input, int]] = []
        self._order = count(len(log))
        self._held: dict[str, list[tuple[int, int, Input, int]]] = {}
        """Paused playback → its queued events, with times in microseconds after the pause."""
        self._state = State()
        self._conversation = ConversationSoFar()
        self._speeches = Speeches(log)
        self._scripts: dict[str, list[CommandIssued]] = {}
        """Playback → the Speak and SpeakMore commands that gave it its texts, for an answer that came in texts."""
        self._voices: dict[str, Voice] = {}
        """Playback → its simulation, for playbacks that do not go as recorded."""
        self._cut_us: dict[str, int] = {}
        """Command id of a Speak that goes as recorded → when the recording cut its playback off."""
        self._began_us: dict[str, int] = {}
        """Command id of a Speak → when its first sound was played."""
        self._chunks: Counter[str] = Counter()
        self._finals = Finals(log if agent is None and (change.policy or change.settings) else ())
        self._users = UsersSide()
        self._floor = Floor()
        self._learn()

    def _learn(self) -> None:
        """Index recorded results by command, and queue all other inputs at their recorded times. With an agent, the
        user's inputs are not queued: they follow the conversation.
        """
        outstanding, floor, step = State(), Floor(), list[Event]()
        for order, event in enumerate(self._log):
            if isinstance(event, Input):
                floor.note(outstanding, step)
                step = []
            step.append(event)
            if isinstance(event, Result) and outstanding.answered(event) is not None:
                self._counted.add(event.event_id)
            before = outstanding.pending.keys() - {getattr(event, "command_id", "")}
            fold_on(outstanding, event)
            self._withdrawn_us |= dict.fromkeys(before - outstanding.pending.keys(), event.at_us)
            if isinstance(event, CommandIssued):
                self._asked[_asked(event)].append(event)
            elif isinstance(event, Input) and event.event_id not in self._change.without:
                if isinstance(event, Result) and event.command_id in self._commands:
                    self._results[event.command_id].append((order, event))
                elif self._agent is not None:
                    self._users.learn(order, self._opened(event), floor)
                else:
                    heapq.heappush(self._queue, (event.at_us, order, self._opened(event), RECORDED))
        self._users.begin()
        for event in self._change.insert:
            if event.session_id in ("", self._log[0].session_id):
                named = event.but(session_id=self._log[0].session_id, event_id=f"{PRODUCER}:{next(self._order)}")
                heapq.heappush(self._queue, (event.at_us, next(self._order), named, RECORDED))

    def run(self) -> None:
        """Run until the recording is over and no turn or playback is open."""
        self._run()
        self._finals.end()
        self._found.moved += self._finals.moved
        self._found.unjudged += self._finals.unjudged

    def _run(self) -> None:
        end_us = max(self._log[-1].at_us, *(event.at_us for event in self._change.insert), 0)
        while (coming := self._next()) is not None:
            at_us, order, event, how = coming
            is_over = not self._users and at_us > end_us + self._users.shift_us
            if is_over and self._state.task is None and self._state.playback is None:
                return
            if how == RECORDED and not self._finals.comes_now(event, self._state):
                continue
            if self._goes_on_after_a_cut(at_us):
                heapq.heappush(self._queue, (at_us, order, event, how))
                continue
            if isinstance(event, PlaybackResult) and self._comes_too_early(at_us, event):
                continue
            if isinstance(event, Result):
                if how != RECORDED and self._state.answered(event) is None:
                    continue  # the command was cancelled meanwhile
                if not isinstance(event, inputs.TimerFired):
                    self._found.results += 1
                    self._found.simulated += how == SIMULATED
            step = reduce(self._state, event.but(at_us=at_us, version=0, producer_seq=0))
            self._state = step.state
            self._found.events += step.events
            self._conversation.hear(step.events)
            self._floor.note(self._state, step.events)
            for command in step.commands:
                self._carry_out(command)

    def _next(self) -> tuple[int, int, Input, int] | None:
        """Take the next input from the queue or from the user: (time, order, input, origin). None: there is none."""
        due = self._users.due(self._floor, self._state.at_us)
        if due is None and not self._queue and self._users:
            due = self._state.at_us, 0  # what the user waits for never comes
        if due is not None and (not self._queue or due < self._queue[0][:2]):
            return *due, self._users.take(due[0], self._floor), RECORDED
        return heapq.heappop(self._queue) if self._queue else None

    def _opened(self, event: Input) -> Input:
        if not isinstance(event, SessionOpened) or (policy := Policy.read(event.policy)) is None:
            return event
        return event.but(policy=self._change.apply(policy).recorded())

    def _carry_out(self, command: CommandIssued) -> None:
        match command.name:
            case "PausePlayback":
                self._pause(command)
            case "ResumePlayback":
                self._resume(command)
            case "SpeakMore":
                self._speak_on(command)
            case "FinishUtterance":
                for final in self._finals.asked(command.at_us):
                    heapq.heappush(self._queue, (final.at_us, next(self._order), final, MATCHED))
            case "AnswerQuestion" if self._agent is not None:
                self._ask(command, self._agent)
            case "RunTool" if command.target in self._returned:
                self._come(command, *self._returned[command.target], MATCHED)
            case name if name in OUTSTANDING:
                self._expect_results(command)

    def _expect_results(self, command: CommandIssued) -> None:
        twin = self._same(command)
        is_open = bool(command.payload.get("is_open"))
        if is_open:
            self._scripts[command.target] = [command]
            self._voices.pop(command.target, None)
        if twin is not None:
            for order, result in self._results[command.command_id]:
                self._come_as_recorded(order, result)
            if is_open:
                if not any(result.is_last for _, result in self._results[command.command_id]):
                    self._cut_us[command.command_id] = command.at_us + self._silent_us(command)
            else:
                self._go_on(command, twin, is_the_same=True)
        elif is_open or (command.name in PLAYS and not self._results_alike(command)):
            self._voices[command.target] = voice = Voice(command, self._speeches, is_shown=not self._state.handler_id)
            self._say(voice, command, command, command.at_us)
        else:
            self._go_on(command, self._alike(command), is_the_same=False)

    def _same(self, command: CommandIssued) -> CommandIssued | None:
        """The recorded command with the same id, time and payload; None: there is none."""
        twin = self._commands.get(command.command_id)
        return twin if twin is not None and (twin.at_us, twin.payload) == (command.at_us, command.payload) else None

    def _results_alike(self, command: CommandIssued) -> bool:
        return any(self._results[one.command_id] for one in self._asked.get(_asked(command), []))

    # An answer that comes in texts is played as recorded until its texts, or their times, are others.

    def _speak_on(self, command: CommandIssued) -> None:
        playback_id = str(command.payload["playback_id"])
        if (script := self._scripts.get(playback_id)) is None:
            return
        script.append(command)
        if (voice := self._voices.get(playback_id)) is not None:
            self._say(voice, script[0], command, command.at_us)
        elif self._same(command) is None:
            self._leave_the_recording(playback_id, command.at_us)

    def _goes_on_after_a_cut(self, at_us: int) -> bool:
        """Whether a playback goes on that the recording had cut off before. Its rest is then simulated."""
        for command_id, cut_us in list(self._cut_us.items()):
            if at_us > cut_us:
                del self._cut_us[command_id]
                speak = self._state.pending.get(command_id)
                if speak is not None and speak.target not in self._voices:
                    self._leave_the_recording(speak.target, cut_us)
                    return True
        return False

    def _comes_too_early(self, at_us: int, event: PlaybackResult) -> bool:
        """Whether a recorded result belongs to a text that the new run has not given yet: the playback is then
        simulated from now on. Otherwise notes that the result has come.
        """
        playback, script = self._state.playback, self._scripts.get(event.playback_id)
        is_recorded = script is not None and event.command_id == script[0].command_id
        if is_recorded and playback is not None and event.playback_id not in self._voices:
            needs = event.text_index + 1 if isinstance(event, inputs.TtsChunkReady) else 0
            ends = isinstance(event, inputs.TtsComplete | inputs.PlaybackDone)
            if needs > max(1, len(playback.ends_at)) or (ends and playback.is_open):
                self._leave_the_recording(event.playback_id, at_us)
                return True
        if isinstance(event, inputs.PlaybackStarted):
            self._began_us[event.command_id] = at_us
        self._chunks[event.command_id] += isinstance(event, inputs.TtsChunkReady)
        return False

    def _leave_the_recording(self, playback_id: str, now_us: int) -> None:
        """Simulate a playback from now on: drop its queued results, and queue simulated ones for all its texts."""
        script = self._scripts[playback_id]
        speak = script[0]
        kept = [e for e in self._queue if not (isinstance(e[2], Result) and e[2].command_id == speak.command_id)]
        self._queue = kept
        heapq.heapify(self._queue)
        self._held.pop(playback_id, None)
        voice = self._voices[playback_id] = Voice(
            speak,
            self._speeches,
            is_shown=not self._state.handler_id,
            chunks=self._chunks[speak.command_id],
            began_us=self._began_us.get(speak.command_id, 0),
        )
        if (playback := self._state.playback) is not None and playback.paused_at_us is not None:
            voice.pause(playback.paused_at_us)
            self._held[playback_id] = []
        for command in script:
            self._say(voice, speak, command, now_us)

    def _say(self, voice: Voice, speak: CommandIssued, command: CommandIssued, now_us: int) -> None:
        for at_us, result in voice.say(command):
            self._come(speak, max(at_us, now_us) - speak.at_us, result, SIMULATED)
        if speak.target in self._held:
            self._hold(speak.target, voice.paused_us)

    # The agent.

    def _ask(self, command: CommandIssued, agent: Agent) -> None:
        """Ask the agent, and queue its results."""
        state, twin = self._state, self._asked_before(command)
        results = self._results[twin.command_id] if twin is not None else []
        valid = [(order, result) for order, result in results if result.event_id in self._counted]
        question = Question(
            command,
            self._conversation.until(int(str(command.payload["conversation_to"]))),
            state.texts,
            state.policy.answering.language,
            tuple((result.at_us - twin.at_us, result) for _, result in valid) if twin is not None else (),
            self._silent_us(twin) if twin is not None else self._simulated.usual_us(command.name) - 1,
            self._tools,
        )
        orders = {id(result): order for order, result in valid}
        is_the_same = self._same(command) is not None
        for after_us, result in agent(question):
            if isinstance(result, ToolReturned):
                self._returned[result.call_id] = after_us, result
                continue
            order = orders.get(id(result))
            if is_the_same and order is not None:
                self._come_as_recorded(order, result)
            else:
                self._come(command, after_us, result, MATCHED)

    def _asked_before(self, command: CommandIssued) -> CommandIssued | None:
        """The recorded question with the same words; of several, the nearest in time. None: there is none."""
        if (twin := self._same(command)) is not None:
            return twin
        words = command.payload["text"]
        alike = (one for one in self._commands.values() if one.name == command.name and one.payload["text"] == words)
        return min(alike, key=lambda one: abs(one.at_us - command.at_us), default=None)

    def _silent_us(self, twin: CommandIssued) -> int:
        return self._withdrawn_us.get(twin.command_id, self._log[-1].at_us) - twin.at_us

    def _alike(self, command: CommandIssued) -> CommandIssued | None:
        """Find a recorded command with the same key, and queue its results for this command, with the same latency.
        Returns the recorded command; None: there is none, or the command is a timer.
        """
        alike = self._asked.get(_asked(command), [])
        is_far = [(not self._results[one.command_id], abs(one.turn - command.turn)) for one in alike]
        twin = alike[is_far.index(min(is_far))] if alike else None
        if twin is None or command.name == "StartTimer":
            return None
        for _, result in self._results[twin.command_id]:
            if result.cause:
                self._come(command, result.at_us - twin.at_us, result, MATCHED)
        return twin

    def _go_on(self, command: CommandIssued, twin: CommandIssued | None, *, is_the_same: bool) -> None:
        """Simulate the results that the recording lacks, because the command was withdrawn or never issued. Leaves out
        results that were due before the withdrawal and did not come.
        """
        known = [result for _, result in self._results[twin.command_id] if result.cause] if twin else []
        if any(result.is_last for result in known):
            return
        silent_us = self._silent_us(twin) if twin else -1
        for after_us, result in self._simulated.rest(
            command, [(r.at_us - twin.at_us, r) for r in known] if twin else []
        ):
            if after_us > silent_us or (not is_the_same and command.name == "StartTimer"):
                self._come(command, after_us, result, SIMULATED)

    def _pause(self, command: CommandIssued) -> None:
        if (voice := self._voices.get(command.target)) is not None:
            voice.pause(command.at_us)
        self._held[command.target] = []
        self._hold(command.target, command.at_us)

    def _hold(self, playback_id: str, paused_us: int) -> None:
        """Hold back a playback that was paused at `paused_us`: its queued progress and its end, but not those that were
        recorded, which arrive at their recorded times. Its speech is still made.
        """
        waits = (inputs.PlaybackProgress, inputs.PlaybackDone)
        held = [
            e for e in self._queue if isinstance(e[2], waits) and e[3] != RECORDED and e[2].playback_id == playback_id
        ]
        self._queue = [entry for entry in self._queue if entry not in held]
        heapq.heapify(self._queue)
        self._held[playback_id] += [(at_us - paused_us, order, e, how) for at_us, order, e, how in sorted(held)]

    def _resume(self, command: CommandIssued) -> None:
        playback_id, now_us = command.target, command.at_us
        if (voice := self._voices.get(playback_id)) is not None:
            voice.resume(now_us)
        for after_us, order, event, how in self._held.pop(playback_id, ()):
            heapq.heappush(self._queue, (now_us + after_us, order, event, max(how, MATCHED)))

    def _come_as_recorded(self, order: int, result: Result) -> None:
        named = result.but(event_id=self._id_of(result, order))
        heapq.heappush(self._queue, (result.at_us, order, named, RECORDED))

    def _id_of(self, result: Result, order: int) -> str:
        """The event id for a recorded result that comes: the recorded id, the first time. Afterwards a new one, because
        the reducer would drop a duplicate.
        """
        is_new = result.event_id not in self._taken
        self._taken.add(result.event_id)
        return result.event_id if is_new else f"{PRODUCER}:{order}:{result.event_id}"

    def _come(self, command: CommandIssued, after_us: int, result: Result, how: int) -> None:
        about = {"playback_id": command.target} if command.name in PLAYS and hasattr(result, "playback_id") else {}
        order = next(self._order)
        named = result.but(
            command_id=command.command_id,
            event_id=self._id_of(result, order) if how == MATCHED else f"{PRODUCER}:{order}",
            incarnation=command.incarnation,
            producer=PRODUCER if how == SIMULATED else result.producer,
            session_id=command.session_id,
            **about,
        )
        heapq.heappush(
            self._queue, (command.at_us + after_us, order, named, how if command.name != "StartTimer" else MATCHED)
        )


def _asked(command: CommandIssued) -> Asked:
    """The key by which a recorded command is found: name and text; for questions also the turn, since the conversation
    before them matters.
    """
    text = str(command.payload["text"]) if "text" in command.payload else command.target
    if command.name in PLAYS or command.name == "RunTool":
        return command.name, text
    return command.name, str(command.turn), text
