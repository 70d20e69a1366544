"""The generator, tokenizer and latent scaling that a config samples with, checked to fit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from lightningdit_jax.assembly.companion import companion_of
from lightningdit_jax.assembly.identity import weights_identity
from lightningdit_jax.assembly.latents import its_checkpoint
from lightningdit_jax.assembly.loading import (
    Loaded,
    abstract_functional,
    load_functional,
    model_meta,
)
from lightningdit_jax.assembly.registry import Role
from lightningdit_jax.checkpoint import find_checkpoint
from lightningdit_jax.config import Config, SampleConfig
from lightningdit_jax.inference.sampling.fitting import (
    GeneratorMeaning,
    check_tokenizer,
    check_weak,
)
from lightningdit_jax.inference.sampling.options import choose_labels
from lightningdit_jax.inference.sampling.plan import plan_sampler
from lightningdit_jax.inference.sampling.sampler import Sampler, Structure
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.planning.hardware import Hardware
from lightningdit_jax.planning.mesh import inference_mesh


@dataclasses.dataclass(frozen=True)
class FoundSampler:
    """The networks of config.sample, which fit each other; no array of them is read yet.

    config: with the tokenizer's checkpoint; path: the generator's. class_names: of the generator's
    classes by number, empty where its checkpoint does not know them.
    """

    config: Config
    path: str
    structure: Structure
    class_names: tuple[str, ...]

    def check_labels(self, mode: str) -> None:
        """Raises ValueError for labels that the generator does not know, as choose_labels."""
        choose_labels(mode, 1, self.structure.config.num_classes, 0, self.class_names)

    def load(self, num_images: int) -> tuple[Sampler, dict[str, Any]]:
        """As open_sampler."""
        return _load(self.config, self.path, num_images)


def find_sampler(config: Config, workdir: str) -> FoundSampler:
    """The sampler of config.sample as its checkpoints describe it.

    So that what a caller asks of it, labels say, is refused before weights are read. Raises as
    open_sampler.
    """
    path = config.sample.checkpoint or workdir
    mesh = inference_mesh(config.mesh)
    dit = abstract_functional(path, mesh, expect=Role.GENERATOR, compute=config.compute)
    tokenizer = config.sample.tokenizer or own_tokenizer(path)
    if not tokenizer:
        data = dit.meta.get("config", {}).get("data", {})
        needed = its_checkpoint(str(data.get("path", "")))
        raise ValueError(f"config.sample.tokenizer is empty; set it to {needed}")
    config = config.changed(sample={"tokenizer": tokenizer})
    meaning = _meaning(path, dit)
    found = {"dit": dit, **find_companions(config, mesh, meaning)}
    return FoundSampler(config, path, _structure(found, meaning), dit.class_names())


def open_sampler(config: Config, workdir: str, num_images: int) -> tuple[Sampler, dict[str, Any]]:
    """The sampler of config.sample on all devices, and a description of its weights.

    num_images: how many will be asked for, since a batch need not be larger.

    The description names every checkpoint with its step and the fingerprint of its weights, the
    latent scaling, and the classes where their names are known. Raises ValueError or
    FileNotFoundError for checkpoints that are missing, of another kind, or do not fit each other.
    """
    return find_sampler(config, workdir).load(num_images)


def _meaning(path: str, dit: Loaded) -> GeneratorMeaning:
    """Raises ValueError for a generator whose scaling of latents nobody knows."""
    scaling = dit.scaling()
    if scaling is None:
        raise ValueError(
            f"{path} does not say how its latents were normalized; "
            "convert it again with --latent-stats FILE (or none, for a generator of raw latents)"
        )
    return GeneratorMeaning(dit.config, dit.flow(), scaling)


def _structure(networks: Mapping[str, Loaded], meaning: GeneratorMeaning) -> Structure:
    graphdefs: dict[str, Any] = {name: part.graphdef for name, part in networks.items()}
    assert meaning.scaling is not None  # as _meaning has it
    return Structure(**graphdefs, config=meaning.config, scaling=meaning.scaling, flow=meaning.flow)


def _load(config: Config, path: str, num_images: int) -> tuple[Sampler, dict[str, Any]]:
    options, mesh = config.sample, inference_mesh(config.mesh)
    dit = _load_generator(config, path, mesh, options)
    meaning = _meaning(path, dit)
    loaded = {"dit": dit, **load_companions(config, mesh, meaning, dit.meta.get("tokenizer"))}
    if loaded["vae"].beside and options.tokenizer == path:
        _check_together(path, dit, loaded["vae"])
    structure, generator = _structure(loaded, meaning), dit.config
    weights = structure.weights({name: part.params for name, part in loaded.items()})
    tokenizer = loaded["vae"].as_tokenizer()
    plan = plan_sampler(config, mesh, generator, tokenizer, weights, num_images)
    print_once(plan.line(Hardware.of(list(mesh.devices.flat))))
    structure = dataclasses.replace(structure, decode_batch_size=plan.decode_batch_size)
    paths = {"dit": path, "vae": options.tokenizer, "weak": options.weak_checkpoint}
    description = {
        "weights": {name: weights_identity(paths[name], part) for name, part in loaded.items()},
        "latents": dit.meta["latents"],
        **dataclasses.asdict(meaning.flow),
    }
    if names := dit.meta.get("class_names"):
        description["class_names"] = list(names)
    return Sampler(structure, weights, mesh, plan.batch_size, dit.class_names()), description


def _check_together(path: str, generator: Loaded, tokenizer: Loaded) -> None:
    """Raises ValueError for parts of different steps: one of them is damaged in the newest."""
    steps = generator.meta["step"], tokenizer.meta["step"]
    if steps[0] != steps[1]:
        raise ValueError(
            f"{path}: the generator can be read of step {steps[0]:,} and the tokenizer of step "
            f"{steps[1]:,}, which were not trained for each other; name a checkpoint that is whole "
            "as config.sample.checkpoint (--mode=verify says which are)"
        )


def own_tokenizer(path: str) -> str:
    """A generator's checkpoint where its tokenizer was trained beside it and lies there too, or "".

    Raises FileNotFoundError and ValueError as find_checkpoint and model_meta.
    """
    checkpoint = find_checkpoint(path)
    return path if companion_of(checkpoint, model_meta(checkpoint), Role.TOKENIZER) else ""


def with_average(
    sampler: Sampler, description: dict[str, Any], config: Config, workdir: str
) -> tuple[Sampler, dict[str, Any]]:
    """As open_sampler, of another average of the same generator: all else stays as it is."""
    path = config.sample.checkpoint or workdir
    dit = _load_generator(config, path, sampler.mesh, config.sample)
    weights = sampler.weights | sampler.structure.weights({"dit": dit.params})
    identities = description["weights"] | {"dit": weights_identity(path, dit)}
    return dataclasses.replace(sampler, weights=weights), description | {"weights": identities}


def chosen_average(options: SampleConfig) -> dict[str, float]:
    """Which average is sampled with, by its key, where it is not the main one."""
    chosen = {"ema_decay": options.ema_decay, "ema_sigma": options.ema_sigma}
    return {key: value for key, value in chosen.items() if value and options.use_ema}


def find_companions(config: Config, mesh: Mesh, generator: GeneratorMeaning) -> dict[str, Loaded]:
    """As load_companions, without reading an array.

    Raises ValueError or FileNotFoundError for checkpoints that are missing, of another kind, or do
    not fit the generator, its flow and the scaling of its latents.
    """
    options = config.sample
    compute = config.compute
    vae = abstract_functional(options.tokenizer, mesh, expect=Role.TOKENIZER, compute=compute)
    check_tokenizer(generator.config, vae.as_tokenizer().embed_dim, options.tokenizer)
    if not (path := options.weak_checkpoint):
        return {"vae": vae}
    weak = abstract_functional(path, mesh, expect=Role.GENERATOR, compute=compute)
    check_weak(generator, GeneratorMeaning(weak.config, weak.flow(), weak.scaling()), path)
    return {"vae": vae, "weak": weak}


def load_companions(
    config: Config,
    mesh: Mesh,
    generator: GeneratorMeaning,
    made_by: str | None,
) -> dict[str, Loaded]:
    """What a generator samples with: "vae", and for autoguidance "weak".

    generator: that find_companions found them to fit. made_by: fingerprint of the tokenizer that
    made the generator's latents, None where nobody knows; another one is said, since a decoder may
    be tuned on its own. All processes must call it. Raises as load_functional.
    """
    options = config.sample
    vae = load_functional(options.tokenizer, mesh, expect=Role.TOKENIZER, compute=config.compute)
    if made_by is not None and made_by != vae.fingerprint:
        print_once(
            f"{options.tokenizer} is not the tokenizer whose latents the generator was trained on: "
            f"fingerprint {vae.fingerprint}, not {made_by}; unless only its decoder was tuned, "
            "pictures come out wrong"
        )
    theirs = vae.scaling()
    if made_by is None and theirs is not None and theirs != generator.scaling:
        print_once(
            f"{options.tokenizer} says that its latents are scaled {theirs}, the generator's are "
            f"{generator.scaling}; unless it was trained so, pictures come out wrong: convert it "
            "again with --latent-stats and --latent-multiplier"
        )
    if not (path := options.weak_checkpoint):
        return {"vae": vae}
    return {"vae": vae, "weak": _load_generator(config, path, mesh)}


def _load_generator(
    config: Config, path: str, mesh: Mesh, average: SampleConfig | None = None
) -> Loaded:
    """average: whose keys choose it; None is the main one."""
    return load_functional(
        path,
        mesh,
        use_ema=config.sample.use_ema,
        ema_decay=average.ema_decay if average else 0.0,
        ema_sigma=average.ema_sigma if average else 0.0,
        expect=Role.GENERATOR,
        compute=config.compute,
    )
