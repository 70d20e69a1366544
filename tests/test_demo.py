"""The demo from end to end."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.test_glossary import tables

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_demo_makes_what_it_says(tmp_path):
    # As a user runs it: on one device. On the eight of these tests the adversary goes another way.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, ROOT / "scripts" / "demo.py", f"--output={tmp_path / 'demo'}"]
    subprocess.run(command, check=True, env=environment)
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["recognised_share"] >= 0.95
    assert summary["classifier_accuracy"] > 0.97
    assert summary["reconstruction_psnr"] > 22
    assert summary["digits_fid"] < 1.5
    # Neither copies of the training set nor one picture per class.
    assert summary["distance_to_train"] > 0.7 * summary["distance_to_train_real"]
    assert summary["distance_within_class"] > 0.5 * summary["distance_within_class_real"]
    for name in ("samples.png", "reconstructions.png", "losses.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
    records, evaluation = tables()
    for job in ("tokenizer", "generator"):
        lines = (tmp_path / "demo" / job / "metrics.jsonl").read_text().splitlines()
        written = {name for line in lines for name in json.loads(line)}
        assert {name for name in written if not name.startswith("eval/")} <= records
        numbers = {name for name in written if name.startswith("eval/")}
        assert {name.removeprefix("eval/") for name in numbers} <= evaluation
        judged = json.loads((tmp_path / "demo" / job / "evaluation.json").read_text())
        assert judged.keys() - {"of"} <= evaluation
