"""A model of the commit protocol: one shard, one session, two nodes, one Redis, one producer.

What may happen next is in `protocol_steps.py`, what must never be in `protocol_checks.py`, the walk through all worlds
in `protocol_search.py`. The rules
of the protocol are switches (`Rules`), so that a test can take one away and watch what happens then. A rule's docstring
names the code that implements it; a test finds that code.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

STALE = "one who does not own the shard changes something"
UNCOMMITTED = "a command is performed whose step is not committed"


@dataclass(frozen=True)
class Rules:
    """What the protocol consists of. Code: where in orchestrator/runtime (or orchestrator/session) it stands."""

    owner_token: bool = True
    """A commit is refused unless the stored owner token is its own. Code: redis/lua/commit.lua, redis/lua/pass.lua."""
    unique_token: bool = True
    """A token is made anew for each acquisition, not counted in Redis. Code: fleet.lease.acquire."""
    chained_cursor: bool = True
    """A commit is refused unless the cursor is where the one before it left it. Code: redis/lua/commit.lua,
    redis/lua/pass.lua, shard.Shard._commit, shard.Shard._pass.
    """
    known_version: bool = True
    """A commit is refused unless the session's log ends at the version it was decided on. Code:
    redis/lua/commit.lua.
    """
    one_script: bool = True
    """Log and cursor are written by one script, after all checks. Code: redis/lua/commit.lua."""
    perform_after_commit: bool = True
    """Commands are performed when their step is committed, not when it is decided. Code: shard.Shard.handle."""
    keep_steps: bool = True
    """When the outcome is unclear the steps are kept, and those at or below the stored cursor are performed.
    Code: redis.commit.Committer.commit, shard.Shard.handle.
    """
    read_back: bool = True
    """When the outcome is unclear token and cursor are read back, before anything is sent again. Code:
    redis.commit.Committer._read_back.
    """
    refusal_is_unclear: bool = True
    """A refused cursor is as unclear as a lost reply: what is refused may be done already. Code:
    redis.commit.Committer.commit.
    """
    no_silent_retry: bool = True
    """The client sends nothing twice by itself. Code: redis.connection.connect, redis.wire.Wire.call."""
    run_id: bool = True
    """Another run id is another life of the server: everything of the old one is given up. Code:
    redis.connection.run_id, redis.commit.Committer._read_back, fleet.ownership.Ownership._renew_all.
    """
    wait_for_effects: bool = True
    """What was started under a lease has ended before the same node acquires again. Code:
    fleet.ownership.Ownership._leave, fleet.ownership.Ownership._give_up, fleet.ownership.Ownership._not_ours,
    shard.Shard.give_up.
    """
    release_own: bool = True
    """A release touches nothing that belongs to another token. Code: redis/lua/release.lua."""
    release_token: bool = True
    """A release withdraws the owner token too, not the lease alone. Code: redis/lua/release.lua."""
    tell_sessions: bool = True
    """A new owner tells each live session of itself. Code: shard.Shard.take_over."""
    stop_and_wait: bool = True
    """A producer sends the next when the last was acknowledged. Code: inbox.Inbox._send."""
    high_water_mark: bool = True
    """An input at or below the producer's high-water mark is a repetition. Code: session.state.State.has_seen,
    session.reducer.reduce, session.evolve.apply.
    """
    incarnation_in_id: bool = True
    """Command ids contain the incarnation. Code: session.step.StepBuilder.do."""
    own_not_again: bool = True
    """SESSION_RESUMED asks again only for what another incarnation asked. Code: session.lifecycle.resumed."""
    new_id_again: bool = True
    """What is asked again gets a new command id. Code: session.lifecycle.resumed, session.step.StepBuilder.do."""
    trim_at_cursor: bool = True
    """The inbox is trimmed below the stored cursor, in one script. Code: redis/lua/commit.lua, redis/lua/pass.lua,
    redis/lua/trim.lua.
    """

    bounded_lease: bool = True
    """A lease that has longer left than any is given for is cut: the server's clock was set back. Code:
    fleet.lease.free.
    """


class Input(NamedTuple):
    """`said` and `unnumbered` (a question, its number), `result` (a command id, the question), `resumed` (a token)."""

    kind: str
    key: object
    text: int = 0


class Command(NamedTuple):
    """A question that was asked of a service."""

    command_id: tuple[int, int]
    text: int
    incarnation: int


class Record(NamedTuple):
    """A step in the log."""

    version: int
    input: Input
    command: Command | None = None
    answers: Command | None = None


Log = tuple[Record, ...]


class Move(NamedTuple):
    """A call of commit.lua, or (without a record) of pass.lua."""

    acquisition: int
    token: int
    cursor: int
    next_cursor: int
    version: int = 0
    record: Record | None = None
    half: str = ""


class Redis(NamedTuple):
    """What is stored."""

    inbox: tuple[tuple[int, Input], ...] = ()
    cursor: int = 0
    owner: int = 0
    lease: int = 0
    life: int = 0
    log: Log = ()
    acquisition: int = 0
    """The rightful owner, whatever the token says. For the checker alone."""
    counter: int = 0
    stuck: int = 0
    """The lease that was given before the server's clock was set back: it expires at a date far away."""
    set_ahead: bool = False
    """The lease has expired because the server's clock was set ahead."""


