"""Paths, losses, drifts, scores and times of the release's transport."""

from typing import Any
from unittest import mock

import torch

from tests.make_golden.registry import Case, Made, case

PATHS = ("Linear", "GVP", "VP")
PREDICTIONS = ("velocity", "noise", "score")


def example_model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The stand-in for a network that index.json gives as a formula."""
    t = t[:, None, None, None]
    return 0.8 * torch.sin(1.7 * x + t) + 0.1 * x - 0.3 * t * torch.roll(x, 1, dims=1)


@case("transport_plan")
def transport_plan(case: Case) -> Made:
    from transport import path as paths

    t, x0, x1, value = (case.inputs[name] for name in ("t", "x0", "x1", "model"))
    plans = {"Linear": paths.ICPlan(), "GVP": paths.GVPCPlan(), "VP": paths.VPCPlan()}
    out: Made = {}
    for name, plan in plans.items():
        _, xt, ut = plan.plan(t, x0, x1)
        alpha, d_alpha = plan.compute_alpha_t(t)
        sigma, d_sigma = plan.compute_sigma_t(t)
        drift, drift_var = plan.compute_drift(xt, t)
        of_path = {
            "xt": xt,
            "ut": ut,
            "alpha": alpha,
            "d_alpha": per_row(d_alpha, t),
            "sigma": sigma,
            "d_sigma": per_row(d_sigma, t),
            "d_alpha_alpha_ratio": plan.compute_d_alpha_alpha_ratio_t(t),
            "drift": drift,
            "drift_var": per_row(drift_var, t),
            "score_from_velocity": plan.get_score_from_velocity(value, xt, t),
            "noise_from_velocity": plan.get_noise_from_velocity(value, xt, t),
            "velocity_from_score": plan.get_velocity_from_score(value, xt, t),
        }
        for form in case.config["diffusion_forms"]:
            for norm in case.config["diffusion_norms"]:
                diffusion = plan.compute_diffusion(xt, t, form=form, norm=norm)
                of_path[f"diffusion.{form}.norm{norm}"] = per_row(diffusion, t)
        out |= {f"out.{name}.{key}": tensor for key, tensor in of_path.items()}
    return out


def per_row(value: torch.Tensor | float, t: torch.Tensor) -> torch.Tensor:
    """A coefficient of shape [N, 1, 1, 1], or one number for all, as [N]."""
    return value.reshape(-1) if isinstance(value, torch.Tensor) else torch.full_like(t, value)


@case("transport_losses")
def transport_losses(case: Case) -> Made:
    from transport import create_transport

    drawn = tuple(case.inputs[name] for name in ("t", "x0", "x1"))
    out: Made = {}
    for row in case.config["rows"]:
        transport = create_transport(
            row["path_type"],
            row["prediction"],
            row["loss_weight"],
            use_cosine_loss=row["use_cosine_loss"],
        )
        transport.sample = lambda *args: drawn
        leaves: list[torch.Tensor] = []

        def model(x: torch.Tensor, t: torch.Tensor, leaves: Any = leaves) -> torch.Tensor:
            leaves.append(example_model(x, t).requires_grad_())
            return leaves[0]

        terms = transport.training_losses(model, case.inputs["x1"])
        total = terms["loss"].mean()
        out[f"out.{row['name']}.loss"] = terms["loss"].detach()
        if "cos_loss" in terms:
            total = total + terms["cos_loss"].mean()
            out[f"out.{row['name']}.cos_loss"] = terms["cos_loss"].detach()
        out[f"out.{row['name']}.total"] = total.detach()
        out[f"out.{row['name']}.grad"] = torch.autograd.grad(total, leaves[0])[0]
        out[f"out.{row['path_type']}.pred"] = leaves[0].detach()
    return out


@case("transport_drift_score")
def transport_drift_score(case: Case) -> Made:
    from transport import create_transport

    x, t = case.inputs["x"], case.inputs["t"]
    out: Made = {}
    for path in PATHS:
        for prediction in PREDICTIONS:
            transport = create_transport(path, prediction)
            name = f"out.{path}.{prediction}"
            out[f"{name}.drift"] = transport.get_drift()(x, t, example_model)
            out[f"{name}.score"] = transport.get_score()(x, t, example_model)
    return out


@case("transport_check_interval")
def transport_check_interval(case: Case) -> Made:
    from transport import create_transport

    (file,) = case.entry["extra_files"]
    rows = []
    for row in case.read(file)["rows"]:
        given = {key: row[key] for key in ("path_type", "prediction", "train_eps", "sample_eps")}
        transport = create_transport(**given)
        eps = transport.train_eps, transport.sample_eps
        calls = []
        for call in row["calls"]:
            try:
                t0, t1 = transport.check_interval(*eps, **call["kwargs"])
                calls.append({"kwargs": call["kwargs"], "t0": t0, "t1": t1})
            except TypeError as error:
                message = f"{type(error).__name__}: {error}"
                calls.append({"kwargs": call["kwargs"], "error": message})
        resolved = {"resolved_train_eps": eps[0], "resolved_sample_eps": eps[1]}
        rows.append({**given, **resolved, "calls": calls})
    return {file: {"rows": rows}}


@case("transport_logit_normal")
def transport_logit_normal(case: Case) -> Made:
    from transport import create_transport, transport

    z, config = case.inputs["z"], case.config
    normal = z.double().numpy()
    x1, eps = torch.zeros(len(z), 1, 1, 1), config["gvp_noise_eps"]
    of_interval = create_transport("GVP", "noise", None, eps, eps, use_lognorm=True)
    shifted = create_transport(use_lognorm=True, shift_lg=True)
    with mock.patch.object(transport.norm, "rvs", lambda loc, scale, size: loc + scale * normal):
        return {
            "out.t": shifted.sample_logit_normal(0, 1, size=len(z)),
            "out.t_mu_sigma": shifted.sample_logit_normal(*config["mu_sigma"], size=len(z)),
            "out.t_gvp_noise": of_interval.sample(x1)[0],
            "out.t_shift_lg": shifted.sample(x1, shifted_mu=config["shifted_mu"])[0],
        }
