"""Running ahead of the device: work is dispatched before the results of earlier work are read.

So the device never waits for Python, and the next inputs are on their way while it computes. What
is read late stays in the device's memory so long: a depth of batches.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")

DEPTH = 2


class RunAhead(Generic[Work]):
    """Dispatched work whose results nobody has read yet, the oldest first."""

    def __init__(self, depth: int = DEPTH):
        self._depth, self._pending = depth, collections.deque[Work]()

    def add(self, work: Work) -> None:
        """What was dispatched last."""
        self._pending.append(work)

    def due(self, *, everything: bool = False) -> Iterator[Work]:
        """Takes out what is more than `depth` behind, or everything; kept here no longer."""
        while len(self._pending) > (0 if everything else self._depth):
            yield self._pending.popleft()

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._pending)


def run_ahead(
    started: Iterable[Work], finish: Callable[[Work], Result], depth: int = DEPTH
) -> Iterator[Result]:
    """Yields finish(work) of each, in order, `depth` later than `started` dispatches it.

    started: dispatches when it is asked for the next. Nothing of finished work is kept here.
    """
    ahead = RunAhead[Work](depth)
    for work in started:
        ahead.add(work)
        yield from map(finish, ahead.due())
    yield from map(finish, ahead.due(everything=True))
