"""A checkpoint as what a repository of the hub holds: there and back, its card, what is refused."""

import errno
import json
import os
import pathlib
import sys

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml
from etils import epath
from etils.epath.testing import mock_epath
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax import hub_folder
from lightningdit_jax.assembly.describe import describe
from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.assembly.verify import verify
from lightningdit_jax.averages import power_name
from lightningdit_jax.checkpoint import find_checkpoint, item_names, read_meta, save_checkpoint
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError
from lightningdit_jax.commands import convert
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.publishing.card import MARK
from lightningdit_jax.storage_errors import StorageError
from lightningdit_jax.tree_paths import named_leaves
from lightningdit_jax.verification import verifying
from tests import published_run, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir and its weights by item."""
    folder = tmp_path_factory.mktemp("run")
    return folder, published_run.write_run(folder)


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "dit"
    lines = []
    ldj.save_for_hub(str(run[0]), str(folder), license="mit", say=lines.append)
    assert lines == [f"lightningdit, step 6, 15,392 parameters (ema) in {folder}"]
    return folder


@pytest.fixture
def copied(published, tmp_path):
    """One that may be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in published.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def front_matter(folder):
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def section(text, heading):
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_a_folder_is_loaded_as_the_checkpoint_it_was_made_of(run, published):
    dit, there = ldj.load(str(published)), ldj.load(str(run[0]))
    chex.assert_trees_all_equal(nnx.state(dit, nnx.Param), nnx.state(there, nnx.Param))
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(dit, nnx.Param)), run[1]["ema"])
    assert (dit.flow, dit.latent_scaling) == (there.flow, there.latent_scaling)
    assert ldj.latent_stats(str(published)) == there.latent_scaling
    meta = read_meta(find_checkpoint(str(published)))
    source = published_run.meta()
    assert all(meta[k] == source[k] for k in ("architecture", "class_names", "step", "latents"))


@pytest.mark.parametrize(
    "item, options", [("params", {"use_ema": False}), ("ema_0.5", {"ema_decay": 0.5})]
)
def test_other_weights_are_published_when_asked_for(run, tmp_path, item, options):
    ldj.save_for_hub(str(run[0]), str(tmp_path / "dit"), say=print, **options)
    dit = ldj.load(str(tmp_path / "dit"))
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(dit, nnx.Param)), run[1][item])
    assert "12.5" not in front_matter(tmp_path / "dit")[1]  # measured with the averages


def test_an_average_made_after_training_is_published(tmp_path, monkeypatch):
    items, meta = published_run.weights(), published_run.meta()
    meta["config"]["train"]["ema_sigmas"] = sigmas = (0.05, 0.1)
    kept = dict(zip(map(power_name, sigmas), (items["ema"], items["ema_0.5"])))
    save_checkpoint(str(tmp_path / "run"), {"params": items["params"], **kept}, {"meta": meta})
    where = (f"--src={tmp_path / 'run'}", f"--dst={tmp_path / 'dit'}")
    monkeypatch.setattr(sys, "argv", ["convert", "--to-hub", "--weights=ema_sigma_0.1", *where])
    convert.main()
    dit = ldj.load(str(tmp_path / "dit"))
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(dit, nnx.Param)), items["ema_0.5"])
    published = read_meta(find_checkpoint(str(tmp_path / "dit")))["published"]
    assert published == {"weights": "ema_sigma_0.1"}
    with pytest.raises(ValueError, match=r"an average of sigma 0\.28 for .* cannot be made of"):
        ldj.save_for_hub(str(tmp_path / "run"), str(tmp_path / "other"), ema_sigma=0.28)
    with pytest.raises(ValueError, match=r"ema_sigma is 0\.1, .* and use_ema False"):
        ldj.save_for_hub(str(tmp_path / "run"), "other", ema_sigma=0.1, use_ema=False)


def test_any_program_reads_the_arrays_by_their_names(run, published):
    tensors = safetensors.numpy.load_file(published / "model.safetensors")
    wanted = {n.replace("/", "."): leaf for n, leaf in named_leaves(run[1]["ema"])}
    assert "blocks.attn.qkv.kernel" in tensors
    chex.assert_trees_all_equal(tensors, wanted)


