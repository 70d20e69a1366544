"""The tokenizer's step: three of the release's, both players; then whole runs on tiny networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lightningdit_jax.assembly.registry import abstract_model
from lightningdit_jax.convert.convert import params_from_torch, params_to_torch
from lightningdit_jax.models.linear_proj import LinearProjConfig
from lightningdit_jax.models.posterior import DiagonalGaussian
from lightningdit_jax.models.rngs import CountedRngs
from lightningdit_jax.models.vae import VAVAE
from lightningdit_jax.training.companions import DISCRIMINATOR, LINEAR_PROJ
from lightningdit_jax.training.frozen import LPIPS
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.state import create_state
from lightningdit_jax.training.vae_step import make_vae_update
from tests import golden, tiny
from tests.training import vae_cases

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)

CASE = "vae_train_trace"


def trace_config(entry):
    """The case's losses and optimizer as a config."""
    loss, adam = entry["config"]["lossconfig"], entry["config"]["optimizer"]
    config = tiny.config(
        "digits_vavae",
        stages__disc_start=(loss["disc_start"],),
        stages__vf_weight=(loss["vf_weight"],),
        stages__distmat_margin=(loss["distmat_margin"],),
        stages__cos_margin=(loss["cos_margin"],),
        optimizer__learning_rate=adam["lr"],
        optimizer__warmup_steps=0,
        optimizer__beta1=adam["betas"][0],
        optimizer__beta2=adam["betas"][1],
        optimizer__eps=adam["eps"],
    )
    loss = dataclasses.replace(
        vae_cases.RELEASED,
        kl_weight=loss["kl_weight"],
        disc_weight=loss["disc_weight"],
        adaptive_vf=loss["adaptive_vf"],
        reverse_proj=entry["config"]["reverse_proj"],
    )
    return dataclasses.replace(config, vae_loss=loss)


def recorder():
    """Keeps the gradients of the last step in the optimizer's state."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda u, state, params: (u, u)
    )


def as_float64(tree):
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64 if np.issubdtype(x.dtype, np.floating) else None), tree
    )


class Float64VAVAE(VAVAE):
    """The autoencoder without its casts to float32."""

    def encode(self, images):
        mean, logvar = jnp.split(self.quant_conv(self.encoder(images)), 2, axis=-1)
        return DiagonalGaussian(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


@dataclasses.dataclass
class Trace:
    """The steps of the case; `named(params, discriminator, projection)` has the release's names."""

    entry: dict
    data: dict
    states: list
    metrics: list
    named: object
    update: object

    def gradients(self, state):
        """Of the step that made this state, under the release's names."""
        companions = state.companions
        discriminator = companions[DISCRIMINATOR]
        return self.named(
            state.opt_state[0],
            dataclasses.replace(discriminator, params=discriminator.opt_state[0]),
            companions[LINEAR_PROJ].opt_state[0],
        )

    def weights(self, state):
        companions = state.companions
        return self.named(state.params, companions[DISCRIMINATOR], companions[LINEAR_PROJ].params)


def plain_attention(q, k, v):
    """jax.nn.dot_product_attention without its softmax in float32. [B, N, H, C]."""
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(logits), v)


@pytest.fixture(scope="module")
def trace():
    """In float64, as the case is: in float32 rounding decides the signs of some of Adam's steps."""
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.nn, "dot_product_attention", plain_attention)
        result = run_trace()
    return result


