"""A page to sample from, without gradio: what its controls ask for, draw and refuse."""

import json
import socket
import zipfile

import numpy as np
import pytest
from PIL import Image

from lightningdit_jax.assembly.workdir import read_config
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.inference.page import job, view
from lightningdit_jax.inference.page.drawing import TEXT_CHUNK, Drawer, Refused
from lightningdit_jax.inference.page.settings import FIRST, first_settings, requested, unread
from lightningdit_jax.inference.sampling.job import sample
from lightningdit_jax.inference.sampling.opening import open_sampler
from lightningdit_jax.inference.sampling.options import Sampling
from lightningdit_jax.inference.sampling.sampler import make_program
from lightningdit_jax.sampling_options import OF_GUIDANCE, SamplingOptions
from tests import tiny
from tests.inference.page_config import WIDTHS, page_config

# The fixtures of the module are made once, by one worker.
pytestmark = pytest.mark.xdist_group(__name__)

# Sorted as folders are: the class number 1 is called 10, which is no number of a class.
NAMES = ("1", "10", "2", "cat, Felis catus", "dog", "emu", "fox", "gnu", "hen", "ibis")

# By everything that changes guidance.
GUIDED = {
    "cfg_scale": 1.7,
    "cfg_schedule": "power_cosine",
    "cfg_power": 2.0,
    "cfg_optimized_scale": True,
    "cfg_zero_init_steps": 1,
    "apg_eta": 0.5,
    "apg_norm_threshold": 5.0,
    "apg_momentum": -0.5,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return page_config(tmp_path_factory.mktemp("page"), NAMES)


@pytest.fixture(scope="module")
def opened(config):
    return open_sampler(config, "", FIRST)


@pytest.fixture
def drawer(config, opened, tmp_path):
    return Drawer(config, "", *opened, tmp_path / "drawn")


@pytest.fixture
def settings(config):
    return first_settings(config, len(NAMES), NAMES)


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_page_draws_what_the_command_draws(drawer, settings, tmp_path):
    settings |= {"labels": [0, 3], "seed": 7, "num_samples": 20, **GUIDED}
    seen = list(drawer.draw(settings))
    assert [len(drawn.pictures) for drawn in seen] == [0, 8, 16, 20]
    assert [bool(drawn.archive) for drawn in seen] == [False, False, False, True]
    assert seen[-1].line.startswith("drawn 20/20")
    assert [caption for _, caption in seen[-1].pictures[:3]] == ["1", "cat", "1"]

    with zipfile.ZipFile(seen[-1].archive) as archive:
        archive.extractall(tmp_path)
    [folder] = tmp_path.glob("samples-*/")
    sample(read_config(str(folder)), str(tmp_path / "by_command"))
    for index, (shown, _) in enumerate(seen[-1].pictures):
        name = f"{index:06d}.png"
        want = pixels(tmp_path / "by_command" / "samples" / name)
        np.testing.assert_array_equal(pixels(shown), want)
        np.testing.assert_array_equal(pixels(folder / name), want)
    said = json.loads((tmp_path / "by_command" / "samples.json").read_text())
    said.pop("runtime")
    assert json.loads((folder / "samples.json").read_text()) == said
    assert GUIDED.items() <= said.items()
    text = json.loads(Image.open(seen[-1].pictures[3][0]).text[TEXT_CHUNK])
    assert (text["index"], text["label"], text["class"], text["seed"]) == (3, 3, "cat", 7)


def test_another_average_is_drawn_with_and_left_again(drawer, config, settings, tmp_path):
    drawn = [list(drawer.draw(settings | {"ema_sigma": sigma})) for sigma in (0.0, WIDTHS[1], 0.0)]
    assert [len(seen) for seen in drawn] == [2, 3, 3]
    assert all(seen[0].line == "reading the weights of another average" for seen in drawn[1:])
    asked = {"ema_sigma": WIDTHS[1], "num_samples": FIRST, "output": "png"}
    sample(tiny.replaced(config, "sample", **asked), str(tmp_path))
    for index in range(FIRST):
        first, other, again = (pixels(seen[-1].pictures[index][0]) for seen in drawn)
        np.testing.assert_array_equal(other, pixels(tmp_path / "samples" / f"{index:06d}.png"))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"cfg_scale": 2.0}, {"cfg_power"}),
        ({"cfg_scale": 2.0, "cfg_schedule": "power_cosine", "solver": "rk4"}, {"apg_momentum"}),
        ({"cfg_scale": 1, "cfg_schedule": "power_cosine"}, set(OF_GUIDANCE)),
        ({"solver": "ucgm"}, {"timestep_shift", *OF_GUIDANCE}),
    ],
)
def test_what_others_leave_without_meaning_is_not_asked_for(config, settings, changes, names):
    kept = {"timestep_shift": 0.3, "cfg_power": 2.0, "apg_eta": 0.5, "apg_momentum": -0.5}
    settings |= {"cfg_scale": 1.0, **kept, **changes}
    assert unread(settings).keys() == names
    asked = requested(config, settings, NAMES)
    Sampling.of(asked.sample)
    for name, value in kept.items():
        default = getattr(SamplingOptions, name)
        assert getattr(asked.sample, name) == (default if name in names else value)


