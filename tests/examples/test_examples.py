"""Every example runs, and its pictures and numbers are what other code says they are.

CI runs the slow ones too.
"""

import json
import os
import re
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image

import lightningdit_jax as ldj
from lightningdit_jax.assembly.check import check
from lightningdit_jax.data.digits import Digits
from lightningdit_jax.data.pipeline import make_pipeline
from lightningdit_jax.data.sources import SOURCES
from lightningdit_jax.inference.quality.job import evaluate
from lightningdit_jax.inference.quality.metrics import METRICS
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.training.job import fresh_state, make_job
from lightningdit_jax.training.optimizer import make_optimizer
from tests import tiny
from tests.examples.stand_in import ROOT, example, save_demo

pytestmark = pytest.mark.xdist_group(__name__)  # the fixture of the module is made once


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Those that all examples take."""
    folder = tmp_path_factory.mktemp("demo")
    save_demo(folder)
    names = {"generator": "generator", "tokenizer": "tokenizer", "output": "out"}
    return {name: f"--{name}={folder / path}" for name, path in names.items()}


def picture(arguments, name):
    return Image.open(f"{arguments['output'].partition('=')[2]}/{name}.png")


def assert_same(images, others):
    """But for the rounding of another batch: a pixel may move by one level."""
    difference = np.abs(np.asarray(images).astype(int) - np.asarray(others))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.02


@pytest.mark.slow
def test_an_interpolation_ends_at_samples(arguments):
    grid = example("interpolate")["main"]([*arguments.values(), "--labels", "3", "8"])
    draw, others = example("sample")["main"], [*"01245679"]
    given = [*arguments.values(), "--cfg-scales", "2", "--labels"]
    first, second, *_ = draw([*given, "3", "8", *others])
    assert_same(grid[0, 0], first)
    assert_same(grid[-1, -1], second)
    first, second, *_ = draw([*given, "8", "3", *others])
    assert_same(grid[-1, 0], first)
    assert_same(grid[0, -1], second)
    for step in np.diff(grid.astype(int), axis=0), np.diff(grid.astype(int), axis=1):
        assert np.abs(step).max((-3, -2, -1)).min() > 1  # each of them moves
    assert picture(arguments, "interpolate").size == (8 * 66 + 2, 8 * 66 + 2)
    assert picture(arguments, "sample").size == (10 * 66 + 2, 66 + 2)


@pytest.mark.slow
def test_what_a_tokenizer_keeps(arguments, capsys):
    given = [arguments["tokenizer"], arguments["output"]]
    originals, rebuilt = example("reconstruct")["main"](given)
    digits = Digits("test", 16)
    np.testing.assert_array_equal(originals[-1, ..., 0], digits.pixels[-1])
    error = ((originals.astype(float) - rebuilt) ** 2).mean((1, 2, 3))
    said = re.findall(
        r"^digit \d+: PSNR ([\d.]+) dB, SSIM -?0\.\d+$", capsys.readouterr().out, re.M
    )
    np.testing.assert_allclose([*map(float, said)], 10 * np.log10(255**2 / error), atol=0.006)
    shown = np.asarray(picture(arguments, "reconstruct"))[4:-2:4, 4:-2:4]
    np.testing.assert_array_equal(shown[:16, :16], originals[0])


@pytest.mark.slow
def test_an_inversion_comes_back(arguments):
    """The more exactly, the more steps; and the edit to its own label is no edit."""
    edit, label = example("edit_by_inversion")["main"], Digits("test", 16).label(0)
    given = [*arguments.values(), f"--label={label}"]
    coarse, fine = (edit([*given, f"--num-steps={n}"]) for n in (16, 32))
    assert fine[0] < 0.02 and fine[0] < coarse[0] / 3  # of second order or better
    images, back, edited = np.split(fine[1], 3)
    np.testing.assert_array_equal(back[0], edited[0])
    assert np.abs(back[1].astype(int) - edited[1]).max() > 1
    assert images.shape == (10, 16, 16, 3)


@pytest.mark.slow
def test_losses_of_the_loop_are_those_of_the_job(tmp_path):
    """One program against another: draws, path, loss, optimizer and the order of the data."""
    latents, steps = tiny.write_latents(tmp_path / "latents"), 3
    losses = example("training_loop")["main"](
        [
            f"--latents={latents}",
            f"--output={tmp_path / 'dit'}",
            f"--num-steps={steps}",
            "--batch-size=8",
            "--hidden-size=16",
            "--depth=1",
        ]
    )
    config = tiny.config(
        "digits_dit",
        data__path=str(latents),
        model__hidden_size=16,
        model__num_heads=4,
        model__depth=1,
    )
    job = make_job(config, make_mesh(devices=jax.devices()[:1]))
    optimizer = make_optimizer(config.optimizer, config.train.num_steps)
    step = jax.jit(job.make_step(job.graphdef(), config, optimizer))
    state = jax.jit(lambda: fresh_state(job, config, optimizer))()
    data = make_pipeline(
        job.source,
        global_batch_size=config.train.batch_size,
        seed=config.seed,
        flip=config.data.flip,
        num_threads=1,
        prefetch_batches=1,
    )
    for loss, batch in zip(losses, data):
        state, metrics = step(state, batch)
        assert loss == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert int(state.step) == steps
    dit = ldj.load(str(tmp_path / "dit"))
    want = state.ema["final_layer"]["linear"]["kernel"]
    np.testing.assert_allclose(dit.final_layer.linear.kernel[...], want, rtol=1e-4, atol=1e-6)
    assert dit.latent_scaling == tiny.load_scaling(latents)


def test_a_metric_of_ones_own(tmp_path):
    with mock.patch.dict(METRICS):
        names = example("own_metric")
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(4, 3)), rng.normal(0.5, 1, (5, 3))

        def mean(pairs):
            return np.mean([(np.dot(a, b) / 3 + 1) ** 3 for a, b in pairs])

        within = [mean([(a, b) for i, a in enumerate(s) for b in s[:i]]) for s in (x, y)]
        want = sum(within) - 2 * mean([(a, b) for a in x for b in y])
        assert names["kernel_distance"](x, y) == pytest.approx(want)

        pixels = Digits("test", 16).pixels[..., None].repeat(3, -1)
        noise = rng.integers(0, 256, (50, 16, 16, 3), np.uint8)
        found = {}
        for name, images in {"digits": pixels, "noise": noise}.items():
            (tmp_path / name).mkdir()
            np.savez(tmp_path / name / "samples.npz", arr_0=images)
            config = tiny.config("digits_dit", evaluate__metric="digits_kid")
            found[name] = evaluate(config, str(tmp_path / name))["digits_kid"]
            stream = METRICS["digits_kid"].stream(config, None, ())
            assert stream(iter(np.array_split(images, 3)), None)["digits_kid"] == found[name]
        assert abs(found["digits"]) < 0.05 * found["noise"]


def test_a_source_of_ones_own(tmp_path):
    with mock.patch.dict(SOURCES):
        names = example("own_data_source")
        train, held_out = (names["Shapes"](split) for split in ("train", "test"))
        assert not {*train.numbers} & {*held_out.numbers}
        assert len(train) + len(held_out) == 3000
        for index in range(9):
            inside = (np.asarray(train.image(index)) < 255).any(-1)
            rows, columns = np.nonzero(inside)
            share = inside.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
            of = {"disk": np.pi / 4, "square": 1, "triangle": 0.5}
            assert share == pytest.approx(of[train.class_names[train.label(index)]], abs=0.06)
        config = tiny.config("digits_vavae", data__source="shapes", data__split="train")
        said = []
        assert check(config, str(tmp_path), said.append) == 0
        assert "  2,400 images, 3 classes: disk 800, square 800, triangle 800" in said


@pytest.mark.slow
def test_rows_of_ones_own_are_known_to_the_command(tmp_path):
    def run(name, *arguments):
        command = [sys.executable, ROOT / "examples" / f"{name}.py", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE
        )
        assert done.returncode == 0
        return done.stdout

    source = ["--config=digits_vavae", "--workdir=shapes", "--config.data.source=shapes"]
    assert "triangle 800" in run("own_data_source", *source, "--mode=check")
    pixels = Digits("test", 16).pixels[..., None].repeat(3, -1)
    (tmp_path / "w").mkdir()
    np.savez(tmp_path / "w" / "samples.npz", arr_0=pixels)
    metric = ["--config=digits_dit", "--workdir=w", "--config.evaluate.metric=digits_kid"]
    assert "digits_kid" in run("own_metric", *metric, "--mode=evaluate")
    assert json.loads((tmp_path / "w" / "evaluation.json").read_text())["digits_kid"] < 1
