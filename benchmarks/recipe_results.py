"""What the runs of benchmarks/recipes.py say: paired differences, a table and a picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.recipe_switches import BASELINE
from lightningdit_jax.evaluation.error_bars import ErrorBar, of_mean
from lightningdit_jax.inference.quality.comparison import LARGER, SMALLER

# Of each number what is better: less or more of it.
NUMBERS = {"digits_fid": -1, "recognised_share": 1}
FID = "digits_fid"
STEPS, FLOPS = "steps", "flops"  # what is equal
CASES = {STEPS: "equal steps", FLOPS: "equal FLOPs"}
Row = Mapping[str, Any]  # a run by what is equal; FLOPs only where that is another run
Numbers = Mapping[str, Mapping[str, Mapping[str, float]]]  # training seed, sampling seed, name


def of_seeds(numbers: Numbers, name: str) -> dict[str, float]:
    """The mean over sampling seeds of each training seed."""
    return {
        seed: float(np.mean([drawn[name] for drawn in by_sampling.values()]))
        for seed, by_sampling in numbers.items()
    }


def difference(numbers: Numbers, baseline: Numbers, name: str) -> ErrorBar:
    """Less the baseline's: the mean over training seeds, each with its own baseline.

    Both have data, noise and first weights of a seed in common, and noise and labels of sampling.
    """
    ours, theirs = of_seeds(numbers, name), of_seeds(baseline, name)
    return of_mean([ours[seed] - theirs[seed] for seed in theirs])


def verdict(name: str, bar: ErrorBar) -> str:
    """Better or worse, or that it is smaller than the spread."""
    low, high = bar.interval
    if low <= 0 <= high:
        return SMALLER
    return "better" if bar.value * NUMBERS[name] > 0 else "worse"


def runs_of(row: Row) -> dict[str, Any]:
    """The run at equal steps and that at equal FLOPs, which may be one."""
    return {STEPS: row[STEPS], FLOPS: row.get(FLOPS, row[STEPS])}


def gains(rows: Mapping[str, Row]) -> dict[str, float]:
    """By how much digits_fid is lower at equal FLOPs, where that is more than the spread."""
    baseline, found = rows[BASELINE][STEPS]["numbers"], {}
    for name, row in rows.items():
        if name != BASELINE:
            bar = difference(runs_of(row)[FLOPS]["numbers"], baseline, FID)
            if verdict(FID, bar) == "better":
                found[name] = -bar.value
    return found


def table(rows: Mapping[str, Row], baseline: str = BASELINE) -> str:
    """Markdown: a row a switch, differences from the baseline with 95 % intervals."""
    base = rows[baseline][STEPS]
    absolute = [
        f"{name} {bar.value:.3f} ± {half(bar):.3f}"
        for name in NUMBERS
        for bar in [of_mean(list(of_seeds(base["numbers"], name).values()))]
    ]
    heads = [f"{name}, {said}" for name in NUMBERS for said in CASES.values()]
    lines = [
        f"{baseline}: {', '.join(absolute)}",
        "",
        f"| | training | sampling | {' | '.join(heads)} |",
        "|" + "---|" * (3 + len(heads)),
    ]
    for switch, row in rows.items():
        if switch == baseline:
            continue
        costs = [row[STEPS][cost] / base[cost] for cost in ("step_flops", "sampling_flops")]
        cells = [f"{cost:.2f}" for cost in costs]
        for name in NUMBERS:
            for at in CASES:
                alike = at == FLOPS and FLOPS not in row
                cells.append("the same" if alike else cell(name, row[at], base))
        lines.append(f"| {switch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(name: str, run: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """A difference, its interval, and what it is."""
    bar = difference(run["numbers"], baseline["numbers"], name)
    text = f"{bar.value:+.3f} ± {half(bar):.3f}"
    said = verdict(name, bar)
    return text if said == SMALLER else f"{text} **{said}**"


def half(bar: ErrorBar) -> float:
    """Of the interval's width."""
    low, high = bar.interval
    return (high - low) / 2


def summary(rows: Mapping[str, Row], baseline: str = BASELINE) -> str:
    """How many differences there are, how many larger than the spread, and how many by chance."""
    base = rows[baseline][STEPS]["numbers"]
    lines = []
    for name in NUMBERS:
        bars = [
            difference(run["numbers"], base, name)
            for switch, row in rows.items()
            if switch != baseline
            for at, run in runs_of(row).items()
            if at == STEPS or FLOPS in row
        ]
        said = [verdict(name, bar) for bar in bars]
        larger = len(said) - said.count(SMALLER)
        lines.append(
            f"{name}: {len(said)} differences, {larger} {LARGER} ({said.count('better')} better, "
            f"{said.count('worse')} worse); if no switch did anything, {0.05 * len(said):.1f} "
            "would be by chance"
        )
    return "\n".join(lines)


def plot(rows: Mapping[str, Row], path: pathlib.Path, baseline: str = BASELINE) -> None:
    """Differences and their intervals, a panel for each number."""
    base = rows[baseline][STEPS]["numbers"]
    names = [name for name in rows if name != baseline]
    figure, panels = plt.subplots(
        1, len(NUMBERS), figsize=(9, 1.2 + 0.26 * len(names)), sharey=True, layout="constrained"
    )
    for panel, (number, better) in zip(panels, NUMBERS.items()):
        for (at, said), shift, color in zip(CASES.items(), (-0.15, 0.15), ("C0", "C1")):
            shown = [i for i, name in enumerate(names) if at in rows[name]]
            bars = [difference(rows[names[i]][at]["numbers"], base, number) for i in shown]
            panel.errorbar(
                [bar.value for bar in bars],
                np.array(shown) + shift,
                xerr=[half(bar) for bar in bars],
                **{"fmt": "o", "color": color, "markersize": 3.5, "capsize": 2, "label": said},
            )
        panel.axvline(0, color="gray", linewidth=0.8)
        wanted = "lower" if better < 0 else "higher"
        panel.set(xlabel=f"difference of {number}\n{wanted} is better")
        panel.grid(alpha=0.3)
    panels[0].set_xscale("symlog", linthresh=1)  # some switches are worse by far
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
