"""Simulates results of synthesis and playback that a recording lacks, for answers in one text or in several.

A text that the recording speaks gets the recorded chunks again, with the same word times. The length of the speech of
any other text is guessed from its characters.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median_low

from events import inputs
from events.derived import CommandIssued
from events.envelope import Event, Result
from events.inputs import SpokenWord
from orchestrator.session.commands import PLAYS
from orchestrator.session.heard import guessed_ms

SPEECH_US = 100_000
"""Time from a command to its first sound, in microseconds; used if the recording does not show this time."""
AHEAD_US = 1_000_000
"""How far synthesis runs ahead of playback, in microseconds."""
SHOWN_US = 1_000
"""How long it takes to show a text, in microseconds."""

Coming = tuple[int, Result]
"""(time at which a result comes, in microseconds since 1970; the result)."""


@dataclass(slots=True)
class SpeechTiming:
    """The speech of one text. `chunks`: (length in milliseconds, words that begin in the chunk) for each chunk. The
    `at_ms` of a word counts from the first sound of this text. `is_whole`: no chunk is missing at the end.
    """

    chunks: list[tuple[int, tuple[SpokenWord, ...]]]
    is_whole: bool = False

    @property
    def length_ms(self) -> int:
        return sum(ms for ms, _ in self.chunks)


class Speeches:
    """Timing of the recorded speech: for each text, the lengths of its chunks and the times of its words. Also holds
    the usual time until the first chunk of a playback.
    """

    def __init__(self, log: Iterable[Event]) -> None:
        self._of: dict[str, SpeechTiming] = {}
        self._waits_us: list[int] = []
        self._speaks: dict[str, CommandIssued] = {}
        self._texts: dict[tuple[str, int], str] = {}
        self._heard: dict[str, dict[int, SpeechTiming]] = defaultdict(dict)
        """Command id of a Speak → index of a text in the answer → the speech of this text."""
        for event in log:
            if isinstance(event, CommandIssued):
                self._given(event)
            elif isinstance(event, inputs.TtsChunkReady | inputs.TtsComplete):
                self._synthesised(event)
        for command_id, speeches in self._heard.items():
            for index, speech in speeches.items():
                self._keep(self._texts.get((command_id, index), ""), speech)

    @property
    def wait_us(self) -> int:
        """The median time from the command that starts a playback to the first chunk, in microseconds."""
        return median_low(self._waits_us) if self._waits_us else SPEECH_US

    def _given(self, command: CommandIssued) -> None:
        text = str(command.payload.get("text", ""))
        if command.name in PLAYS:
            self._speaks[command.target] = command
            self._texts[command.command_id, _number(command)] = text
        elif (speak := self._speaks.get(str(command.payload.get("playback_id")))) and command.name == "SpeakMore":
            self._texts.setdefault((speak.command_id, _number(command)), text)

    def _synthesised(self, event: inputs.TtsChunkReady | inputs.TtsComplete) -> None:
        speak = self._speaks.get(event.playback_id)
        if speak is None or speak.command_id != event.command_id or speak.payload.get("from_ms"):
            return  # a late result, or one of a retry, which has only the rest of the speech
        if isinstance(event, inputs.TtsComplete):
            _complete(self._heard[event.command_id].values())
            return
        if event.index == 0:
            self._waits_us.append(event.at_us - speak.at_us)
        _hear(self._heard[event.command_id], event)

    def of(self, text: str) -> SpeechTiming:
        """Return the whole speech of a text. If the recording lacks the speech or its end, that part is guessed."""
        known = self._of.get(text.strip(), SpeechTiming([]))
        if known.is_whole:
            return known
        rest_ms = guessed_ms(text.strip()) - known.length_ms
        return SpeechTiming([*known.chunks, *([(rest_ms, ())] if rest_ms > 0 else [])], is_whole=True)

    def _keep(self, text: str, speech: SpeechTiming) -> None:
        """Keep the speech of a text. If the text was spoken several times, keep the longest whole speech. If no speech
        is whole, keep the longest.
        """
        known = self._of.get(text.strip())
        if known is None or (speech.is_whole, speech.length_ms) > (known.is_whole, known.length_ms):
            self._of[text.strip()] = speech


def _hear(heard: dict[int, SpeechTiming], chunk: inputs.TtsChunkReady) -> None:
    """Add a chunk to the speech of its text in `heard`, and mark the speech of earlier texts as whole. `heard`: index
    of a text in the answer → the speech of this text.
    """
    before = [speech for index, speech in heard.items() if index < chunk.text_index]
    _complete(before)
    before_ms = sum(speech.length_ms for speech in before)
    words = tuple(SpokenWord(at_ms=max(0, word.at_ms - before_ms), text=word.text) for word in chunk.words)
    heard.setdefault(chunk.text_index, SpeechTiming([])).chunks.append((chunk.duration_ms, words))


def _complete(speeches: Iterable[SpeechTiming]) -> None:
    for speech in speeches:
        speech.is_whole = True


class Voice:
    """Simulates one playback, or the rest of a playback that began as recorded. Call `say` for each text, in order. The
    playback can be paused.

    `command`: the Speak or PlayFiller that started the playback. `is_shown`: the session has no media connection, so
    the answer is shown as text. If the playback began as recorded: `chunks` is the number of its recorded chunks that
    the new run has received, and `began_us` is the time of its first sound; both are 0 otherwise.
    """

    def __init__(
        self, command: CommandIssued, speeches: Speeches, *, is_shown: bool, chunks: int = 0, began_us: int = 0
    ) -> None:
        self._command = command
        self._speeches = speeches
        self._is_shown = is_shown
        self._come = chunks
        self._began_us = began_us
        self._heard_until_us = began_us
        """The time at which all texts so far will have been played."""
        self._written_us = 0
        self._length_ms = int(str(command.payload.get("begins_ms", 0)))
        self._from_ms = int(str(command.payload.get("from_ms", 0)))
        self._chunks = 0
        self.paused_us = 0
        """When the playback was paused; 0: it is not paused."""
        self._names = {"playback_id": command.target}

    def say(self, command: CommandIssued) -> Iterator[Coming]:
        """Add the text of a Speak or SpeakMore. Yields the results of the text's synthesis and playback, each as (time
        in microseconds since 1970, result). Leaves out recorded chunks that the new run has already received.
        """
        text, now_us = str(command.payload["text"]), command.at_us
        if self._is_shown:
            if not self._began_us:
                yield now_us + SHOWN_US, inputs.PlaybackStarted.unchecked(self._names)
                self._began_us = now_us + SHOWN_US
        elif text.strip():
            yield from self._speak(text, _number(command), now_us)
        if not command.payload.get("is_last", not command.payload.get("is_open", False)):
            return
        done = self._names | {"confirmed_by": "client"}
        if self._is_shown:
            yield now_us + 2 * SHOWN_US, inputs.PlaybackDone.unchecked(done | {"position_ms": 0})
            return
        whole = self._names | {"chunks": self._chunks, "duration_ms": self._length_ms}
        yield max(now_us, self._written_us), inputs.TtsComplete.unchecked(whole)
        yield max(now_us, self._heard_until_us), inputs.PlaybackDone.unchecked(done | {"position_ms": self._length_ms})

    def pause(self, now_us: int) -> None:
        self.paused_us = now_us

    def resume(self, now_us: int) -> None:
        """Continue after a pause. The results of later texts come later by the length of the pause."""
        if self.paused_us and self._heard_until_us > self.paused_us:
            self._heard_until_us += now_us - self.paused_us
        self.paused_us = 0

    def _speak(self, text: str, index: int, now_us: int) -> Iterator[Coming]:
        ready_us = now_us + self._speeches.wait_us
        if not self._began_us:
            yield ready_us, inputs.PlaybackStarted.unchecked(self._names)
            self._began_us = ready_us
        begins_us, begins_ms = max(ready_us, self._heard_until_us), self._length_ms
        if self._heard_until_us == self._began_us:
            begins_us = self._began_us  # the first text of the playback
        for ms, words in self._speeches.of(text).chunks:
            self._length_ms += ms
            heard_ms = max(0, min(ms, self._from_ms - (self._length_ms - ms)))
            if heard_ms and heard_ms == ms:
                continue  # the user heard this chunk before the connection or the owner changed
            self._chunks += 1
            if self._chunks > self._come:
                self._written_us = max(ready_us, begins_us - AHEAD_US)
                timed = tuple(SpokenWord(at_ms=word.at_ms + begins_ms, text=word.text) for word in words)
                about = {"duration_ms": ms - heard_ms, "index": self._chunks - 1, "text_index": index, "words": timed}
                yield self._written_us, inputs.TtsChunkReady.unchecked(self._names | about)
            begins_us += (ms - heard_ms) * 1000
        self._heard_until_us = begins_us


def rest_of_playback(command: CommandIssued, known: list[tuple[int, Result]]) -> Iterator[tuple[int, Result]]:
    """Yield the results that the recording lacks for a command that starts a playback, up to the end of the playback.
    `known`: the recorded results of the command. Both `known` and the yielded results are (microseconds after the
    command, result).
    """
    names = {"playback_id": command.target}
    chunks = [(us, c) for us, c in known if isinstance(c, inputs.TtsChunkReady)]
    complete = next((c for _, c in known if isinstance(c, inputs.TtsComplete)), None)
    started_us = next((us for us, c in known if isinstance(c, inputs.PlaybackStarted)), SPEECH_US)
    audio_ms = sum(chunk.duration_ms for _, chunk in chunks)
    length_ms = max(audio_ms, guessed_ms(str(command.payload["text"])))
    if complete is not None:
        length_ms = complete.duration_ms
    else:
        more = [] if audio_ms >= length_ms else [length_ms - audio_ms]
        for index, duration_ms in enumerate(more, len(chunks)):
            yield started_us, inputs.TtsChunkReady.unchecked(names | {"index": index, "duration_ms": duration_ms})
        total = {"chunks": len(chunks) + len(more), "duration_ms": length_ms}
        yield max([started_us, *(us for us, _ in chunks)]), inputs.TtsComplete.unchecked(names | total)
    if not any(isinstance(result, inputs.PlaybackStarted) for _, result in known):
        yield started_us, inputs.PlaybackStarted.unchecked(names)
    done = {"confirmed_by": "client", "position_ms": length_ms}
    yield started_us + length_ms * 1_000, inputs.PlaybackDone.unchecked(names | done)


def _number(command: CommandIssued) -> int:
    return int(str(command.payload.get("index", 0)))
