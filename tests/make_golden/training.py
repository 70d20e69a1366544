"""Steps of the release's train.py on recorded batches."""

import copy

import torch

from tests.make_golden.generator import generator
from tests.make_golden.patching import draws
from tests.make_golden.registry import Case, Made, case

RECORDED = ("x1", "x0", "t", "y", "drop")


@case("train_trace_noclip", "train_trace_clip")
def train_trace(case: Case) -> Made:
    """The loop of do_train, which needs a GPU and processes, around the release's own parts."""
    from train import update_ema
    from transport import create_transport

    settings = case.config["optimizer"]
    model = generator(case.config["model"], case.weights("init")).train()
    averages = {str(decay): copy.deepcopy(model) for decay in case.config["ema_decay"]}
    transport = create_transport(**case.config["transport"])
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        betas=settings["betas"],
    )
    rows, gradients = [], {}
    for batch in zip(*(case.inputs[name] for name in RECORDED), strict=True):
        x1, x0, t, y, drop = batch
        transport.sample = lambda *args, drawn=(t, x0, x1): drawn
        # A label is dropped where a uniform draw is less than the rate.
        with draws("rand", [1.0 - drop]):
            losses = transport.training_losses(model, x1, {"y": y})
        loss = losses["cos_loss"].mean() + losses["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        trained = {k: v for k, v in model.named_parameters() if v.requires_grad}
        gradients = gradients or {name: v.grad.clone() for name, v in trained.items()}
        # For the record only, so in float64; the release clips by torch's own norm.
        norm = sum((p.grad.double() ** 2).sum() for p in trained.values()).sqrt().float()
        if settings["max_grad_norm"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        optimizer.step()
        for decay, average in averages.items():
            update_ema(average, model, decay=float(decay))
        rows.append((losses["loss"], losses["cos_loss"], loss, norm))
    names = ("mse", "cos", "loss", "grad_norm")
    out: Made = {f"out.{k}": torch.stack(v).detach() for k, v in zip(names, zip(*rows))}
    states = {"final": model.state_dict(), "grads_step0": gradients}
    states |= {f"ema_{decay}": average.state_dict() for decay, average in averages.items()}
    named = case.entry["weights"]
    return out | {named[part]: state for part, state in states.items() if part in named}
