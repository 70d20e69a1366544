"""Spikes: finite losses and gradient norms that lie far above the median of the steps before."""

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp

from lightningdit_jax.config import Config
from lightningdit_jax.training.companions import DISCRIMINATOR

Windows = dict[str, jax.Array]

LEAST = 1.5  # times the median; what is less is no spike, however flat the window
IN_A_ROW = 4  # so many are skipped: what comes after them too is of the weights, or a new level
_NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
MEDIAN, LIMIT = "spike_median/", "spike_limit/"  # what the numbers of a step's metrics begin with


def watched_names(config: Config, companions: Collection[str]) -> tuple[str, ...]:
    """Metrics of the config's step that are looked at for spikes; none with train.spikes off.

    Of a tokenizer the likelihood instead of the whole loss, whose adaptive weights are ratios of
    gradients of a batch; of its discriminator both. companions: names of those there are.
    """
    if config.train.spikes == "off":
        return ()
    if config.kind == "lightningdit":
        return "loss", "grad_norm"
    adversary = ("disc_loss", "grad_norm_disc") if DISCRIMINATOR in companions else ()
    return ("nll", "grad_norm", *adversary)


def fresh_windows(names: Collection[str], size: int) -> Windows:
    """Windows that have seen nothing: logarithms of the last values, newest first, then inf."""
    return {name: jnp.full(size, jnp.inf, jnp.float32) for name in names}


def judge(
    windows: Windows, values: Mapping[str, jax.Array], factor: float, finite: jax.Array
) -> tuple[jax.Array, Windows, dict[str, jax.Array]]:
    """(whether a step is a spike, the windows after it, medians and limits as metrics).

    values: scalars, by the windows' names. One is a spike above `factor` robust deviations (1.4826
    median absolute deviations) and above LEAST, both of logarithms, since what is watched is
    positive and changes by factors; where it is not positive nothing is said, nor before half a
    window is filled. After IN_A_ROW that were above it is none: a batch may be left out, but what
    one after another has is the weights', which only steps can mend, or a new level. All that is
    finite enters the windows, whose medians follow when half of them is of the new level. finite:
    of the whole step.
    """
    spiked = jnp.zeros((), bool)
    after: Windows = {}
    numbers: dict[str, jax.Array] = {}
    for name, window in windows.items():
        value = values[name].astype(jnp.float32)
        counts = finite & (value > 0) & jnp.isfinite(value)
        log = jnp.log(jnp.where(counts, value, 1))
        filled = jnp.isfinite(window).sum()
        median = _median(window, filled)
        deviation = _NORMAL * _median(jnp.abs(window - median), filled)
        limit = median + jnp.maximum(factor * deviation, jnp.log(jnp.float32(LEAST)))
        limit = jnp.where(2 * filled >= window.size, limit, jnp.inf)
        spiked |= counts & (log > limit) & ~(window[:IN_A_ROW] > limit).all()
        after[name] = jnp.where(counts, jnp.concatenate([log[None], window[:-1]]), window)
        numbers |= {f"{MEDIAN}{name}": jnp.exp(median), f"{LIMIT}{name}": jnp.exp(limit)}
    return spiked, after, numbers


def _median(window: jax.Array, filled: jax.Array) -> jax.Array:
    """Of the finite ones, `filled` in number; 0 of none."""
    ordered = jnp.sort(window)
    middle = (ordered[(filled - 1) // 2] + ordered[filled // 2]) / 2
    return jnp.where(filled > 0, middle, 0)
