"""Averages that a run never kept, made of those that it did: post-hoc EMA (arXiv 2312.02696)."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lightningdit_jax.average_profiles import Profile, fit_profile
from lightningdit_jax.averages import average_decays, is_average, power_sigmas
from lightningdit_jax.checkpoint import (
    CHECKPOINTS,
    SNAPSHOTS,
    item_names,
    read_arrays,
    read_meta,
)
from lightningdit_jax.checkpoint_choice import defect, finalized_steps
from lightningdit_jax.checkpoint_reading import array_metadata, warn_once
from lightningdit_jax.parallel.multihost import print_once

_MOST_ERROR = 0.1  # of a profile; what is further off is another average
_SAME = ("kind", "architecture", "seed", "init")  # of all averages that are added


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """An average of the relative width sigma, of the steps up to a checkpoint's.

    parts: (checkpoint, item, coefficient) of what it is the sum of; error: as Fit.error.
    """

    checkpoint: epath.Path
    sigma: float
    parts: tuple[tuple[epath.Path, str, float], ...]
    error: float

    def line(self) -> str:
        """What it is made of, for people."""
        steps = sorted({int(path.name) for path, _, _ in self.parts if path.name.isdigit()})
        of = f" of steps {steps[0]:,} to {steps[-1]:,}" if steps else ""
        return (
            f"average of sigma {self.sigma} for {self.checkpoint}: made of {len(self.parts)}{of}, "
            f"its profile to {self.error:.2%}"
        )

    def read(self, abstract: Any) -> Any:
        """The average, in the shapes and shardings of `abstract`, float32; one part at a time.

        All processes must call it. Raises as read_items.
        """
        total = None
        for checkpoint, item, coefficient in self.parts:
            stored = functools.partial(_stored, _dtype(checkpoint, item))
            part = read_arrays(checkpoint, item, jax.tree.map(stored, abstract))
            share = np.float32(coefficient)
            total = _first(part, share) if total is None else _added(total, part, share)
        return total


def plan_synthesis(checkpoint: epath.Path, sigma: float) -> Synthesis:
    """What an average of this width is made of, for a checkpoint of a run. Reads no array.

    Of all averages whose profile is known, of this step and before: those of the checkpoint, of
    WORKDIR/snapshots and of the other WORKDIR/checkpoints. Raises ValueError where they cannot make
    it, which says how near they come, and for averages of another run.
    """
    meta = read_meta(checkpoint)
    known = _known_averages(checkpoint, meta)
    if not known:
        raise ValueError(
            f"{checkpoint} and what lies beside it hold no averages to make one of sigma {sigma} "
            "of; they are kept by config.train.ema_sigmas and config.train.snapshot_every_steps"
        )
    fit = fit_profile(tuple(known), Profile(meta["step"], sigma=sigma))
    if fit.error > _MOST_ERROR:
        raise ValueError(
            f"an average of sigma {sigma} for {checkpoint} cannot be made of the {len(known)} that "
            f"there are: its profile would be {fit.error:.0%} off, at most {_MOST_ERROR:.0%} is "
            "taken; choose one nearer to theirs, or keep more (config.train.snapshot_every_steps)"
        )
    shares = zip(known.values(), fit.coefficients.tolist(), strict=True)
    parts = tuple((path, item, share) for (path, item), share in shares if share)
    return Synthesis(checkpoint, sigma, parts, fit.error)


def makeable_widths(checkpoint: epath.Path, sigmas: Iterable[float]) -> list[float]:
    """Those of the widths that plan_synthesis takes for a checkpoint. Raises as that, but for a
    width, and reads as little.
    """
    meta = read_meta(checkpoint)
    known = tuple(_known_averages(checkpoint, meta))

    def error(sigma: float) -> float:
        return fit_profile(known, Profile(meta["step"], sigma=sigma)).error

    return [sigma for sigma in sigmas if known and error(sigma) <= _MOST_ERROR]


def read_synthesis(checkpoint: epath.Path, sigma: float, abstract: Any) -> Any:
    """The average of this width, of which a line is said; as plan_synthesis and Synthesis.read."""
    synthesis = plan_synthesis(checkpoint, sigma)
    print_once(synthesis.line())
    return synthesis.read(abstract)


def _known_averages(
    checkpoint: epath.Path, meta: Mapping[str, Any]
) -> dict[Profile, tuple[epath.Path, str]]:
    """(checkpoint, item) of the averages of this step and before whose profile is known.

    meta: of the checkpoint. Raises ValueError for averages of another run.
    """
    known: dict[Profile, tuple[epath.Path, str]] = {}
    for path in _with_averages(checkpoint):
        found = meta if path == checkpoint else read_meta(path)
        profiles = _profiles(path, found)
        if profiles and (other := [key for key in _SAME if found.get(key) != meta.get(key)]):
            raise ValueError(
                f"{path} is of another run than {checkpoint}: they differ in {', '.join(other)}; "
                "take its folder away"
            )
        known |= {profile: (path, item) for item, profile in profiles.items()}
    return known


def _with_averages(checkpoint: epath.Path) -> list[epath.Path]:
    """Snapshots, other checkpoints of the run, and the checkpoint; the later the more exact."""
    there: list[epath.Path] = []
    if checkpoint.name.isdigit():
        run = checkpoint.parent.parent
        for folder in (SNAPSHOTS, CHECKPOINTS):
            for path in finalized_steps(run / folder):
                if path == checkpoint or int(path.name) > int(checkpoint.name):
                    continue
                if lacks := defect(path):
                    warn_once(f"passed over as damaged: {path} ({lacks})")
                else:
                    there.append(path)
    return [*there, checkpoint]


def _profiles(path: epath.Path, meta: Mapping[str, Any]) -> dict[str, Profile]:
    """Of the averages of a checkpoint, by item; without those whose profile is not known.

    A constant decay that was changed, or switched on, within the run is not.
    """
    train = meta.get("config", {}).get("train", {})
    step, since = meta["step"], meta.get("averages_since", {})
    known = {
        name: Profile(step, sigma=sigma, since=since.get(name, 0))
        for name, sigma in power_sigmas(train.get("ema_sigmas", ())).items()
    }
    changed = {change["key"] for change in meta.get("history", ())}
    if not changed & {"train.ema_decay", "train.ema_decays"}:
        decays = average_decays(train.get("ema_decay", 0.0), train.get("ema_decays", ()))
        known |= {name: Profile(step, decay=decay) for name, decay in decays.items()}
    items = filter(is_average, item_names(path))
    return {item: known[item] for item in sorted(items) if item in known and step > 0}


def _dtype(checkpoint: epath.Path, item: str) -> Any:
    return jax.tree.leaves(array_metadata(checkpoint, item))[0].dtype


def _stored(dtype: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)


@jax.jit
def _first(part: Any, share: jax.Array) -> Any:
    return jax.tree.map(lambda p: share * p.astype(jnp.float32), part)


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Any, part: Any, share: jax.Array) -> Any:
    return jax.tree.map(lambda t, p: t + share * p.astype(jnp.float32), total, part)
