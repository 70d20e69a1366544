"""Curves of a run as SVG that stands in a page: text and axes have the page's color."""

import dataclasses
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# Of training, of held-out examples and of its average; readable on white and on black.
COLORS = ("#3b82f6", "#f59e0b", "#10b981", "#a855f7", "#ef4444")
_PLACEHOLDER = "#010203"  # what becomes the page's color
_MOST = 500  # points of a curve, means of neighbors where there are more
_TRAINED, _EVALUATED = "training", "evaluation"

Curve = tuple[list[float], list[float]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Curves over steps by their label, under a title."""

    title: str
    curves: dict[str, Curve]


def check_drawing() -> None:
    """Raises ValueError where there is nothing to draw with."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("a report needs matplotlib: pip install -e '.[report]'") from None


def panels(records: Sequence[Mapping[str, float]]) -> list[Panel]:
    """A panel a quantity: of training, held out and averaged together, the most wanted first."""
    curves: dict[str, Curve] = {}
    for record in records:
        for name, value in record.items():
            if name != "step":
                steps, values = curves.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    grouped: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        title, label = _place(name)
        grouped.setdefault(title, {})[label] = curve
    order = sorted(grouped, key=lambda title: (_rank(title), list(grouped).index(title)))
    return [Panel(title, grouped[title]) for title in order]


def _place(name: str) -> tuple[str, str]:
    """Title and label of a name in records."""
    if name.startswith("eval/"):
        return name, _EVALUATED
    if not name.startswith("valid/"):
        return name, _TRAINED
    term = name.removeprefix("valid/")
    which = "held out, average" if term.startswith("ema_") else "held out"
    term = term.removeprefix("ema_")
    if bins := re.fullmatch(r"(.*)_t(\d)", term):
        quarter = int(bins[2])
        span = f"t {quarter / 4:g} to {(quarter + 1) / 4:g}"
        return f"{bins[1]}, {which}, by time", span
    return term, which


_FIRST = ("loss", "mse", "cosine", "nll")
_LAST = ("grad_norm", "grad_norm_disc", "weight_norm", "update_norm", "learning_rate")
_AFTER = ("images_per_second", "mfu", "data_wait", "nonfinite_steps", "spikes")


def _rank(title: str) -> int:
    for rank, titles in ((0, _FIRST), (5, _LAST), (6, _AFTER)):
        if title in titles:
            return 10 * rank + titles.index(title)
    return 10 if title.startswith("eval/") else 30 if "by time" in title else 20


def svg(panel: Panel) -> str:
    """The drawing of a panel, an <svg> element of its own names."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    style: Any = {
        "svg.fonttype": "none",
        "path.simplify": False,
        "svg.hashsalt": panel.title,  # names of clips differ between drawings of a page
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"),
            _PLACEHOLDER,
        ),
        "grid.color": _PLACEHOLDER,
        "grid.alpha": 0.15,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(4.4, 2.6), layout="constrained")
        for color, (label, curve) in zip(_colors(panel), panel.curves.items(), strict=True):
            steps, values = _thinned(curve)
            marker = "o" if len(steps) < 15 else ""
            axes.plot(
                steps, values, color=color, linewidth=1.3, label=label, marker=marker, markersize=3
            )
        axes.set_title(panel.title, loc="left", fontweight="bold", fontsize=10)
        if (factor := _factor(panel)) > 20:
            axes.set_yscale("log")
            marks = (1, 2, 5) if factor < 1e3 else (1,)
            axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=marks))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.grid(which="major")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        axes.set_xlabel("step")
        if set(panel.curves) - {_TRAINED, _EVALUATED}:
            axes.legend(fontsize=8, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    return _for_a_page(text.getvalue())


def _colors(panel: Panel) -> Iterator[str]:
    """One a label, the same in all panels where they are of training and held out."""
    known = (_TRAINED, "held out", "held out, average")
    others = iter(COLORS * (1 + len(panel.curves) // len(COLORS)))
    for label in panel.curves:
        yield COLORS[known.index(label)] if label in known else next(others)


def _factor(panel: Panel) -> float:
    """How many times the least is the largest value; 1 where not all are positive."""
    values = np.concatenate([values for _, values in panel.curves.values()])
    return values.max() / values.min() if values.min() > 0 else 1.0


def _thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Means of as many neighbors as leave at most _MOST points."""
    each = -(-len(curve[0]) // _MOST)
    if each == 1:
        return np.array(curve[0]), np.array(curve[1])
    parts = [np.array_split(np.array(x), -(-len(x) // each)) for x in curve]
    steps, values = ([part.mean() for part in some] for some in parts)
    return np.array(steps), np.array(values)


def _for_a_page(text: str) -> str:
    """Without what a file has around it, names that nothing asks for, and a size of its own."""
    text = text[text.index("<svg") :]
    asked = set(re.findall(r"(?:#|href=\"#)([\w.-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in asked else "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace(_PLACEHOLDER, "currentColor")
