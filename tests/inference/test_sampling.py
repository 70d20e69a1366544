"""What a Sampling costs, against counting by hand, and which values it refuses."""

import numpy as np
import pytest

from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.sampling.options import Sampling, choose_labels

PUBLISHED = {"cfg_scale": 6.7, "timestep_shift": 0.3}


@pytest.mark.parametrize(
    ("changes", "evaluations", "guided"),
    [
        ({}, 249, 0),  # no guidance
        (PUBLISHED, 249, 249),
        # t = .3 u / (1 - .7 u) reaches 0.125 at u = 0.125 / (0.3 + 0.7 * 0.125) = 0.3226 of 249.
        (PUBLISHED | {"cfg_interval_start": 0.125}, 249, 249 - 81),
        (PUBLISHED | {"cfg_interval_start": 0.125, "cfg_interval_end": 0.125}, 249, 0),
        ({"num_steps": 5, "solver": "heun2", "cfg_scale": 2.0}, 8, 8),
        # Stages at 0, .25, .25, .5, .5, .75, .75, 1.
        ({"num_steps": 5, "solver": "heun2", "cfg_scale": 2.0, "cfg_interval_start": 0.3}, 8, 5),
        ({"num_steps": 51, "solver": "ucgm", "cfg_scale": 6.7}, 50, 50),
        ({"solver": "dopri5", "cfg_scale": 6.7}, None, None),
        ({"num_steps": 250, "solver": "sde_euler", "cfg_scale": 2.0}, 250, 250),
        ({"num_steps": 5, "solver": "sde_heun", "last_step": "tweedie"}, 9, 0),
        # Of 249 steps the first 2 are left out where labels guide, which are not of the interval.
        (PUBLISHED | {"cfg_zero_init_steps": 2}, 247, 247),
        (PUBLISHED | {"cfg_interval_start": 0.125, "cfg_zero_init_steps": 2}, 247, 249 - 81),
        ({"cfg_zero_init_steps": 2}, 249, 0),
        ({"num_steps": 5, "solver": "heun2", "cfg_scale": 2.0, "cfg_zero_init_steps": 1}, 6, 6),
        ({"ig_scale": 1.4}, 249, 0),  # no evaluation of its own
        (PUBLISHED | {"ig_scale": 1.4, "ig_interval_end": 0.5}, 249, 249),
    ],
)
def test_evaluations(changes, evaluations, guided):
    sampling = Sampling(**changes)
    assert (sampling.evaluations(), sampling.guided_evaluations(Flow())) == (evaluations, guided)
    passes = None if evaluations is None else evaluations + guided
    assert sampling.forward_passes(Flow()) == passes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "eular"}, "did you mean 'euler'"),
        ({"num_steps": 1}, "num_steps is 1"),
        ({"cfg_channels": -1}, "cfg_channels is -1"),
        ({"cfg_interval_start": 0.5, "cfg_interval_end": 0.2}, "ends at 0.2, before it begins"),
        ({"ig_interval_start": 0.5, "ig_interval_end": 0.2}, "ig_interval_start <= ig_interval_e"),
        ({"cfg_schedule": "linaer"}, "did you mean 'linear'"),
        ({"cfg_power": 0.0}, "cfg_power is 0.0; expected a number above 0"),
        ({"cfg_optimized_scale": 1}, "cfg_optimized_scale is 1; expected True or False"),
        ({"apg_norm_threshold": -1.0}, "apg_norm_threshold is -1.0; expected a positive number"),
        (
            {"cfg_scale": 2.0, "apg_momentum": -0.5, "solver": "heun2"},
            "apg_momentum is -0.5 with the solver heun2; .* choose the solver 'euler'",
        ),
        (
            {"num_steps": 5, "cfg_scale": 2.0, "cfg_zero_init_steps": 4},
            "cfg_zero_init_steps is 4 of 4 steps; expected fewer",
        ),
        ({"timestep_shift": "dimensions"}, "timestep_shift is 'dimensions'; expected a finite num"),
        ({"solver": "ucgm", "timestep_shift": "dimension"}, "set timestep_shift to 0"),
        ({"ig_scale": float("nan")}, "ig_scale is nan; expected a finite number"),
        ({"solver": "ucgm", "timestep_shift": 0.3}, "set timestep_shift to 0"),
        ({"solver": "ucgm", "time_warp": (1.0, 1.0)}, "expected three positive numbers"),
        ({"solver": "sde_euler", "timestep_shift": 0.3}, "num_steps and last_step_size; set"),
        ({"solver": "sde_euler", "diffusion": "sgima"}, "did you mean 'sigma'"),
        ({"solver": "sde_heun", "last_step": "none"}, "'heun' without a last step looks at t = 1"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**changes)


def test_a_shift_by_dimension_is_a_number_for_some_latents():
    """VA-VAE's 16 x 16 x 32 numbers are twice 4096. Noise at t = 1, s becomes sqrt(2)."""
    sampling = Sampling(num_steps=5, timestep_shift="dimension").for_latents(16 * 16 * 32)
    assert sampling.timestep_shift == pytest.approx(0.5**0.5)
    back = 1 - np.linspace(0, 1, 5)
    want = 1 - 2**0.5 * back / (1 + (2**0.5 - 1) * back)
    np.testing.assert_allclose(sampling.grid(Flow()), want, atol=1e-6)
    assert Sampling(timestep_shift=0.3).for_latents(8).timestep_shift == 0.3


