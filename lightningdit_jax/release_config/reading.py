"""A yaml file of the LightningDiT release -> what a config here says of the same run."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import yaml

from lightningdit_jax.errors import one_line
from lightningdit_jax.release_config.generator import NEEDED, SECTIONS, read_generator
from lightningdit_jax.release_config.keys import Keys, Row
from lightningdit_jax.release_config.tokenizer import TARGET, read_tokenizer

SUFFIXES = (".yaml", ".yml")
# What yaml raises, for dates and numbers that are none, say.
_DAMAGE = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Imported:
    """settings: config keys and values; sources: the release's key of each, "" for its program's.

    rows: what became of every key of the file.
    """

    settings: dict[str, Any]
    sources: dict[str, str]
    rows: tuple[Row, ...]

    def nested(self) -> dict[str, Any]:
        """The settings as sections of a config."""
        values: dict[str, Any] = {}
        for key, value in self.settings.items():
            section, _, name = key.rpartition(".")
            (values.setdefault(section, {}) if section else values)[name] = value
        return values


def import_yaml(path: str) -> Imported:
    """Reads a yaml of the release's configs/, tokenizer/configs/ or vavae/configs/.

    Raises FileNotFoundError, and ValueError for a file that is damaged or of another project, and
    for every key that cannot be taken over, with the reason of each.
    """
    values = _read(path)
    try:
        keys = Keys(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if "model.model_type" in keys and "transport" in keys.sections:
        if lacks := [name for name in NEEDED if name not in keys.sections]:
            raise ValueError(
                f"{path} lacks the sections {', '.join(lacks)} of the release's configs/"
            )
        read_generator(keys)
    elif keys.value("model.target") == TARGET and "model.params.embed_dim" in keys:
        read_tokenizer(keys)
    else:
        found = ", ".join(map(str, list(values)[:8])) or "nothing"
        raise ValueError(
            f"{path} is no yaml of the LightningDiT release: it holds {found}; expected the "
            f"sections {', '.join(SECTIONS)} of its configs/, or {TARGET} as model.target of its "
            "tokenizer/configs/ and vavae/configs/"
        )
    keys.finish()
    if refused := [f"{row.key}: {row.text}" for row in keys.rows if row.how == "refused"]:
        raise ValueError(f"{path} asks for what cannot be taken over: {'; '.join(refused)}")
    return Imported(keys.settings, keys.sources, tuple(keys.rows))


def _read(path: str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}") from error
    except _DAMAGE as error:
        raise ValueError(f"{path} cannot be read as yaml: {one_line(error)}") from error
    if not isinstance(values, Mapping):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise ValueError(f"{path} holds {kind}; expected the sections of a config of the release")
    return values
