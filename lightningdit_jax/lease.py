"""A file that says who holds something and is renewed while that one lives; for object stores.

Clocks of hosts are not compared: a lease is alive if its content changes while it is watched.
"""

import contextlib
import json
import threading
import time
import uuid
from typing import Any

from etils import epath

from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.interruption import INTERRUPTION
from lightningdit_jax.storage_errors import EXIT_STATUS

RENEW_SECONDS = 30.0
EXPIRE_SECONDS = 120.0
_SETTLE_SECONDS = 3.0  # two that write in the same moment both see who was the last


class Lease:
    """A lease at `path` for `holder`, what a JSON file says of whoever holds it.

    Taken where there is none, or where the one that is there is not renewed in `expire` seconds of
    watching. An object store that writes whole objects and shows the last one written, as gs:// and
    s3:// do, is all that it needs. A process that was cut off from the store for so long that
    another took the lease ends when it sees that, within `renew` seconds.
    """

    def __init__(
        self,
        path: epath.Path,
        holder: dict[str, Any],
        *,
        renew: float = RENEW_SECONDS,
        expire: float = EXPIRE_SECONDS,
        settle: float = _SETTLE_SECONDS,
    ):
        self._path, self._renew_seconds = path, renew
        self._expire, self._settle = expire, settle
        self._content = {**holder, "token": uuid.uuid4().hex, "renewed": 0}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def take(self) -> dict[str, Any] | None:
        """Takes it, and returns None; or what its holder says, where that one is alive."""
        if held := self._alive():
            return held
        self._write()
        time.sleep(self._settle)
        there = self._read()
        if not self._is_mine(there):
            return there
        self._thread.start()
        return None

    def release(self) -> None:
        """Removes it, if it is still this one's."""
        self._done.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # of a store that failed; the lease expires
            if self._is_mine(self._read()):
                self._path.unlink(missing_ok=True)

    def _alive(self) -> dict[str, Any] | None:
        """What the holder says; None where there is none, or it stays still while watched."""
        first, began = self._read(), time.monotonic()
        if not first:
            return None
        print(
            f"{self._path} is there, of {first.get('job')}, process {first.get('pid')} on "
            f"{first.get('host')}: looking for up to {self._expire:.0f} s whether that one lives",
            flush=True,
        )
        while time.monotonic() - began < self._expire:
            time.sleep(self._renew_seconds / 10)
            now = self._read()
            if not now:
                return None
            if now != first:
                return now
        return None

    def _keep(self) -> None:
        while not self._done.wait(self._renew_seconds):
            try:
                there = self._read()
                if there and not self._is_mine(there):
                    break
                self._content["renewed"] += 1
                self._write()
            except Exception:  # a store that cannot be reached for a while
                continue
        else:
            return
        INTERRUPTION.end(
            f"error: {self._path} was not renewed in time and is held by process "
            f"{there.get('pid')} on {there.get('host')} now; ended, to write nothing beside it",
            EXIT_STATUS,
        )

    def _is_mine(self, there: dict[str, Any]) -> bool:
        return there.get("token") == self._content["token"]

    def _read(self) -> dict[str, Any]:
        """Empty where there is none, or none that says anything."""
        try:
            content = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self) -> None:
        text = json.dumps(self._content)
        if "://" in str(self._path):
            self._path.write_text(text)  # an object appears whole or not at all
            return
        with replacing(self._path, by=self._content["token"]) as temporary:
            temporary.write_text(text)