def test_scale_seed_and_classes_compile_nothing(drawer, config, opened, settings):
    [*_, first] = drawer.draw(settings)
    sampler = opened[0]
    method = Sampling.of(config.sample).method()
    program = make_program(sampler.structure, method, sampler.mesh)

    def programs():
        return make_program.cache_info().misses, program._cache_size()

    before = programs()
    changed = {"labels": [4], "seed": 1, "cfg_scale": 3.0, "cfg_interval_end": 0.5}
    lines = [drawn.line for drawn in drawer.draw(settings | changed)]
    assert programs() == before
    assert not any("compiling" in line for line in lines)
    assert "images/s" in lines[-1] and "images/s" not in first.line


def test_a_drawing_that_is_stopped_keeps_what_it_has(drawer, settings):
    seen = list(drawer.draw(settings | {"num_samples": 32}, lambda: True))
    assert [len(drawn.pictures) for drawn in seen] == [0, 8]
    assert seen[-1].line.startswith("stopped: drawn 8/32")
    with zipfile.ZipFile(seen[-1].archive) as archive:
        assert sum(name.endswith(".png") for name in archive.namelist()) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": None}, "config.seed is None; expected int"),
        ({"seed": 2**32}, "config.seed is 4294967296; expected at least 0 and at most 4294967295"),
        ({"seed": 1.5}, "config.seed is 1.5; expected int"),
        ({"num_samples": 0}, "config.sample.num_samples is 0; expected at least 1"),
        ({"num_samples": 1001}, "a page draws 1,000 at most, --mode=sample as many"),
        ({"num_steps": 1}, "config.sample.num_steps is 1; expected at least 2"),
        ({"solver": "eular"}, "did you mean 'euler'"),
        ({"cfg_scale": 2.0, "solver": "heun2", "cfg_zero_init_steps": 9}, "steps; expected fewer"),
        ({"cfg_scale": 2.0, "apg_norm_threshold": -1.0}, "norm_threshold is -1.0; expected"),
        ({"ema_sigma": 0.3}, "config.sample.ema_sigma is 0.3; expected at least 0.0 and at most"),
        ({"cfg_interval_start": 0.8, "cfg_interval_end": 0.2}, "before it begins at 0.8"),
        ({"ig_scale": 1.4}, "no second head"),
        ({"labels": [12]}, "reach from 12 to 12; expected 0 to 9"),
    ],
)
def test_settings_that_cannot_be_drawn_are_one_line(drawer, settings, changes, message):
    with pytest.raises(Refused) as refused:
        next(drawer.draw(settings | changes))
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.filterwarnings("ignore:overflow")
def test_images_that_are_not_finite_are_one_line(drawer, settings):
    with pytest.raises(Refused, match="choose another solver or a lower cfg_scale"):
        list(drawer.draw(settings | {"cfg_scale": 1e39}))


@pytest.mark.parametrize(
    ("labels", "first", "without"),
    [
        ("random", [], "random"),
        ("balanced", [], "balanced"),
        ("dog,0,dog", [4, 0], "random"),
    ],
)
def test_classes_begin_as_the_config_says(config, labels, first, without):
    config = config.changed(sample={"labels": labels})
    settings = first_settings(config, len(NAMES), NAMES)
    assert settings["labels"] == first and settings["num_samples"] == FIRST
    asked = requested(config, settings | {"labels": []}, NAMES)
    assert asked.sample.labels == without


def test_a_number_that_is_another_class_is_asked_for_by_name(config, settings):
    asked = requested(config, settings | {"labels": [1, 2, 3]}, NAMES)
    assert asked.sample.labels == "name:10,2,3"
    commas = ("2", "a, b", "1")
    assert requested(config, settings | {"labels": [1]}, commas).sample.labels == '"name:a, b"'


def test_what_the_controls_offer():
    assert view.class_choices(3, ()) == [("0", 0), ("1", 1), ("2", 2)]
    assert view.class_choices(2, ("0", "cat, Felis catus")) == [("0", 0), ("1 cat", 1)]
    assert "sde_euler" in view.solver_choices(Flow())
    assert view.solver_choices(Flow("gvp")) != view.solver_choices(Flow())


def test_without_gradio_a_line_says_what_to_install(config, monkeypatch):
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda name: None)
    with (
        pytest.raises(ValueError, match=r"a page needs gradio: pip install .*\[page\]"),
        job.opened(config, ""),
    ):
        pass


def test_a_port_that_is_taken_is_named(config, monkeypatch):
    monkeypatch.setattr(job, "check_gradio", lambda: None)
    with socket.socket() as taken:
        taken.bind((view.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = config.changed(page={"port": port})
        with (
            pytest.raises(ValueError, match=f"port {port} is in use; set config.page.port to"),
            job.opened(busy, ""),
        ):
            pass


def test_an_average_that_cannot_be_made_is_one_line(drawer, settings):
    with pytest.raises(Refused, match=r"an average of sigma 0\.2 for .* cannot be made of the 2"):
        list(drawer.draw(settings | {"ema_sigma": 0.2}))


def test_widths_are_offered_where_weights_of_them_can_be_made(config):
    made = job.widths(config, "")
    assert set(WIDTHS) <= set(made) and 0.2 not in made
    assert job.widths(tiny.replaced(config, "sample", use_ema=False), "") == []
