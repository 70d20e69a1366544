"""A yaml file of the LightningDiT release -> one of our config files that does the same.

    python scripts/import_release_config.py THEIR.yaml --output=configs/mine.py

Prints what became of each key: mapped, implied (nothing has to be said here, and why). A key that
cannot be taken over is refused with its reason, and nothing is written. Without --output it only
prints. main.py reads such a file itself: --config=THEIR.yaml.
"""

import argparse
import importlib
import pathlib
import sys


def main() -> None:
    """Reads, checks, prints and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("yaml", metavar="THEIR.yaml")
    parser.add_argument("--output", metavar="FILE.py", help="config file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace it if it is there")
    options = parser.parse_args()
    try:
        convert(options.yaml, options.output, options.overwrite)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def convert(source: str, output: str | None, overwrite: bool) -> None:
    """The work itself. Raises what import_yaml and the checks of a config raise."""
    from lightningdit_jax.assembly.models import generator_config, tokenizer_config
    from lightningdit_jax.atomic_file import replacing
    from lightningdit_jax.config import Config, from_dict
    from lightningdit_jax.config_fields import key_types
    from lightningdit_jax.release_config.reading import import_yaml
    from lightningdit_jax.release_config.writing import base_of, config_text

    if output is not None and pathlib.Path(output).suffix != ".py":
        raise ValueError(f"--output={output}: a config is a Python file; expected FILE.py")
    if output is not None and pathlib.Path(output).exists() and not overwrite:
        raise FileExistsError(f"{output} is there already; delete it or pass --overwrite")
    imported = import_yaml(source)
    c = importlib.import_module(f"lightningdit_jax.configs.{base_of(imported)}").get_config()
    before = from_dict(c)
    for key, value in imported.settings.items():
        section, _, name = key.rpartition(".")
        (c[section] if section else c)[name] = value
    config = from_dict(c)
    (generator_config if config.kind == "lightningdit" else tokenizer_config)(config)
    for row in imported.rows:
        print(row)
    if output is None:
        return
    values = {key: before.value(key) for key in key_types(Config)}
    name = pathlib.Path(source).name
    text = config_text(imported, values, name=name, output=output)
    with replacing(output) as temporary:
        temporary.write_text(text)
    print(f"written: {output}")
