"""Names of averaged weights, as items of checkpoints.

`ema` of the main decay, `ema_0.999` of further ones, `ema_sigma_0.05` of a power function of that
relative width. Imports nothing of ours.
"""

from collections.abc import Iterable, Sequence

MAIN = "ema"
WEIGHTS = "params"  # not averaged
# Of a power function, whose exponent is 0 at 0.2887, the mean of all steps (arXiv 2312.02696, eq.
# 123).
LARGEST_SIGMA = 0.28
_POWER = f"{MAIN}_sigma_"


def average_decays(ema_decay: float, ema_decays: Sequence[float]) -> dict[str, float]:
    """Decays of the averages of constant decay, by name; an ema_decay of 0 keeps no main one."""
    main = {MAIN: ema_decay} if ema_decay else {}
    return main | {average_name(decay): decay for decay in ema_decays}


def power_sigmas(ema_sigmas: Sequence[float]) -> dict[str, float]:
    """Relative widths of the power-function averages, by name."""
    return {power_name(sigma): sigma for sigma in ema_sigmas}


def average_name(decay: float) -> str:
    """Of one of train.ema_decays: `ema_0.999`."""
    return f"{MAIN}_{decay}"


def power_name(sigma: float) -> str:
    """Of one of train.ema_sigmas: `ema_sigma_0.05`."""
    return f"{_POWER}{sigma}"


def is_average(item: str) -> bool:
    """Whether an item of a checkpoint holds averaged weights."""
    return item == MAIN or item.startswith(f"{MAIN}_")


def is_power_average(item: str) -> bool:
    """Whether an item of a checkpoint is one of train.ema_sigmas."""
    return item.startswith(_POWER)


def weights_item(items: Iterable[str], use_ema: bool, ema_decay: float, where: str) -> str:
    """The item to take weights from: without use_ema the weights themselves.

    items: those that there are, in `where`. ema_decay: 0 for the main average, or the weights where
    there is none; else that of a further one. Raises ValueError naming the averages there are.
    """
    averages = sorted(i for i in items if is_average(i) and not is_power_average(i))
    main = MAIN if MAIN in averages else WEIGHTS
    if use_ema and ema_decay:
        if (name := average_name(ema_decay)) not in averages:
            raise ValueError(
                f"{where} has no average '{name}'; there are: {', '.join(averages) or 'none'}; "
                f"ema_decay takes the number in such a name, and 0 takes '{main}'"
            )
        return name
    return main if use_ema else WEIGHTS


def power_item(items: Iterable[str], ema_sigma: float, where: str) -> str:
    """The item of one of train.ema_sigmas. Raises ValueError naming those there are."""
    averages = sorted(filter(is_power_average, items))
    if (name := power_name(ema_sigma)) not in averages:
        raise ValueError(
            f"{where} has no average '{name}'; there are: {', '.join(averages) or 'none'}; within "
            "training ema_sigma takes the number in such a name"
        )
    return name
