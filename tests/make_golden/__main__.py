"""The command line of tests.make_golden; see its package."""

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from lightningdit_jax.errors import unknown_name
from tests.golden import GOLDEN
from tests.make_golden import release

if TYPE_CHECKING:
    from tests.make_golden.registry import Case

AREAS = (
    "generator",
    "tables",
    "transport",
    "sampling",
    "training",
    "tokenizer",
    "losses",
    "tokenizer_training",
    "foundation",
    "networks",
    "latents",
    "checkpoints",
    "manifests",
)


def main() -> None:
    """Makes the cases. Ends with 1 where one is not as stored, with 2 where none can be made."""
    parser = argparse.ArgumentParser(prog="python -m tests.make_golden")
    parser.add_argument("--release", required=True, help="checkout of hustvl/LightningDiT")
    parser.add_argument("--taming", required=True, help="checkout of CompVis/taming-transformers")
    parser.add_argument("--golden", default=GOLDEN, type=pathlib.Path, help="the stored cases")
    parser.add_argument("--cases", help="names with commas between them; all where left out")
    parser.add_argument("--output", type=pathlib.Path, help="write the cases to this folder")
    parser.add_argument("--check", action="store_true", help="compare with the stored cases")
    options = parser.parse_args()
    try:
        different = run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        print(f"error: {error}: pip install -e '.[golden]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(int(different > 0))


def run(options: argparse.Namespace) -> int:
    """Makes the cases one after the other; how many are not as stored.

    Raises ValueError or FileNotFoundError for what cannot be made.
    """
    if not options.check and options.output is None:
        raise ValueError("nothing is asked for: give --check, --output=FOLDER or both")
    release.use(options.release, options.taming)
    for area in AREAS:
        importlib.import_module(f"tests.make_golden.{area}")
    from tests.make_golden.files import write
    from tests.make_golden.registry import ENTRIES, MAKERS, Case

    listing = json.loads((options.golden / "index.json").read_text())
    entries = ENTRIES | {entry["case"]: entry for entry in listing["cases"]}
    names = options.cases.split(",") if options.cases else list(MAKERS)
    unmade = [name for name in entries if name not in MAKERS]
    for name in names:
        if name not in MAKERS:
            raise ValueError(unknown_name("case", name, list(MAKERS)))
        if name not in entries:
            raise ValueError(f"{options.golden / 'index.json'} has no entry of the case {name}")
    print_versions(listing["versions"])
    if unmade:
        print(f"not made: {', '.join(unmade)}")
    different = 0
    for name in names:
        case = Case(name, entries, options.golden)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            files = case.files()  # the release's code prints as it goes
        if options.output is not None:
            write(files, options.output)
        if options.check:
            different += not as_stored(case, files)
    if options.check:
        print(f"{len(names) - different} of {len(names)} cases are as stored")
    return different


def print_versions(stored: dict[str, str]) -> None:
    """Which of the packages are other ones than those that made the stored cases."""
    for package, version in stored.items():
        here = importlib.metadata.version(package).partition("+")[0]
        if here != version:
            print(f"{package} {here}; the stored cases were made with {version}")


def as_stored(case: "Case", files: dict[str, Any]) -> bool:
    """Prints a line for the case, and one for each tensor that is beyond its tolerance."""
    from tests.make_golden.compare import compare

    try:
        differences = compare(case, files)
    except ValueError as error:
        print(f"{case.name:36s} {error}", flush=True)
        return False
    worst = max(differences, key=lambda d: (d.over_tolerance, d.largest))
    largest = max(d.largest for d in differences)
    found = f"{worst.over_tolerance:.2g} of the tolerance, {worst.name}" if largest else "identical"
    print(f"{case.name:36s} {largest:8.1e}  {found}", flush=True)
    beyond = [d for d in differences if not d.over_tolerance <= 1]
    for d in beyond:
        print(f"    {d.name}: {d.largest:.2e}, {d.over_tolerance:.2g} of the tolerance")
    return not beyond


if __name__ == "__main__":
    main()
