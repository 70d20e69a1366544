"""Shows how evenly latents fill their space: t-SNE pictures and the paper's three measures.

python scripts/visualize_latents.py --output=outputs/latents.png NAME=FOLDER_OR_FILE ...

FOLDER holds latent shards (the measures are of one random position of each of --count images,
normalized); FILE is a .safetensors file with such vectors, `latents` [N, C].
"""

import argparse
import dataclasses
import json
import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def read_vectors(path: pathlib.Path, count: int, seed: int) -> np.ndarray:
    """Normalized latent vectors [N, C]."""
    from safetensors.numpy import load_file

    from lightningdit_jax.data.latents import LatentShards, load_stats

    if path.is_file():
        return load_file(path)["latents"][:count]
    shards, stats = LatentShards(path), load_stats(path)
    rng = np.random.default_rng(seed)
    indices = np.sort(rng.choice(len(shards), min(count, len(shards)), replace=False))
    latents = shards.read(indices, rng.random(len(indices)) < 0.5)
    rows, columns = (rng.integers(0, side, len(indices)) for side in latents.shape[1:3])
    vectors = np.asarray(latents[np.arange(len(indices)), rows, columns], np.float32)
    return (vectors - np.float32(stats.mean)) / np.float32(stats.std)


def main() -> None:
    """Writes the picture and, beside it, the measures as JSON."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    from lightningdit_jax.commands.option_names import in_options
    from lightningdit_jax.evaluation.uniformity import kernel_density, tsne_layout, uniformity

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("latents", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="picture to write")
    parser.add_argument("--count", type=int, default=10_000, help="vectors of each")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    named = dict(argument.partition("=")[::2] for argument in options.latents)
    figure, axes = plt.subplots(1, len(named), figsize=(5 * len(named), 5), squeeze=False)
    measures = {}
    print(f"{'latents':24s} {'density CV':>12s} {'entropy':>12s} {'Gini':>12s}")
    for axis, (name, path) in zip(axes[0], named.items()):
        try:
            vectors = read_vectors(pathlib.Path(path), options.count, options.seed)
        except (ValueError, OSError, KeyError) as error:
            said = in_options(error, path="PATH")
            print(f"error: {name}={path}: {said}; expected NAME=PATH", file=sys.stderr)
            sys.exit(2)
        points = tsne_layout(vectors, options.seed)
        density = kernel_density(points)
        found = uniformity(density)
        measures[name] = {**dataclasses.asdict(found), "count": len(vectors)}
        axis.scatter(*points.T, c=density, s=2, cmap="viridis", linewidths=0)
        axis.set(title=f"{name}\ndensity CV {found.density_cv:.3f}", xticks=[], yticks=[])
        axis.set_aspect("equal")
        print(
            f"{name:24s} {found.density_cv:12.4f} {found.normalized_entropy:12.4f} "
            f"{found.gini:12.4f}",
            flush=True,
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)
    options.output.with_suffix(".json").write_text(json.dumps(measures, indent=1) + "\n")
    print(f"picture in {options.output}")


if __name__ == "__main__":
    main()
