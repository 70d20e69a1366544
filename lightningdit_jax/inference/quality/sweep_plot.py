"""A picture of a sweep: the metric against what is varied."""

from typing import Any

from etils import epath

from lightningdit_jax.atomic_file import replacing


def plot_sweep(rows: list[dict[str, Any]], varied: list[str], path: epath.Path) -> None:
    """Writes the first metric of the rows as a PNG file, a line for each combination of the rest.

    Horizontal: network evaluations per image where num_steps is varied, else the first varied
    setting with numbers for values. Error bars are 95 % intervals over seeds. Rows of adaptive
    solvers, whose evaluations nobody counted, have no place on the first axis. Needs matplotlib;
    without it, says so and writes nothing.
    """
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt
    except ImportError:
        print("no picture of the sweep: matplotlib is not installed (pip install matplotlib)")
        return
    metric = next(iter(rows[0]["numbers"]))
    numeric = [name for name in varied if name != "solver"]
    by_cost = "num_steps" in varied or not numeric
    axis = "network evaluations per image" if by_cost else numeric[0]
    hidden = ("num_steps",) if by_cost else (numeric[0],)
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        if by_cost and row["evaluations"] is None:
            continue
        settings = row["settings"]
        x = row["evaluations"] + row["guided_evaluations"] if by_cost else settings[axis]
        name = ", ".join(f"{key} {settings[key]}" for key in varied if key not in hidden)
        lines.setdefault(name or metric, []).append((x, row["numbers"][metric], _half(row, metric)))
    figure, panel = plt.subplots(figsize=(6, 4))
    for name, points in lines.items():
        x, y, half = zip(*sorted(points))
        panel.errorbar(x, y, half if any(half) else None, marker="o", capsize=3, label=name)
    panel.set(xlabel=axis, ylabel=metric, yscale="log")
    if by_cost:
        panel.set_xscale("log")
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=8)
    figure.tight_layout()
    with replacing(path) as temporary, temporary.open("wb") as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def _half(row: dict[str, Any], metric: str) -> float:
    """Half the interval of a row's metric; 0 where it has none."""
    bars = row.get("error_bars", {}).get("numbers", {})
    low, high = bars[metric]["interval"] if metric in bars else (0.0, 0.0)
    return (high - low) / 2
