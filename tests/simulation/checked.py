"""Simulates a conversation under all checkers: `checked(seed)`."""

from collections.abc import Iterator

from orchestrator.session.policy import Policy
from orchestrator.simulation.faults import Faults
from orchestrator.simulation.simulate import TURNS, Simulated, Violation, simulate
from orchestrator.simulation.steps import Seen
from tests.simulation.checkers import AFTER, BEFORE
from tests.simulation.log_book import Book, Checker


class Checkers:
    """An observer that runs every checker on every step, before and after the book absorbs it."""

    def __init__(self) -> None:
        self._book = Book()

    def __call__(self, step: Seen) -> Iterator[Violation]:
        yield from self._check(BEFORE, step)
        self._book.absorb(step)
        yield from self._check(AFTER, step)

    def _check(self, checkers: tuple[tuple[str, Checker], ...], step: Seen) -> Iterator[Violation]:
        for invariant, checker in checkers:
            for message in checker(self._book, step):
                yield Violation(invariant, checker.__name__, step.input.version, message)


def checked(
    seed: int,
    policy: Policy | None = None,
    faults: Faults | None = None,
    turns: int = TURNS,
    *,
    replayed: bool = True,
) -> Simulated:
    """`simulate` with these arguments, observed by all checkers."""
    return simulate(seed, policy, faults, turns, replayed=replayed, observers=[Checkers()])
