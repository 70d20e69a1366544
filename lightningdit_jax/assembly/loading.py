"""A checkpoint directory -> a module ready to call; the directory describes itself."""

import dataclasses
import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from lightningdit_jax.assembly.companion import companion_meta, companion_of, read_companion
from lightningdit_jax.assembly.description import class_names_of, meta_lines
from lightningdit_jax.assembly.fingerprint import weights_fingerprint
from lightningdit_jax.assembly.registry import (
    Role,
    abstract_model,
    architecture,
    compute_options,
    kinds_of,
    model_of,
)
from lightningdit_jax.assembly.synthesis import read_synthesis
from lightningdit_jax.averages import LARGEST_SIGMA, WEIGHTS, weights_item
from lightningdit_jax.checkpoint import (
    architecture_fields,
    find_checkpoint,
    item_names,
    read_arrays,
    read_meta,
    read_model_meta,
    use_checkpoint,
)
from lightningdit_jax.config import ComputeConfig
from lightningdit_jax.errors import unknown_name
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.models.tokenizer import Tokenizer
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.parallel.sharding import abstract_on_mesh
from lightningdit_jax.verification import verifying


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model in functional form with what its checkpoint says of itself.

    params: arrays, or ShapeDtypeStructs where none were read. beside: the name that it has where it
    was trained beside the checkpoint's own model, and meta is what is said of it; else "".
    """

    graphdef: nnx.GraphDef
    params: Any
    meta: dict
    beside: str = ""

    @functools.cached_property
    def config(self) -> Any:
        """The architecture."""
        return architecture(self.meta["kind"], architecture_fields(self.meta))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the weights, see weights_fingerprint. All processes must ask for it."""
        return weights_fingerprint(self.params)

    def module(self) -> nnx.Module:
        """The module, to be called eagerly or inside jit.

        A generator says how it was trained, and it and a tokenizer how their latents are scaled.
        """
        module, role = nnx.merge(self.graphdef, self.params), model_of(self.meta["kind"]).role
        if role is Role.GENERATOR:
            module.flow = self.flow()
        if role in (Role.GENERATOR, Role.TOKENIZER):
            module.latent_scaling = self.scaling()
        return module

    def as_tokenizer(self) -> Tokenizer:
        """The module of what was loaded to be used as a tokenizer."""
        return typing.cast(Tokenizer, self.module())

    def description(self) -> str:
        """What the checkpoint says of itself, for people: one thing a line."""
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return "\n".join(meta_lines(self.meta, count))

    def class_names(self) -> tuple[str, ...]:
        """As class_names_of."""
        return class_names_of(self.meta)

    def flow(self) -> Flow:
        """A generator's path and prediction."""
        return Flow.from_meta(self.meta)

    def scaling(self) -> LatentScaling | None:
        """The scaling of a generator's or a tokenizer's latents, None where nobody knows it."""
        return LatentScaling.from_meta(self.meta.get("latents"))


def load(
    path: str,
    *,
    dtype: Any = jnp.float32,
    use_ema: bool = True,
    ema_decay: float = 0.0,
    ema_sigma: float = 0.0,
    part: str = "",
    verbose: bool = False,
    verify: bool = True,
) -> Any:
    """Loads a converted or trained checkpoint onto the first device.

    path: a checkpoint directory or a workdir (its newest checkpoint), local or gs://; a folder of
    save_for_hub, or a repository that holds one, hf://OWNER/NAME[@REVISION][/FOLDER], which needs
    the extra `hub`.
    dtype: of matmuls; parameters stay float32. use_ema: averaged weights where there are any;
    ema_decay: which, one of the run's train.ema_decays, 0 for its main average. ema_sigma: instead,
    the relative width of an average that is made of those which the run kept, with a line that says
    of which and how exactly (assembly.synthesis, arXiv 2312.02696); 0 is none.
    part: "tokenizer" for that of a run that trained a generator and its tokenizer (REPA-E), whose
    weights are no averages.
    verbose: prints what the checkpoint says of itself: architecture, step, and the files it was
    converted from. verify: compares each array with the digest that was saved with it.
    Returns the module of its kind, LightningDiT or VAVAE for the two that are
    published: for a type checker the caller says which, `dit: ldj.LightningDiT = ldj.load(path)`.
    Raises FileNotFoundError, and ValueError for an unknown kind, for a part or an average that is
    not there, for an average that cannot be made, for a hub that cannot be reached or refuses, and
    for a checkpoint that is damaged; of a run's then an older one is taken, with a line.
    """
    parts: dict[str, Role | None] = {"": None, "tokenizer": Role.TOKENIZER}
    if part not in parts:
        raise ValueError(unknown_name("part of a checkpoint", part, tuple(parts)[1:]))
    mesh = make_mesh(devices=jax.devices()[:1])
    with verifying(verify):
        loaded = load_functional(
            path,
            mesh,
            dtype=dtype,
            use_ema=use_ema,
            ema_decay=ema_decay,
            ema_sigma=ema_sigma,
            expect=parts[part],
        )
    if verbose:
        print(loaded.description())
    return loaded.module()


def latent_stats(path: str) -> LatentScaling | None:
    """How the latents of a generator's checkpoint are scaled; None where it does not know.

    Of a tokenizer converted from diffusers, what its config.json publishes. path: as for `load`.
    """
    return LatentScaling.from_meta(read_meta(find_checkpoint(path)).get("latents"))


