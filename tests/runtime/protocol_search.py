"""Walks through all that may happen in a scenario, breadth first: what it finds, it finds by the shortest way."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.runtime.protocol_checks import unfinished, wrong_in
from tests.runtime.protocol_model import Rules, World
from tests.runtime.protocol_steps import Model, Scenario


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    worlds: int
    violation: str = ""
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.violation or 'nothing'} in {self.worlds} worlds\n  " + "\n  ".join(self.story)


@dataclass
class _Walk:
    """The worlds that were reached, by number."""

    worlds: list[World]
    reached_by: list[tuple[int, str]] = field(default_factory=lambda: [(0, "")])
    before: list[list[int]] = field(default_factory=lambda: [[]])
    """From which others each is reached without a fault."""
    ends: list[int] = field(default_factory=list)
    """Where nothing happens any more by itself."""

    def story(self, number: int) -> tuple[str, ...]:
        labels: list[str] = []
        while number:
            number, label = self.reached_by[number]
            labels.append(label)
        return tuple(reversed(labels))

    def restless(self) -> int | None:
        """A world from which no end can be reached."""
        good = bytearray(len(self.worlds))
        todo = list(self.ends)
        while todo:
            number = todo.pop()
            if not good[number]:
                good[number] = True
                todo += self.before[number]
        missing = good.find(0)
        return None if missing < 0 else missing


def search(scenario: Scenario, rules: Rules) -> Found:
    """The first violation, or that there is none in any world that can be reached."""
    with _without_garbage_collection():
        return _search(Model(scenario, rules))


def _search(model: Model) -> Found:
    start = model.start()
    walk, numbers = _Walk([start]), {start: 0}
    for number, world in enumerate(walk.worlds):  # which grows meanwhile
        goes_on, violation = False, wrong_in(world)
        if not violation:
            for label, is_fault, after in model.successors(world):
                if (there := numbers.setdefault(after, len(walk.worlds))) == len(walk.worlds):
                    walk.worlds.append(after)
                    walk.reached_by.append((number, label))
                    walk.before.append([])
                if not is_fault and there != number:
                    goes_on = True
                    walk.before[there].append(number)
            if not goes_on:
                walk.ends.append(number)
                violation = unfinished(world) if model.scenario.ends_well else ""
        if violation:
            return Found(len(walk.worlds), violation, walk.story(number))
    if (restless := walk.restless()) is not None:
        return Found(len(walk.worlds), "it goes round in circles", walk.story(restless))
    return Found(len(walk.worlds))


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of tuples without a cycle: looking for cycles in them costs more than the search."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
