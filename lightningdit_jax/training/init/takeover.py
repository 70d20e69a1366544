"""What a new run takes from its source: a fate for every array, decided by names and shapes."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.errors import difference
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.path_patterns import check_patterns, is_matched
from lightningdit_jax.training.init.classes import class_rows
from lightningdit_jax.training.init.generator import GeneratorLeaves
from lightningdit_jax.training.init.leaves import Leaf, Shape, counts, fresh, same_shape, taken
from lightningdit_jax.training.init.source import Source
from lightningdit_jax.training.state import Companion, TrainState, trained_names
from lightningdit_jax.tree_paths import named_leaves

# Fields of an architecture whose change no array shows: the same weights would mean another thing.
_SILENT = {
    "lightningdit": ("use_rope",),
    "vavae": ("use_variational", "num_groups", "activation"),
}


@dataclasses.dataclass(frozen=True)
class Takeover:
    """leaves: of the model. companions: leaves of those that are taken, by name; notes: the rest.

    left: names of the source's arrays that config.train.init_exclude leaves behind.
    """

    source: Source
    leaves: tuple[Leaf, ...]
    companions: Mapping[str, tuple[Leaf, ...]]
    notes: tuple[str, ...]
    left: tuple[str, ...]

    def table(self) -> list[str]:
        """How many arrays have each fate, and a line for each that is not simply taken."""
        lines = [f"starts from {self.source}", f"  model: {_counted(self.leaves)}"]
        lines += _lines(self.leaves)
        for name, leaves in self.companions.items():
            lines += [f"  {name}: {_counted(leaves)}", *_lines(leaves)]
        lines += [f"    left behind  {name}" for name in self.left]
        return lines + [f"  {note}" for note in self.notes]

    def changes(self) -> dict[str, Any]:
        """The same for a checkpoint's meta: counts, and what is not simply taken."""
        every = {leaf.name: leaf for leaf in self.leaves}
        for name, leaves in self.companions.items():
            every |= {f"{name}/{leaf.name}": leaf for leaf in leaves}
        return {
            "counts": dict(counts([*every.values()])),
            "changed": {n: f"{leaf.fate}: {leaf.note}" for n, leaf in every.items() if leaf.note},
            "left": list(self.left),
            "notes": list(self.notes),
        }


def plan_takeover(config: Config, source: Source, shapes: TrainState) -> Takeover:
    """The fate of every array. shapes: of the run's state.

    Raises ValueError with all that does not fit at once, for a pattern of config.train.init_exclude
    that matches nothing, and for config.train.init_labels as class_rows.
    """
    here, there = _shapes(shapes.params), _shapes(source.shapes)
    excluded = config.train.init_exclude
    check_patterns("train.init_exclude", excluded, [*trained_names(shapes), *there])
    decide, misfits = _rule(config, source)
    leaves = [
        fresh(name, "excluded") if is_matched(name, excluded) else decide(name, there.get(name), at)
        for name, at in here.items()
    ]
    misfits += [f"{leaf.name} ({leaf.note})" for leaf in leaves if leaf.fate == "refused"]
    over = [name for name in there if name not in here]
    left = tuple(name for name in over if is_matched(name, excluded))
    misfits += [f"{name} (it has no place here)" for name in over if name not in left]
    if misfits:
        section = "model" if config.kind == "lightningdit" else "tokenizer"
        raise ValueError(
            f"config.train.init: {source.checkpoint} does not fit config.{section} "
            f"({_differing(config, source)}): {', '.join(misfits)}; set config.{section} to what "
            "the source has, or leave arrays fresh with config.train.init_exclude"
        )
    companions: dict[str, tuple[Leaf, ...]] = {}
    notes = _flow_notes(config, source)
    for name, companion in shapes.companions.items():
        found, note = _companion(name, companion, source.companion(name), excluded)
        companions |= {name: found} if found else {}
        notes += [f"{name} starts fresh: {note}"] if note else []
    return Takeover(source, tuple(leaves), companions, tuple(notes), left)


def _rule(
    config: Config, source: Source
) -> tuple[Callable[[str, Shape | None, Shape], Leaf], list[str]]:
    """What decides on an array, by its name and its shapes there and here; silent misfits."""
    decide: Callable[[str, Shape | None, Shape], Leaf] = same_shape
    here: Any
    if config.kind == "lightningdit":
        here, names = generator_config(config), source.class_names
        rows = class_rows(source.architecture, here, config.train.init_labels, names)
        decide = GeneratorLeaves(source.architecture, here, rows).leaf
    else:
        here = tokenizer_config(config)
    return decide, [
        f"{name} ({getattr(source.architecture, name)} in the source, {getattr(here, name)} here)"
        for name in _SILENT[config.kind]
        if getattr(source.architecture, name) != getattr(here, name)
    ]


def _companion(
    name: str, companion: Companion, there: Any, excluded: Iterable[str]
) -> tuple[tuple[Leaf, ...], str]:
    """Leaves of a companion that is taken, names as in trained_names, or why it is not."""
    here = _shapes(companion.params)
    names = {part: f"{name}/{part}" for part in here}
    if all(is_matched(full, excluded) for full in names.values()):
        return (), "excluded"
    if there is None:
        return (), "the source has none"
    params, stats = (_shapes(there.get(part, {})) for part in ("params", "stats"))
    if params != here or stats != _shapes(companion.stats):
        return (), "the source's is of another architecture"
    leaves = [
        fresh(part, "excluded") if is_matched(full, excluded) else taken(part)
        for part, full in names.items()
    ]
    return tuple(leaves), ""


def _flow_notes(config: Config, source: Source) -> list[str]:
    if config.kind != "lightningdit":
        return []
    there, here = Flow.from_meta(source.meta), Flow(config.flow.path, config.flow.prediction)
    change = difference(vars(there), vars(here), "{} in the source, {} here")
    return [f"trained for another flow: {change}"] if change else []


def _shapes(tree: Any) -> dict[str, Shape]:
    return {name: tuple(leaf.shape) for name, leaf in named_leaves(tree)}


def _differing(config: Config, source: Source) -> str:
    """Fields of the architecture: `depth 2 there, 3 here; ...`."""
    here: Any = generator_config if config.kind == "lightningdit" else tokenizer_config
    there, here = dataclasses.asdict(source.architecture), dataclasses.asdict(here(config))
    return difference(there, here, "{} there, {} here")


def _counted(leaves: Sequence[Leaf]) -> str:
    return ", ".join(f"{number} {fate}" for fate, number in counts(leaves).items())


def _lines(leaves: Sequence[Leaf]) -> list[str]:
    return [f"    {leaf.fate:11s}  {leaf.name}  {leaf.note}" for leaf in leaves if leaf.note]
