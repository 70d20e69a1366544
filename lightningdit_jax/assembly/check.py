"""--mode=check: what the images of a config are, and whether all of them can be read."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from lightningdit_jax.assembly.images import held_out_keys, open_config_images
from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.data.class_names import class_line
from lightningdit_jax.data.inspection import SIDES, Inspection, inspect, names_of
from lightningdit_jax.errors import counted
from lightningdit_jax.parallel.multihost import print_once
from lightningdit_jax.progress import Progress

_LISTED = 1000  # of each kind in check.json
_SAID = 10  # on the terminal
_DIGITS_SIDE = 8  # as they are


def check(config: Config, workdir: str, say: Callable[[str], None] = print_once) -> int:
    """Reads every image of config.data once, and those held out, and says what they are.

    Held out are those of data.valid_path or data.valid_split. WORKDIR/check.json holds the same as
    the lines: sizes, formats and color modes, images of each class, damaged ones by name, those
    that are there twice, byte for byte, and held-out ones that are trained on. Nothing else is
    written. Returns the number of damaged ones. Raises what opening the images raises, and
    ValueError for latents and with several processes.
    """
    if jax.process_count() > 1:
        raise ValueError("--mode=check is of one process; start it alone")
    data = config.data
    if data.source == "latents":
        raise ValueError(
            "config.data.source is 'latents', and --mode=check is of images; --mode=verify looks "
            "at latents"
        )
    trained = _inspect(config, data.split, say)
    found = {"trained on": trained}
    if data.valid_path:
        found["held out"] = _inspect(config.changed(data=held_out_keys(data)), "", say)
    elif data.valid_split:
        found["held out"] = _inspect(config, data.valid_split, say)
    report: dict[str, Any] = {}
    for what, inspection in found.items():
        say(f"{what}:")
        report[what.replace(" ", "_")] = _facts(inspection)
        for line in _lines(inspection):
            say(f"  {line}")
    if "held out" in found:
        pairs = trained.shared(found["held out"])
        shared = [[trained.name(a), found["held out"].name(b)] for a, b in pairs]
        report["held_out_and_trained_on"] = _cut(shared)
        say(f"held out and trained on, byte for byte: {counted(len(shared), 'image')}")
        for line in _some([" = ".join(pair) for pair in shared]):
            say(line)
    write_json(epath.Path(workdir) / "check.json", report)
    damaged = sum(len(inspection.damaged) for inspection in found.values())
    total = sum(len(inspection.digests) for inspection in found.values())
    verdict = "the one image is whole" if total == 1 else f"all {total:,} images are whole"
    if damaged:
        verdict = (
            f"{damaged:,} of {total:,} damaged: take them out, or go on without them by "
            "--config.data.corrupt=skip"
        )
    say(f"{verdict}; {epath.Path(workdir) / 'check.json'} has the same in full")
    return damaged


def _inspect(config: Config, split: str, say: Callable[[str], None]) -> Inspection:
    data = config.data
    images = open_config_images(data, split, _DIGITS_SIDE)
    for note in images.notes:
        say(note)
    return inspect(images, data.num_threads, Progress("read", len(images)).update)


def _facts(found: Inspection) -> dict[str, Any]:
    """As check.json has them."""
    short = found.short_sides()
    sides = found.sides[found.whole]
    return {
        "images": len(found.digests),
        "whole": int(found.whole.sum()),
        "damaged": _cut([{"name": found.name(i), "why": why} for i, why in found.damaged]),
        "classes": found.classes(),
        "sizes": {
            name: {"least": least, "median": median, "most": most}
            for name, (least, median, most) in zip(
                ("width", "height", "short_side"), map(_range, (sides[:, 0], sides[:, 1], short))
            )
        },
        "short_side_below": {str(side): int((short < side).sum()) for side in SIDES},
        "formats": dict(found.formats.most_common()),
        "color_modes": dict(found.modes.most_common()),
        "the_same": _cut([names_of(found, group) for group in found.same()]),
        "the_same_in_several_classes": _cut([names_of(found, g) for g in _apart(found)]),
        "notes": list(found.source.notes),
    }


def _lines(found: Inspection) -> list[str]:
    classes = class_line(list(found.classes()), list(found.classes().values()))
    lines = [f"{counted(len(found.digests), 'image')}, {classes}"]
    if found.whole.any():
        sides, short = found.sides[found.whole], found.short_sides()
        (width, height), (widest, highest) = sides.min(0), sides.max(0)
        lines.append(
            f"width {width:,} to {widest:,}, height {height:,} to {highest:,}, short side "
            f"{short.min():,} to {short.max():,}, half of them below {int(np.median(short)):,}"
        )
    below = [(side, int((found.short_sides() < side).sum())) for side in SIDES]
    if small := [f"{count:,} below {side}" for side, count in below if count]:
        lines.append(f"enlarged where one trains at a size, short sides: {', '.join(small)}")
    for what, kinds in (("formats", found.formats), ("color modes", found.modes)):
        if kinds:
            lines.append(f"{what}: {', '.join(f'{n:,} {k}' for k, n in kinds.most_common())}")
    same = found.same()
    extra = sum(len(group) - 1 for group in same)
    lines.append(f"there again, byte for byte: {counted(extra, 'image')}")
    lines += _some([" = ".join(names_of(found, group)) for group in same])
    if apart := _apart(found):
        lines.append(f"the same image in several classes: {len(apart):,}")
        lines += _some([" = ".join(names_of(found, group)) for group in apart])
    lines.append(f"damaged: {counted(len(found.damaged), 'image')}")
    return lines + _some([why for _, why in found.damaged])


def _apart(found: Inspection) -> list[list[int]]:
    """Groups of the same images that have several labels."""
    return [group for group in found.same() if len({found.labels[i] for i in group}) > 1]


def _range(values: np.ndarray) -> tuple[int, int, int]:
    if not len(values):
        return 0, 0, 0
    return int(values.min()), int(np.median(values)), int(values.max())


def _cut(found: Sequence[Any]) -> dict[str, Any]:
    """How many there are, and the first."""
    return {"count": len(found), "first": list(found[:_LISTED])}


def _some(lines: Sequence[str]) -> list[str]:
    more = [f"  and {len(lines) - _SAID:,} more"] if len(lines) > _SAID else []
    return [f"  {line}" for line in lines[:_SAID]] + more
