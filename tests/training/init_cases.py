"""Checkpoints to start from, of random weights, and what a run makes of them at step 0."""

import json

import jax
import numpy as np
from flax import nnx

from lightningdit_jax.checkpoint import save_checkpoint
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.init.source import open_source
from lightningdit_jax.training.init.start import begin
from lightningdit_jax.training.init.takeover import plan_takeover
from lightningdit_jax.training.job import abstract_job
from lightningdit_jax.training.optimizer import make_optimizer
from lightningdit_jax.training.run import compile_ready
from tests import tiny

NAMES = tuple("abcdefghij")


def config(**changes):
    """The tiny generator, smaller still."""
    return tiny.config("digits_dit", **{"model__hidden_size": 16, "model__depth": 2} | changes)


def job_of(config, mesh=None):
    """(job, optimizer, abstract state, mesh) without data."""
    mesh = make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
    job = abstract_job(config, mesh)
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    return job, optimizer, compile_ready(job, config, mesh, optimizer)[2], mesh


def random_tree(tree, seed):
    """Numbers of the size of trained weights in every array."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), tree)


def write_source(path, config, names=NAMES, **meta):
    """A checkpoint of weights and averages, each random; returns its path and the two."""
    job, _, abstract, _ = job_of(config)
    params = random_tree(abstract.params, 0)
    if "pos_embed" in params:  # a table, not learned
        params["pos_embed"] = np.asarray(job.build(nnx.Rngs(0)).pos_embed[...])
    ema = random_tree(abstract.params, 1) | {k: v for k, v in params.items() if k == "pos_embed"}
    said = {"format_version": 1, "kind": config.kind, "step": 40, "class_names": list(names)}
    said |= {**job.description, "latents": LatentScaling().to_meta(), **meta}
    arrays = {"params": params, "ema": ema}
    save_checkpoint(str(path), arrays, {"meta": json.loads(json.dumps(said))})
    return str(path), arrays


def planned(config):
    """The takeover of a config, from its train.init."""
    shapes = job_of(config)[2]
    return plan_takeover(config, open_source(config), shapes)


def begun(config, mesh=None):
    """(state at step 0, origin, takeover, module's structure)."""
    job, optimizer, abstract, mesh = job_of(config, mesh)
    takeover = plan_takeover(config, open_source(config), abstract)
    make_state, origin = begin(takeover, job, config, optimizer, abstract, mesh)
    return make_state(), origin, takeover, job.graphdef()


def velocity(graphdef, params, x, y):
    """What a generator says at times of their own. x: [B, H, W, C], y: [B]."""
    t = np.linspace(0.1, 0.9, len(x)).astype(np.float32)
    return np.asarray(jax.jit(lambda p: nnx.merge(graphdef, p)(x, t, y))(params))


def leaf_of(takeover, name):
    """The decision on one array."""
    return next(leaf for leaf in takeover.leaves if leaf.name == name)
