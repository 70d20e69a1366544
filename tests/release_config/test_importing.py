"""Every yaml of the release becomes a config, and none of its keys is passed over.

testdata/release_yaml holds the keys and values of the release's files.
"""

import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
import yaml

from lightningdit_jax import config as configs
from lightningdit_jax.assembly.models import generator_config, tokenizer_config
from lightningdit_jax.config import Config
from lightningdit_jax.config_fields import key_types
from lightningdit_jax.configs import workdir
from lightningdit_jax.release_config.reading import import_yaml

ROOT = pathlib.Path(__file__).parent.parent.parent
FOLDER = ROOT / "tests" / "testdata" / "release_yaml"
FILES = sorted(path.name for path in FOLDER.iterdir())


def shipped(name):
    return configs.from_dict(
        importlib.import_module(f"lightningdit_jax.configs.{name}").get_config()
    )


def imported(path):
    """What main.py makes of a yaml."""
    text = json.dumps(import_yaml(str(path)).nested())
    return configs.from_dict(workdir.get_config(text))


def differing(config, other):
    return {key for key in key_types(Config) if config.value(key) != other.value(key)}


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def changed(tmp_path, name, **changes):
    """A file of the release with keys, section__name, set."""
    values = yaml.safe_load((FOLDER / name).read_text())
    for key, value in changes.items():
        *sections, leaf = key.split("__")
        at = values
        for section in sections:
            at = at[section]
        at[leaf] = value
    path = tmp_path / name
    path.write_text(yaml.safe_dump(values))
    return path


def test_all_files_of_the_release_are_here():
    assert len(FILES) == 9


@pytest.mark.parametrize("name", FILES)
def test_every_key_has_a_row_and_the_config_is_one(name):
    rows = import_yaml(str(FOLDER / name)).rows
    for key in leaves(yaml.safe_load((FOLDER / name).read_text())):
        assert [row.how for row in rows if row.key == key] in (["mapped"], ["implied"]), key
    config = imported(FOLDER / name)
    (generator_config if config.kind == "lightningdit" else tokenizer_config)(config)


def test_generators_are_those_of_the_shipped_configs():
    short, long = shipped("dit_xl"), shipped("dit_xl_800ep")
    assert imported(FOLDER / "reproductions_64ep_cfg.yaml") == short
    eight_hundred = imported(FOLDER / "reproductions_800ep_cfg.yaml")
    assert eight_hundred.sample == long.sample
    # No file of the release says these two.
    assert differing(eight_hundred, long) == {"train.num_steps", "flow.uniform_from_step"}
    xl = imported(FOLDER / "lightningdit_xl_vavae_f16d32.yaml")
    assert differing(xl, short) == {"sample.cfg_interval_start"}
    assert xl.sample.cfg_interval_start == 0.11


@pytest.mark.parametrize(
    ("name", "ours", "also"),
    [
        ("vavae_f16d32_vfdinov2.yaml", "vavae_f16d32", set()),
        ("vavae_f16d32_vfdinov2_long.yaml", "vavae_f16d32_long", set()),
        # Without alignment neither is read.
        ("vavae_f16d32_ldm.yaml", "vavae_f16d32", {"vae_loss.alignment", "vae_loss.adaptive_vf"}),
    ],
)
def test_tokenizers_are_those_of_the_shipped_configs_but_for_precision_and_norms(name, ours, also):
    config = imported(FOLDER / name)
    expected = {"compute.dtype", "discriminator.stat_groups"} | also
    assert differing(config, shipped(ours)) == expected
    assert (config.compute.dtype, config.discriminator.stat_groups) == ("float32", 32)


def test_what_the_release_takes_for_absent_keys(tmp_path):
    values = yaml.safe_load((FOLDER / "config_details.yaml").read_text())
    for key in ("use_swiglu", "use_rope", "use_rmsnorm", "in_chans"):
        del values["model"][key]
    for key in ("latent_norm", "latent_multiplier"):
        del values["data"][key]
    for key in ("use_cosine_loss", "use_lognorm"):
        del values["transport"][key]
    for key in ("cfg_interval_start", "timestep_shift"):
        del values["sample"][key]
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(values))
    config = imported(path)
    model = config.model
    assert not (model.use_swiglu or model.use_rope or model.use_rmsnorm) and model.in_channels == 4
    assert (config.data.latent_norm, config.data.latent_multiplier) == (False, 0.18215)
    assert (config.flow.cosine_weight, config.flow.timesteps) == (0.0, "uniform")
    assert (config.sample.cfg_interval_start, config.sample.timestep_shift) == (0.0, 0.0)


