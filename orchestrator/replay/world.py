"""Runs one session of a what-if or rerun: recorded or simulated results answer the commands of today's reducer."""

import heapq
from collections import Counter
from itertools import count

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event, Input, PlaybackResult, Result
from events.inputs import SessionOpened
from events.journal import ToolReturned
from orchestrator.replay.asking import Agent, Question
from orchestrator.replay.change import PRODUCER, Change, WhatIf
from orchestrator.replay.finals import Finals
from orchestrator.replay.playback import Speeches, Voice
from orchestrator.replay.recorded_commands import RecordedCommands
from orchestrator.replay.recorded_tools import RecordedTools
from orchestrator.replay.simulated import SimulatedResults
from orchestrator.replay.users_side import Activity, UsersSide
from orchestrator.session.commands import OUTSTANDING, PLAYS
from orchestrator.session.conversation import ConversationSoFar
from orchestrator.session.policy import Policy
from orchestrator.session.reducer import reduce
from orchestrator.session.state import State

RECORDED, MATCHED, SIMULATED, LEFT_OUT = range(4)
"""Origin of an input. RECORDED: an input that answers no command, or the recorded result of the same command. MATCHED:
a recorded result of a similar command, a result of the agent, a final at another time than recorded, or a timer that is
not recorded. SIMULATED: any other result. LEFT_OUT: a recorded input that the change leaves out.
"""


