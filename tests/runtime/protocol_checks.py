"""What must never be in the model of the commit protocol, and what must not be left undone."""

from functools import cache

from tests.runtime.protocol_model import Log, World, fold


def wrong_in(world: World) -> str:
    """What must never be, and is."""
    redis = world.redis
    if world.wrong or (wrong := _wrong_in_log(redis.log)):
        return world.wrong or wrong
    lost = world.accepted - _said(redis.log)
    if lost and lost - {event.key for entry, event in redis.inbox if entry > redis.cursor}:
        return "an accepted input is lost"
    for node in world.nodes:
        if len(node.effects) > 1 and len({effect.text for effect in node.effects}) < len(node.effects):
            return "one node does the same work twice at once"
    return ""


@cache
def _said(log: Log) -> frozenset[object]:
    return frozenset(record.input.key for record in log if record.input.kind in ("said", "unnumbered"))


@cache
def _wrong_in_log(log: Log) -> str:
    said = [int(str(record.input.key)) for record in log if record.input.kind in ("said", "unnumbered")]
    results = [record.input.key for record in log if record.input.kind == "result"]
    if [record.version for record in log] != list(range(1, len(log) + 1)):
        return "the versions of a log have a gap"
    if len(said) != len(set(said)):
        return "an input is handled twice"
    if said != sorted(said):
        return "the order of a producer is broken"
    if len(results) != len(set(results)):
        return "one command has two results"
    if any(record.answers is not None and record.answers.text != record.input.text for record in log):
        return "the answer to another question is accepted"
    return ""


def unfinished(world: World) -> str:
    """What is left undone where nothing happens any more."""
    redis = world.redis
    pending, _ = fold(redis.log)
    if any(entry > redis.cursor for entry, _ in redis.inbox):
        return "an input is never read"
    if pending is not None and all(pending not in node.effects for node in world.nodes):
        return "a committed command is never performed"
    return ""
