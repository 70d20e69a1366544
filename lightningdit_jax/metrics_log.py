"""metrics.jsonl: a line of JSON a record. Imports nothing of ours."""

import json

from etils import epath


def read_log(path: epath.Path) -> tuple[list[tuple[int, str]], list[int]]:
    """(step, line) of each whole record, and the numbers of the lines that are none."""
    records, damaged = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            records.append((int(json.loads(line)["step"]), line.decode()))
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(number)
    return records, damaged
