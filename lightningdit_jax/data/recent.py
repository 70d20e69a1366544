"""Values that several threads ask for, each computed once and kept while there is room."""

import collections
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """The values last asked for, `most` of size_of them at most; the last one stays whatever it is.

    A thread that asks for what another is computing waits for it. What raised is not kept.
    A copy in another process begins empty.
    """

    def __init__(self, most: int, size_of: Callable[[V], int]):
        self._most, self._size_of = most, size_of
        self._lock = threading.Lock()
        self._values: collections.OrderedDict[Hashable, Future[V]] = collections.OrderedDict()

    def __reduce__(self) -> tuple:
        return Recent, (self._most, self._size_of)

    def get(self, key: Hashable, compute: Callable[[], V]) -> V:
        """The value of a key. Raises what compute raises."""
        with self._lock:
            future, ours = self._values.get(key), False
            if future is None:
                future = self._values[key] = Future()
                ours = True
            self._values.move_to_end(key)
        if not ours:
            return future.result()
        try:
            future.set_result(compute())
        except BaseException as error:
            with self._lock:
                self._values.pop(key, None)
            future.set_exception(error)
            raise
        with self._lock:
            self._drop()
        return future.result()

    def _drop(self) -> None:
        done = [(key, f.result()) for key, f in self._values.items() if f.done()]
        sizes = {key: self._size_of(value) for key, value in done}
        total = sum(sizes.values())
        for key, size in list(sizes.items())[:-1]:
            if total <= self._most:
                break
            del self._values[key]
            total -= size
