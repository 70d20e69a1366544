"""What guidance makes of two velocities, against NumPy in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightningdit_jax.flow.guidance import guide, guide_internally
from lightningdit_jax.flow.guidance_rules import SCHEDULES, Projection, strength
from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.paths import PATHS
from lightningdit_jax.flow.runge_kutta import TABLEAUS, euler_with_memory, runge_kutta

NULL, LABELS = 10, np.array([3, 7, 1])
X, LABEL_MAP, NULL_MAP = (
    np.random.default_rng(seed).normal(size=size)
    for seed, size in enumerate(((3, 2, 2, 5), (5, 5), (5, 5)))
)


def model(x, t, y):
    """Known maps of the channels, one for labels and one for none."""
    t, y = t[:, None, None, None], y[:, None, None, None]
    return jnp.where(y == NULL, x @ NULL_MAP - t, x @ LABEL_MAP + t + 0.1 * y)


def velocities(x, t):
    """(of the label, of none), by hand."""
    return x @ LABEL_MAP + t + 0.1 * LABELS[:, None, None, None], x @ NULL_MAP - t


def per_sample(function, *arrays):
    return np.stack([function(*rows) for rows in zip(*arrays)])


def apg(label, null, x, t, scale, eta=1.0, threshold=np.inf, momentum=0.0, last=0.0):
    """(velocity, memory): Sadat et al.'s algorithm 1 on data, x + (1 - t) v, sample by sample."""
    data, other = x + (1 - t) * label, x + (1 - t) * null
    memory = data - other + momentum * last

    def guided(data, update):
        update = update * min(1.0, threshold / np.linalg.norm(update))
        unit = data / np.linalg.norm(data)
        along = (update * unit).sum() * unit
        return data + (scale - 1) * (update - along + eta * along)

    return (per_sample(guided, data, memory) - x) / (1 - t), memory


def zero_star(label, null):
    """The null velocity times <label, null> / <null, null>, sample by sample."""
    return per_sample(lambda a, b: (a * b).sum() / (b * b).sum() * b, label, null)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_strength_over_time():
    t = np.linspace(0, 1, 2001)
    for schedule, want in {
        "constant": np.ones_like(t),
        "linear": 2 * t,
        "cosine": np.cos(np.pi * (1 - t)) + 1,  # as published, in a time from data to noise
        "power_cosine": (1 - np.cos((1 - (1 - t)) ** 4 * np.pi)) / 2,
    }.items():
        got = strength(schedule, t, 4.0)
        close(got, want)
        assert strength(schedule, 1.3, 4.0) == got[-1]
        if schedule != "power_cosine":
            assert np.mean((got[1:] + got[:-1]) / 2) == pytest.approx(1, abs=1e-5)
    assert set(SCHEDULES) == {"constant", "linear", "cosine", "power_cosine"}
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        strength("linaer", t)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_scale_at_a_time(schedule):
    """Within the interval; "constant" is guidance to the bit."""
    v = guide(model, LABELS, NULL, cfg_scale=3.0, interval_start=0.3, schedule=schedule)
    for t in (0.2, 0.7):
        label, null = velocities(X, t)
        scale = 1 + 2.0 * float(strength(schedule, t)) * (t >= 0.3)
        want = np.concatenate([(null + scale * (label - null))[..., :3], label[..., 3:]], axis=-1)
        close(v(X, jnp.float32(t)), want)
    if schedule == "constant":
        plain = guide(model, LABELS, NULL, cfg_scale=3.0, interval_start=0.3)
        np.testing.assert_array_equal(v(X, jnp.float32(0.7)), plain(X, jnp.float32(0.7)))


