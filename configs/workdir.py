"""The config that a training run left in its workdir, --config=WORKDIR, or a yaml of the release.

main.py puts the text of WORKDIR/config.json here, or what a yaml says.

    python main.py --config=runs/dit_xl --mode=sample --config.sample.num_samples=64
"""

import json

from lightningdit_jax.configs import base


def get_config(written: str):
    """base with the values of a config.json, or of some of its keys."""
    c = base.get_config()
    for section, values in json.loads(written).items():
        if not isinstance(values, dict):
            c[section] = values
            continue
        for name, value in values.items():
            if value is not None:  # otherwise a placeholder of base
                c[section][name] = tuple(value) if isinstance(value, list) else value
    return c
