import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lightningdit_jax.flow.guidance import guide, guide_internally
from lightningdit_jax.flow.ode import integrate
from lightningdit_jax.flow.timesteps import time_grid

NULL = 10
LABELS = jnp.array([3, 7, 1])
X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 5)), jnp.float32)


def velocity(x, t, y):
    """A model whose output depends on every input, row by row."""
    t, y = t[:, None, None, None], y[:, None, None, None].astype(jnp.float32)
    return jnp.sin((1 + 0.1 * y) * x + t) + 0.2 * y * jnp.roll(x, 1, axis=-1)


def plain(x, t, scale, channels, start):
    """Guidance written out: two calls, and a choice by `where`."""
    times = jnp.full(len(x), t)
    label = velocity(x, times, LABELS)
    null = velocity(x, times, jnp.full_like(LABELS, NULL))
    v = jnp.concatenate(
        [(null + scale * (label - null))[..., :channels], label[..., channels:]], axis=-1
    )
    return jnp.where(jnp.float32(t) < jnp.float32(start), label, v)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_equals_the_plain_implementation(channels):
    v = jax.jit(
        guide(velocity, LABELS, NULL, cfg_scale=6.7, cfg_channels=channels, interval_start=0.125)
    )
    want = jax.jit(lambda x, t: plain(x, t, 6.7, channels, 0.125))
    for t in np.float32([0.0, 0.1, 0.125, 0.126, 1.0]):
        np.testing.assert_allclose(v(X, t), want(X, t), rtol=1e-5, atol=1e-5)


def test_none_guides_all_channels():
    v = guide(velocity, LABELS, NULL, cfg_scale=2.0, cfg_channels=None)
    np.testing.assert_allclose(v(X, 0.5), plain(X, 0.5, 2.0, 5, 0.0), rtol=1e-5, atol=1e-5)


def test_interval_is_compared_in_float32():
    """0.1 is not a float32; its nearest float32 lies above it, and on the start means on."""
    start, seen = 0.1, []
    v = guide(velocity, LABELS, NULL, cfg_scale=3.0, interval_start=start)
    for t in (np.float32(start), np.nextafter(np.float32(start), np.float32(0))):
        seen.append(np.allclose(v(X, t), plain(X, t, 3.0, 3, 0.0), rtol=1e-5, atol=1e-5))
    assert seen == [True, False]


def test_skipping_the_unconditional_half_changes_no_sample():
    grid = time_grid(9, 0.3)
    v = guide(velocity, LABELS, NULL, cfg_scale=6.7, interval_start=0.125)
    skipping = jax.jit(lambda x: integrate("euler", v, x, grid))(X)
    both = jax.jit(lambda x: integrate("euler", lambda x, t: plain(x, t, 6.7, 3, 0.125), x, grid))(
        X
    )
    assert (grid[:-1] < 0.125).any() and (grid[:-1] > 0.125).any()
    np.testing.assert_allclose(skipping, both, rtol=1e-5, atol=1e-5)


def count_rows(guided, t):
    """Rows that the model is really run on, counted by a callback."""
    rows = []

    def counting(x, t, y):
        jax.debug.callback(lambda y: rows.extend(y.tolist()), y)
        return velocity(x, t, y)

    guided(counting)(X, jnp.float32(t)).block_until_ready()
    jax.effects_barrier()
    return rows


def test_unconditional_half_runs_only_where_needed():
    def interval(model):
        return jax.jit(guide(model, LABELS, NULL, cfg_scale=2.0, interval_start=0.125))

    assert count_rows(interval, 0.1) == [3, 7, 1]
    assert count_rows(interval, 0.2) == [3, NULL, 7, NULL, 1, NULL]
    assert count_rows(lambda model: guide(model, LABELS, NULL, cfg_scale=1.0), 0.2) == [3, 7, 1]


