"""All kinds of input, and how many of each are tried."""

from tests.fuzz import (
    checkpoint_kinds,
    config_kinds,
    converter_kinds,
    image_kinds,
    json_kinds,
    npz_kinds,
    safetensors_kinds,
    source_kinds,
    torch_kinds,
)

_COUNTS = (
    (torch_kinds, (2000, 1000, 500)),
    (safetensors_kinds, (1000, 1000)),
    (npz_kinds, (800, 600, 400)),
    (image_kinds, (1500,)),
    (source_kinds, (800, 800, 600)),
    (json_kinds, (1000, 600, 500)),
    (checkpoint_kinds, (800,)),
    (converter_kinds, (400, 400)),
    (config_kinds, (1500, 600, 1000)),
)
KINDS = {
    kind: count
    for module, counts in _COUNTS
    for kind, count in zip(module.KINDS, counts, strict=True)
}
