"""Kinds of faults by what became of them."""

import collections

from tests.faults.verdict import MISSED, VERDICTS


def table(injections):
    """Rows of a Markdown table, with a sum at the end."""
    counts = collections.defaultdict(collections.Counter)
    for injection in injections:
        for kind in (injection.kind, "all"):
            counts[kind][injection.verdict] += 1
    kinds = [*dict.fromkeys(injection.kind for injection in injections), "all"]
    rows = [["kind", "injected", *VERDICTS, MISSED], ["---"] * (3 + len(VERDICTS))]
    for kind in kinds:
        numbers = [counts[kind][verdict] for verdict in VERDICTS]
        rows.append([kind, *map(str, [sum(numbers), *numbers, counts[kind][MISSED]])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