def test_each_device_of_a_mesh_has_its_part(run, published):
    loaded = load_functional(str(published), make_mesh(2, 2, 2))
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, loaded.params), run[1]["ema"])
    kernel = loaded.params["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_large_ones_are_several_files_as_the_hubs_own_tools_cut_them(run, copied):
    library = pytest.importorskip("huggingface_hub")
    arrays = dict(named_leaves(run[1]["ema"]))
    (copied / "model.safetensors").unlink()
    limit = 20_000  # bytes
    hub_folder.write_weights(epath.Path(copied), {"params": arrays}, limit)
    wanted = library.split_state_dict_into_shards_factory(
        {name.replace("/", "."): array for name, array in arrays.items()},
        get_storage_size=lambda array: array.nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    index = json.loads((copied / "model.safetensors.index.json").read_text())
    assert index["metadata"] == wanted.metadata
    assert index["weight_map"] == wanted.tensor_to_filename
    assert len(set(index["weight_map"].values())) > 2
    dit = ldj.load(str(copied))
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(dit, nnx.Param)), run[1]["ema"])
    name = sorted(wanted.filename_to_tensors)[1]
    (copied / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"no complete checkpoint: it lacks {name}"):
        ldj.load(str(copied))


def test_a_changed_byte_is_named(copied, capsys):
    path = copied / "model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    data[8 + length + header["blocks.attn.proj.bias"]["data_offsets"][0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedCheckpointError, match="'params/blocks/attn/proj/bias' holds other"):
        ldj.load(str(copied))
    ldj.load(str(copied), verify=False)
    assert verify(tiny.config("digits_dit", data__path=""), str(copied)) == 1
    assert "DAMAGED: 'params/blocks/attn/proj/bias'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "harm, said",
    [
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64), "cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "its JSON cannot be read"),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace('"step": 6', '"step": 7')
            ),
            "its JSON is not as it was saved",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "it lacks model.safetensors"),
    ],
)
def test_other_damage_is_said(copied, harm, said):
    harm(copied)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        ldj.load(str(copied))


def test_without_digests_what_does_not_fit_is_still_refused(copied):
    arrays = safetensors.numpy.load_file(copied / "model.safetensors")
    arrays["pos_embed"] = arrays["pos_embed"].astype(np.float16)
    safetensors.numpy.save_file(arrays, copied / "model.safetensors")
    with verifying(False), pytest.raises(DamagedCheckpointError, match="'pos_embed' is float16"):
        ldj.load(str(copied))


def test_in_a_bucket_it_is_refused():
    there = {"gs://bucket/dit": True, "gs://bucket/dit/model.safetensors": False}
    with (
        mock_epath(
            exists=lambda _, path: str(path) in there,
            isdir=lambda _, path: there.get(str(path), False),
            listdir=lambda *_: [],
        ),
        pytest.raises(ValueError, match=r"gs://bucket/dit .* copy it to a local disk first"),
    ):
        find_checkpoint("gs://bucket/dit")


def test_it_is_described_and_verified_as_a_checkpoint_is(published, capsys):
    lines = "\n".join(describe(str(published)))
    assert "lightningdit, 15,392 parameters, step 6" in lines
    assert "'ema' of the checkpoint it was" in lines
    assert f"--config.sample.checkpoint={published}" in lines
    assert verify(tiny.config("digits_dit", data__path=""), str(published)) == 0
    assert "1 whole, 0 damaged, 0 not verified" in capsys.readouterr().out


def test_tables_of_converted_weights_stay_to_the_last_bit(tmp_path, run):
    tables = {"feat_rope.freqs_cos": np.linspace(0, 1, 7, dtype=np.float32)}
    meta = {k: v for k, v in published_run.meta().items() if k not in ("config", "history")}
    items = {"params": run[1]["params"], "buffers": tables}
    save_checkpoint(str(tmp_path / "x"), items, {"meta": meta})
    ldj.save_for_hub(str(tmp_path / "x"), str(tmp_path / "dit"), say=print)
    folder = find_checkpoint(str(tmp_path / "dit"))
    assert item_names(folder) == {"meta", "params", "buffers"}
    tensors = safetensors.numpy.load_file(tmp_path / "dit" / "model.safetensors")
    np.testing.assert_array_equal(tensors["buffers.feat_rope.freqs_cos"], *tables.values())
    assert verify(tiny.config("digits_dit", data__path=""), str(folder)) == 0


