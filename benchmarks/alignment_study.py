"""What the alignment does, on digits: the demo's pipeline with and without it.

    python -m benchmarks.alignment_study --output=outputs/alignment_study --seeds 0 1

Per seed two tokenizers are trained, aligned with the demo's small ViT and not, in all else alike;
then a generator on the latents of each. Prints a table, writes study.json, a picture of samples and
one of the latents in the plane. About 15 minutes a seed on two cores.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from lightningdit_jax.evaluation.error_bars import of_difference, of_mean

ROOT = pathlib.Path(__file__).resolve().parent.parent
VARIANTS = {"not aligned": "none", "aligned": "vit"}
ROWS = {
    "reconstruction_psnr": "PSNR of reconstructions, dB",
    "reconstruction_ssim": "SSIM of reconstructions",
    "recognised_share": "samples recognized as their label",
    "distance_to_train": "distance of samples to the nearest training digit",
    "distance_within_class": "distance to the nearest other sample of the class",
    "density_cv": "density CV of latents",
    "normalized_entropy": "entropy of the density",
    "gini": "Gini coefficient of the density",
}


def run(script: str, *arguments: str) -> None:
    """A program of this repository; a failure ends the study."""
    print(f"$ python {script} {' '.join(arguments)}", flush=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    log = subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if log.returncode:
        sys.exit(log.stdout + log.stderr)


def measure(folder: pathlib.Path, alignment: str, foundation: pathlib.Path, seed: int) -> dict:
    """Trains, samples and evaluates one variant."""
    names = ("tokenizer", "latents", "generator")
    tokenizer, latents, generator = (folder / name for name in names)
    vae = ["--config=configs/digits_vavae.py", f"--workdir={tokenizer}", f"--config.seed={seed}"]
    vae += [f"--config.vae_loss.alignment={alignment}", f"--config.frozen.foundation={foundation}"]
    dit = ["--config=configs/digits_dit.py", f"--workdir={generator}", f"--config.seed={seed}"]
    run("main.py", *vae)
    run("main.py", *vae, "--mode=evaluate")
    run("main.py", *vae, "--mode=extract", f"--config.extract.path={latents}")
    run("main.py", *dit, f"--config.data.path={latents}")
    run("main.py", *dit, "--mode=sample", f"--config.sample.tokenizer={tokenizer}")
    run("main.py", *dit, "--mode=evaluate")
    run(
        "scripts/visualize_latents.py",
        f"--output={folder / 'latents.png'}",
        f"{folder.name}={latents}",
    )
    found = {}
    for path in (tokenizer / "evaluation.json", generator / "evaluation.json"):
        found |= {k: v for k, v in json.loads(path.read_text()).items() if k != "of"}
    return found | json.loads((folder / "latents.json").read_text())[folder.name]


def main() -> None:
    """Runs all seeds and variants and reports means, and of several seeds what they differ by."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    foundation = options.output / "foundation"
    run("scripts/digits_foundation.py", f"--output={foundation}")
    results: dict[str, list[dict]] = {name: [] for name in VARIANTS}
    for seed in options.seeds:
        for name, alignment in VARIANTS.items():
            folder = options.output / f"{alignment}-{seed}"
            results[name].append(measure(folder, alignment, foundation, seed))
            (options.output / "study.json").write_text(json.dumps(results, indent=1) + "\n")

    print(f"\n| | {' | '.join(VARIANTS)} | difference, 95 % interval |\n|---|---|---|---|")
    for key, title in ROWS.items():
        values = [[result[key] for result in results[name]] for name in VARIANTS]
        cells = [f"{np.mean(of_variant):.3f}" for of_variant in values]
        cells.append("of one seed, not known")
        if len(options.seeds) > 1:
            low, high = of_difference(*map(of_mean, values)).interval
            cells[-1] = f"{low:+.3f} to {high:+.3f}"
        print(f"| {title} | {' | '.join(cells)} |")
    figure, axes = plt.subplots(2, 2, figsize=(9, 9))
    for row, picture in enumerate(("generator/samples.png", "latents.png")):
        for column, (name, alignment) in enumerate(VARIANTS.items()):
            folder = options.output / f"{alignment}-{options.seeds[0]}"
            axes[row, column].imshow(plt.imread(folder / picture))
            axes[row, column].set(title=name if row == 0 else "", xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(options.output / "study.png", dpi=110)


if __name__ == "__main__":
    main()
