"""A converted checkpoint in the place of another: whole before the other one goes."""

import contextlib
from collections.abc import Callable

from etils import epath

from lightningdit_jax.checkpoint import UNFINISHED, item_names, read_meta
from lightningdit_jax.checkpoint_choice import defect


def check_replaceable(target: epath.Path, overwrite: bool) -> None:
    """Raises FileExistsError where something is there that may not be replaced.

    That is anything but a converted checkpoint or an empty folder, and without `overwrite` those
    too. What a command that was killed between two names has left is put back first.
    """
    former = _beside(target, "former")
    if former.exists() and not target.exists():
        former.rename(target)
    if not target.exists() or (overwrite and target.is_dir() and not any(target.iterdir())):
        return
    source = _source(target)
    if source is None:
        raise FileExistsError(
            f"{target} is there already and no converted checkpoint, which alone --overwrite "
            "replaces; choose another --dst, or delete it yourself"
        )
    if not overwrite:
        raise FileExistsError(
            f"{target} is there already, complete, converted from {source}; delete it or pass "
            "--overwrite"
        )


def replace(target: epath.Path, write: Callable[[epath.Path], None]) -> None:
    """Has a checkpoint written beside `target`, gives it the name, and deletes what had it.

    Nothing is left beside it, also of a command that was killed or failed before.
    """
    fresh, former = _beside(target, "new"), _beside(target, "former")
    _remove(target, fresh, former)
    try:
        write(fresh if target.exists() else target)
    except BaseException:
        with contextlib.suppress(OSError):  # of the same cause, which is told
            _remove(target, fresh)
        raise
    if fresh.exists():
        target.rename(former)
        fresh.rename(target)
        former.rmtree()


def _remove(target: epath.Path, *folders: epath.Path) -> None:
    """These folders, and what Orbax did not finish under their names or the target's."""
    names = [path.name for path in (target, *folders)]
    there = target.parent.iterdir() if target.parent.exists() else ()
    unfinished = [p for p in there if is_unfinished(p) and p.name.partition(UNFINISHED)[0] in names]
    for path in [*folders, *unfinished]:
        with contextlib.suppress(FileNotFoundError):
            path.rmtree()


def is_unfinished(path: epath.Path) -> bool:
    """Whether it is a checkpoint that Orbax did not live to finish."""
    return UNFINISHED in path.name


def _beside(target: epath.Path, which: str) -> epath.Path:
    return target.with_name(f".{target.name}.{which}")


def _source(target: epath.Path) -> str | None:
    """The files a complete checkpoint was converted from; None for anything else."""
    if not (target / "meta").is_dir() or defect(target) or "loop" in item_names(target):
        return None
    try:
        return ", ".join(file["file"] for file in read_meta(target)["source"]["files"])
    except (KeyError, TypeError, ValueError):
        return None
