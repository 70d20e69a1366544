"""Logs of a run: a line of JSON a record, which has a step. Imports nothing of ours."""

import json

from etils import epath

RECORDS, STARTS = "metrics.jsonl", "starts.jsonl"
# What a clock says of a record's steps. All else is the same after a kill and a restart.
TIMED = ("images_per_second", "data_wait", "mfu")


def read_log(path: epath.Path) -> tuple[list[tuple[int, str]], list[int]]:
    """(step, line) of each whole record, and the numbers of the lines that are none."""
    records, damaged = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            text = line.decode()
            record = json.loads(text)
            if type(record["step"]) is not int:
                raise ValueError("no step")
            records.append((record["step"], text))
        except (ValueError, TypeError, KeyError, RecursionError):
            damaged.append(number)
    return records, damaged