def test_without_guidance_its_options_change_no_program():
    changes = {"cfg_schedule": "cosine", "cfg_optimized_scale": True, "apg_eta": 0.0}
    changes |= {"apg_momentum": -0.5, "apg_norm_threshold": 2.0, "cfg_zero_init_steps": 1}
    plain, off = Sampling(num_steps=9), Sampling(num_steps=9, **changes)
    assert off.method() == plain.method()
    np.testing.assert_array_equal(off.grid(Flow()), plain.grid(Flow()))
    assert Sampling(cfg_scale=2.0, **changes).method() != Sampling(cfg_scale=2.0).method()


def test_label_modes():
    random = choose_labels("random", 5000, 10, seed=0)
    assert set(random) == set(range(10)) and 400 < np.bincount(random).min() < 500
    np.testing.assert_array_equal(choose_labels("balanced", 12, 10, 0), [*range(10), 0, 1])
    np.testing.assert_array_equal(choose_labels("7,2", 3, 10, 0), [7, 2, 7])


@pytest.mark.parametrize(
    ("mode", "message"), [("all", "'all'; expected 'random'"), ("3,12", "expected 0 to 9")]
)
def test_bad_label_modes(mode, message):
    with pytest.raises(ValueError, match=message):
        choose_labels(mode, 4, 10, 0)


@pytest.mark.parametrize(
    ("mode", "want"),
    [
        ("dog", [1, 1]),
        ("emu,cat", [2, 0]),
        ("emu, 1", [2, 1]),
        ("name:dog", [1, 1]),
        ("3", [3, 3]),
        ("name:random", [4, 4]),
    ],
)
def test_labels_by_name(mode, want):
    names = ("cat", "dog", "emu", "3", "random")
    np.testing.assert_array_equal(choose_labels(mode, 2, 5, 0, names), want)


def test_bad_names_of_labels():
    with pytest.raises(ValueError, match="unknown class 'dgo'; did you mean 'dog'"):
        choose_labels("dgo", 2, 2, 0, ("cat", "dog"))
    with pytest.raises(ValueError, match="knows no names of classes"):
        choose_labels("dog", 2, 2, 0)


def test_a_number_that_is_another_class_by_name_is_refused():
    """Folders 1, 2, ... 10 are classes in string order: 1, 10, 2, ..."""
    names = sorted(str(i) for i in range(1, 11))
    for label in ("1", "10"):
        with pytest.raises(ValueError, match=rf"'{label}', a class number .* 'name:{label}'"):
            choose_labels(label, 1, 10, 0, names)
        assert names[choose_labels(f"name:{label}", 1, 10, 0, names)[0]] == label
    assert choose_labels("2,0", 2, 10, 0, names).tolist() == [2, 0]
    np.testing.assert_array_equal(choose_labels("7,2", 2, 10, 0, tuple("0123456789")), [7, 2])


@pytest.mark.parametrize("label", ["99999999999", "-1", f"1{0:030d}"])
def test_numbers_out_of_range_are_one_line(label):
    with pytest.raises(ValueError, match=r"config\.sample\.labels reach .* expected 0 to 9"):
        choose_labels(label, 4, 10, 0)


def test_grids_leave_out_what_is_infinite():
    """SiT: a score of the GVP path is infinite at both ends, a velocity nowhere."""
    sampling = Sampling(num_steps=5)
    assert sampling.grid(Flow())[[0, -1]].tolist() == [0, 1]
    ends = sampling.grid(Flow("gvp", "score"))[[0, -1]]
    np.testing.assert_allclose(ends, [1e-3, 1 - 1e-3], rtol=1e-6)
    with pytest.raises(ValueError, match="needs the path 'linear', the generator's is 'gvp'"):
        Sampling(num_steps=5, solver="ucgm").grid(Flow("gvp"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"num_steps": 2.5}, r"num_steps is 2\.5; expected a whole number from 2"),
        ({"num_steps": 1}, "num_steps is 1"),
        ({"cfg_channels": -1}, "cfg_channels is -1"),
        ({"cfg_channels": 1.0}, r"cfg_channels is 1\.0"),
        ({"cfg_scale": float("nan")}, "cfg_scale is nan; expected a finite number"),
        ({"cfg_scale": None}, "cfg_scale is None"),
        ({"timestep_shift": float("inf")}, "timestep_shift is inf"),
        ({"cfg_interval_start": float("nan")}, "cfg_interval_start is nan"),
        ({"solver": "dopri5", "rtol": 0.0}, r"rtol is 0\.0"),
        ({"solver": "dopri5", "atol": -1.0}, r"atol -1\.0"),
        ({"solver": "ucgm", "extrapolation": float("nan")}, "extrapolation is nan"),
    ],
)
def test_numbers_from_python_are_checked_as_those_of_configs(fields, reason):
    """2.5 grid points used to integrate to t = 1.33, beyond the data."""
    with pytest.raises(ValueError, match=reason):
        Sampling(**fields)
    assert Sampling(num_steps=np.int64(5), cfg_scale=2).grid(Flow()).shape == (5,)
