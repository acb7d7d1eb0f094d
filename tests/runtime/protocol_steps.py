"""What may happen next in the model of the commit protocol: what nodes, Redis and the producer do, and every fault."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.runtime.protocol_model import (
    STALE,
    UNCOMMITTED,
    Input,
    Move,
    Next,
    Node,
    Redis,
    Rules,
    World,
    carry_out,
    commands_in,
    reduce,
)

BATCH = 2
TAIL = 2
"""So many writes may be lost at once."""
OUT = Node()


@dataclass(frozen=True)
class Scenario:
    """Which faults may happen, how many of them, and how much there is to do."""

    faults: tuple[str, ...]
    budget: int = 2
    questions: int = 2
    unnumbered: bool = False
    """The producer gives its events no number, and never sends one again."""
    trims: bool = False
    ends_well: bool = True
    """Whether everything that was begun must come to an end."""


class Model:
    """A scenario under rules."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.rules = rules
        self.scenario = scenario

    def start(self) -> World:
        return World(self.scenario.faults)

    def successors(self, world: World) -> Iterator[Next]:
        """Everything that may happen next."""
        yield from self._producer(world)
        yield from self._time(world)
        yield from self._loss(world)
        for index, node in enumerate(world.nodes):
            yield from self._node(world, index, node)
        yield from self._dead_connections(world)
        yield from self._server_faults(world)

    def _less(self, world: World, fault: str) -> tuple[str, ...]:
        """What may still happen after this."""
        index = world.faults.index(fault)
        rest = (*world.faults[:index], *world.faults[index + 1 :])
        return rest if len(self.scenario.faults) - len(rest) < self.scenario.budget else ()

    def _cut_off(self, world: World, node: Node, fault: str = "") -> World:
        """What a connection still holds may be carried out later, though nobody waits for it any more."""
        faults = self._less(world, fault) if fault else world.faults
        return world._replace(faults=faults, ghosts=world.ghosts + node.wire)

    # What belongs to nobody

    def _producer(self, world: World) -> Iterator[Next]:
        number = world.sent + 1
        kind = "unnumbered" if self.scenario.unnumbered else "said"
        if world.again:
            again, *rest = world.again
            appended = self._append(world, Input("said", again))
            yield Next(
                f"question {again} is sent again",
                False,
                appended._replace(again=tuple(rest), accepted=world.accepted | {again}),
            )
        if number > self.scenario.questions or (self.rules.stop_and_wait and world.again):
            return
        appended = self._append(world, Input(kind, number))._replace(sent=number)
        accepted = world.accepted | {number}
        yield Next(f"question {number} is accepted", False, appended._replace(accepted=accepted))
        if "append" not in world.faults:
            return
        less = self._less(world, "append")
        if not self.rules.no_silent_retry:
            twice = self._append(appended, Input(kind, number))._replace(accepted=accepted, faults=less)
            yield Next(f"question {number} is sent twice by the client, which says nothing", True, twice)
            return
        later = () if self.scenario.unnumbered else (*world.again, number)
        for label, failed in (("arrives, its reply is lost", appended), ("does not arrive", world)):
            failed = failed._replace(faults=less, sent=number, again=later)
            yield Next(f"question {number} {label}", True, failed)

    def _loss(self, world: World) -> Iterator[Next]:
        if world.saved is not None and world.unsaved:
            lost = self._restart(world, world.saved)
            yield Next(f"Redis starts anew without the last {world.unsaved} writes", False, lost)

    def _time(self, world: World) -> Iterator[Next]:
        holder = world.redis.lease
        if not holder:
            return
        redis = world.redis
        if "clock" in world.faults:
            less = self._less(world, "clock")
            back = world._replace(faults=less, redis=redis._replace(stuck=holder))
            yield Next("the clock of Redis is set back", True, back)
            ahead = _expired(world)._replace(faults=less)
            yield Next(
                "the clock of Redis is set ahead", True, ahead._replace(redis=ahead.redis._replace(set_ahead=True))
            )
        if redis.stuck == holder and not self.rules.bounded_lease:
            return
        if not any(node.token == holder for node in world.nodes):
            yield Next("the lease of a dead owner expires", False, _expired(world))
        elif "pause" in world.faults:
            paused = _expired(world)._replace(faults=self._less(world, "pause"))
            yield Next(f"owner {holder} is paused beyond its lease", True, paused)

    def _dead_connections(self, world: World) -> Iterator[Next]:
        if world.ghosts:
            move, *rest = world.ghosts
            left = world._replace(ghosts=tuple(rest))
            yield Next("a dead connection's commit is carried out late", True, self._commit(left, move)[1])

    def _server_faults(self, world: World) -> Iterator[Next]:
        redis = world.redis
        if "tail" in world.faults:
            less = world._replace(faults=self._less(world, "tail"))
            yield Next("Redis starts anew", True, self._restart(less, redis))
            if world.saved is None:
                yield Next("Redis writes nothing to disk any more", True, less._replace(saved=redis))
        if "set back" in world.faults and redis.log:
            *log, gone = redis.log
            back = redis._replace(log=tuple(log))
            forgotten = world.forgotten | commands_in(redis.log) - commands_in(back.log)
            accepted = world.accepted - {gone.input.key}
            yield Next(
                "the session's keys alone are set back",
                True,
                world._replace(
                    faults=self._less(world, "set back"),
                    redis=back,
                    forgotten=forgotten,
                    accepted=frozenset(accepted),
                ),
            )

    def _restart(self, world: World, old: Redis) -> World:
        """Redis as it was, in a new life. What it has lost of acknowledged appends is the documented loss."""
        kept = {event.key for _, event in old.inbox if event.kind == "said"} | {record.input.key for record in old.log}
        one, other = (
            node._replace(status="unclear", wire=(), replies=("LOST",)) if node.status == "sent" else node
            for node in world.nodes
        )
        return world._replace(
            redis=old._replace(life=world.redis.life + 1),
            saved=None,
            unsaved=0,
            nodes=(one, other),
            ghosts=(),
            accepted=frozenset(number for number in world.accepted if number in kept),
            forgotten=world.forgotten | commands_in(world.redis.log) - commands_in(old.log),
        )

    # What a node does

    def _node(self, world: World, index: int, node: Node) -> Iterator[Next]:
        for effect in node.effects if node.status != "leaving" else ():
            result = Input("result", effect.command_id, effect.text)
            rest = tuple(other for other in node.effects if other is not effect)
            appended = self._append(world, result)
            yield Next(f"{_name(node)}: {effect.text} is answered", False, _with(appended, index, effects=rest))
        match node.status:
            case "out":
                yield from self._acquire(world, index, node)
            case "own":
                yield from self._read(world, index, node)
            case "sent":
                yield from self._replies(world, index, node)
            case "unclear":
                yield Next(f"{_name(node)} reads back", False, self._read_back(world, index, node))
            case "leaving":
                yield Next(f"{_name(node)} has given up", False, self._release(world, index, node))
        if node.status in ("own", "sent", "unclear"):
            yield from self._tick(world, index, node)
        if node.status != "out" and "crash" in world.faults:
            crashed = _put(self._cut_off(world, node, "crash"), index, OUT)
            yield Next(f"{_name(node)} crashes", True, crashed)

    def _acquire(self, world: World, index: int, node: Node) -> Iterator[Next]:
        redis = world.redis
        if redis.lease:
            return
        counter = redis.counter if self.rules.unique_token else redis.counter + 1
        acquisition = world.acquired + 1
        token = acquisition if self.rules.unique_token else counter
        owned = redis._replace(owner=token, lease=token, acquisition=acquisition, counter=counter, set_ahead=False)
        owner = Node(
            "own",
            acquisition,
            token,
            redis.life,
            redis.cursor,
            redis.log,
            effects=node.effects,
            must_tell=self.rules.tell_sessions and bool(redis.log),
        )
        taken = _put(_write(world, owned, acquired=acquisition), index, owner)
        yield Next(f"a node acquires the shard as owner {token}", False, taken)

    def _read(self, world: World, index: int, node: Node) -> Iterator[Next]:
        redis, rules = world.redis, self.rules
        if node.must_tell:
            told = self._append(world, Input("resumed", node.acquisition))
            yield Next(f"{_name(node)} says SESSION_RESUMED", False, _with(told, index, must_tell=False))
        moves = tuple(self._decide(node, redis))
        if moves:
            wire = moves if rules.one_script else tuple(half for move in moves for half in _halves(move))
            sent = _with(world, index, status="sent", cursor=moves[-1].next_cursor, steps=moves, wire=wire, replies=())
            if not rules.perform_after_commit:
                sent = self._perform(sent, index, moves)
            yield Next(f"{_name(node)} sends commits up to {moves[-1].next_cursor}", False, sent)
        if self.scenario.trims:
            limit = redis.cursor if rules.trim_at_cursor else node.cursor
            left = tuple(entry for entry in redis.inbox if entry[0] > limit)
            if left != redis.inbox and (not rules.trim_at_cursor or redis.owner == node.token):
                trimmed = _write(world, redis._replace(inbox=left))
                yield Next(f"{_name(node)} trims up to {limit}", False, trimmed)

    def _decide(self, node: Node, redis: Redis) -> Iterator[Move]:
        log, cursor = node.log, node.cursor
        for entry, event in [one for one in redis.inbox if one[0] > cursor][:BATCH]:
            record = reduce(self.rules, log, event, node.token)
            version = log[-1].version if log else 0
            yield Move(node.acquisition, node.token, cursor, entry, version, record)
            log, cursor = (*log, record) if record else log, entry

    def _replies(self, world: World, index: int, node: Node) -> Iterator[Next]:
        if node.wire:
            move, *rest = node.wire
            reply, done = self._commit(world, move)
            replied = {"wire": tuple(rest), "replies": (*node.replies, reply)}
            yield Next(f"Redis says {reply} to {_name(node)}", False, _with(done, index, **replied))
            if "refused" in world.faults:  # OOM, LOADING, NOSCRIPT: an error, and nothing was done
                replied["replies"] = (*node.replies, "ERROR")
                refused = _with(world, index, **replied)._replace(faults=self._less(world, "refused"))
                yield Next(f"Redis cannot carry out a command of {_name(node)}", True, refused)
        else:
            yield Next(f"{_name(node)} has all replies", False, self._outcome(world, index, node))
        if "cut" in world.faults:
            less = self._cut_off(world, node, "cut")
            if self.rules.no_silent_retry:
                cut = _with(less, index, status="unclear", wire=(), replies=("LOST",))
            else:
                cut = _with(less, index, wire=node.steps, replies=())
            yield Next(f"{_name(node)} loses its connection", True, cut)

    def _outcome(self, world: World, index: int, node: Node) -> World:
        """Committer.commit, where the replies are there."""
        replies = set(node.replies)
        if replies == {"OK"}:
            return self._perform(_go_on(world, index, node), index, node.steps)
        if "NOT_OWNER" in replies:
            return _with(world, index, status="leaving", steps=(), replies=())
        if not self.rules.refusal_is_unclear and "CURSOR" in replies and "ERROR" not in replies:
            return self._rewind(world, index, node)
        if not self.rules.read_back and "ERROR" not in replies:  # it was done already, so it seems
            return self._perform(_go_on(world, index, node), index, node.steps)
        return _with(world, index, status="unclear")

    def _read_back(self, world: World, index: int, node: Node) -> World:
        """Committer.commit, where they are not, or are not clear."""
        rules, redis = self.rules, world.redis
        if not rules.read_back:
            return _with(world, index, status="sent", wire=node.steps, replies=())
        if (rules.run_id and redis.life != node.life) or redis.owner != node.token:
            return _with(world, index, status="leaving", steps=(), replies=())
        if not rules.keep_steps:
            return self._rewind(world, index, node)
        done = tuple(move for move in node.steps if move.next_cursor <= redis.cursor)
        rest = node.steps[len(done) :]
        if (rest and rest[0].cursor != redis.cursor) or (rest and "VERSION" in node.replies):
            return _with(world, index, status="leaving", steps=(), replies=())
        if rest:
            # The steps that are committed are performed with the rest, when all of them are.
            return _with(world, index, status="sent", wire=rest, replies=())
        return self._perform(_go_on(world, index, node), index, node.steps)

    def _rewind(self, world: World, index: int, node: Node) -> World:
        """Forget what was decided, and read on from what is stored."""
        redis = world.redis
        return _with(world, index, status="own", cursor=redis.cursor, log=redis.log, steps=(), replies=())

    def _perform(self, world: World, index: int, steps: tuple[Move, ...]) -> World:
        """Carry out the commands of steps. A question cancels the one before it; SESSION_RESUMED cancels nothing."""
        effects, wrong = world.nodes[index].effects, world.wrong
        committed = commands_in(world.redis.log) | world.forgotten
        for move in steps:
            if move.record is not None and (command := move.record.command) is not None:
                effects = (command,) if move.record.input.kind == "said" else (*effects, command)
                if command.command_id not in committed:
                    wrong = UNCOMMITTED
        return _with(world._replace(wrong=wrong), index, effects=effects)

    def _tick(self, world: World, index: int, node: Node) -> Iterator[Next]:
        """The keeper of leases looks. Or the service is stopped."""
        redis = world.redis
        if redis.set_ahead and not redis.lease and redis.owner == node.token:
            held = redis._replace(lease=node.token, set_ahead=False)
            yield Next(f"{_name(node)} holds on to its lease", False, _write(world, held))
        if world.redis.lease != node.token or (self.rules.run_id and world.redis.life != node.life):
            left = self._leave(world, index, node)
            yield Next(f"{_name(node)} sees that it has lost the shard", False, left)
        if "stop" in world.faults:
            yield Next(f"{_name(node)} is stopped", True, self._leave(world, index, node, "stop"))

    def _leave(self, world: World, index: int, node: Node, fault: str = "") -> World:
        left = node._replace(status="leaving", steps=(), wire=(), replies=(), must_tell=False)
        return _put(self._cut_off(world, node, fault), index, left)

    def _release(self, world: World, index: int, node: Node) -> World:
        redis, wrong = world.redis, world.wrong
        if redis.owner == node.token or not self.rules.release_own:
            if redis.acquisition not in (0, node.acquisition):
                wrong = STALE
            redis = redis._replace(owner=0 if self.rules.release_token else redis.owner, acquisition=0)
        if redis.lease == node.token or not self.rules.release_own:
            redis = redis._replace(lease=0)
        out = OUT if self.rules.wait_for_effects else OUT._replace(effects=node.effects)
        return _put(_write(world, redis, wrong=wrong), index, out)

    # What Redis does

    def _append(self, world: World, event: Input) -> World:
        entry = world.appended + 1
        inbox = (*world.redis.inbox, (entry, event))
        return _write(world, world.redis._replace(inbox=inbox), appended=entry)

    def _commit(self, world: World, move: Move) -> tuple[str, World]:
        reply, redis = carry_out(self.rules, world.redis, move)
        if reply == "OK" and not self.scenario.trims:  # what nobody reads any more makes no difference
            limit = min(redis.cursor, *(node.cursor for node in world.nodes if node.status != "out"), redis.cursor)
            redis = redis._replace(inbox=tuple(entry for entry in redis.inbox if entry[0] > limit))
        if reply == "OK" and move.acquisition != redis.acquisition:
            return reply, _write(world, redis, wrong=STALE)
        return reply, _write(world, redis)