def test_values_are_taken_over(tmp_path):
    config = imported(
        changed(
            tmp_path,
            "config_details.yaml",
            data__data_path="L/train",
            data__valid_path="L/valid",
            data__image_size=512,
            vae__downsample_ratio=8,
            model__model_type="LightningDiT-1p0B/2",
            optimizer__lr="1e-3",
            optimizer__max_grad_norm=1,
            transport__path_type="GVP",
            transport__prediction="noise",
            transport__loss_weight="likelihood",
            sample__sampling_method="dopri5",
        )
    )
    assert config.data.path == "L/train" and config.model.input_size == 64
    assert (config.model.variant, config.optimizer.learning_rate) == ("1p0B/2", 1e-3)
    # The release evaluates it where it writes a checkpoint.
    assert config.data.valid_path == "L/valid"
    assert config.train.validate_every_steps == config.train.checkpoint_every_steps > 0
    assert config.optimizer.max_grad_norm == 1.0 and config.sample.solver == "dopri5"
    flow = config.flow
    assert (flow.path, flow.prediction, flow.loss_weight) == ("gvp", "noise", "likelihood")
    assert flow.cosine_weight == 0.0  # which the release gives to velocities alone


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "config_details.yaml",
            {"sample__magic": 3},
            ["sample.magic: the release has no"],
        ),
        (
            "config_details.yaml",
            {"train__max_steps": "many"},
            ["train.max_steps: expected a wh"],
        ),
        (
            "config_details.yaml",
            {"sample__reverse": True, "transport__path_type": "linear"},
            ["sample.reverse", "transport.path_type: expected one of Linear, GVP, VP"],
        ),
        ("config_details.yaml", {"sample__mode": "SDE"}, ["sample.solver=sde_euler"]),
        ("config_details.yaml", {"data__image_size": 250}, ["16 does not divide it"]),
        ("config_details.yaml", {"model__model_type": "DiT-XL/2"}, ["expected LightningDiT-XL/1"]),
        ("config_details.yaml", {"vae": None}, ["lacks the sections vae"]),
        ("vavae_f16d32_vfdinov2.yaml", {"model__params__use_vf": "clip"}, ["dinov2 or mae"]),
        (
            "vavae_f16d32_vfdinov2.yaml",
            {"model__params__ddconfig__dropout": 0.1, "lightning__trainer__max_epochs": None},
            ["ddconfig.dropout", "max_epochs: it is empty"],
        ),
        (
            "vavae_f16d32_ldm.yaml",
            {"model__target": "ldm.models.diffusion.ddpm.LatentDiffusion"},
            ["is no yaml of the LightningDiT release"],
        ),
    ],
)
def test_what_cannot_be_taken_over_is_named_all_at_once(tmp_path, name, changes, said):
    with pytest.raises(ValueError) as raised:
        import_yaml(str(changed(tmp_path, name, **changes)))
    message = str(raised.value)
    assert "\n" not in message and all(text in message for text in said), message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2", "cannot be read as yaml"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read as yaml"),
        ("- a\n- b\n", "holds a list"),
        ("", "holds nothing"),
        (
            "name: x\nunet:\n  depth: 3\n",
            "no yaml of the LightningDiT release: it holds name, unet",
        ),
    ],
)
def test_damaged_and_foreign_files_are_one_line(tmp_path, text, said):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as raised:
        import_yaml(str(path))
    assert "\n" not in str(raised.value)


def command(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )


@pytest.mark.slow
def test_the_script_writes_a_config_that_does_the_same(tmp_path):
    source = changed(tmp_path, "vavae_f16d32_vfdinov2_long.yaml", model__base_learning_rate=3e-4)
    output = tmp_path / "mine.py"
    done = command("scripts/import_release_config.py", str(source), f"--output={output}")
    assert done.returncode == 0 and "mapped   lightning.trainer.devices = 8" in done.stdout
    spec = importlib.util.spec_from_file_location("mine", output)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert configs.from_dict(module.get_config()) == imported(source)
    again = command("scripts/import_release_config.py", str(source), f"--output={output}")
    assert again.returncode == 2 and "is there already" in again.stderr


def test_main_reads_a_yaml_and_refuses_others_in_one_line(tmp_path):
    workdir, other = tmp_path / "w", tmp_path / "other.yml"
    other.write_text("name: x\n")
    for path, said in [(other, "is no yaml of the Light"), (tmp_path / "no.yaml", "no such file")]:
        done = command("main.py", f"--config={path}", f"--workdir={workdir}")
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1 and not workdir.exists()
    path = FOLDER / "config_details.yaml"
    done = command("main.py", f"--config={path}", f"--workdir={workdir}", "--config.seed=-1")
    assert done.returncode == 2 and "config.seed" in done.stderr  # the yaml itself passed
    assert "sample.num_sampling_steps = 250: sample.num_steps = 250" in done.stdout
