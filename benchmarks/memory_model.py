"""How well planning/ predicts the memory of a generator's train step.

    python -m benchmarks.memory_model check                 # predicted against compiled, by point
    python -m benchmarks.memory_model fit                   # the numbers of planning/generator.py
    python -m benchmarks.memory_model collect --count=20 --seed=1    # more points, appended

Points are programs compiled for TPU slices that are not there, drawn at random: config, slice, FSDP
or a part of it, remat, images a device, parts. They stand in memory_points.jsonl with whether the
fit uses them; "low" is an effort of XLA between "full" and "quick". `collect` needs the extra
`tpu`.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import pathlib
import random
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import scipy.optimize

from lightningdit_jax import config as configs
from lightningdit_jax.config import Config
from lightningdit_jax.planning.generator import FITS, Fit, GeneratorStep
from lightningdit_jax.training.compile import compile_report
from lightningdit_jax.training.plan import train_step

Point = dict[str, Any]
POINTS = pathlib.Path(__file__).parent / "memory_points.jsonl"
CONFIGS = ("dit_b", "dit_xl", "dit_1p6b")
REMAT = FITS["tpu"].policies
SLICES = {
    "v5e:1x1": 1,
    "v5e:2x4": 8,
    "v5e:4x4": 16,
    "v4:2x2x2": 8,
    "v4:2x2x4": 16,
    "v5p:2x2x1": 4,
    "v5p:2x2x4": 16,
    "v6e:2x4": 8,
    "v6e:4x4": 16,
    "tpu7x:2x2x1": 8,
}
GIB = 2**30


def read_points() -> list[Point]:
    """All of them."""
    return [json.loads(row) for row in POINTS.read_text().splitlines()]


def predicted(point: Point, fit: Fit | None = None) -> float:
    """Bytes of a device at the peak, by planning/, or by other numbers in its formulas."""
    step = dataclasses.replace(_step(point["config"]), batch_size=point["batch_size"])
    placed = step.on(point["mesh"] | {"dcn_data": 1})
    return placed.peak_bytes(point["remat"], point["accumulate_steps"], fit)


def fitted(points: list[Point]) -> Fit:
    """The numbers by which the formulas come nearest to points, relative to each."""
    names = ("whole", "parted", *REMAT)

    def of(values: np.ndarray) -> Fit:
        whole, parted, *working = values
        return dataclasses.replace(
            FITS["tpu"], whole=whole, parted=parted, working=dict(zip(REMAT, working))
        )

    # Predictions are linear in the numbers.
    none = np.array([predicted(point, of(np.zeros(len(names)))) for point in points])
    columns = [
        [predicted(point, of(np.eye(len(names))[k])) for point in points] for k in range(len(names))
    ]
    peaks = np.array([point["peak_bytes"] for point in points])
    slopes = (np.array(columns).T - none[:, None]) / peaks[:, None]
    return of(scipy.optimize.nnls(slopes, (peaks - none) / peaks)[0])


def compiled(point: Point, effort: str) -> Point:
    """The point with its peak, or why there is none. effort: compute.compile_effort."""
    config = _config(point).changed(compute={"compile_effort": effort})
    try:
        report = compile_report(config, point["slice"])
    except ValueError as error:  # it does not fit
        return point | {"error": str(error)}
    return point | {"peak_bytes": report["peak_bytes"], "effort": effort}


def draw(seed: int) -> Iterator[Point]:
    """Points that nobody compiled yet and that are neither hopeless nor tiny."""
    rng, known = random.Random(seed), [_question(point) for point in read_points()]
    while True:
        name, where = rng.choice(CONFIGS), rng.choice(list(SLICES))
        count, parts = SLICES[where], rng.choice((1, 1, 2, 4))
        fsdp = rng.choice((count, count, 1, min(4, count)))
        point = {
            "config": name,
            "slice": where,
            "mesh": {"data": count // fsdp, "fsdp": fsdp, "tensor": 1},
            "remat": rng.choice(REMAT),
            "batch_size": rng.choice((4, 8, 16, 32, 64)) * count * parts,
            "accumulate_steps": parts,
        }
        memory = {"v5e": 16, "v4": 32, "v5p": 95, "v6e": 32, "tpu7x": 96}[where.split(":")[0]]
        if 0.15 < predicted(point) / (memory * GIB) < 1.1 and _question(point) not in known:
            known.append(_question(point))
            yield point


def _question(point: Point) -> Point:
    return {key: point[key] for key in ("config", "slice", "mesh", "remat", "batch_size")} | {
        "accumulate_steps": point["accumulate_steps"]
    }


def _config(point: Point) -> Config:
    config = configs.from_dict(
        importlib.import_module(f"lightningdit_jax.configs.{point['config']}").get_config()
    )
    return config.changed(
        mesh=point["mesh"] | {"dcn_data": 1},
        compute={"remat": point["remat"]},
        train={key: point[key] for key in ("batch_size", "accumulate_steps")},
    )


@functools.cache
def _step(name: str) -> GeneratorStep:
    config = configs.from_dict(
        importlib.import_module(f"lightningdit_jax.configs.{name}").get_config()
    )
    # A TPU as far as memory goes; the shapes are the same everywhere.
    hardware = types.SimpleNamespace(platform="tpu", devices=jax.devices()[:1])
    return train_step(config, hardware)[0]


def check(points: list[Point]) -> float:
    """Prints predicted against compiled; returns the largest error of those not fitted to."""
    print("| config | slice | data, fsdp | remat | batch, parts | GiB | predicted | off |")
    print("|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for point in sorted(points, key=lambda point: point["fitted"]):
        found, mesh = predicted(point), point["mesh"]
        off = found / point["peak_bytes"] - 1
        worst = worst if point["fitted"] else max(worst, abs(off))
        print(
            f"| {point['config']} | {point['slice']} | {mesh['data']}, {mesh['fsdp']} | "
            f"{point['remat']} | {point['batch_size']}, {point['accumulate_steps']} | "
            f"{point['peak_bytes'] / GIB:.2f} | {found / GIB:.2f} | {100 * off:+.1f} %"
            f"{' (fitted)' if point['fitted'] else ''} |"
        )
    count = sum(not point["fitted"] for point in points)
    print(f"\n{count} points that the fit does not use: at most {100 * worst:.1f} % off")
    return worst


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("check", "fit", "collect"))
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--effort", choices=("full", "quick"), default="full")
    options = parser.parse_args()
    if options.what == "check":
        check(read_points())
    elif options.what == "fit":
        print(fitted([point for point in read_points() if point["fitted"]]))
    else:
        for point, _ in zip(draw(options.seed), range(options.count)):
            found = compiled(point, options.effort)
            print(json.dumps(found), flush=True)
            if "error" not in found:
                with POINTS.open("a") as file:
                    file.write(json.dumps(found | {"fitted": False}) + "\n")


if __name__ == "__main__":
    main()