def _halves(move: Move) -> tuple[Move, ...]:
    return (move._replace(half="cursor"), move._replace(half="log")) if move.record else (move,)


def _go_on(world: World, index: int, node: Node) -> World:
    """All steps of a node are committed, as far as it knows."""
    log = (*node.log, *(move.record for move in node.steps if move.record is not None))
    return _with(world, index, status="own", log=log, steps=(), replies=())


def _name(node: Node) -> str:
    return f"owner {node.token}"


def _expired(world: World) -> World:
    return world._replace(redis=world.redis._replace(lease=0))


def _write(world: World, redis: Redis, **changes: Any) -> World:
    """Redis has changed. What it could not save for a while it saves in the end, or loses."""
    if world.saved is not None and redis is not world.redis:
        if world.unsaved == TAIL:
            return world._replace(redis=redis, saved=None, unsaved=0, **changes)
        changes["unsaved"] = world.unsaved + 1
    return world._replace(redis=redis, **changes)


def _with(world: World, index: int, **changes: Any) -> World:
    return _put(world, index, world.nodes[index]._replace(**changes))


def _put(world: World, index: int, node: Node) -> World:
    """Another state of a node. Which of the two is which makes no difference, so they stand in a fixed order."""
    other = world.nodes[1 - index]
    first = (node.acquisition, node.effects) <= (other.acquisition, other.effects)
    return world._replace(nodes=(node, other) if first else (other, node))