def model_meta(checkpoint: epath.Path) -> dict:
    """What a checkpoint of weights says of itself, all of which can be made sense of.

    Raises as read_model_meta, and ValueError naming the checkpoint where it says what nothing is.
    """
    meta = read_model_meta(checkpoint)
    try:
        architecture(meta["kind"], architecture_fields(meta))
        Flow.from_meta(meta)
        LatentScaling.from_meta(meta.get("latents"))
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    return meta


class WrongKindError(ValueError):
    """A checkpoint holds a model that cannot be used as what the caller needs."""


def load_functional(
    path: str,
    mesh: Mesh,
    *,
    dtype: Any = jnp.float32,
    use_ema: bool = True,
    ema_decay: float = 0.0,
    ema_sigma: float = 0.0,
    expect: Role | str | None = None,
    compute: ComputeConfig | None = None,
) -> Loaded:
    """Loads a checkpoint sharded over a mesh, by the same table as in training.

    expect: the role or the kind that the caller needs; of a run that trained a generator and its
    tokenizer it says which of both, and without it that is the generator. compute: how a config has
    models run; None is in `dtype`, and else as the module does by itself. Raises WrongKindError if
    the checkpoint is of another kind, and ValueError if it lacks the average or is damaged, as
    use_checkpoint.
    """
    check_average(use_ema, ema_decay, ema_sigma)

    def read(checkpoint: epath.Path) -> Loaded:
        loaded = _abstract(checkpoint, mesh, dtype=dtype, expect=expect, compute=compute)
        if loaded.beside:
            params, _ = read_companion(checkpoint, loaded.beside, mesh)
            return dataclasses.replace(loaded, params=params)
        if ema_sigma:
            average = read_synthesis(checkpoint, ema_sigma, loaded.params)
            return dataclasses.replace(loaded, params=average)
        items = item_names(checkpoint)
        item = weights_item(items, use_ema, ema_decay, str(checkpoint))
        if item == WEIGHTS and item not in items:
            raise ValueError(
                f"{checkpoint} holds averages alone, to make others of; ema_sigma says of which "
                "relative width, such as 0.1"
            )
        return dataclasses.replace(loaded, params=read_arrays(checkpoint, item, loaded.params))

    return use_checkpoint(path, read)


def check_average(use_ema: bool, ema_decay: float, ema_sigma: float) -> None:
    """Raises ValueError where an ema_sigma is out of range, or chooses beside another."""
    if ema_sigma and (ema_decay or not use_ema or not 0 < ema_sigma <= LARGEST_SIGMA):
        raise ValueError(
            f"ema_sigma is {ema_sigma}, ema_decay {ema_decay} and use_ema {use_ema}; expected an "
            f"ema_sigma of at most {LARGEST_SIGMA} alone, as it chooses the average"
        )


def check_kind(path: str, expect: Role | str) -> None:
    """Raises what load_functional would, of a checkpoint that is missing or of another kind.

    By what it says of itself: reads no array, and builds no model.
    """
    _meta_of(find_checkpoint(path), expect)


def abstract_functional(
    path: str, mesh: Mesh, *, expect: Role | str | None = None, compute: ComputeConfig
) -> Loaded:
    """As load_functional, without reading an array."""
    return _abstract(find_checkpoint(path), mesh, expect=expect, compute=compute)


def abstract_network(kind: str, config: Any, mesh: Mesh, compute: ComputeConfig) -> Loaded:
    """As abstract_functional, of an architecture that no checkpoint has to hold."""
    options = compute_options(kind, config, compute, mesh)
    graphdef, abstract = abstract_model(kind, config, **options)
    meta = {"kind": kind, "architecture": dataclasses.asdict(config)}
    return Loaded(graphdef, abstract_on_mesh(abstract, mesh, model_of(kind).rules), meta)


def _meta_of(checkpoint: epath.Path, expect: Role | str | None) -> tuple[dict, str]:
    """What is said of the model that is expected, and its name where it lies beside another."""
    meta, beside = model_meta(checkpoint), ""
    if expect is not None and expect not in (meta["kind"], model_of(meta["kind"]).role):
        beside = companion_of(checkpoint, meta, expect)
        meta = companion_meta(meta, beside) if beside else meta
    kind = meta["kind"]
    if expect is not None and expect not in (kind, model_of(kind).role):
        wanted = expect
        if isinstance(expect, Role):
            wanted = f"{expect.value} ({', '.join(kinds_of(expect))})"
        raise WrongKindError(f"{checkpoint} holds a {kind}; expected a {wanted}")
    return meta, beside


def _abstract(
    checkpoint: epath.Path,
    mesh: Mesh,
    *,
    dtype: Any = jnp.float32,
    expect: Role | str | None,
    compute: ComputeConfig | None,
) -> Loaded:
    meta, beside = _meta_of(checkpoint, expect)
    kind, model = meta["kind"], model_of(meta["kind"])
    config = architecture(kind, architecture_fields(meta))
    options = {"dtype": dtype} if compute is None else compute_options(kind, config, compute, mesh)
    graphdef, abstract = abstract_model(kind, config, **options)
    return Loaded(graphdef, abstract_on_mesh(abstract, mesh, model.rules), meta, beside)
