"""One readable line of progress: how much is done, how fast, how long it will take."""

import contextlib
import time
from collections.abc import Iterator

INTERVAL = 10.0  # seconds between the lines of `update`, and until the first where is_due is asked


class Progress:
    """Makes `VERB done/total  TERMS  RATE images/s  LEFT left`, and prints it now and then.

    done and total count what the caller likes: images, or steps of several `images` each.
    """

    def __init__(
        self,
        verb: str,
        total: int,
        *,
        done: int = 0,
        images: int = 1,
        decimals: int = 1,
        quiet: bool = False,
    ):
        """done: what an earlier run has finished; decimals: of the rate; quiet: print nothing."""
        self._verb, self._total, self._images = verb, total, images
        self._decimals, self._quiet = decimals, quiet
        self._updated = False
        self.mark(done)
        self._printed = self._marked[1]

    def mark(self, done: int) -> None:
        """What came before this moment no longer counts in rate and waits, such as compilation."""
        self._marked, self._waited = (done, time.perf_counter()), 0.0

    def compiling(self) -> None:
        """Says before the first batch why it is silent for so long."""
        if not self._quiet:
            done = self._marked[0]
            print(
                f"{self._verb} {done:,}/{self._total:,}  compiling for the first batch, minutes "
                "where a network is large",
                flush=True,
            )

    def rate(self, done: int) -> float:
        """Images a second since the last mark."""
        marked, began = self._marked
        return (done - marked) * self._images / max(time.perf_counter() - began, 1e-9)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done within it is waiting."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def waited_share(self) -> float:
        """Of the time since the last mark, what was spent waiting, in [0, 1]."""
        return min(1.0, self._waited / max(time.perf_counter() - self._marked[1], 1e-9))

    def is_due(self) -> bool:
        """Whether there was neither a line nor a mark for ten seconds; then a line is to come."""
        now = time.perf_counter()
        if now - max(self._printed, self._marked[1]) < INTERVAL:
            return False
        self._printed = now
        return True

    def line(
        self, done: int, rate: float, terms: str = "", last: bool = False, shares: str = ""
    ) -> str:
        """The line for a rate, with more numbers before (terms) and behind it (shares).

        The last has no time left, and without a rate nobody knows it.
        """
        parts = [f"{self._verb} {done:,}/{self._total:,}", f"{rate:,.{self._decimals}f} images/s"]
        if terms:
            parts.insert(1, terms)
        if shares:
            parts.append(shares)
        if rate > 0 and not last:
            seconds = (self._total - done) * self._images / rate
            parts.append(f"{duration(seconds)} left")
        return "  ".join(parts)

    def update(self, done: int) -> None:
        """Prints a line every ten seconds and at the end; the first call ends compilation."""
        last = done >= self._total
        if not self._quiet and (self.is_due() or last):
            print(self.line(done, self.rate(done), last=last), flush=True)
        if not self._updated:
            self._updated = True
            self.mark(done)


def duration(seconds: float) -> str:
    """45s, 12m30s, 3h12m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
