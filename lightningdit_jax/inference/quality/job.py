"""--mode=evaluate: the numbers of what a config trains, on the terminal and as JSON."""

import math
from typing import Any

from etils import epath

from lightningdit_jax.atomic_file import write_json
from lightningdit_jax.config import Config
from lightningdit_jax.inference.pictures import save_png
from lightningdit_jax.inference.quality.metrics import metric_of
from lightningdit_jax.inference.quality.records import (
    BLOCKS,
    SEEDS,
    error_bars,
    lines_of,
    mean_of_seeds,
)
from lightningdit_jax.inference.quality.seeds import evaluate_seeds
from lightningdit_jax.inference.quality.tokenizer import evaluate_tokenizer
from lightningdit_jax.parallel.multihost import is_main_process


def evaluate(config: Config, workdir: str) -> dict[str, float]:
    """Evaluates what the config trains, prints the numbers and writes WORKDIR/evaluation.json.

    The file holds the numbers by name, which are returned, and `of`: which weights, images, samples
    and networks they are of, with paths, steps and fingerprints; `error_bars` over evaluate.seeds,
    whose numbers are in `seeds`, or over evaluate.jackknife_blocks. Of a tokenizer there is also
    WORKDIR/reconstructions.png.
    Raises FloatingPointError naming a number that is not finite; nothing is written then. (The PSNR
    of images that come back unchanged is infinite.)
    """
    over, more = BLOCKS, {}
    picture = None
    if config.kind == "vavae":
        judgment, of, picture = evaluate_tokenizer(config, workdir)
    elif config.evaluate.seeds:
        judgments, of = evaluate_seeds(config, workdir)
        seeds = {
            str(seed): {**each.numbers, **error_bars(BLOCKS, each.bars)}
            for seed, each in judgments.items()
        }
        over, more = SEEDS, {"seeds": seeds}
        judgment = mean_of_seeds({seed: each.numbers for seed, each in judgments.items()})
    else:
        metric = metric_of(config)
        metric.check(config, ())
        judgment, of = metric.file(config, workdir)
    for name, value in judgment.numbers.items():
        if not math.isfinite(value) and (name, value) != ("reconstruction_psnr", math.inf):
            raise FloatingPointError(
                f"{name} is {value}, which is no measurement; nothing was written. The images or "
                "the reference are not what they should be: look at them"
            )
    if is_main_process():
        # All of it before anything is written, which may fail.
        for name, facts in of.items():
            print(f"{name}: {_line(facts)}")
        print(*lines_of(judgment), sep="\n", flush=True)
        folder = epath.Path(workdir)
        if picture is not None:
            save_png(folder / "reconstructions.png", picture)
            print(f"originals above reconstructions in {folder / 'reconstructions.png'}")
        bars = error_bars(over, judgment.bars)
        write_json(folder / "evaluation.json", {**judgment.numbers, **bars, **more, "of": of})
    return judgment.numbers


def _line(facts: dict[str, Any]) -> str:
    """Facts in a line, without those that are long or empty."""
    short = {name: fact for name, fact in facts.items() if not isinstance(fact, dict)}
    for network, weights in ((facts.get("made_with") or {}).get("weights") or {}).items():
        short[network] = f"{weights['path']} at step {weights['step']}"
    return ", ".join(f"{name} {fact}" for name, fact in short.items() if fact not in ("", None))
