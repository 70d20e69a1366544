"""Names of averaged weights, as items of checkpoints: `ema`, and `ema_0.999` for further decays.

Imports nothing of ours.
"""

from collections.abc import Iterable, Sequence

MAIN = "ema"
WEIGHTS = "params"  # not averaged


def average_decays(ema_decay: float, ema_decays: Sequence[float]) -> dict[str, float]:
    """Decays of the averages that a run keeps, by name; an ema_decay of 0 keeps no main one."""
    main = {MAIN: ema_decay} if ema_decay else {}
    return main | {average_name(decay): decay for decay in ema_decays}


def average_name(decay: float) -> str:
    """Of one of train.ema_decays: `ema_0.999`."""
    return f"{MAIN}_{decay}"


def is_average(item: str) -> bool:
    """Whether an item of a checkpoint holds averaged weights."""
    return item == MAIN or item.startswith(f"{MAIN}_")


def weights_item(items: Iterable[str], use_ema: bool, ema_decay: float, where: str) -> str:
    """The item to take weights from: without use_ema the weights themselves.

    items: those that there are, in `where`. ema_decay: 0 for the main average, or the weights where
    there is none; else that of a further one. Raises ValueError naming the averages there are.
    """
    averages = sorted(filter(is_average, items))
    main = MAIN if MAIN in averages else WEIGHTS
    if use_ema and ema_decay:
        if (name := average_name(ema_decay)) not in averages:
            raise ValueError(
                f"{where} has no average '{name}'; there are: {', '.join(averages) or 'none'}; "
                f"ema_decay takes the number in such a name, and 0 takes '{main}'"
            )
        return name
    return main if use_ema else WEIGHTS