class WhatIfWorld:
    """Runs one session of a what-if or rerun. `log`: the recorded events of the session. `found`: collects the events
    of the new run and the counts, such as the number of simulated results. `agent`: today's agent; None: no rerun.
    """

    def __init__(self, log: list[Event], change: Change, found: WhatIf, agent: Agent | None) -> None:
        self._change, self._found, self._log, self._agent = change, found, log, agent
        self._recorded = RecordedCommands(log, change.without)
        self._simulated = SimulatedResults(self._recorded.issued, self._recorded.results)
        self._tools = RecordedTools(log)
        self._returned: dict[str, tuple[int, ToolReturned]] = {}
        """Call id → (duration in microseconds, result), for the tool calls of the new run's agent."""
        self._taken: set[str] = set()
        """Event ids of the recorded results that the new run has used."""
        self._queue: list[tuple[int, int, Input, int]] = []
        """Inputs to come, as a heap: (time, order among equal times, input, origin such as RECORDED)."""
        self._order = count(len(log))
        self._held: dict[str, list[tuple[int, int, Input, int]]] = {}
        """Id of a paused playback → its results that wait for the end of the pause: (microseconds since the start of
        the pause, order among equal times, result, origin such as MATCHED).
        """
        self._state = State()
        self._conversation = ConversationSoFar()
        self._speeches = Speeches(log)
        self._scripts: dict[str, list[CommandIssued]] = {}
        """Id of a playback → the Speak and SpeakMore commands of its texts, for an answer that comes in texts."""
        self._voices: dict[str, Voice] = {}
        """Id of a playback → its simulation, for playbacks that do not go as recorded."""
        self._cut_us: dict[str, int] = {}
        """Command id of a Speak that goes as recorded → the time at which the recording cut off its playback, or ended.
        """
        self._began_us: dict[str, int] = {}
        """Command id of a Speak → the time at which its first sound was played."""
        self._chunks: Counter[str] = Counter()
        self._finals = Finals(log if agent is None and (change.policy or change.settings) else ())
        self._users = UsersSide()
        self._activity = Activity()
        self._learn()

    def _learn(self) -> None:
        """Index the recorded results by command, and queue all other recorded inputs at their recorded times. In a
        rerun, give these other inputs to `UsersSide` instead, which decides their times.
        """
        activity, step = Activity(), list[Event]()
        for order, event in enumerate(self._log):
            if isinstance(event, Input):
                activity.note(self._recorded.state, step)
                step = []
            step.append(event)
            self._recorded.note(order, event)
            if isinstance(event, Input):
                if event.event_id in self._change.without:
                    heapq.heappush(self._queue, (event.at_us, order, event, LEFT_OUT))
                elif isinstance(event, Result) and event.command_id in self._recorded.issued:
                    continue  # it comes if the new run issues a command that it answers
                elif self._agent is not None:
                    self._users.learn(order, self._opened(event), activity)
                else:
                    heapq.heappush(self._queue, (event.at_us, order, self._opened(event), RECORDED))
        self._users.begin()
        for event in self._change.insert:
            if event.session_id in ("", self._log[0].session_id):
                named = event.replace(session_id=self._log[0].session_id, event_id=f"{PRODUCER}:{next(self._order)}")
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
            step = reduce(self._state, event.replace(at_us=at_us, version=0, producer_seq=0))
            self._state = step.state
            self._found.events += step.events
            self._conversation.hear(step.events)
            self._activity.note(self._state, step.events)
            for command in step.commands:
                self._carry_out(command)

    def _next(self) -> tuple[int, int, Input, int] | None:
        """Remove and return the next input: (time in microseconds, order among equal times, input, origin such as
        RECORDED). Skips LEFT_OUT inputs. None: no input is left.
        """
        while self._queue and self._queue[0][3] == LEFT_OUT:
            heapq.heappop(self._queue)
            self._state.inputs += 1  # ids of commands contain this number: later commands get their recorded ids
        due = self._users.due(self._activity, self._state.at_us)
        if due is None and not self._queue and self._users:
            due = self._state.at_us, 0  # the user waits for an activity that never begins
        if due is not None and (not self._queue or due < self._queue[0][:2]):
            return *due, self._users.take(due[0], self._activity), RECORDED
        return heapq.heappop(self._queue) if self._queue else None

    def _opened(self, event: Input) -> Input:
        if not isinstance(event, SessionOpened) or (policy := Policy.read(event.policy)) is None:
            return event
        return event.replace(policy=self._change.apply(policy).recorded())

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
        twin = self._recorded.same(command)
        is_open = bool(command.payload.get("is_open"))
        if is_open:
            self._scripts[command.target] = [command]
            self._voices.pop(command.target, None)
        if twin is not None:
            for order, result in self._recorded.results[command.command_id]:
                self._come_as_recorded(order, result)
            if is_open:
                if not self._recorded.has_ended(twin):
                    self._cut_us[command.command_id] = command.at_us + self._recorded.silent_us(twin)
            else:
                self._go_on(command, twin)
        elif is_open or (command.name in PLAYS and not self._recorded.has_results(command)):
            self._voices[command.target] = voice = Voice(command, self._speeches, is_shown=not self._state.handler_id)
            self._say(voice, command, command, command.at_us)
        else:
            self._go_on(command, self._alike(command))

    # An answer that comes in texts is played as recorded until its texts or their times differ from the recording.

    def _speak_on(self, command: CommandIssued) -> None:
        playback_id = str(command.payload["playback_id"])
        if (script := self._scripts.get(playback_id)) is None:
            return
        script.append(command)
        if (voice := self._voices.get(playback_id)) is not None:
            self._say(voice, script[0], command, command.at_us)
        elif self._recorded.same(command) is None:
            self._leave_the_recording(playback_id, command.at_us)

    def _goes_on_after_a_cut(self, at_us: int) -> bool:
        """Simulate the rest of an answer that the recording cut off before `at_us`, if the new run still plays the
        answer. `at_us`: the time of the next input. Returns whether results were simulated. `_run` must then choose the
        next input again, because a simulated result may come first.
        """
        for command_id, cut_us in list(self._cut_us.items()):
            if at_us > cut_us:
                del self._cut_us[command_id]
                speak = self._state.pending.get(command_id)
                if speak is not None and speak.target not in self._voices:
                    self._leave_the_recording(speak.target, cut_us)
                    return True
        return False

    def _comes_too_early(self, at_us: int, event: PlaybackResult) -> bool:
        """Whether a recorded result of a playback belongs to a text that the new run has not issued yet. The end of an
        answer belongs to its last text. If True, simulates the playback from now on, and `_run` must drop the result.
        If False, notes the result, in case the rest of the playback is simulated later.
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
        """Simulate a playback from now on: drop the queued results of the playback, and queue simulated results."""
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
        """Ask the agent the question of an AnswerQuestion command, and queue the agent's results."""
        # `Question.silent_us` is 1 less than the usual latency: lacking results are due 1 microsecond after it
        state, twin = self._state, self._recorded.asked_before(command)
        results = self._recorded.results[twin.command_id] if twin is not None else []
        valid = [(order, result) for order, result in results if result.event_id in self._recorded.counted]
        question = Question(
            command,
            self._conversation.until(int(str(command.payload["conversation_to"]))),
            state.texts,
            state.policy.answering.language,
            tuple((result.at_us - twin.at_us, result) for _, result in valid) if twin is not None else (),
            self._recorded.silent_us(twin)
            if twin is not None and not self._recorded.never_came(twin)
            else self._simulated.usual_us(command.name) - 1,
            self._tools,
        )
        orders = {id(result): order for order, result in valid}
        is_the_same = self._recorded.same(command) is not None
        for after_us, result in agent(question):
            if isinstance(result, ToolReturned):
                self._returned[result.call_id] = after_us, result
                continue
            order = orders.get(id(result))
            if is_the_same and order is not None:
                self._come_as_recorded(order, result)
            else:
                self._come(command, after_us, result, MATCHED)

    def _alike(self, command: CommandIssued) -> CommandIssued | None:
        """Queue the results of a recorded command that is similar to `command`, as results of `command` with the same
        latency. Returns the recorded command. None: no recorded command is similar, or `command` starts a timer.
        """
        twin = self._recorded.alike(command)
        if twin is None or command.name == "StartTimer":
            return None
        for _, result in self._recorded.results[twin.command_id]:
            if result.cause:
                self._come(command, result.at_us - twin.at_us, result, MATCHED)
        return twin

    def _go_on(self, command: CommandIssued, twin: CommandIssued | None) -> None:
        """Simulate the results that the recording lacks for a command. `twin`: the same or a similar recorded command,
        whose results are queued already. None: the recording has no such command.
        """
        if twin and self._recorded.has_ended(twin):
            return  # if the change leaves out the last result, the command never ends
        known = [result for _, result in self._recorded.results[twin.command_id] if result.cause] if twin else []
        silent_us = self._recorded.silent_us(twin) if twin else -1
        for after_us, result in self._simulated.rest(
            command, [(r.at_us - twin.at_us, r) for r in known] if twin else []
        ):
            if after_us > silent_us:  # until then, the recording has all results of `twin`
                self._come(command, after_us, result, SIMULATED)

    def _pause(self, command: CommandIssued) -> None:
        if (voice := self._voices.get(command.target)) is not None:
            voice.pause(command.at_us)
        self._held[command.target] = []
        self._hold(command.target, command.at_us)

    def _hold(self, playback_id: str, paused_us: int) -> None:
        """Take the progress and the end of a paused playback out of the queue. `_resume` queues them again.
        `paused_us`: when the pause began.
        """
        # the times of RECORDED results include the pause
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
        named = result.replace(event_id=self._id_of(result, order))
        heapq.heappush(self._queue, (result.at_us, order, named, RECORDED))

    def _id_of(self, result: Result, order: int) -> str:
        """Return an event id for a recorded result: the recorded id at the first use of the result, a new id at each
        further use. The reducer would ignore a second input with the same id as a duplicate.
        """
        is_new = result.event_id not in self._taken
        self._taken.add(result.event_id)
        return result.event_id if is_new else f"{PRODUCER}:{order}:{result.event_id}"

    def _come(self, command: CommandIssued, after_us: int, result: Result, how: int) -> None:
        about = {"playback_id": command.target} if command.name in PLAYS and hasattr(result, "playback_id") else {}
        order = next(self._order)
        named = result.replace(
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
