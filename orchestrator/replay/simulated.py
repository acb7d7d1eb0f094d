"""Simulates results that a recording lacks, with the median latencies of that recording."""

from collections.abc import Iterator, Mapping
from statistics import median

from events import inputs
from events.derived import CommandIssued
from events.envelope import Result
from events.journal import ToolReturned
from orchestrator.replay.playback import rest_of_playback

SERVICE_US = 300_000
"""Latency of a service, in microseconds, if the recording has no result of this service."""
UNKNOWN, UNKNOWN_RESULT = "(an answer that nobody recorded)", "(a result that nobody recorded)"


class SimulatedResults:
    """Simulates results that the recording lacks. `commands`: command id → recorded command. `results`: command id →
    the recorded results of the command, each with its index in the log.
    """

    def __init__(self, commands: Mapping[str, CommandIssued], results: Mapping[str, list[tuple[int, Result]]]) -> None:
        self._commands = commands
        self._results = results

    def rest(self, command: CommandIssued, known: list[tuple[int, Result]]) -> Iterator[tuple[int, Result]]:
        """Yield the results of a command that the recording lacks, up to the last result. `known`: the recorded results
        of the command. Both `known` and the yielded results are (microseconds after the command, result).
        """
        match command.name:
            case "StartTimer":
                due_us = int(str(command.payload["due_at_us"])) - command.at_us
                yield max(0, due_us), inputs.TimerFired.unchecked({"target": command.target})
            case "ClassifyIntent":
                after_us = self.usual_us(command.name)
                yield after_us, inputs.IntentResolved.unchecked({"elapsed_us": after_us, "intent": ""})
            case "AnswerQuestion":
                after_us = self.usual_us(command.name)
                yield after_us, inputs.RagAnswered.unchecked({"answer": UNKNOWN, "elapsed_us": after_us})
            case "RunTool":
                after_us = self.usual_us(command.name)
                yield after_us, ToolReturned.unchecked({"call_id": command.target, "error": UNKNOWN_RESULT})
            case _:
                yield from rest_of_playback(command, known)

    def usual_us(self, name: str) -> int:
        """Return the median latency, in microseconds, of the recorded results to commands of this name."""
        took = [
            result.at_us - self._commands[command_id].at_us
            for command_id, results in self._results.items()
            for _, result in results
            if self._commands[command_id].name == name and result.cause
        ]
        return int(median(took)) if took else SERVICE_US
