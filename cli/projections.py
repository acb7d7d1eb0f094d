"""`orch projections`: how far each projection is, and making the history anew."""

from cli.archive import summed_up, tell
from cli.progress import Progress
from cli.store import history, store
from cli.terminal import UsageError
from cli.terminal import run as run_loop
from orchestrator.runtime.history.archiver import NAME, published
from orchestrator.runtime.history.reconcile import ends, rebuild
from orchestrator.safe_text import one_line


def run(action: str, name: str = "") -> int:
    if action == "status":
        return run_loop(_status())
    if name != NAME:
        raise UsageError(f"{name} cannot be rebuilt; there is: {NAME}")
    return run_loop(_rebuild())


async def _status() -> int:
    """A projection that no node runs any more is shown, too: it holds up the trimming of the feeds."""
    async with store() as (redis, keys), history() as archive:
        every = set(range(keys.shards))
        end = await ends(redis, keys, every)
        at = await published(redis, keys, every)
        stored = await archive.positions([keys.feed(number) for number in sorted(every)])
        counts = await archive.counts()
    for number in every:
        at[number][NAME] = stored[keys.feed(number)].seq
    for name in sorted({name for positions in at.values() for name in positions}):
        behind = {n: end[n].seq - positions[name] for n, positions in at.items() if name in positions}
        worst = max(behind, key=lambda number: behind[number])
        where = f" (shard {worst:02d}: {behind[worst]})" if behind[worst] else ""
        print(f"{name}\t{sum(behind.values())} steps behind{where}, over {len(behind)} shards")
    print(f"{NAME}\t" + ", ".join(f"{count} {table}" for table, count in counts.items()))
    return 0


async def _rebuild() -> int:
    """Rebuild the history. Returns LEFT if the log of any session cannot be read."""
    done, progress, bad = 0, Progress(0), dict[str, str]()
    async with store() as (redis, keys), history() as archive:
        try:
            async for session_id, problem, total in rebuild(redis, keys, archive):
                progress = progress if done else Progress(total)
                done += 1
                progress.reach(done)
                if problem:
                    bad[session_id] = problem
        finally:
            progress.close()
    for session_id, problem in bad.items():
        tell(session_id, "", f"its log cannot be read: {one_line(problem)}")
    return summed_up(f"{done - len(bad)} sessions made anew", len(bad))
