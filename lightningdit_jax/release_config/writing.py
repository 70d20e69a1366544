"""The text of a config file that says what was imported."""

import json
from collections.abc import Mapping
from typing import Any

from lightningdit_jax.release_config.reading import Imported

_TEMPLATE = '''"""{name} of the LightningDiT release, by scripts/import_release_config.py.

    python main.py --config={output} --workdir=WORKDIR
"""

from lightningdit_jax.configs import {base}


def get_config():
    """{base} with what the file says otherwise."""
    c = {base}.get_config()
{lines}
    return c
'''


def base_of(imported: Imported) -> str:
    """The module of configs/ that the written file starts from."""
    return "base" if imported.settings["kind"] == "lightningdit" else "vavae_f16d32"


def config_text(imported: Imported, base: Mapping[str, Any], *, name: str, output: str) -> str:
    """A config file that imports the config of base_of and changes what differs from it.

    base: the values of that config by dotted key. name: of the file that was imported. output: of
    the file to write.
    """
    lines = []
    for key, value in imported.settings.items():
        if base[key] != value:
            source = imported.sources[key] or "the release's program"
            text = json.dumps(value) if isinstance(value, str) else repr(value)
            lines.append(f"    c.{key} = {text}  # {source}")
    module = base_of(imported)
    return _TEMPLATE.format(name=name, output=output, base=module, lines="\n".join(lines)).replace(
        "get_config()\n\n    return", "get_config()\n    return"
    )
