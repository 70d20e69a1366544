"""The commands of docs/from_the_release.md, as they stand there, on tiny files of the release."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import yaml
from PIL import Image

from lightningdit_jax.checkpoint import find_checkpoint
from lightningdit_jax.config import Config
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.flow.predictions import Flow
from lightningdit_jax.latent_scaling import LatentScaling
from lightningdit_jax.release_config.reading import import_yaml
from tests import tiny
from tests.golden import GOLDEN
from tests.inference.tiny_generator import random_generator, save_generator

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "from_the_release.md").read_text()
YAML = ROOT / "tests" / "testdata" / "release_yaml"
CHECKPOINTS = GOLDEN / "checkpoints"
PLANNED = [f"--config.{key}={value}" for key, value in tiny.PLANNED.items()]
# What takes the published sizes down to those of the files, by mode.
TRAINING = [
    *PLANNED,
    "--config.model.depth=1",
    "--config.model.hidden_size=16",
    "--config.model.num_heads=2",
    "--config.train.batch_size=4",
    "--config.train.log_every_steps=1",
]


def commands():
    """Every command, in order, its lines joined."""
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    assert all(line.startswith("python ") for line in lines)
    return lines


def one(*parts):
    """The command that has all these parts."""
    (found,) = [line for line in commands() if all(part in line for part in parts)]
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The files that the commands name, in a folder each of them is run in."""
    folder = tmp_path_factory.mktemp("release")
    for name in ("main.py", "convert_torch_weights.py", "scripts", "lightningdit_jax"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("lightningdit-xl-imagenet256-64ep.pt", "0080000.pt"):
        shutil.copy(CHECKPOINTS / "release_full.pt", folder / name)
    tokenizer = "vavae-imagenet256-f16d32-dinov2.pt"
    shutil.copy(CHECKPOINTS / "vavae_state_dict.pt", folder / tokenizer)
    (folder / "LATENTS").mkdir()
    write_stats_pt(tiny.write_latents(folder / "LATENTS", channels=4, classes=3))
    values = yaml.safe_load((YAML / "config_details.yaml").read_text())
    values["data"] |= {"image_size": 64, "num_classes": 3}
    values["model"]["in_chans"] = 4
    values["train"] |= {"max_steps": 80_002, "ckpt_every": 1}
    values["sample"] |= {"num_sampling_steps": 5, "fid_num": 4}
    (folder / "THEIR.yaml").write_text(yaml.safe_dump(values))
    values = yaml.safe_load((YAML / "tokenizer_vavae_f16d32.yaml").read_text())
    values["model"]["params"]["ddconfig"]["resolution"] = 16
    (folder / "VAVAE.yaml").write_text(yaml.safe_dump(values))
    rng = np.random.default_rng(0)
    for index in range(4):
        path = folder / "IMAGES" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return folder


def write_stats_pt(folder):
    """Replaces latents_stats.safetensors by latents_stats.pt, as PyTorch writes that."""
    stats = safetensors.numpy.load_file(folder / "latents_stats.safetensors")
    (folder / "latents_stats.safetensors").unlink()
    with (
        zipfile.ZipFile(GOLDEN / "latents" / "latents_stats.pt") as eight,
        zipfile.ZipFile(folder / "latents_stats.pt", "w") as four,
    ):
        for name in eight.namelist():
            data = eight.read(name)
            if name.endswith("data.pkl"):  # channels and elements
                data = data.replace(b"K\x08", b"K\x04")
            for index, part in enumerate(("mean", "std")):
                if name.endswith(f"data/{index}"):
                    data = stats[part].astype("<f4").tobytes()
            four.writestr(name, data)


def run(world, command, *more):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:], *more],
        capture_output=True, text=True, cwd=world, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tokenizer(world):
    """ckpts/vavae, by its command."""
    run(world, one("--src vavae-"))


