"""Whether what is read is compared with its digests; imports nothing of ours."""

import contextlib
import contextvars
from collections.abc import Iterator

_verifies = contextvars.ContextVar("verifies", default=True)


@contextlib.contextmanager
def verifying(on: bool) -> Iterator[None]:
    """Within it, what is read of checkpoints and latents is compared with its digests, or not."""
    token = _verifies.set(on)
    try:
        yield
    finally:
        _verifies.reset(token)


def is_verifying() -> bool:
    """Whether digests are to be compared here; in threads of its own they are."""
    return _verifies.get()
