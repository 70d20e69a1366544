"""One readable line of progress now and then, for jobs over many images."""

import time

INTERVAL = 10.0  # seconds between lines


class Progress:
    """Prints `sampled 1,000/50,000  12.3 images/s  1h06m left` every ten seconds and at the end."""

    def __init__(self, verb: str, total: int, *, quiet: bool, done: int = 0):
        """done: images that an earlier run has finished."""
        self._verb, self._total, self._quiet, self._before = verb, total, quiet, done
        self._began = self._printed = time.perf_counter()
        self._first: tuple[int, float] | None = None

    def update(self, done: int) -> None:
        """done: images finished so far."""
        now = time.perf_counter()
        last = done >= self._total
        if self._first is None:
            self._first = (done, now)  # before this, compilation
        if self._quiet or (not last and now - self._printed < INTERVAL):
            return
        self._printed = now
        first_done, first_time = self._first
        counted, seconds = done - first_done, now - first_time
        if counted == 0:
            counted, seconds = done - self._before, now - self._began
        rate = counted / max(seconds, 1e-9)
        left = "" if last else f"  {(self._total - done) / rate:,.0f}s left"
        print(f"{self._verb} {done:,}/{self._total:,}  {rate:,.1f} images/s{left}", flush=True)
