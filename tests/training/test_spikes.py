"""What is a spike, by a second implementation; on devices; and a program without a detector."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightningdit_jax.averages import average_decays
from lightningdit_jax.parallel.mesh import batch_sharding, make_mesh
from lightningdit_jax.training import dit_step, update
from lightningdit_jax.training.ema import update_ema
from lightningdit_jax.training.job import abstract_generator_job, abstract_tokenizer_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready
from lightningdit_jax.training.spikes import fresh_windows, judge
from lightningdit_jax.training.state import TrainState, keep_finite
from lightningdit_jax.training.update import update_at
from tests import tiny
from tests.training.loop_cases import assert_same


def by_numpy(values, window, factor):
    """(step, median, limit) of each spike of a series."""
    seen, found = [], []
    for step, value in enumerate(values):
        if not np.isfinite(value) or value <= 0:
            continue
        last = np.log(seen[-window:])
        if len(last) >= window / 2:
            median = np.median(last)
            deviation = np.median(np.abs(last - median)) * 1.4826
            limit = median + max(factor * deviation, np.log(1.5))
            if np.log(value) > limit and not min(last[-4:]) > limit:
                found.append((step, np.exp(median), np.exp(limit)))
        seen.append(value)
    return found


def by_device(values, window, factor):
    jitted = jax.jit(functools.partial(judge, factor=factor))
    windows, found = fresh_windows(["x"], window), []
    for step, value in enumerate(values):
        value = jnp.float32(value)
        spiked, windows, numbers = jitted(windows, {"x": value}, finite=jnp.isfinite(value))
        if spiked:
            found.append((step, numbers["spike_median/x"], numbers["spike_limit/x"]))
    return found


@pytest.mark.parametrize(("window", "factor"), [(8, 4.0), (33, 8.0)])
def test_a_recorded_series_with_spikes(window, factor):
    """Falls, shivers, doubles its level, is flat; with spikes, zeros and what is not finite."""
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(0, 0.2, 400) + np.linspace(2, 0, 400))
    values[300:] *= 30
    values[350:] = 2.0
    values[[2, 60, 61, 150, 151, 152, 390]] *= 100
    values[[70, 371]], values[80:90], values[100], values[110] = 2.4, 0.0, np.nan, -1.0
    found, want = by_device(values, window, factor), by_numpy(values, window, factor)
    assert [f[0] for f in found] == [w[0] for w in want]
    np.testing.assert_allclose(np.array(found), np.array(want), rtol=1e-4)
    steps = {f[0] for f in found}
    assert {60, 150, 390} <= steps and not steps & {2, 80, 100, 110, 371}
    # A new level is one after four steps, but for what is near the limit while that follows.
    shifted = {step for step in steps if 300 <= step < 350}
    assert set(range(300, 304)) <= shifted and 304 not in shifted and len(shifted) <= 6


def test_a_value_rises_by_half_before_a_flat_window_is_left():
    for last, spiked in ((1.49, []), (1.51, [8])):
        assert [f[0] for f in by_device([1.0] * 8 + [last], 8, 8.0)] == spiked


def generator(devices=1, **changes):
    """(config, job, compiled step and what makes its state) of a tiny generator."""
    settings = {"train__batch_size": 16, "model__depth": 1, "train__ema_decay": 0.9}
    settings |= {"train__spike_window": 8, "optimizer__warmup_steps": 0}
    config = tiny.config("digits_dit", **settings | changes)
    mesh = make_mesh(devices, devices=jax.devices()[:devices])
    job = abstract_generator_job(config, mesh)
    return mesh, compile_ready(job, config, mesh, make_optimizer(config.optimizer, 10))


def trajectory(devices, **changes):
    """States after each of seven steps, the sixth of latents a thousandfold; and metrics."""
    mesh, (init, step_fn, _) = generator(devices, train__spikes="skip", **changes)
    rng, states, metrics = np.random.default_rng(0), [init()], []
    for index in range(7):
        latents = rng.normal(size=(16, 8, 4, 4)).astype(np.float32) * (1e3 if index == 5 else 1)
        batch = {"latents": latents, "labels": np.arange(16, dtype=np.int32) % 10}
        state = jax.tree.map(jnp.copy, states[-1])
        state, found = step_fn(state, jax.device_put(batch, batch_sharding(mesh)))
        states.append(state)
        metrics.append(jax.device_get(found))
    return jax.device_get(states), metrics


@pytest.mark.slow
def test_a_bad_batch_leaves_all_of_a_generator_but_its_windows_and_eight_devices_agree():
    states, metrics = trajectory(1)
    assert [bool(m["spike"]) for m in metrics] == [False] * 5 + [True, False]
    before, after, later = states[5:8]
    for name in ("params", "opt_state", "averages"):
        assert_same(getattr(after, name), getattr(before, name))
        with pytest.raises(AssertionError):
            assert_same(getattr(later, name), getattr(after, name))
    assert after.step == before.step + 1
    for name, window in later.spikes.items():
        want = [m[name] for m in reversed(metrics)]
        np.testing.assert_allclose(np.exp(window[:7]), want, rtol=1e-5)
        assert np.isinf(window[7:]).all()
    others, found = trajectory(8, train__accumulate_steps=2)
    assert [m["spike"] for m in found] == [m["spike"] for m in metrics]
    assert_same(others[6].params, others[5].params)
    for name, window in others[-1].spikes.items():
        np.testing.assert_allclose(window[:7], later.spikes[name][:7], atol=1e-3)


def without_detector(
    state, grads, loss, optimizer, ema_decay, ema_decays=(), largest=None, **spikes
):
    """apply_gradients of a program that knows nothing of spikes."""
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, moments = update_at(state.step, optimizer, grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decays = average_decays(ema_decay, ema_decays)
    averages = {n: update_ema(ema, params, decays[n]) for n, ema in state.averages.items()}
    norms = {"weight_norm": optax.tree.norm(params), "update_norm": optax.tree.norm(updates)}
    kept = keep_finite(TrainState(state.step, params, averages, moments), state, finite)
    metrics = {"grad_norm": norm, **norms, "finite": finite}
    return kept.replace(step=state.step + 1), metrics


@pytest.mark.parametrize("kind", ["generator", pytest.param("tokenizer", marks=pytest.mark.slow)])
def test_off_the_program_is_the_one_without_a_detector(kind, monkeypatch):
    """Of the tokenizer with its discriminator; and no item is in the state."""
    mesh = make_mesh(devices=jax.devices()[:1])

    def text(**changes):
        if kind == "generator":
            _, (_, step_fn, state) = generator(**changes)
            batch = {"latents": (16, 8, 4, 4), "labels": (16,)}
            batch = {n: jax.ShapeDtypeStruct(s, jnp.int32) for n, s in batch.items()}
        else:
            small = {"discriminator__num_layers": 1, **changes}
            config = tiny.config("digits_vavae", vae_loss__disc_weight=0.5, **small)
            job, optimizer = (
                abstract_tokenizer_job(config, mesh),
                make_optimizer(config.optimizer, 9),
            )
            _, step_fn, state = compile_ready(job, config, mesh, optimizer)
            batch = {"images": jax.ShapeDtypeStruct((8, 16, 16, 3), jnp.uint8)}
        return step_fn.lower(state, batch).as_text(), state

    off, state = text()
    assert not state.spikes and "spikes" not in state.items()
    if kind == "generator":
        on, state = text(train__spikes="skip")
        assert on != off and "spikes" in state.items()
    monkeypatch.setattr(dit_step, "apply_gradients", without_detector)
    monkeypatch.setattr(update, "apply_gradients", without_detector)
    monkeypatch.setattr(update, "is_taken", lambda metrics: metrics["finite"])
    assert text()[0] == off


@pytest.mark.slow
def test_a_spike_of_one_player_leaves_both():
    """A tokenizer's images a thousandfold, then a discriminator whose own gradient explodes."""
    config = tiny.config(
        "digits_vavae",
        vae_loss__disc_weight=0.5,
        stages__disc_start=(1,),
        tokenizer__ch=32,
        train__spikes="skip",
        train__spike_window=8,
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    job, optimizer = abstract_tokenizer_job(config, mesh), make_optimizer(config.optimizer, 9)
    init, step_fn, _ = compile_ready(job, config, mesh, optimizer)
    state, rng = init(), np.random.default_rng(0)
    assert set(state.spikes) == {"nll", "grad_norm", "disc_loss", "grad_norm_disc"}
    images = rng.integers(100, 150, (8, 16, 16, 3), np.uint8)
    for _ in range(4):
        state, metrics = step_fn(state, {"images": images})
        assert metrics["finite"] and not metrics["spike"]
    for name in ("nll", "disc_loss", "grad_norm_disc"):
        # As if all steps before had been a hundredth of what this one is.
        spikes = state.spikes | {name: state.spikes[name] - np.log(100)}
        before = jax.device_get(state.replace(spikes=spikes))
        after, metrics = step_fn(jax.tree.map(jnp.asarray, before), {"images": images})
        assert metrics["spike"] and metrics["finite"], name
        assert metrics[name] > metrics[f"spike_limit/{name}"]
        for part in ("params", "opt_state", "companions"):
            assert_same(jax.device_get(getattr(after, part)), getattr(before, part))
        state = jax.tree.map(jnp.asarray, before.replace(spikes=jax.device_get(state.spikes)))
