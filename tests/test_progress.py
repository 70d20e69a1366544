"""Lines of progress by a clock that the test sets."""

import pytest

from lightningdit_jax import progress
from lightningdit_jax.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_come_every_ten_seconds_and_leave_compilation_out(clock, capsys):
    shown = Progress("sampled", 50_000)
    for now, done in ((105, 1_000), (109, 1_020), (125, 1_420), (130, 1_620), (140, 50_000)):
        clock.now = now
        shown.update(done)
    assert capsys.readouterr().out.splitlines() == [
        "sampled 1,420/50,000  21.0 images/s  38m33s left",  # 420 in 20 s, 1,000 took 5 with it
        "sampled 50,000/50,000  1,400.0 images/s",
    ]


def test_a_job_of_one_update_counts_from_its_beginning(clock, capsys):
    shown = Progress("extracted", 30, done=10)
    shown.compiling()
    assert capsys.readouterr().out.startswith("extracted 10/30  compiling for the first batch")
    clock.now += 4
    shown.update(30)
    assert capsys.readouterr().out == "extracted 30/30  5.0 images/s\n"
    quiet = Progress("extracted", 30, quiet=True)
    quiet.compiling()
    quiet.update(30)
    assert capsys.readouterr().out == ""


def test_steps_of_several_images(clock):
    shown = Progress("step", 80_000, done=1_000, images=256, decimals=0)
    clock.now += 20
    shown.mark(1_100)  # compilation
    clock.now += 10
    rate = shown.rate(1_150)
    assert rate == 50 * 256 / 10
    line = "step 1,150/80,000  loss 0.385  1,280 images/s  4h22m left"
    assert shown.line(1_150, rate, "loss 0.385") == line


def test_without_a_rate_nobody_knows_what_is_left(clock):
    assert Progress("rebuilt", 7).line(0, 0.0) == "rebuilt 0/7  0.0 images/s"


def test_durations():
    said = {45.4: "45s", 750: "12m30s", 3_599.6: "1h00m", 11_520: "3h12m"}
    assert {seconds: duration(seconds) for seconds in said} == said