def run_trace():
    entry, data = golden.index()[CASE], golden.load(CASE)
    config = trace_config(entry)
    weights = golden.load_file(golden.GOLDEN / entry["weights"]["autoencoder"])
    architecture, params = params_from_torch("vavae", weights)
    graphdef = nnx.graphdef(
        nnx.eval_shape(lambda: Float64VAVAE(architecture, dtype=np.float64, rngs=CountedRngs(0)))
    )
    kernel = data["in.linear_proj.weight"][:, :, 0, 0].T
    projection, _ = abstract_model("linear_proj", LinearProjConfig(*kernel.shape), np.float64)
    lpips = vae_cases.lpips(dtype=np.float64)
    discriminator = vae_cases.discriminator()

    def named(params, discriminator_state, projection):
        state = params_to_torch("vavae", architecture, jax.tree.map(np.asarray, params))
        adversary = discriminator.to_torch(discriminator_state.params, discriminator_state.stats)
        state |= {f"loss.discriminator.{k}": v for k, v in adversary.items()}
        return state | {"linear_proj.weight": np.asarray(projection["kernel"]).T[..., None, None]}

    optimizer = optax.chain(recorder(), make_optimizer(config.optimizer, config.train.num_steps))
    networks = {
        LPIPS: lpips.graphdef,
        DISCRIMINATOR: discriminator.graphdef,
        LINEAR_PROJ: projection,
    }
    update = jax.jit(make_vae_update(graphdef, config, optimizer, networks))
    state = create_state(
        as_float64(params),
        optimizer,
        ema=False,
        companions={
            DISCRIMINATOR: (as_float64(discriminator.params), as_float64(discriminator.stats)),
            LINEAR_PROJ: (as_float64({"kernel": kernel}), {}),
        },
    )
    states, metrics = [state], []
    batches = [
        as_float64([golden.to_nhwc(data[f"in.{name}"][i]) for name in ("images", "eps", "aux")])
        for i in range(entry["config"]["steps"])
    ]
    for images, eps, aux in batches:
        state, record = update(state, images, eps, as_float64(lpips.params), aux)
        states.append(state)
        metrics.append(record)

    def again(state, noise):
        return update(state, batches[0][0], noise, as_float64(lpips.params), batches[0][2])

    return Trace(entry, data, states, metrics, named, again)


def test_logged_terms(trace):
    tolerance = trace.entry["tolerance"]
    names = {"total_loss": "loss", "kl_loss": "kl", "nll_loss": "nll"}
    logged = [k for k in trace.data if k.startswith(("out.ae.", "out.disc."))]
    assert len(logged) == 13
    for key in logged:
        name = key.rpartition(".")[2]
        if name == "rec_loss":
            got = [m["l1"] + m["lpips"] for m in trace.metrics]
        elif name == "logvar":
            got = [0.0] * len(trace.metrics)
        else:
            got = [m[names.get(name, name)] for m in trace.metrics]
        golden.assert_close(got, trace.data[key], tolerance)
    norms = {"grad_norm_ae": "grad_norm", "grad_norm_disc": "grad_norm_disc"}
    for key, name in norms.items():
        golden.assert_close([m[name] for m in trace.metrics], trace.data[f"out.{key}"], tolerance)


def test_gradients_of_the_first_step(trace):
    names, tolerance = trace.entry["config"]["param_names"], trace.entry["tolerance"]
    got = trace.gradients(trace.states[1])
    norms = [np.linalg.norm(np.asarray(got[name]).ravel()) for name in names]
    np.testing.assert_allclose(
        norms, trace.data["out.grad0_norms"], atol=tolerance["atol"], rtol=tolerance["rtol"]
    )


def test_weights_and_statistics_at_the_end(trace):
    entry = trace.entry
    first, last = trace.weights(trace.states[0]), trace.weights(trace.states[-1])
    tolerance = entry["tolerance"]["final_params"]
    subset = golden.load_file(golden.GOLDEN / entry["weights"]["final_float64_run_subset"])
    subset.pop("loss.logvar")
    for name, want in subset.items():
        np.testing.assert_allclose(last[name], want, **tolerance, err_msg=name)
    change = [
        np.asarray(last[n], float) - np.asarray(first[n], float)
        for n in entry["config"]["param_names"]
    ]
    np.testing.assert_allclose(
        [np.linalg.norm(c.ravel()) for c in change],
        trace.data["out.delta_norm"],
        rtol=1e-2,
        atol=2e-6,
    )


def test_a_bad_step_leaves_every_network_as_it_was(trace):
    with jax.enable_x64(True):
        before = trace.states[-1]
        noise = np.full(golden.to_nhwc(trace.data["in.eps"][0]).shape, np.nan)
        after, metrics = trace.update(before, as_float64(noise))
    assert not metrics["finite"]
    jax.tree.map(np.testing.assert_array_equal, after.replace(step=before.step), before)
    assert after.step == before.step + 1
