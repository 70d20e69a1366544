"""A checkpoint directory -> a module ready to call; the directory describes itself."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.assembly.models import generator_options
from lightningdit_jax.assembly.registry import MODELS, abstract_model, architecture
from lightningdit_jax.averages import weights_item
from lightningdit_jax.checkpoint import (
    architecture_fields,
    find_checkpoint,
    item_names,
    read_arrays,
    read_meta,
)
from lightningdit_jax.config import ComputeConfig
from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model in functional form with what its checkpoint says of itself."""

    graphdef: nnx.GraphDef
    params: Any
    meta: dict

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the weights, see weights_fingerprint. All processes must ask for it."""
        return weights_fingerprint(self.params)

    def module(self) -> nnx.Module:
        """The module, to be called eagerly or inside jit; a generator says how it was trained."""
        module = nnx.merge(self.graphdef, self.params)
        if self.meta["kind"] == "lightningdit":
            module.flow, module.latent_scaling = self.flow(), self.scaling()
        return module

    def description(self) -> str:
        """What the checkpoint says of itself, for people: one thing a line."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        lines = [f"{self.meta['kind']}, {count:,} parameters, step {self.meta['step']:,}"]
        lines += [f"  {key:26s} {value}" for key, value in self.meta["architecture"].items()]
        if names := self.class_names():
            lines.append(class_line(names))
        if scaling := LatentScaling.from_meta(self.meta.get("latents")):
            lines.append(f"  {'scaled latents':26s} {scaling}")
        if source := self.meta.get("source"):
            lines.append(f"converted as {source['kind']} from")
            lines += [f"  {f['file']}  SHA-256 {f['sha256']}" for f in source["files"]]
            taken = f"{source['converted']} of {source['tensors']} tensors"
            which = {"ema": " (averages)", "model": " (raw weights)"}.get(source.get("which"), "")
            lines.append(f"  {taken} of {source['weights'] or 'the file'}{which}")
            lines += [f"  left out: {n}, {reason}" for reason, n in source["left_out"].items()]
        return "\n".join(lines)

    def class_names(self) -> tuple[str, ...]:
        """Names of a generator's classes by number, empty where the checkpoint does not know."""
        return tuple(self.meta.get("class_names", ()))

    def flow(self) -> Flow:
        """A generator's path and prediction."""
        return Flow.from_meta(self.meta)

    def scaling(self) -> LatentScaling | None:
        """A generator's latent scaling, None where the checkpoint does not know it."""
        return LatentScaling.from_meta(self.meta.get("latents"))


def load(
    path: str,
    *,
    dtype: Any = jnp.float32,
    use_ema: bool = True,
    ema_decay: float = 0.0,
    verbose: bool = False,
) -> Any:
    """Loads a converted or trained checkpoint onto the first device.

    path: a checkpoint directory or a workdir (its newest checkpoint), local or gs://.
    dtype: of matmuls; parameters stay float32. use_ema: averaged weights where there are any;
    ema_decay: which, one of the run's train.ema_decays, 0 for its main average.
    verbose: prints what the checkpoint says of itself: architecture, step, and the files it was
    converted from. Returns the module of its kind, LightningDiT or VAVAE for the two that are
    published: for a type checker the caller says which, `dit: ldj.LightningDiT = ldj.load(path)`.
    Raises FileNotFoundError, and ValueError for an unknown kind and for an average that is not
    there.
    """
    mesh = make_mesh(devices=jax.devices()[:1])
    loaded = load_functional(path, mesh, dtype=dtype, use_ema=use_ema, ema_decay=ema_decay)
    if verbose:
        print(loaded.description())
    return loaded.module()


def latent_stats(path: str) -> LatentScaling | None:
    """How the latents of a generator's checkpoint are scaled; None where it does not know.

    Of a tokenizer converted from diffusers, what its config.json publishes. path: as for `load`.
    """
    return LatentScaling.from_meta(read_meta(find_checkpoint(path)).get("latents"))


def load_functional(
    path: str,
    mesh: Mesh,
    *,
    dtype: Any = jnp.float32,
    use_ema: bool = True,
    ema_decay: float = 0.0,
    expect: str | None = None,
    compute: ComputeConfig | None = None,
) -> Loaded:
    """Loads a checkpoint sharded over a mesh, by the same table as in training.

    expect: kind that the caller needs. compute: how a generator's blocks are run; None is as the
    module does by itself. Raises ValueError if the checkpoint is of another kind or lacks the
    average.
    """
    checkpoint = find_checkpoint(path)
    meta = read_meta(checkpoint)
    if expect is not None and meta["kind"] != expect:
        raise ValueError(f"{checkpoint} holds a {meta['kind']}; expected a {expect}")
    kind = meta["kind"]
    config = architecture(kind, architecture_fields(meta))
    options = {}
    if kind == "lightningdit" and compute is not None:
        options = generator_options(compute, config, mesh)
    graphdef, abstract = abstract_model(kind, config, dtype, **options)
    abstract = abstract_on_mesh(abstract, mesh, MODELS[kind].rules)
    item = weights_item(item_names(checkpoint), use_ema, ema_decay, str(checkpoint))
    return Loaded(graphdef, read_arrays(checkpoint, item, abstract), meta)