@pytest.mark.parametrize("channels", [3, None])
def test_projection_and_optimized_scale(channels):
    """Each alone and both; channels that are not guided have no part in either."""
    t, k = 0.4, channels
    label, null = velocities(X, t)
    common = {"cfg_scale": 3.0, "cfg_channels": channels}
    for eta, threshold, optimized in (
        (0.0, None, False),
        (0.3, 2.0, False),
        (1.0, None, True),
        (0.0, 1.5, True),
    ):
        v = guide(
            model,
            LABELS,
            NULL,
            **common,
            optimized_scale=optimized,
            projection=Projection(PATHS["linear"], eta, threshold),
        )
        other = zero_star(label[..., :k], null[..., :k]) if optimized else null[..., :k]
        want, _ = apg(label[..., :k], other, X[..., :k], t, 3.0, eta, threshold or np.inf)
        rest = label[..., 5 if k is None else k :]
        close(v(X, jnp.float32(t)), np.concatenate([want, rest], axis=-1))
    star = guide(model, LABELS, NULL, **common, optimized_scale=True)
    want = zero_star(label[..., :k], null[..., :k])
    close(star(X, t)[..., :k], want + 3.0 * (label[..., :k] - want))


def test_limits_are_guidance():
    """All that is along kept, no length too long: as without, also at the data itself."""
    v = guide(model, LABELS, NULL, cfg_scale=3.0, projection=Projection(PATHS["gvp"], 1.0, 1e9))
    plain = guide(model, LABELS, NULL, cfg_scale=3.0)
    for t in (0.0, 0.5, 1.0):
        close(v(X, jnp.float32(t)), plain(X, jnp.float32(t)))


def test_projection_against_a_weak_model_within_internal_guidance():
    def heads(x, t, y):
        return model(x, t, y), 0.5 * model(x, t, y)

    def weak(x, t, y):
        return model(x, t, jnp.full_like(y, NULL))

    inner = guide_internally(heads, ig_scale=1.4)
    v = guide(
        inner,
        LABELS,
        NULL,
        cfg_scale=2.5,
        cfg_channels=None,
        weak_velocity_fn=weak,
        schedule="linear",
        projection=Projection(PATHS["linear"], 0.0),
    )
    label, null = velocities(X, 0.4)
    want, _ = apg(1.2 * label, null, X, 0.4, 1 + 1.5 * 0.8, 0.0)  # 0.5 + 1.4 (1 - 0.5) = 1.2
    close(v(X, jnp.float32(0.4)), want)


def test_momentum_over_steps():
    """Euler by hand; outside of the interval the memory stays as it is."""
    grid = np.array([0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
    guided = guide(
        model,
        LABELS,
        NULL,
        cfg_scale=2.0,
        interval_start=0.2,
        interval_end=0.6,
        projection=Projection(PATHS["linear"], 0.3, 4.0, jnp.float32(-0.5)),
    )
    with pytest.raises(ValueError, match="needs the memory of the step before"):
        guided(X, 0.5)
    memory = jnp.zeros((3, 2, 2, 3))
    x, last = 0.3 * X, 0.0
    got = jax.jit(lambda x: euler_with_memory(guided.with_memory, x, memory, grid))(x)
    for t, end in itertools.pairwise(grid):
        v, null = velocities(x, t)
        if 0.2 <= t <= 0.6:
            part = (array[..., :3] for array in (v, null, x))
            v[..., :3], last = apg(*part, t, 2.0, 0.3, 4.0, -0.5, last)
        x = x + (end - t) * v
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)


def test_steps_left_out_are_steps_of_no_velocity():
    """CFG-Zero*'s first steps: a grid without them, for a solver of one evaluation and of two."""
    grid = np.linspace(0, 1, 7, dtype=np.float32)
    v = guide(model, LABELS, NULL, cfg_scale=1.5)
    for solver, stages in (("euler", 1), ("heun2", 2)):

        def field(x, t, evaluation, stages=stages):
            return jnp.where(evaluation < 2 * stages, 0.0, v(x, t))

        want = runge_kutta(TABLEAUS[solver], field, X, grid)
        close(integrate(solver, v, X, grid[2:]), want)