def test_the_card_says_what_the_checkpoint_knows(published):
    front, text = front_matter(published)
    assert front["license"] == "mit" and front["library_name"] == "lightningdit_jax"
    assert front["pipeline_tag"] == "unconditional-image-generation"
    assert front["metrics"] == ["fid"] and "datasets" not in front
    assert MARK in text
    assert "| hidden_size | `16` |" in section(text, "Architecture")
    trained = section(text, "How it was trained")
    assert "| `optimizer.learning_rate` | `0.0003` | `0.0002` |" in trained
    assert "train.batch_size" in trained and "sample.tokenizer" not in trained
    assert "optimizer.beta2" not in trained  # as the default
    assert "since step 4: optimizer.learning_rate 0.0002 -> 0.0003" in section(text, "History")
    numbers = section(text, "Numbers")
    assert "| fid | 12.5 |" in numbers and "num_steps `50`" in numbers
    assert "| `valid/ema_mse` | 0.75 |" in numbers  # of step 6, not of step 4
    assert "| `2.5` | 12.5 |" in numbers and "99" not in numbers
    assert "solver `euler`" in numbers
    assert "step 4" in text.partition("## Use")[0]  # the newest picture that is not younger


def test_no_folder_of_the_publishers_machine_is_published(published):
    for path in published.iterdir():
        assert published_run.SECRET.encode() not in path.read_bytes(), path
    meta = json.loads((published / "config.json").read_text())["meta"]
    assert meta["config"]["data"]["path"] == "latents" and meta["tokenizer"] == "vavae"


def test_nothing_of_others_is_replaced(run, published, copied, tmp_path):
    with pytest.raises(FileExistsError, match="holds no model for the hub"):
        ldj.save_for_hub(str(run[0]), str(run[0]))
    with pytest.raises(FileExistsError, match="is there already; delete it, or pass overwrite"):
        ldj.save_for_hub(str(run[0]), str(copied))
    before = (copied / "config.json").read_bytes()
    ldj.save_for_hub(str(run[0]), str(copied), use_ema=False, overwrite=True, say=print)
    assert (copied / "config.json").read_bytes() != before
    assert sorted(p.name for p in copied.parent.iterdir()) == ["copy"]
    with pytest.raises(ValueError, match=r"no average 'ema_0.9'; there are: ema, ema_0.5"):
        ldj.save_for_hub(str(run[0]), str(tmp_path / "other"), ema_decay=0.9)
    assert not (tmp_path / "other").exists()


def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(StorageError, match="ENOSPC"):
        ldj.save_for_hub(str(run[0]), str(tmp_path / "dit"))
    assert not list(tmp_path.iterdir())


def test_what_was_there_is_put_back_where_a_name_is_refused(run, copied, monkeypatch):
    before = (copied / "model.safetensors").read_bytes()
    rename = pathlib.Path.rename

    def refuse(path, target):
        if path.name.endswith(".new"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with pytest.raises(StorageError, match="EIO"):
        ldj.save_for_hub(str(run[0]), str(copied), use_ema=False, overwrite=True, say=print)
    assert (copied / "model.safetensors").read_bytes() == before
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def test_weights_that_are_not_finite_are_not_published(run, tmp_path):
    bad = jax.tree.map(np.copy, run[1]["params"])
    bad["pos_embed"][0] = np.nan
    save_checkpoint(str(tmp_path / "x"), {"params": bad}, {"meta": published_run.meta()})
    with pytest.raises(ValueError, match="values that are not finite, in pos_embed"):
        ldj.save_for_hub(str(tmp_path / "x"), str(tmp_path / "dit"))
    assert not (tmp_path / "dit").exists()


def test_weights_are_published_by_the_command_too(run, tmp_path, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        convert.main()

    target = tmp_path / "dit"
    command("--to-hub", "--src", run[0], "--dst", target, "--weights=ema_0.5", "--license=mit")
    assert read_meta(find_checkpoint(str(target)))["published"] == {"weights": "ema_0.5"}
    for wrong, said in (
        (("--to-hub", "--dst", tmp_path / "b", "--weights=teacher"), "expected ema, model"),
        (("--to-hub", "--dst", tmp_path / "b", "--private"), "expected --dst=hf://OWNER/NAME"),
        (("--to-torch", "--dst", "hf://me/x"), "only --to-hub writes into the hub"),
        (("--to-torch", "--dst", tmp_path / "b.pt", "--license=mit"), "leave them out"),
    ):
        with pytest.raises(SystemExit) as ended:
            command("--src", run[0], *wrong)
        assert ended.value.code == 2 and said in capsys.readouterr().err
