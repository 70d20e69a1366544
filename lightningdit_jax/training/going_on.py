"""What a run that goes on takes over from its newest checkpoint's description."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from lightningdit_jax.assembly.history import change_lines, changes_since
from lightningdit_jax.averages import power_sigmas
from lightningdit_jax.checkpoint import item_names, read_json, read_meta
from lightningdit_jax.data.pipeline import shift_of_batches
from lightningdit_jax.parallel.multihost import print_once


def inherited(newest: epath.Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the meta of a run that goes on from `newest`, besides those of its config.

    Where its weights began; the history of what was changed, with what changes now, which is said;
    the shift of its batches, whose size may be another; and the steps at which power-function
    averages began, where that was not the first. A field is there where it says
    something. meta: what the run says of itself by its config.
    """
    found = read_meta(newest)
    changes = changes_since(found, meta["config"])
    print_once(*change_lines(changes))
    shift, size = found.get("data_shift", 0), meta["batch_size"]
    before = found.get("batch_size", size)  # one that the release began says none
    if before != size:
        next_index = read_json(newest, "loop")["data"]["next_index"]
        shift = shift_of_batches(next_index, before, size, shift)
    history = found.get("history", []) + changes
    there, since = item_names(newest), found.get("averages_since", {})
    names = power_sigmas(meta["config"]["train"]["ema_sigmas"])
    since = {n: since.get(n, 0) if n in there else found["step"] for n in names}
    fields = {
        "init": found.get("init"),
        "tokenizer_init": found.get("tokenizer_init"),
        "history": history,
        "data_shift": shift,
        "averages_since": {name: step for name, step in since.items() if step},
    }
    return {name: value for name, value in fields.items() if value}