class Node(NamedTuple):
    """A process: `out` owns nothing, `own` reads, `sent` awaits replies, `unclear` reads back, `leaving` gives up."""

    status: str = "out"
    acquisition: int = 0
    token: int = 0
    life: int = 0
    cursor: int = 0
    log: Log = ()
    steps: tuple[Move, ...] = ()
    wire: tuple[Move, ...] = ()
    replies: tuple[str, ...] = ()
    effects: tuple[Command, ...] = ()
    must_tell: bool = False


class World(NamedTuple):
    """Everything, and how many faults may still happen."""

    faults: tuple[str, ...]
    """Those that may still happen."""
    redis: Redis = Redis()
    saved: Redis | None = None
    """What is on disk, where that is not all any more."""
    unsaved: int = 0
    """So many writes are not on disk."""
    nodes: tuple[Node, Node] = (Node(), Node())
    ghosts: tuple[Move, ...] = ()
    """What a dead connection still holds."""
    sent: int = 0
    again: tuple[int, ...] = ()
    """What the producer has to send again."""
    accepted: frozenset[int] = frozenset()
    appended: int = 0
    acquired: int = 0
    forgotten: frozenset[tuple[int, int]] = frozenset()
    """Commands that were committed, and that Redis lost."""
    wrong: str = ""
    """What must never happen has just happened."""


class Next(NamedTuple):
    label: str
    is_fault: bool
    world: World


@cache
def fold(log: Log) -> tuple[Command | None, int]:
    """The outstanding command, and the high-water mark of the producer."""
    pending, mark = None, 0
    for record in log:
        if record.input.kind == "said":
            mark = max(mark, int(str(record.input.key)))
        if record.answers is not None:
            pending = None
        if record.command is not None:
            pending = record.command
    return pending, mark


@cache
def commands_in(log: Log) -> frozenset[tuple[int, int]]:
    """The ids of the commands that were committed."""
    return frozenset(record.command.command_id for record in log if record.command is not None)


@cache
def reduce(rules: Rules, log: Log, event: Input, token: int) -> Record | None:
    """The session core in small; None: a repetition."""
    pending, mark = fold(log)
    version = (log[-1].version if log else 0) + 1
    command_id = (token if rules.incarnation_in_id else 0, len(log) + 1)
    match event.kind:
        case "said":
            if rules.high_water_mark and int(str(event.key)) <= mark:
                return None
            return Record(version, event, Command(command_id, int(str(event.key)), token))
        case "result" if pending is not None and pending.command_id == event.key:
            return Record(version, event, answers=pending)
        case "resumed" if pending is not None and not (rules.own_not_again and pending.incarnation == token):
            again = command_id if rules.new_id_again else pending.command_id
            return Record(version, event, Command(again, pending.text, token))
        case _:
            return Record(version, event)


def carry_out(rules: Rules, redis: Redis, move: Move) -> tuple[str, Redis]:
    """What commit.lua and pass.lua do."""
    record = move.record
    if rules.owner_token and redis.owner != move.token:
        return "NOT_OWNER", redis
    if rules.chained_cursor and move.half != "log" and redis.cursor != move.cursor:
        return "CURSOR", redis
    if record is None or move.half == "cursor":
        return "OK", redis._replace(cursor=move.next_cursor)
    top = redis.log[-1].version if redis.log else 0
    if rules.known_version and top != move.version:
        return "VERSION", redis
    if record.version <= top:  # XADD refuses an id that is not above the last
        return "ERROR", redis
    log = (*redis.log, record)
    return "OK", redis._replace(log=log) if move.half else redis._replace(log=log, cursor=move.next_cursor)
