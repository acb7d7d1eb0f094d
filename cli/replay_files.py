"""Replays many recordings on all cores, with the verdicts in the order of the sources."""

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from cli.progress import Progress
from cli.sources import is_file, opened
from cli.terminal import words
from events.recording import BadRecordingError
from orchestrator.replay.invariants import Invariants
from orchestrator.replay.replay import Replay, Replayer
from orchestrator.replay.verdict import Verdict, verdict_of
from orchestrator.replay.words import short

WORTH_A_PROCESS = 1 << 20
"""Total bytes from which several processes are used: fewer are replayed before a second process has started."""
LOOK_EVERY_S = 0.1

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class How:
    """How each recording is replayed."""

    keep_going: bool = False
    check: bool = False
    is_incomplete: bool = False


def replay_source(source: str, how: How, advance: Advance = lambda _: None) -> Verdict:
    """The verdict on one source. An unreadable source and Ctrl-C also give a verdict."""
    began = time.perf_counter()
    invariants = Invariants()
    found: Replay | None = None
    gc.disable()  # there are no reference cycles here, and the collector takes a tenth of the time
    try:
        header, lines = opened(source, may_be_cut=how.is_incomplete, advance=advance)
        replayer = Replayer(header, source, keep_going=how.keep_going, is_incomplete=how.is_incomplete)
        found = replayer.found
        if how.check:
            replayer.look = invariants.look
        replayer.run(lines)
        verdict = verdict_of(found, invariants.broken)
    except KeyboardInterrupt:
        verdict = verdict_of(found, invariants.broken, is_interrupted=True) if found else Verdict(source, "interrupted")
    except (BadRecordingError, LookupError, OSError) as error:
        verdict = Verdict(source, "unreadable", error=words(error))
    finally:
        gc.enable()
    if how.is_incomplete and found is not None:
        pending = (c for s in found.sessions.values() if s.state.phase != "ENDED" for c in s.state.pending.values())
        verdict.next_commands = [f"{command.session_id}: {short(command)}" for command in pending]
    verdict.elapsed_s = time.perf_counter() - began
    return verdict


def replay_sources(sources: list[str], how: How, jobs: int, *, shows_progress: bool) -> Iterator[Verdict]:
    """The verdicts in order, each as soon as it is ready. Ctrl-C gives a last verdict, interrupted."""
    sizes = [Path(source).stat().st_size for source in sources if is_file(source) and Path(source).exists()]
    with closing(Progress(sum(sizes), is_wanted=shows_progress)) as progress:
        jobs = min(jobs or os.cpu_count() or 1, len(sources))
        if jobs > 1 and sum(sizes) >= WORTH_A_PROCESS and len(sizes) == len(sources):
            yield from _on_all_cores(sources, how, jobs, progress)
            return
        for source in sources:
            verdict = replay_source(source, how, progress.advance)
            progress.close()
            yield verdict
            if verdict.outcome == "interrupted":
                return


_done: "Synchronized[int]"
"""In a worker process: bytes read by all workers together."""


def _on_all_cores(sources: list[str], how: How, jobs: int, progress: Progress) -> Iterator[Verdict]:
    done = multiprocessing.Value("q", 0)
    with multiprocessing.Pool(jobs, _begin, (done,)) as pool:
        results = pool.imap(_work, [(source, how) for source in sources])
        try:
            for source in sources:  # noqa: B007 - the one that was interrupted is named below
                while True:
                    try:
                        verdict = results.next(LOOK_EVERY_S)
                        break
                    except multiprocessing.TimeoutError:
                        progress.reach(done.value)
                progress.close()
                yield verdict
        except KeyboardInterrupt:
            yield Verdict(source, "interrupted")


def _begin(done: "Synchronized[int]") -> None:
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process


def _work(task: tuple[str, How]) -> Verdict:
    return replay_source(*task, _advance)


def _advance(amount: int) -> None:
    with _done.get_lock():
        _done.value += amount