@pytest.mark.slow
def test_the_eight_classes_of_fast_inference_in_two_rows_of_four(world, tokenizer):
    """From a generator of 1,000 classes."""
    dit = random_generator(tiny.dit_config(in_channels=4, num_classes=1000))
    save_generator(world / "ckpts" / "dit", dit, flow=Flow(), scaling=LatentScaling())
    run(world, one("labels=975"), *PLANNED[:4], "--config.sample.num_steps=4")
    shutil.rmtree(world / "ckpts" / "dit")
    with np.load(world / "runs" / "fast" / "samples.npz") as samples:
        assert samples["arr_1"].tolist() == [975, 3, 207, 387, 388, 88, 979, 279]
        images = samples["arr_0"]
    said = json.loads((world / "runs" / "fast" / "samples.json").read_text())
    assert (said["cfg_scale"], said["cfg_channels"], said["timestep_shift"]) == (9.0, 3, 0.0)
    assert said["evaluations"] == said["guided_evaluations"]
    picture = np.asarray(Image.open(world / "runs" / "fast" / "samples.png"))
    side = 64  # of a small image, whose pixels are repeated
    assert picture.shape == (2 * (side + 2) + 2, 4 * (side + 2) + 2, 3)
    for index, image in enumerate(images):
        y, x = (2 + (side + 2) * at for at in divmod(index, 4))
        times = side // len(image)
        np.testing.assert_array_equal(picture[y : y + side : times, x : x + side : times], image)


@pytest.mark.slow
def test_images_from_their_files(world, tokenizer):
    out = run(world, one("--src lightningdit-"))
    assert "not known" not in out  # the statistics were read from latents_stats.pt
    out = run(world, one("runs/mine", "--mode=sample"), *PLANNED[:4])
    assert "sample.num_sampling_steps = 5: sample.num_steps = 5" in out
    assert (world / "runs" / "mine" / "samples.npz").is_file()


@pytest.mark.slow
def test_training_on_their_latents(world):
    run(world, one("runs/new", "LATENTS"), *TRAINING, "--config.train.num_steps=2")
    assert find_checkpoint(str(world / "runs" / "new")).name == "2"


@pytest.mark.slow
def test_their_run_goes_on(world):
    run(world, one("--to-workdir"))
    out = run(world, one("runs/theirs", "LATENTS", "main.py"), *TRAINING)
    assert "resumed from step 80,000" in out
    # Statistics, architecture and flow are compared; what no file of the release says is not.
    assert "does not say them: seed, examples" in out
    assert find_checkpoint(str(world / "runs" / "theirs")).name == "80002"


@pytest.mark.slow
def test_a_config_of_ours_and_latents_of_their_tokenizer(world, tokenizer):
    run(world, one("import_release_config"))
    assert "c.model.in_channels = 4" in (world / "configs" / "mine.py").read_text()
    small = [*PLANNED[:4], "--config.extract.batch_size=4"]
    run(world, one("--mode=extract"), *small)
    assert (world / "runs" / "latents" / "latents" / "latents_stats.safetensors").is_file()
    small = [*PLANNED[:4], "--config.evaluate.batch_size=4"]
    run(world, one("VAVAE.yaml", "--mode=evaluate"), *small)


def test_every_key_that_is_named_is_one():
    """In the document, and in what is said of the keys of the release's files."""
    rows = [str(row) for path in sorted(YAML.iterdir()) for row in import_yaml(str(path)).rows]
    named = set(re.findall(r"--config\.([a-z_.0-9]*[a-z0-9])", "\n".join([TEXT, *rows])))
    assert len(named) > 15 and named - {"optimizer.lr"} <= key_types(Config).keys()


def test_every_command_is_run_here_but_the_one_that_needs_inception():
    """So that one which is added is not forgotten."""
    parts = ("--src lightningdit-", "--src vavae-", "runs/mine --mode=sample", "runs/new")
    parts += ("--to-workdir", "workdir=runs/theirs", "import_release_config", "labels=975")
    parts += ("--mode=extract", "runs/latents --mode=evaluate", "evaluate.inception")
    assert [sum(part in line for line in commands()) for part in parts] == [1] * len(parts)
    assert len(commands()) == len(parts)
