"""Profiles of averages and what is made of them, against sums of weights and closed forms."""

import numpy as np
import pytest
from scipy.integrate import quad

from lightningdit_jax.average_profiles import Profile, exponent_of, fit_profile
from lightningdit_jax.averages import LARGEST_SIGMA, power_item, weights_item

SIGMAS = (0.05, 0.1)


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.1, 0.2, LARGEST_SIGMA])
def test_the_width_is_the_standard_deviation_of_the_profile(sigma):
    """By integration, and by equation 123."""
    gamma = exponent_of(sigma)
    assert gamma > 0
    mean, square = (
        quad(lambda s, power=power: s**power * (gamma + 1) * s**gamma, 0, 1)[0] for power in (1, 2)
    )
    np.testing.assert_allclose(np.sqrt(square - mean**2), sigma, rtol=1e-6)
    np.testing.assert_allclose(((gamma + 1) / (gamma + 3)) ** 0.5 / (gamma + 2), sigma, rtol=1e-9)


def tracked(weights, since, decay_at):
    """An average of the weights after each step, [0] those at the start, step by step."""
    average = weights[since]
    for step in range(since + 1, len(weights)):
        decay = decay_at(step)
        average = decay * average + (1 - decay) * weights[step]
    return average


@pytest.mark.parametrize("since", [0, 7])
@pytest.mark.parametrize("sigma", [0.0, 0.12])
def test_an_average_is_the_sum_of_the_weights_by_its_profile(since, sigma):
    weights, steps = np.random.default_rng(0).normal(size=(41, 3)), np.arange(41)
    decay, gamma = 0.9, exponent_of(sigma or 0.1)
    wanted = tracked(weights, since, lambda t: (1 - 1 / t) ** (gamma + 1) if sigma else decay)
    profile = Profile(40, sigma=sigma, decay=0 if sigma else decay, since=since)
    shares = np.diff(profile.cumulative(steps), prepend=0.0)
    np.testing.assert_allclose(shares @ weights, wanted, rtol=1e-12)
    assert shares.min() >= 0 and abs(shares.sum() - 1) < 1e-12


def closed_form(a, b):
    """The inner product of power functions over continuous time, equation 151."""
    (first, p), (last, q) = sorted((profile.step, exponent_of(profile.sigma)) for profile in (a, b))
    return (p + 1) * (q + 1) * (first / last) ** q / ((p + q + 1) * last)


def test_the_closed_form_is_the_integral():
    a, b = Profile(300, sigma=0.05), Profile(1000, sigma=0.2)

    def density(profile, s):
        gamma = exponent_of(profile.sigma)
        return (gamma + 1) * (s / profile.step) ** gamma / profile.step

    wanted = quad(lambda s: density(a, s) * density(b, s), 0, 300)[0]
    np.testing.assert_allclose(closed_form(a, b), wanted, rtol=1e-9)


@pytest.mark.parametrize(("last", "sigma"), [(80_000, 0.03), (80_000, 0.25), (3_000_000, 0.15)])
def test_coefficients_are_those_of_the_papers_algorithm(last, sigma):
    """Algorithm 3, in closed form, with its sum made 1, where steps are many and close together."""
    sources = [
        Profile(step, sigma=width)
        for step in range(last // 20, last + 1, last // 20)
        for width in SIGMAS
    ]
    target = Profile(last, sigma=sigma)
    gram = [[closed_form(a, b) for b in sources] for a in sources]
    wanted = np.linalg.solve(gram, [closed_form(a, target) for a in sources])
    square = closed_form(target, target)
    error = (
        wanted @ gram @ wanted - 2 * wanted @ [closed_form(a, target) for a in sources]
    ) / square
    fit = fit_profile(sources, target)
    assert abs(fit.coefficients.sum() - 1) < 1e-12
    np.testing.assert_allclose(
        fit.coefficients, wanted / wanted.sum(), atol=1e-2 * np.abs(wanted).max()
    )
    np.testing.assert_allclose(fit.error, np.sqrt(1 + error), rtol=0.05)


@pytest.mark.parametrize("kind", ["power", "constant"])
def test_averages_of_some_steps_make_one_that_was_never_kept(kind):
    """Of weights that wander as in training; the error is what is said of it."""
    rng, last = np.random.default_rng(1), 600
    weights = np.cumsum(rng.normal(size=(last + 1, 200)), axis=0)
    steps = range(30, last + 1, 30)
    if kind == "power":
        sources = [Profile(step, sigma=sigma) for step in steps for sigma in SIGMAS]
    else:
        sources = [Profile(step, decay=decay) for step in steps for decay in (0.95, 0.98)]
    kept = [np.diff(p.cumulative(np.arange(last + 1)), prepend=0.0) @ weights for p in sources]
    gamma = exponent_of(0.12)
    wanted = tracked(weights, 0, lambda t: (1 - 1 / t) ** (gamma + 1))
    fit = fit_profile(sources, Profile(last, sigma=0.12))
    moved = np.linalg.norm(weights[-1] - wanted)
    off = np.linalg.norm(fit.coefficients @ kept - wanted) / moved
    assert fit.error < 0.02 and off < 0.002, (fit.error, off)


def test_what_was_kept_is_taken_alone():
    sources = [Profile(step, sigma=sigma) for step in (10, 20) for sigma in SIGMAS]
    fit = fit_profile(sources, Profile(20, sigma=0.05))
    assert fit.coefficients.tolist() == [0, 0, 1, 0] and fit.error == 0


def test_too_few_are_said():
    assert fit_profile([Profile(100, sigma=0.1)], Profile(100, sigma=0.02)).error > 0.5


def test_items_of_power_functions_are_chosen_by_width_alone():
    items = ("ema_sigma_0.05", "ema_sigma_0.1", "ema_0.9")
    assert power_item(items, 0.1, "run") == "ema_sigma_0.1"
    assert weights_item(items, True, 0.0, "run") == "params"
    with pytest.raises(
        ValueError, match=r"run has no average 'ema_sigma_0\.2'; there are: ema_sig"
    ):
        power_item(items, 0.2, "run")
