"""Models results that a recording lacks, with the usual latencies of that recording."""

from collections.abc import Iterator, Mapping
from statistics import median

from events import inputs
from events.derived import CommandIssued
from events.envelope import Result
from events.journal import ToolReturned
from orchestrator.replay.playback import rest_of_playback

SERVICE_US = 300_000
"""Latency of a service, in microseconds, if the recording has no result of it."""
UNKNOWN, UNKNOWN_RESULT = "(an answer that nobody recorded)", "(a result that nobody recorded)"


class Simulated:
    """Models results that the recording lacks. `results`: command id → its recorded results, each with its index in the
    log.
    """

    def __init__(self, commands: Mapping[str, CommandIssued], results: Mapping[str, list[tuple[int, Result]]]) -> None:
        self._commands = commands
        self._results = results

    def rest(self, command: CommandIssued, known: list[tuple[int, Result]]) -> Iterator[tuple[int, Result]]:
        """Yield the simulated results of a command after the known ones, each with its latency in microseconds."""
        match command.name:
            case "StartTimer":
                due_us = int(str(command.payload["due_at_us"])) - command.at_us
                yield max(0, due_us), inputs.TimerFired.made({"target": command.target})
            case "ClassifyIntent":
                after_us = self.usual_us(command.name)
                yield after_us, inputs.IntentResolved.made({"elapsed_us": after_us, "intent": ""})
            case "AnswerQuestion":
                after_us = self.usual_us(command.name)
                yield after_us, inputs.RagAnswered.made({"answer": UNKNOWN, "elapsed_us": after_us})
            case "RunTool":
                after_us = self.usual_us(command.name)
                yield after_us, ToolReturned.made({"call_id": command.target, "error": UNKNOWN_RESULT})
            case _:
                yield from rest_of_playback(command, known)

    def usual_us(self, name: str) -> int:
        """The median latency of the results to commands of this name, in microseconds."""
        took = [
            result.at_us - self._commands[command_id].at_us
            for command_id, results in self._results.items()
            for _, result in results
            if self._commands[command_id].name == name and result.cause
        ]
        return int(median(took)) if took else SERVICE_US
