"""Where the time goes on this machine's CPU, by the profiler's account.

    python -m benchmarks.cpu_profile
    python -m benchmarks.cpu_profile --work=sample

The step of B/2 that benchmarks/against_release.py times, or its sampling, with fewer layers:
milliseconds of products, copies and everything else, how fast the products are in it and alone, and
how many pages of memory the operating system gives it.
"""

import argparse
import collections
import itertools
import pathlib
import re
import resource
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.against_release import our_sampler, our_step
from benchmarks.floors import median_seconds
from lightningdit_jax.atomic_file import write_json

_MOVES = re.compile(r"(copy|transpose|bitcast|concatenate|slice|pad)")


def profile(work: Any, text: str) -> dict[str, float]:
    """Milliseconds of one call of `work` by kind. text: its optimized HLO.

    Instructions that run at the same time share it.
    """
    sources = dict(re.findall(r'%([\w.-]+) = [^\n]*op_name="([^"]*)"', text))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    changes = []
    for event in (event for plane in data.planes for line in plane.lines for event in line.events):
        if "hlo_op" in dict(event.stats):
            kind = _kind(event.name, sources.get(event.name, ""))
            changes.append((event.start_ns, 1, kind))
            changes.append((event.start_ns + event.duration_ns, -1, kind))
    spent: collections.Counter = collections.Counter()
    running: collections.Counter = collections.Counter()
    changes.sort()
    for (now, change, kind), (later, _, _) in itertools.pairwise(changes):
        running[kind] += change
        at_once = running.total()
        for other, count in running.items():
            spent[other] += (later - now) / 1e6 * count / max(at_once, 1)
        if not at_once:
            spent["none of them"] += (later - now) / 1e6
    return dict(spent)


def _kind(name: str, source: str) -> str:
    if source.endswith("dot_general"):
        return "products"
    return "copies" if _MOVES.match(name) else "elementwise and reductions"


def alone(rounds: int = 20) -> float:
    """GFLOP/s of the MLP's product, 2048 x 768 x 2048, with nothing around it."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in ((2048, 768), (768, 2048)))
    product = jax.jit(jnp.matmul)
    seconds = median_seconds(lambda: product(x, w).block_until_ready(), rounds)
    return 2 * 2048 * 768 * 2048 / seconds / 1e9


def main() -> None:
    """Prints the profile and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", choices=("train", "sample"), default="train")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--output", default="outputs/benchmarks/cpu_profile.json")
    options = parser.parse_args()
    make = our_step if options.work == "train" else our_sampler
    work, text, flops = make(options.depth)
    for _ in range(3):
        work()
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    seconds = time.perf_counter() - began
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    spent = profile(work, text)
    for kind, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{kind:28s} {milliseconds:8.0f} ms  {milliseconds / sum(spent.values()):.0%}")
    result = {
        "milliseconds": spent,
        "step_seconds": seconds,
        "page_faults": faults,
        "products_gflops": flops / spent["products"] / 1e6,
        "alone_gflops": alone(),
    }
    print(
        f"{seconds:.2f} s; products {result['products_gflops']:.0f} GFLOP/s in it, one "
        f"of the MLP {result['alone_gflops']:.0f} alone; {faults:,} page faults"
    )
    write_json(options.output, result)


if __name__ == "__main__":
    main()
