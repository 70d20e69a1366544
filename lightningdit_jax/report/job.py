"""--mode=report: WORKDIR/report.html, what a run was and how it went."""

import json
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from PIL import Image

from lightningdit_jax.assembly.history import change_lines
from lightningdit_jax.atomic_file import replacing
from lightningdit_jax.config_fields import flattened
from lightningdit_jax.errors import one_line
from lightningdit_jax.report.curves import check_drawing, panels, svg
from lightningdit_jax.report.found import EVALUATION_FILE, Found, find
from lightningdit_jax.report.page import cards, drawings, figure, figures, folded, page, table, text

REPORT_FILE = "report.html"
_MOST = 12  # pictures of a run that are shown
_ENVIRONMENT = ("device", "num_devices", "num_processes", "mesh", "runtime", "python", "system")


def report(workdir: str, defaults: Mapping[str, Any]) -> epath.Path:
    """Writes WORKDIR/report.html and returns its path.

    One file that needs no network and no server: curves of metrics.jsonl, pictures, evaluation,
    config (first what differs from `defaults`, nested), environment and history. What is damaged is
    left out and named. Raises ValueError where there is no run, without matplotlib, or with several
    processes, and StorageError.
    """
    if jax.process_count() > 1:
        raise ValueError("--mode=report is of one process; start it alone")
    check_drawing()
    found = find(workdir)
    pictures, unreadable = _pictures(found)
    notes = [*found.notes, *unreadable]
    sections = [
        ("Not shown", "".join(f'<p class="note">{text(note)}</p>' for note in notes)),
        ("Summary", _summary(found)),
        ("Curves", drawings(map(svg, panels(found.records))) if found.records else ""),
        ("Pictures", figures(pictures)),
        ("Evaluation", _evaluation(found.evaluation)),
        ("Config", _config(found.config, defaults)),
        ("Environment", _environment(found.starts)),
        ("History", _history(found)),
    ]
    path, kind = epath.Path(workdir) / REPORT_FILE, _kind(found)
    made = f"made {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())} by --mode=report"
    content = page(epath.Path(workdir).name, kind, sections, made)
    with replacing(path) as temporary:
        temporary.write_text(content)
    for note in notes:
        print(note)
    print(f"{path}: {len(content) / 2**20:.1f} MiB, open it in a browser")
    return path


def _kind(found: Found) -> str:
    kind = found.config.get("kind", found.meta.get("kind"))
    names = {"lightningdit": "training of a generator", "vavae": "training of a tokenizer"}
    return names.get(kind, "training") if isinstance(kind, str) else "training"


def _summary(found: Found) -> str:
    last: dict[str, float] = {}
    for record in found.records:
        last |= record
    train = found.config.get("train")
    planned = train.get("num_steps") if isinstance(train, dict) else None
    values: list[tuple[str, Any]] = []
    if "step" in last:
        of = f" of {planned:,}" if type(planned) is int else ""
        values.append(("step", f"{int(last['step']):,}{of}"))
    names = ["loss", "nll", "mse", "valid/ema_mse", "valid/ema_nll", "images_per_second", "mfu"]
    names += [name for name in last if name.startswith("eval/")]
    values += [(name, f"{last[name]:.4g}") for name in names if name in last]
    examples = found.meta.get("examples")
    if isinstance(examples, dict) and type(examples.get("count")) is int:
        values.append(("examples", f"{examples['count']:,}"))
    if found.checkpoints:
        values.append(("newest checkpoint", f"{found.checkpoints[-1]:,}"))
    if found.best:
        values.append(("best checkpoint", f"{found.best[-1]:,}"))
    return cards(values)


def _pictures(found: Found) -> tuple[list[str], list[str]]:
    """Figures, and a line for each picture that cannot be read."""
    shown, unreadable = list[str](), list[str]()
    steps = list(found.pictures)
    some = sorted({round(i * (len(steps) - 1) / (_MOST - 1)) for i in range(_MOST)})
    chosen = steps if len(steps) <= _MOST else [steps[i] for i in some]
    of_run = [(found.pictures[step], f"step {step:,}") for step in chosen]
    for path, caption in [*of_run, *((path, path.name) for path in found.single)]:
        try:
            shown.append(figure(path, caption))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            unreadable.append(f"left out: {path} cannot be read: {one_line(error)}")
    return shown, unreadable


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    others = ("error_bars", "seeds", "of")
    numbers = table((name, value) for name, value in evaluation.items() if name not in others)
    said = {"error_bars": "error bars", "seeds": "by sampling seed", "of": "of what"}
    for name, title in said.items():
        facts = evaluation.get(name, {})
        shown = f"<pre>{text(json.dumps(facts, indent=1))}</pre>" if facts else ""
        numbers += folded(f"{title} ({EVALUATION_FILE})", shown)
    return numbers


def _config(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    there, base = flattened(config), flattened(json.loads(json.dumps(defaults)))
    changed = [(k, v, base.get(k, "")) for k, v in there.items() if k not in base or v != base[k]]
    every = folded(f"all {len(there)} keys", table(there.items(), ("key", "value")))
    return table(changed, ("key", "value", "configs/base.py")) + (every if there else "")


def _environment(starts: list[dict[str, Any]]) -> str:
    if not starts:
        return ""
    last = starts[-1]
    packages = last.get("packages")
    rows = [(name, last[name]) for name in _ENVIRONMENT if name in last]
    return table([*rows, *(packages.items() if isinstance(packages, dict) else ())])


def _history(found: Found) -> str:
    parts = []
    if init := found.meta.get("init"):
        parts.append(f"<p>began from {text(init['path'])}, step {init['step']:,}</p>")
    changes = [c for c in found.meta.get("history", []) if {"from", "to"} <= c.keys()]
    parts += [f"<p>{text(line)}</p>" for line in change_lines(changes)]
    names = ("time", "step", "device", "num_devices")
    rows = [[start.get(name, "") for name in names] for start in found.starts]
    parts.append(table(rows, ("started", "from step", "device", "devices")))
    if found.checkpoints:
        steps = ", ".join(f"{step:,}" for step in found.checkpoints)
        parts.append(f"<p>checkpoints: {steps}</p>")
    return "\n".join(parts)
