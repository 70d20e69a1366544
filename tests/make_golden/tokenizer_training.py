"""Steps of the release's VA-VAE training on recorded batches, in float64 and float32."""

from typing import Any
from unittest import mock

import torch

from tests.make_golden.losses import SMALL, logged, narrow_loss
from tests.make_golden.patching import draws
from tests.make_golden.registry import Case, Made, Tensors, case

FEATURES = "ldm.models.foundation_models.aux_foundation_model"


class GivenFeatures(torch.nn.Module):
    """In the place of the foundation model: the recorded features of each batch."""

    def __init__(self, width: int):
        super().__init__()
        self.feature_dim = width
        self.features: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features


class Run:
    """The release's AutoencoderKL and what Lightning gives its training_step."""

    def __init__(self, case: Case, dtype: torch.dtype):
        from ldm.models import autoencoder as module

        config, projection = case.config, case.inputs["linear_proj.weight"]
        loss = narrow_loss(case, config["ndf"])(**config["lossconfig"])
        with (
            mock.patch.object(module, "instantiate_from_config", return_value=loss),
            mock.patch(FEATURES, lambda kind: GivenFeatures(len(projection))),
        ):
            self.model = module.AutoencoderKL(
                config["ddconfig"],
                lossconfig=None,
                embed_dim=config["embed_dim"],
                use_vf="given",
                reverse_proj=config["reverse_proj"],
            )
        weights = case.weights("autoencoder") | {"linear_proj.weight": projection}
        unloaded = self.model.load_state_dict(weights, strict=False)
        assert not unloaded.unexpected_keys
        assert all(key.startswith("loss.") for key in unloaded.missing_keys)
        self.model.to(dtype).train()
        loss.perceptual_loss.eval()
        self.optimizers = self.adam(config["optimizer"]["lr"])
        self.norms: dict[str, list[torch.Tensor]] = {"ae": [], "disc": []}
        self.first_gradients: Tensors = {}
        self.logs: list[dict[str, torch.Tensor]] = []
        self.made: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.lend()

    def adam(self, learning_rate: float) -> list[torch.optim.Optimizer]:
        """The release's own two optimizers."""
        self.model.learning_rate = learning_rate
        return self.model.configure_optimizers()[0]

    def lend(self) -> None:
        """What its training_step calls of the framework, and takes from its batch."""
        model = self.model
        model.global_step = 0
        model.optimizers = lambda: self.optimizers
        model.manual_backward = lambda loss: loss.backward()
        model.log = lambda *args, **kwargs: None
        model.log_dict = lambda log, **kwargs: self.logs.append(logged(log))
        # The release's goes through float32.
        model.get_input = lambda batch, key: batch
        model.register_forward_hook(
            lambda m, args, out: self.made.append((out[0].detach(), out[2].detach()))
        )
        for name, optimizer in zip(self.norms, self.optimizers):
            optimizer.register_step_post_hook(lambda opt, *_, name=name: self.stepped(name, opt))

    def stepped(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Counts an optimizer's step, and keeps the gradients that it took."""
        self.model.global_step += 1
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.norms[name].append(norm(torch.cat([g.flatten() for g in gradients])))
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for key, parameter in self.model.named_parameters():
            if id(parameter) in mine:
                self.first_gradients.setdefault(key, parameter.grad.clone())

    def steps(self, case: Case, dtype: torch.dtype) -> None:
        """All of the recorded batches."""
        recorded = (case.inputs[name].to(dtype) for name in ("images", "aux", "eps"))
        for step, (images, features, eps) in enumerate(zip(*recorded, strict=True)):
            self.model.foundation_model.features = features
            with draws("randn", [eps]):
                self.model.training_step(images, step)

    def terms(self, phase: int) -> Tensors:
        """What the autoencoder's (0) or the discriminator's (1) phase logged: term -> [steps]."""
        logs = self.logs[phase::2]
        return {name: torch.stack([log[name].float() for log in logs]) for name in logs[0]}


def norm(x: torch.Tensor) -> torch.Tensor:
    """L2, float32."""
    return x.double().norm().float()


@case("vae_train_trace")
def vae_train_trace(case: Case) -> Made:
    run = Run(case, torch.float64)
    names = case.config["param_names"]
    initial = {name: run.model.state_dict()[name].clone() for name in names}
    run.steps(case, torch.float64)
    final = run.model.state_dict()
    moved = [final[name] - initial[name] for name in names]
    (rec_first, z_first), *_, (rec_last, _) = run.made
    out: dict[str, Any] = {
        "rec_first": rec_first,
        "z_first": z_first,
        "rec_last": rec_last,
        "grad_norm_ae": torch.stack(run.norms["ae"]),
        "grad_norm_disc": torch.stack(run.norms["disc"]),
        "grad0_norms": torch.stack([norm(run.first_gradients[name]) for name in names]),
        "delta_norm": torch.stack([norm(tensor) for tensor in moved]),
        "delta_sum": torch.stack([tensor.sum() for tensor in moved]),
    }
    made: Made = {f"out.{name}": tensor.float() for name, tensor in out.items()}
    rounded = Run(case, torch.float32)
    rounded.steps(case, torch.float32)
    for phase, name in enumerate(("ae", "disc")):
        made |= {f"out.{name}.{k}": v for k, v in run.terms(phase).items()}
        made |= {f"aux.f32.{name}.{k}": v for k, v in rounded.terms(phase).items()}
    small = {k: v for k, v in final.items() if v.numel() <= SMALL and "perceptual" not in k}
    small = {k: v.float() if v.is_floating_point() else v for k, v in small.items()}
    return made | {case.entry["weights"]["final_float64_run_subset"]: small}
