"""Where the time of a program on a GPU goes, by the profiler's account of its kernels."""

import collections
import pathlib
import re
import tempfile
from collections.abc import Callable

import jax

# By what the names of kernels begin with or contain; the rest are XLA's own fusions.
_KINDS = {
    "products": re.compile(r"nvjet|gemm|cutlass|xmma|cublas|splitK"),
    "attention": re.compile(r"sdpa|fmha|cudnn"),
    "copies": re.compile(r"memcpy|memset|copy|transpose|dynamic", re.IGNORECASE),
}
OTHER = "elementwise and reductions"


def milliseconds_by_kind(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds that the first GPU spends on products, attention, copies and the rest.

    work: runs until its results are there. Raises ValueError where there is no GPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return _by_kind(path)


def _by_kind(path: pathlib.Path) -> dict[str, float]:
    spent: collections.Counter = collections.Counter()
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    plane = next((plane for plane in planes if plane.name == "/device:GPU:0"), None)
    if plane is None:
        raise ValueError("the profile has no GPU in it")
    for line in plane.lines:
        if line.name.startswith("Stream"):
            for event in line.events:
                spent[_kind(event.name)] += event.duration_ns / 1e6
    return dict(spent.most_common())


def _kind(kernel: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(kernel)), OTHER)
