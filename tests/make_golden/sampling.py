"""Trajectories of the release's ODE and SDE samplers, and its likelihood."""

import functools
from typing import Any
from unittest import mock

import torch

from tests.make_golden.generator import generator
from tests.make_golden.patching import draws, recorded
from tests.make_golden.registry import Case, Made, case

ODE = (
    "euler",
    "euler_2steps",
    "euler_shift",
    "euler_cfg_interval_shift",
    "euler_cfg_interval",
    "euler_cfg_no_interval",
    "midpoint",
    "heun2",
    "heun3",
    "rk4",
    "heun2_shift_cfg",
    "dopri5",
    "dopri5_shift_cfg",
    "dopri5_tight",
    "gvp_euler",
    "vp_euler",
    "linear_noise_euler",
    "linear_score_heun2",
    "gvp_score_dopri5",
)
GUIDANCE = ("cfg_scale", "cfg_interval", "cfg_interval_start")


def network(case: Case) -> torch.nn.Module:
    """The generator whose weights the sampling cases share; its config stands in its own entry."""
    return generator(case.entries["lightningdit_default"]["config"], case.weights())


def sampler(config: dict[str, Any]) -> Any:
    """The release's sampler of a path, a prediction and their interval; linear velocity if none."""
    from transport import Sampler, create_transport

    names = ("path_type", "prediction", "train_eps", "sample_eps")
    return Sampler(create_transport(**{name: config[name] for name in names if name in config}))


@case(*(f"sample_ode_{name}" for name in ODE))
def sample_ode(case: Case) -> Made:
    from torchdiffeq._impl import rk_common

    config = case.config
    times: list[torch.Tensor] = []
    model = getattr(network(case), config["model_fn"])

    def model_fn(x: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        times.append(t[0])
        return model(x, t, **kwargs)

    sample = sampler(config).sample_ode(
        sampling_method=config["sampling_method"],
        num_steps=config["num_steps"],
        atol=config["atol"],
        rtol=config["rtol"],
        timestep_shift=config.get("timestep_shift", 0.0),
    )
    guidance = {name: config[name] for name in GUIDANCE if name in config}
    ratios: list[torch.Tensor] = []
    ratio = recorded(rk_common._compute_error_ratio, ratios)
    with torch.no_grad(), mock.patch.object(rk_common, "_compute_error_ratio", ratio):
        trajectory = sample(case.inputs["z"], model_fn, y=case.inputs["y"], **guidance)
    out = {"out.traj": trajectory, "aux.t_evals": torch.stack(times).float()}
    if config["interval"] == [0, 1]:
        out["out.t_grid"] = sample.__self__.t
    if ratios:
        out["aux.error_ratios"] = torch.stack(ratios).float()
    return out


@case("sample_ode_reverse_fixed")
def sample_ode_reverse(case: Case) -> Made:
    """The release turns the interval around and then refuses it; here it stays forward in s."""
    model, out = network(case), {}
    for name, sign in (("as_written", 1), ("negated", -1)):
        turned = sampler({})
        drift, transport = turned.drift, turned.transport
        turned.drift = lambda *args, drift=drift, sign=sign, **kw: sign * drift(*args, **kw)
        interval = transport.check_interval(0, 0, eval=True)
        with mock.patch.object(transport, "check_interval", return_value=interval):
            sample = turned.sample_ode(
                sampling_method=case.config["sampling_method"],
                num_steps=case.config["num_steps"],
                timestep_shift=case.config["timestep_shift"],
                reverse=True,
            )
        with torch.no_grad():
            out[f"out.traj_{name}"] = sample(case.inputs["z"], model, y=case.inputs["y"])
    return out


@case("sample_ode_likelihood_euler", "sample_ode_likelihood_heun2")
def sample_ode_likelihood(case: Case) -> Made:
    """The release leaves out an argument of its solver, timestep_shift; here it is 0."""
    from transport import transport

    model = network(case)
    fixed = functools.partial(transport.ode, timestep_shift=0)
    # It draws 0 or 1 and makes -1 or 1 of them.
    probes = [(probe + 1) / 2 for probe in case.inputs["eps"]]
    with mock.patch.object(transport, "ode", fixed):
        likelihood = sampler({}).sample_ode_likelihood(
            sampling_method=case.config["sampling_method"], num_steps=case.config["num_steps"]
        )
    with torch.no_grad(), draws("randint", probes):
        logp, x0 = likelihood(case.inputs["x"], model, y=case.inputs["y"])
    return {"out.logp": logp, "out.x0": x0}


@case("sample_sde")
def sample_sde(case: Case) -> Made:
    model, out = network(case), {}
    for row in case.config["rows"]:
        sample = sampler(row).sample_sde(
            sampling_method=row["sampling_method"],
            diffusion_form=row["diffusion_form"],
            diffusion_norm=row["diffusion_norm"],
            last_step=row["last_step"],
            last_step_size=row["last_step_size"],
            num_steps=row["num_steps"],
        )
        with torch.no_grad(), draws("randn", case.inputs["noise"]):
            states = sample(case.inputs["z"], model, y=case.inputs["y"])
        out[f"out.{row['name']}"] = torch.stack(states)
    return out
