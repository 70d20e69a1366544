"""What the runs of benchmarks/tokenizer_study.py say: tables and pictures."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.rank_correlations import (
    chance_of_largest,
    correlation,
    kendall,
    share_of_seeds,
    spearman,
)
from lightningdit_jax.evaluation.error_bars import of_mean

Rows = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by variant and seed
# What a larger number is said to do to a generator's Fréchet distance: 1 raises it, -1 lowers it, 0
# where it is not said, or both. By how the names of numbers begin; docs/tokenizers.md has sources.
EXPECTED = {
    "latent_numbers": 1,
    "reconstruction_psnr": 1,
    "reconstruction_fid": -1,
    "ifid": 1,
    "continuity": 1,
    "noise_psnr_slope": 0,
    "noise_psnr": -1,
    "noise_fid": 1,
    "latent_spectral_slope": 0,
    "latent_high_frequency_share": 1,
    "latent_effective_rank": -1,
    "latent_local_similarity": -1,
    "probe": -1,
    "neighbor_purity": -1,
    "density_normalized_entropy": -1,
    "density": 1,
}
SHOWN = ("reconstruction_fid", "ifid", "noise_fid_0.5", "probe_accuracy", "latent_numbers")
FID = "FID of samples"


def fids(rows: Rows) -> np.ndarray:
    """Of each tokenizer's generator, the mean over seeds of sampling. [variants, seeds]."""
    return np.array(
        [[np.mean(list(run["fid"].values())) for run in runs.values()] for runs in rows.values()]
    )


def measures(rows: Rows, prefix: str) -> dict[str, np.ndarray]:
    """Each measure of all runs, [variants, seeds]; prefix: of distances, left out of their names.

    Those that no two variants differ in are left out.
    """
    runs = [list(of_variant.values()) for of_variant in rows.values()]
    found = {
        name.replace(prefix, ""): np.array([[run["numbers"][name] for run in of] for of in runs])
        for name in runs[0][0]["numbers"]
    }
    return {name: values for name, values in found.items() if np.ptp(values.mean(1)) > 0}


def expected(name: str) -> int:
    """The sign that is expected of a measure's correlation; 0 for none."""
    return next(sign for start, sign in EXPECTED.items() if name.startswith(start))


def report(rows: Rows, prefix: str) -> str:
    """Markdown: a row a tokenizer, then a row a measure."""
    return f"{tokenizers_table(rows, prefix)}\n\n{correlations_table(rows, prefix)}"


def tokenizers_table(rows: Rows, prefix: str) -> str:
    """Of each tokenizer means of seeds and 95 % intervals, and by how much FID is not the first's.

    The difference is of the same seeds, and left out where its interval holds 0.
    """
    found = {FID: fids(rows)} | {
        name: values for name, values in measures(rows, prefix).items() if name in SHOWN
    }
    found["PSNR"] = measures(rows, prefix)["reconstruction_psnr"]
    lines = [f"| | {' | '.join(found)} | {FID} less the first's |", "|" + "---|" * (len(found) + 2)]
    for number, variant in enumerate(rows):
        cells = [plus_minus(values[number]) for values in found.values()]
        less = found[FID][number] - found[FID][0]
        low, high = of_mean(less).interval if number else (0.0, 0.0)
        cells.append("" if low <= 0 <= high else f"{low:+.2f} to {high:+.2f}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def correlations_table(rows: Rows, prefix: str) -> str:
    """Of each measure its correlations with FID over tokenizers, the largest first."""
    fid, found = fids(rows), measures(rows, prefix)
    lines = [
        f"{len(found)} measures of {len(rows)} tokenizers with {fid.shape[1]} seeds each. If none "
        "knew anything, the largest |rho| of all would exceed "
        f"{chance_of_largest(np.stack([v.mean(1) for v in found.values()]), fid.mean(1)):.2f} one "
        f"time in twenty. Seeds make {share_of_seeds(fid):.0%} of the variance of FID.",
        "",
        "| measure | expected | Spearman's rho | Kendall's tau | variance of seeds |",
        "|" + "---|" * 5,
    ]
    by_size = sorted(found, key=lambda name: -abs(spearman(found[name].mean(1), fid.mean(1))))
    for name in by_size:
        rho, tau = (correlation(f, found[name], fid) for f in (spearman, kendall))
        sign = {1: "+", -1: "-", 0: ""}[expected(name)]
        values = [f"{c.value:+.2f} ({c.low:+.2f} to {c.high:+.2f})" for c in (rho, tau)]
        share = f"{share_of_seeds(found[name]):.0%}"
        lines.append(f"| `{name}` | {sign} | {' | '.join(values)} | {share} |")
    return "\n".join(lines)


def plus_minus(values: np.ndarray) -> str:
    """Mean of seeds and half of its interval; one where they are all alike."""
    low, high = of_mean(values).interval
    mean = f"{values.mean():.3g}"
    return mean if high == low else f"{mean} ± {(high - low) / 2:.2g}"


def plot_correlations(rows: Rows, prefix: str, path: pathlib.Path) -> None:
    """Spearman's rho of each measure with its interval, and what chance makes of the largest."""
    fid, found = fids(rows), measures(rows, prefix)
    bars = {name: correlation(spearman, values, fid) for name, values in found.items()}
    names = sorted(bars, key=lambda name: bars[name].value)
    chance = chance_of_largest(np.stack([v.mean(1) for v in found.values()]), fid.mean(1))
    figure, axes = plt.subplots(figsize=(7, 1 + 0.24 * len(names)), layout="constrained")
    axes.axvspan(-chance, chance, color="0.92", label="the largest by chance, 95 %")
    colors = {1: "C3", -1: "C0", 0: "0.4"}
    said = {1: "expected above 0", -1: "expected below 0", 0: "no expectation"}
    for sign, color in colors.items():
        rows_of = [i for i, name in enumerate(names) if expected(name) == sign]
        of = [bars[names[i]] for i in rows_of]
        ends = [[b.value - b.low for b in of], [b.high - b.value for b in of]]
        values = [b.value for b in of]
        style = {"fmt": "o", "color": color, "capsize": 2, "markersize": 4}
        axes.errorbar(values, rows_of, xerr=np.maximum(ends, 0), label=said[sign], **style)
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-1.05, 1.05), xlabel=f"Spearman's rho with {FID}, over {len(rows)} tokenizers")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_measures(rows: Rows, prefix: str, path: pathlib.Path) -> None:
    """The measures of SHOWN and PSNR against FID; a color a tokenizer, a point a seed."""
    fid, found = fids(rows), measures(rows, prefix)
    shown = [*(name for name in SHOWN if name in found), "reconstruction_psnr"]
    figure, panels = plt.subplots(2, 3, figsize=(9, 6), sharey=True, layout="constrained")
    colors = plt.get_cmap("tab20").colors
    for panel, name in zip(panels.flat, shown):
        for number, variant in enumerate(rows):
            x, color = found[name][number], colors[number % len(colors)]
            panel.scatter(x, fid[number], s=9, color=color, alpha=0.5)
            panel.scatter(x.mean(), fid[number].mean(), s=36, color=color, label=variant)
        rho = spearman(found[name].mean(1), fid.mean(1))
        panel.set_title(f"{name}: rho {rho:+.2f}", fontsize=9)
        panel.set_yscale("log")
        if name in ("reconstruction_fid", "ifid", "noise_fid_0.5", "latent_numbers"):
            panel.set_xscale("log")
        for axis in (panel.xaxis, panel.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(NullFormatter())
    for panel in panels[:, 0]:
        panel.set_ylabel(FID)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7, frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)
