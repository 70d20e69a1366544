"""Logs that do not grow where they need not: events in several files, read back whole."""

import pathlib

import pytest
from tensorboardX.proto.event_pb2 import Event

from lightningdit_jax.training import event_files
from lightningdit_jax.training.writer import MetricWriter


def events(path):
    """Those of a file, as TensorBoard's records frame them: length, checksum, event, checksum."""
    data, found = pathlib.Path(path).read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def written(folder):
    """(step, name, value) of all files in the order of their names, and how many files."""
    files = sorted((folder / "tensorboard").iterdir())
    found = [event for file in files for event in events(file)]
    values = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    return values, files


def test_events_go_on_in_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "EVENTS_BYTES", 1000)
    log = MetricWriter(str(tmp_path), start_step=0, writers=("tensorboard",))
    for step in range(1, 101):
        log.write(step, {"loss": step / 2, "grad_norm": 1.0})
    log.close()
    values, files = written(tmp_path)
    assert values == [
        (step, name, value)
        for step in range(1, 101)
        for name, value in (("loss", step / 2), ("grad_norm", 1.0))
    ]
    assert 4 <= len(files) <= 8 and max(file.stat().st_size for file in files) < 2500


def test_going_back_within_a_second_loses_no_event(tmp_path):
    """Their names said the second alone, and the later one was written over the other."""
    log = MetricWriter(str(tmp_path), start_step=0, writers=("tensorboard",))
    log.write(5, {"loss": 1.0})
    log.rewind(5)
    log.write(10, {"loss": 2.0})
    log.close()
    values, files = written(tmp_path)
    assert [value[0] for value in values] == [5, 10] and len(files) == 2


@pytest.mark.parametrize("prefix", ["valid/", "eval/"])
def test_what_has_a_record(tmp_path, prefix):
    log = MetricWriter(str(tmp_path), start_step=0, writers=("tensorboard",))
    log.write(4, {"loss": 1.0})
    log.write(4, {f"{prefix}mse": 1.0})
    log.write(8, {"loss": 1.0})
    assert [log.has(step, prefix) for step in (2, 4, 8)] == [False, True, False]
    log.close()
    assert MetricWriter(str(tmp_path), start_step=4).has(4, prefix)


def test_records_that_are_gone_are_said(tmp_path, caplog):
    MetricWriter(str(tmp_path), start_step=0, writers=("tensorboard",)).close()
    assert not caplog.text
    (tmp_path / "metrics.jsonl").unlink()
    MetricWriter(str(tmp_path), start_step=6).close()
    assert "metrics.jsonl is not there: records begin with step 7" in caplog.text
