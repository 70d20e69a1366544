"""Which run of a tracker a workdir's is, so that a restart goes on with it."""

from etils import epath

from lightningdit_jax.atomic_file import field_of, read_json, write_json


class TrackedRun:
    """WORKDIR/TRACKER.json: {"run": ID}."""

    def __init__(self, workdir: str, tracker: str):
        self._path = epath.Path(workdir) / f"{tracker}.json"
        self.name = epath.Path(workdir).name  # what the tracker is to call it

    def known(self) -> str | None:
        """The run's id, None for a new one. Raises ValueError for a damaged file."""
        if not self._path.exists():
            return None
        return field_of(self._path, read_json(self._path), "run", str, None)

    def keep(self, identity: str) -> None:
        """Remembers the id. Raises StorageError."""
        write_json(self._path, {"run": identity})
