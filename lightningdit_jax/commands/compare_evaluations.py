"""Compares evaluations: do numbers differ by more than the spread among samples?

python scripts/compare_evaluations.py A/evaluation.json B/evaluation.json
python scripts/compare_evaluations.py WORKDIR/sweep.json

All are compared with the first; a sweep.json stands for all of its rows. Each line has a number of
both, its difference, the 95 % interval of that, and whether 0 lies inside (smaller than the
spread). Error bars are those of --config.evaluate.seeds, sweep.seeds or evaluate.jackknife_blocks.
"""

import argparse
import sys


def main() -> None:
    """Prints the differences; exit status 2 where two do not compare."""
    from lightningdit_jax.inference.quality.comparison import (
        differences,
        notes,
        read_evaluations,
    )

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--number", help="only this one, such as fid")
    options = parser.parse_args()
    try:
        first, *others = [e for path in options.files for e in read_evaluations(path)]
        if not others:
            raise ValueError(f"{first.name} is one evaluation; give two or more to compare")
        compared = [(other, differences(first, other)) for other in others]
        known = {each.name for _, found in compared for each in found}
        if options.number and options.number not in known:
            raise ValueError(f"no number {options.number}; there are {', '.join(sorted(known))}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"first: {first.name}")
    judged = 0
    for other, found in compared:
        print(f"\nsecond: {other.name}")
        print(f"{'number':28s} {'first':>10s} {'second':>10s} {'difference':>10s}  95 % interval")
        for each in found:
            if options.number in (None, each.name):
                print(each.line)
                judged += each.bar is not None
        for note in notes(first, other):
            print(f"note: {note}")
    if judged > 1:
        print(
            f"\n{judged} differences were judged; of those that are none, one in twenty is larger "
            "than the spread by chance"
        )
