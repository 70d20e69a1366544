"""The model card of a published checkpoint, README.md: what it knows of itself, for people."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

import lightningdit_jax
from lightningdit_jax.assembly.description import class_names_of, origin_lines, source_lines
from lightningdit_jax.assembly.history import change_lines, read_in_training
from lightningdit_jax.assembly.registry import Role, model_of
from lightningdit_jax.averages import is_average
from lightningdit_jax.config_fields import flattened
from lightningdit_jax.configs import base
from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.imagenet_names import imagenet_names
from lightningdit_jax.errors import plain
from lightningdit_jax.hub import Address
from lightningdit_jax.hub_folder import LIBRARY
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.publishing.run import Run

# A card with this line is made anew by each push.
MARK = "<!-- made by lightningdit_jax: a push makes it anew, unless this line is taken out -->"
PICTURE_FILE = "samples.png"

_IMAGENET = "ILSVRC/imagenet-1k"  # the data set's repository
_TASKS: dict[Role | None, str] = {
    Role.GENERATOR: "unconditional-image-generation",
    Role.FOUNDATION: "image-feature-extraction",
}
_TAGS: dict[Role | None, tuple[str, ...]] = {
    Role.GENERATOR: ("diffusion", "class-conditional"),
    Role.TOKENIZER: ("autoencoder",),
}
# What the hub calls metrics that are ours; it has no name for the others.
_METRICS = ("fid", "inception_score", "psnr", "ssim")
_USE: dict[Role | None, str] = {
    Role.GENERATOR: (
        'dit = ldj.load("{where}")\n'
        'vae = ldj.load("hf://OWNER/TOKENIZER")  # the one of its latents\n'
        "images = ldj.generate(dit, vae, labels=[0, 1], seed=0)  # uint8 [2, H, W, 3]\n"
    ),
    Role.TOKENIZER: (
        'vae = ldj.load("{where}")\n'
        "latents = vae.encode(images).mode()  # images [B, H, W, 3] in [-1, 1]\n"
        "images = vae.decode(latents)\n"
    ),
}
_MANY = 40  # rows of a sweep that are shown

Row = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Published:
    """What a card is made of: where it will be, the published `meta`, the number of parameters,
    what its workdir says, and the license, "" where none was given.
    """

    where: Address
    meta: Mapping[str, Any]
    count: int
    run: Run
    license: str

    @property
    def role(self) -> Role | None:
        """What it can be used as."""
        return model_of(self.meta["kind"]).role


def card(published: Published) -> str:
    """The text of README.md: YAML for the hub, then sections; empty ones are left out."""
    front = yaml.safe_dump(_front(published), sort_keys=False, allow_unicode=True)
    use = _USE.get(published.role, 'network = ldj.load("{where}")\n').format(where=published.where)
    meta, run = published.meta, published.run
    name = published.where.repository.rpartition("/")[2]
    parts = [
        f"---\n{front}---\n\n{MARK}\n",
        f"# {name if name != 'NAME' else meta['kind']}\n",
        _summary(published),
        f"![{_caption(run)}]({PICTURE_FILE})\n\n{_caption(run)}.\n" if run.picture else "",
        "## Use\n",
        f"With `{LIBRARY}` ({lightningdit_jax.__version__} wrote this):\n",
        f"```python\nimport lightningdit_jax as ldj\n\n{use}```\n",
        _section("Architecture", _table(("field", "value"), _architecture(meta))),
        _section("How it was trained", _training(meta)),
        _section("History", _list(_history(meta))),
        _section("Numbers", _numbers(run)),
        "## Files\n",
        "`model.safetensors` (in several files where it is large) has the parameters by their "
        "names, float32, in the layouts of the package; `config.json` the architecture, what is "
        "said here, and digests, by which loading verifies every array.\n",
    ]
    return "\n".join(part for part in parts if part)


def _front(published: Published) -> dict[str, Any]:
    meta, run = published.meta, published.run
    names = class_names_of(meta)
    is_imagenet = len(names) > 0 and names == tuple(imagenet_names().values())
    known = {
        "license": published.license,
        "library_name": LIBRARY,
        "pipeline_tag": _TASKS.get(published.role),
        "tags": ["jax", "flax", meta["kind"], *_TAGS.get(published.role, ())],
        "datasets": [_IMAGENET] if is_imagenet else [],
        "metrics": [name for name in _METRICS if any(name in n.lower() for n in run.numbers)],
    }
    return {name: value for name, value in known.items() if value}


def _summary(published: Published) -> str:
    meta = published.meta
    weights = meta["published"]["weights"]
    what = f"the run's averages ({weights})" if is_average(weights) else "the weights themselves"
    which = {"ema": "averages", "model": "raw weights"}.get(
        str((meta.get("source") or {}).get("which"))
    )
    if which is not None:
        what = f"the {which} of the file it was converted from"
    role = f", a {published.role.value}" if published.role else ""
    lines = [
        f"A model of kind `{meta['kind']}`{role}: {published.count:,} parameters, step "
        f"{meta['step']:,}; {what}.",
    ]
    if names := class_names_of(meta):
        lines.append(f"Classes: {_code(class_line(names))}.")
    if scaling := LatentScaling.from_meta(meta.get("latents")):
        lines.append(f"Latents are scaled: {scaling}.")
    return "\n".join(lines) + "\n"


def _caption(run: Run) -> str:
    return f"Pictures of its training at step {run.picture_step:,}"


def _architecture(meta: Mapping[str, Any]) -> list[Row]:
    return [(name, _code(value)) for name, value in meta["architecture"].items()]


def _training(meta: Mapping[str, Any]) -> str:
    """What its config says otherwise than configs/base.py, of the keys that its training reads."""
    config = meta.get("config")
    if not config:
        return ""
    default = flattened(json.loads(json.dumps(base.get_config().to_dict())))
    keys = read_in_training(config)
    rows = [
        (f"`{key}`", _code(value), _code(default[key]))
        for key, value in flattened(config).items()
        if key in keys and key in default and value != default[key]
    ]
    said = "All other keys have the defaults of the package's `configs/base.py`.\n"
    return _table(("key", "value", "default"), rows) + "\n" + said


def _history(meta: Mapping[str, Any]) -> list[str]:
    source, origin = meta.get("source"), meta.get("init")
    lines = source_lines(source) if source else []
    lines += origin_lines(origin) if origin else []
    return lines + change_lines(meta.get("history", []))


def _numbers(run: Run) -> str:
    parts = []
    if run.numbers:
        rows = [(name, f"{value:.6g}") for name, value in run.numbers.items()]
        parts.append(_table(("evaluation", "value"), rows))
        parts.append(_measured_with(run.settings))
    if run.best:
        metric, value = run.best["metric"], run.best["value"]
        parts.append(f"The best {_code(metric)} of its run: {value:.6g}.\n")
    if run.training:
        rows = [(f"`{name}`", f"{value:.6g}") for name, value in run.training.items()]
        parts.append(_table(("while training, at this step", "value"), rows))
    if run.sweep:
        parts.append(_sweep(run.sweep))
    return "\n".join(filter(None, parts))


def _sweep(sweep: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]) -> str:
    """A row for each point: the settings that several values were tried of, and its numbers."""
    settings, numbers = sweep[0]
    said = {name: {json.dumps(tried.get(name)) for tried, _ in sweep} for name in settings}
    varied = [name for name, values in said.items() if len(values) > 1]
    rows: list[Row] = [
        (*(_code(tried.get(n)) for n in varied), *(f"{values[n]:.6g}" for n in numbers))
        for tried, values in sweep[:_MANY]
        if numbers.keys() <= values.keys()
    ]
    same = {k: v for k, v in settings.items() if k not in varied}
    plainly = {k: v for k, v in same.items() if isinstance(v, str | int | float)}
    return _table((*varied, *numbers), rows) + "\n" + _measured_with(plainly)


def _measured_with(settings: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {_code(value)}" for name, value in settings.items())
    return f"Measured with {said}.\n" if said else ""


def _section(heading: str, body: str) -> str:
    return f"## {heading}\n\n{body}" if body else ""


def _list(lines: Iterable[str]) -> str:
    return "".join(f"- {_code(line.strip())}\n" for line in lines)


def _table(heads: Sequence[str], rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _code(value: Any) -> str:
    """A value as code, whatever it holds: it stays within its cell."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "`{}`".format(plain(text, 300).replace("`", "'").replace("|", "\\|") or " ")