def test_pairs_stay_on_one_device():
    """On a sharded batch guidance compiles without any collective."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, P("data"))

    def sample(x, labels):
        v = guide(velocity, labels, NULL, cfg_scale=6.7, interval_start=0.125)
        return integrate("euler", v, x, time_grid(3))

    x = jax.ShapeDtypeStruct((16, 2, 2, 5), jnp.float32, sharding=rows)
    labels = jax.ShapeDtypeStruct((16,), jnp.int32, sharding=rows)
    text = jax.jit(sample, out_shardings=rows).lower(x, labels).compile().as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert collective not in text


def test_low_precision_is_combined_in_float32():
    def low(x, t, y):
        return velocity(x, t, y).astype(jnp.bfloat16)

    label, null = (
        np.asarray(low(X, jnp.full(3, 0.5), y), np.float32)
        for y in (LABELS, jnp.full_like(LABELS, NULL))
    )
    for start, t in ((0.0, 0.5), (0.125, 0.5)):
        v = guide(low, LABELS, NULL, cfg_scale=6.7, cfg_channels=None, interval_start=start)(X, t)
        assert v.dtype == jnp.float32
        np.testing.assert_allclose(v, null + 6.7 * (label - null), rtol=1e-5, atol=1e-5)


def test_bad_channel_counts_are_refused():
    with pytest.raises(ValueError, match="cfg_channels is 0"):
        guide(velocity, LABELS, NULL, cfg_scale=2.0, cfg_channels=0)
    with pytest.raises(ValueError, match="cfg_channels is 6, but x has 5"):
        guide(velocity, LABELS, NULL, cfg_scale=2.0, cfg_channels=6)(X, 0.5)


@pytest.mark.parametrize("end", [0.75, 1.0])
def test_interval_ends(end):
    """An end of 1 or more means no end, also beyond t = 1, where adaptive solvers look."""
    v = guide(velocity, LABELS, NULL, cfg_scale=3.0, interval_start=0.125, interval_end=end)
    for t in (0.1, 0.125, 0.75, 0.76, 1.0, 1.05):
        scale = 3.0 if t >= 0.125 and (t <= end or end == 1.0) else 1.0
        np.testing.assert_allclose(v(X, t), plain(X, t, scale, 3, 0.0), rtol=1e-5, atol=1e-5)


def test_numbers_may_be_traced():
    """One program for all scales and intervals, 1 and none among them."""

    @jax.jit
    def sample(scale, start, end):
        v = guide(velocity, LABELS, NULL, cfg_scale=scale, interval_start=start, interval_end=end)
        return v(X, jnp.float32(0.5))

    for scale, start, end in ((1.0, 0.0, 1.0), (3.0, 0.0, 1.0), (3.0, 0.6, 1.0), (3.0, 0.0, 0.4)):
        on = 3.0 if start <= 0.5 <= end and scale == 3.0 else 1.0
        want = plain(X, 0.5, on, 3, 0.0)
        np.testing.assert_allclose(sample(scale, start, end), want, rtol=1e-5, atol=1e-5)


def test_a_weak_model_takes_the_place_of_the_null_label():
    def weak(x, t, y):
        return 0.5 * velocity(x, t, y) + 0.1

    v = guide(velocity, LABELS, NULL, cfg_scale=2.5, cfg_channels=None, weak_velocity_fn=weak)
    times = jnp.full(len(X), 0.3)
    strong, bad = velocity(X, times, LABELS), weak(X, times, LABELS)
    np.testing.assert_allclose(v(X, 0.3), bad + 2.5 * (strong - bad), rtol=1e-5, atol=1e-5)


STRONG, WEAK = np.random.default_rng(1).normal(size=(2, 5, 5)).astype(np.float32)


def heads(x, t, y):
    """Two known linear maps of the channels, each with a part of its own of time and label."""
    t, y = t[:, None, None, None], y[:, None, None, None]
    return x @ STRONG + t + y, x @ WEAK - t + 0.5 * y


def internally(t, label, scale=1.4, start=0.2, end=0.7):
    """What internal guidance makes of `heads`, in float64 by hand."""
    x = np.asarray(X, np.float64)
    strong, weak = (x @ STRONG + t + label, x @ WEAK - t + 0.5 * label)
    return weak + scale * (strong - weak) if start <= t <= end else strong


@pytest.mark.parametrize("t", np.float32([0.1, 0.25, 0.5, 0.75]))
def test_internal_guidance_of_linear_heads(t):
    """Alone, and with guidance by labels, whose halves are guided internally first."""
    model = guide_internally(heads, ig_scale=1.4, interval_start=0.2, interval_end=0.7)
    label = np.asarray(LABELS)[:, None, None, None]
    alone = guide(model, LABELS, NULL, cfg_scale=1)(X, t)
    np.testing.assert_allclose(alone, internally(t, label), rtol=1e-5, atol=1e-5)
    v = guide(model, LABELS, NULL, cfg_scale=2.5, cfg_channels=3, interval_start=0.5)(X, t)
    want, null = internally(t, label), internally(t, NULL)
    if t >= 0.5:
        want[..., :3] = (null + 2.5 * (want - null))[..., :3]
    np.testing.assert_allclose(v, want, rtol=1e-5, atol=1e-5)


def test_internal_guidance_has_its_ends_and_no_end():
    """Ends are inclusive in float32, each row has its own time, outside is strong to the bit."""

    @jax.jit  # numbers may be traced
    def velocities(t, scale, start, end):
        both = heads(jnp.ones((5, 2, 2, 5)), t, jnp.zeros(5, jnp.int32))
        model = guide_internally(
            lambda *args: both, ig_scale=scale, interval_start=start, interval_end=end
        )
        return model(both[0], t, None), both[0]

    before = np.nextafter(np.float32(0.1), np.float32(0))
    for end, late in ((0.7, False), (1.0, True)):
        times = jnp.array([0.1, before, end, 0.05, 1.05])
        v, strong = velocities(times, 3.0, 0.1, end)
        same = [np.array_equal(*rows) for rows in zip(v, strong, strict=True)]
        assert same == [False, True, False, True, not late]


def test_internal_guidance_evaluates_the_model_once():
    """No row more than without it, alone and beside the null label."""

    def guided(internal, scale):
        def start(counting):
            def model(x, t, y):
                return counting(x, t, y), 0.5 * x

            velocity_fn = guide_internally(model, ig_scale=1.4) if internal else counting
            return jax.jit(guide(velocity_fn, LABELS, NULL, cfg_scale=scale, interval_start=0.1))

        return start

    for scale, rows in ((1.0, [3, 7, 1]), (2.0, [3, NULL, 7, NULL, 1, NULL])):
        for internal in (True, False):
            assert count_rows(guided(internal, scale), 0.2) == rows


def test_low_precision_is_guided_internally_in_float32():
    t = jnp.full(3, 0.5)
    low = [v.astype(jnp.bfloat16) for v in heads(X, t, LABELS)]
    v = guide_internally(lambda *args: tuple(low), ig_scale=6.7)(X, t, LABELS)
    strong, weak = (np.asarray(part, np.float32) for part in low)
    assert v.dtype == jnp.float32
    np.testing.assert_allclose(v, weak + 6.7 * (strong - weak), rtol=1e-5, atol=1e-5)
