"""--mode=sweep: a generator sampled with every combination of settings, and the numbers of each."""

import dataclasses
import itertools
import json
import time
from typing import Any

from etils import epath

from lightningdit_jax.assembly.synthesis import plan_synthesis
from lightningdit_jax.atomic_file import read_json, write_json
from lightningdit_jax.checkpoint import find_checkpoint
from lightningdit_jax.config import Config, SampleConfig, SweepConfig
from lightningdit_jax.errors import counted
from lightningdit_jax.flow.solver import look_up
from lightningdit_jax.flow.solvers import SOLVERS
from lightningdit_jax.inference.quality.metrics import make_quality, metric_of
from lightningdit_jax.inference.quality.records import SEEDS, error_bars, mean_of_seeds
from lightningdit_jax.inference.quality.seeds import draw
from lightningdit_jax.inference.quality.sweep_plot import plot_sweep
from lightningdit_jax.inference.sampling.opening import chosen_average, find_sampler, with_average
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.parallel.multihost import from_main_process, is_main_process
from lightningdit_jax.sampling_options import OF_GUIDANCE, SamplingOptions

Row = dict[str, Any]
_NOT_VARIED = ("num_samples", "seeds")  # of config.sweep: of all rows alike


def sweep(config: Config, workdir: str) -> list[Row]:
    """Samples and evaluates every combination of config.sweep, and returns a row for each.

    All have the same labels and noise, and the same weights, which are loaded once, but for the
    averages of config.sweep.ema_sigma. With sweep.seeds a row has the numbers of each seed, their
    means and error bars. WORKDIR/sweep.json grows with every seed of a row, and what is there is
    not made again; sweep.png shows the metric. Nothing else is written. Raises what find_sampler,
    make_quality and plan_synthesis raise, and ValueError for settings that do not fit, before
    anything is drawn.
    """
    asked, options = sweep_points(config.sample, config.sweep), config.sweep
    averages = sweep_averages(config)
    found = find_sampler(averages[0], workdir)
    points = [found.structure.fitted(sampling) for sampling in asked]
    found.check_labels(config.sample.labels)
    check_averages(averages, workdir)
    metric_of(config).check(config, found.class_names)
    sampler, weights = found.load(config.sweep.num_samples)
    quality = make_quality(config, sampler.mesh, sampler.class_names)
    common = {
        "num_samples": options.num_samples,
        "labels": config.sample.labels,
        **({} if options.seeds else {"seed": config.seed}),
        "dtype": config.compute.dtype,
    }
    path, main = epath.Path(workdir) / "sweep.json", is_main_process()
    rows = read_rows(path) if path.exists() else []
    done = []
    for number, (averaged, sampling) in enumerate(itertools.product(averages, points)):
        average = chosen_average(averaged.sample)
        if number and sampling is points[0]:
            sampler, weights = with_average(sampler, weights, averaged, workdir)
        settings = {**dataclasses.asdict(sampling), **common, **weights, **average}
        settings = json.loads(json.dumps(settings))
        row = next((row for row in rows if row["settings"] == settings), None)
        if row is None:
            row = {
                "settings": settings,
                "evaluations": sampling.evaluations(),
                "guided_evaluations": sampling.guided_evaluations(sampler.structure.flow),
                "generator_flops": sampler.generator_flops(sampling),
            }
        done.append(row)
        for seed in options.seeds or (config.seed,):
            there = str(seed) in row.get("seeds", {}) if options.seeds else "numbers" in row
            if from_main_process(there):
                continue
            began = time.perf_counter()
            drawn = draw(sampler, sampling, config.sample.labels, options.num_samples, seed)
            numbers = quality(*drawn)
            if options.seeds:
                row["seeds"] = {**row.get("seeds", {}), str(seed): numbers}
                judgment = mean_of_seeds(row["seeds"])
                row |= {"numbers": judgment.numbers, **error_bars(SEEDS, judgment.bars)}
            else:
                row["numbers"] = numbers
            row["seconds"] = round(row.get("seconds", 0) + time.perf_counter() - began, 2)
            if row not in rows:
                rows.append(row)
            if main:
                of_seed = f"  seed {seed}" if options.seeds else ""
                line = _line(settings, numbers, config.sweep)
                total = len(averages) * len(points)
                # Before writing may fail.
                print(f"{number + 1}/{total}{of_seed}  {line}", flush=True)
                write_json(path, rows)
    if main:
        plot_sweep(done, varied(config.sweep), path.with_name("sweep.png"))
        print(f"{counted(len(done), 'row')} in {path}, a picture in {path.with_name('sweep.png')}")
    return done


def read_rows(path: epath.Path) -> list[Row]:
    """The rows of a sweep.json. Raises ValueError naming a damaged file."""
    rows = read_json(path, list)
    for row in rows:
        numbers = row.get("numbers") if isinstance(row, dict) else None
        if not isinstance(numbers, dict) or not isinstance(row.get("settings"), dict):
            raise ValueError(
                f"{path} is damaged: {row!r:.60} is no row of settings and numbers; delete it to "
                "make all rows again"
            )
    return rows


def varied(options: SweepConfig) -> list[str]:
    """The settings that have several values."""
    names = [f.name for f in dataclasses.fields(options) if f.name not in _NOT_VARIED]
    return [name for name in names if len(getattr(options, name)) > 1]


def sweep_averages(config: Config) -> list[Config]:
    """The config with each average of config.sweep.ema_sigma, or with config.sample's."""
    sigmas = dict.fromkeys(config.sweep.ema_sigma or (config.sample.ema_sigma,))
    return [config.changed(sample={"ema_sigma": sigma}) for sigma in sigmas]


def check_averages(averages: list[Config], workdir: str) -> None:
    """Raises ValueError for an average that cannot be made, as plan_synthesis."""
    for sample in (config.sample for config in averages if config.sample.ema_sigma):
        plan_synthesis(find_checkpoint(sample.checkpoint or workdir), sample.ema_sigma)


def sweep_points(base: SampleConfig, options: SweepConfig) -> list[Sampling]:
    """Every combination of the values in config.sweep; a key without any keeps config.sample's.

    A solver with times of its own is taken once for all timestep shifts, no guidance once for all
    ways to guide.
    """
    not_sampling = (*_NOT_VARIED, "ema_sigma")
    names = [f.name for f in dataclasses.fields(options) if f.name not in not_sampling]
    values = [getattr(options, name) or (getattr(base, name),) for name in names]
    fixed = {f.name: getattr(base, f.name) for f in dataclasses.fields(Sampling)}
    points = []
    for combination in itertools.product(*values):
        fields = fixed | dict(zip(names, combination))
        if look_up(SOLVERS, fields["solver"]).times_by:
            fields["timestep_shift"] = 0.0
        if fields["cfg_scale"] == 1:
            fields |= {name: getattr(SamplingOptions, name) for name in OF_GUIDANCE}
        point = Sampling(**fields)
        if point not in points:
            points.append(point)
    return points


def _line(settings: dict[str, Any], numbers: dict[str, float], options: SweepConfig) -> str:
    shown = [f"{name}={settings[name]}" for name in varied(options)]
    return "  ".join([*shown, *(f"{name} {value:.4f}" for name, value in numbers.items())])
