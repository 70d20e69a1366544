"""Weights as they lie on people's disks: wrapped, tagged, in few bits, in shards, in folders.

testdata/formats was made with torch 2.13.0 and omegaconf: a tiny generator of random weights
(expected.safetensors), of which torch.save wrote float8.pt (one tensor in float8_e4m3fn) and files
whose pickles are here (*.pkl); their storages hold the expected tensors in the same order.
"""

import json
import shutil
import subprocess
import sys
import zipfile

import chex
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import lightningdit_jax as ldj
from lightningdit_jax.assembly.models import generator_config
from lightningdit_jax.checkpoint import find_checkpoint, read_meta
from lightningdit_jax.convert.convert import infer_config, torch_shapes
from lightningdit_jax.convert.files import convert_files, export_file
from lightningdit_jax.convert.keymap import ConversionError, Hints
from lightningdit_jax.convert.kinds import common_prefix
from lightningdit_jax.convert.source import read_source
from tests import tiny
from tests.golden import GOLDEN

DATA = GOLDEN.parent / "formats"
INDEX = "model.safetensors.index.json"
EXPECTED = load_file(DATA / "expected.safetensors")


def torch_file(name, folder):
    """The file that torch.save wrote."""
    path = folder / f"{name}.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data.pkl", (DATA / f"{name}.pkl").read_bytes())
        for number, key in enumerate(NAMES):
            archive.writestr(f"{name}/data/{number}", EXPECTED[key].tobytes())
    return path


# The order of the state dict.
NAMES = list(json.loads((DATA / INDEX).read_text())["weight_map"])


def assert_expected(source):
    assert source.tensors.keys() == EXPECTED.keys()
    for key, want in EXPECTED.items():
        np.testing.assert_array_equal(source.tensors[key], want)


@pytest.mark.parametrize(
    ("name", "entry", "notes"),
    [
        ("namespace_beside", "ema", ["left out, not read: 'args' (argparse.Namespace)"]),
        (
            "omegaconf_beside",
            "ema",
            [
                "left out, not read: 'config' (omegaconf.dictconfig.DictConfig), "
                "'best' (numpy._core.multiarray.scalar)"
            ],
        ),
        ("parameters_with_attributes", "ema", []),
        ("model_ema", "model_ema", []),
        (
            "net_prefix",
            "state_dict",
            ["no averages in the file: raw weights of 'state_dict'", "prefix 'net.' taken off"],
        ),
    ],
)
def test_files_of_torch(name, entry, notes, tmp_path):
    source = read_source(torch_file(name, tmp_path))
    assert_expected(source)
    assert (source.weights.entry, list(source.notes)) == (entry, notes)


def test_float8_is_widened_exactly(tmp_path):
    """torch rounded to float8; ml_dtypes rounds alike, and float32 holds every value of it."""
    tensors = read_source(DATA / "float8.pt").tensors
    few = {key for key, tensor in tensors.items() if tensor.dtype == ml_dtypes.float8_e4m3fn}
    assert "t_embedder.mlp.0.weight" in few and "pos_embed" not in few
    convert_files([str(DATA / "float8.pt")], str(tmp_path / "dit"), say=str)
    kernel = ldj.load(str(tmp_path / "dit")).t_embedder.fc1.kernel[...]
    want = EXPECTED["t_embedder.mlp.0.weight"].astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(kernel, want.astype(np.float32).T)


SAFETENSORS_DTYPES = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "BF16": ml_dtypes.bfloat16,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I8": np.int8,
    "I16": np.int16,
    "C64": np.complex64,
}


def write_safetensors(path, dtype, data, shape):
    """One tensor 'x', by the format's specification."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES)
def test_types_of_safetensors(dtype, tmp_path):
    want = np.array([[0, 1, 2], [3, 4, 96]]).astype(SAFETENSORS_DTYPES[dtype])
    write_safetensors(tmp_path / "x.safetensors", dtype, want.tobytes(), [2, 3])
    got = read_source(tmp_path / "x.safetensors").tensors["x"]
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


def test_types_that_are_not_read_are_named_with_their_tensor(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", "F4", bytes(3), [2, 3])
    with pytest.raises(ValueError, match=r"x.safetensors: 'x' has type F4"):
        read_source(tmp_path / "x.safetensors")
    with (
        zipfile.ZipFile(DATA / "float8.pt") as old,
        zipfile.ZipFile(tmp_path / "x.pt", "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"float8_e4m3fn\n", b"complex32\n"))
    with pytest.raises(ValueError, match=r"x.pt: 't_embed.+' is a torch.complex32 tensor; expect"):
        read_source(tmp_path / "x.pt")


@pytest.fixture
def sharded(tmp_path):
    """The expected tensors in the two files of the index, which the hub's library wrote."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    shutil.copy(DATA / INDEX, folder / INDEX)
    places = json.loads((DATA / INDEX).read_text())["weight_map"]
    for name in set(places.values()):
        save_file({k: EXPECTED[k] for k, place in places.items() if place == name}, folder / name)
    return folder


def test_shards_are_read_from_their_folder_and_from_their_index(sharded, tmp_path):
    for path in (sharded, sharded / INDEX):
        assert_expected(read_source(path))
    convert_files([str(sharded)], str(tmp_path / "dit"), say=str)
    files = read_meta(find_checkpoint(str(tmp_path / "dit")))["source"]["files"]
    assert {entry["file"] for entry in files} == {p.name for p in sharded.iterdir()}


def test_shards_of_pt_files_with_their_index(tmp_path):
    whole = read_source(GOLDEN / "checkpoints" / "bare_state_dict.pt").tensors
    part = tmp_path / "pytorch_model-00001-of-00001.bin"
    shutil.copy(GOLDEN / "checkpoints" / "bare_state_dict.pt", part)
    index = tmp_path / "pytorch_model.bin.index.json"
    places = dict.fromkeys(whole, part.name)
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    chex.assert_trees_all_equal(read_source(tmp_path).tensors, whole)
    shutil.copy(GOLDEN / "checkpoints" / "release_full.pt", part)  # a training checkpoint is none
    with pytest.raises(ConversionError, match=r"not in the index: ema of pytorch_model-00001"):
        read_source(tmp_path)


def change_index(folder, **changes):
    content = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(content | changes))


def test_shards_that_do_not_fit_their_index_are_refused(sharded):
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    first, second = sorted(set(places.values()))

    change_index(sharded, metadata={"total_size": 42271})
    with pytest.raises(ConversionError, match="42272 bytes of tensors, the index says 42271"):
        read_source(sharded)
    change_index(sharded, metadata={}, weight_map=places | {"more.weight": second})
    with pytest.raises(ConversionError, match=f"missing: more.weight, which should be in {second}"):
        read_source(sharded)
    fewer = {key: place for key, place in places.items() if key != "pos_embed"}
    change_index(sharded, weight_map=fewer)
    with pytest.raises(ConversionError, match=f"not in the index: pos_embed of {first}"):
        read_source(sharded)
    change_index(sharded, weight_map=places | {"pos_embed": "../x.safetensors"})
    with pytest.raises(ValueError, match=r"refers to '\.\./x.safetensors'; expected files"):
        read_source(sharded)
    for content in ("{}", "[]", '{"weight_map": []}', "{"):
        (sharded / "other.index.json").write_text(content)
        with pytest.raises(ValueError, match=r"other\.index\.json is (no index|damaged)"):
            read_source(sharded / "other.index.json")
    change_index(sharded, weight_map=places)
    (sharded / second).unlink()
    with pytest.raises(ConversionError, match=f"names files that are not there.*\n  {second}"):
        read_source(sharded)


def put(folder, *names):
    """A folder of files with the given names; what is in them is the expected tensors."""
    folder.mkdir()
    for name in names:
        if name.endswith(".safetensors"):
            save_file(EXPECTED, folder / name)
        else:
            (folder / name).write_bytes(b"other")
    return folder


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model.safetensors", "README.md", "latents_stats.pt", "optimizer.bin"], "model"),
        (["model.safetensors", "pytorch_model.bin"], "model"),
        (["x.fp16.safetensors", "x.safetensors", "x.bin", "x.fp16.bin"], "x"),
        (["x.fp16.safetensors", "x.bin"], None),
        (["x.non_ema.safetensors"], "x.non_ema"),
    ],
)
def test_a_folder_means_its_one_file_of_weights(names, taken, tmp_path):
    folder = put(tmp_path / "folder", *names)
    if taken is None:  # the full precision, which is no file of PyTorch here
        with pytest.raises(ValueError, match=r"x.bin \(5 bytes\) is damaged"):
            read_source(folder)
    else:
        source = read_source(folder)
        assert source.name == f"{taken}.safetensors"
        assert_expected(source)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.safetensors", "b.safetensors"], "several names, a.safetensors, b.safetensors; give"),
        (["x.safetensors", "x.non_ema.safetensors"], "several names"),
        (["README.md"], "holds no weights, but README.md; expected a file"),
        ([], "holds no weights, but nothing"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "shards such as model-00001-of-00002.safetensors without their index",
        ),
        ([".metadata", "__0_0.distcp"], "format_utils dcp_to_torch .*folder FILE.pt"),
        (["model_index.json", "x.safetensors"], "a pipeline of diffusers.*folder/vae"),
    ],
)
def test_a_folder_that_does_not_tell_is_refused(names, message, tmp_path):
    folder = put(tmp_path / "folder", *names)
    with pytest.raises(ValueError, match=message):
        read_source(folder)


def test_a_part_of_a_distributed_checkpoint_says_what_it_is(tmp_path):
    folder = put(tmp_path / "step_10", ".metadata", "__0_0.distcp")
    command = [sys.executable, "convert_torch_weights.py", "--dst", str(tmp_path / "out")]
    command += ["--src", str(folder / "__0_0.distcp")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and not (tmp_path / "out").exists()
    assert ended.stderr == (
        f"error: {folder} is a checkpoint of torch.distributed (.metadata, .distcp); make a file "
        f"of it first: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} "
        "FILE.pt\n"
    )


def under(prefix, factor=1.0):
    return {f"{prefix}{key}": value * np.float32(factor) for key, value in EXPECTED.items()}


def saved(path, tensors):
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    "prefix",
    [
        "generator.",
        "net.",
        "student.backbone.",
        "module.generator.",
        "_orig_mod.module.net.module.",
    ],
)
def test_a_prefix_of_all_tensors_is_taken_off(prefix, tmp_path):
    source = read_source(saved(tmp_path / "x.safetensors", under(prefix)))
    assert_expected(source)
    assert any(note.startswith("prefix '") for note in source.notes)


def test_a_tensor_that_is_there_twice_is_refused(tmp_path):
    for prefix, other in (("net.", "net.module."), ("", "module."), ("net.", "_orig_mod.net.")):
        tensors = under(prefix) | {f"{other}pos_embed": EXPECTED["pos_embed"]}
        with pytest.raises(ValueError, match=r"'(net\.)?pos_embed' is there twice"):
            read_source(saved(tmp_path / "x.safetensors", tensors))


def test_wrappers_are_taken_out_wherever_they_stand(tmp_path):
    def wrapped(key):
        key = key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module._orig_mod.")
        return f"_fsdp_wrapped_module.{key}".replace(".attn.", ".attn._fsdp_wrapped_module.")

    tensors = {wrapped(key): value for key, value in EXPECTED.items()}
    source = read_source(saved(tmp_path / "x.safetensors", tensors))
    assert_expected(source)
    assert source.notes == (
        "taken out of the names: _orig_mod, _checkpoint_wrapped_module, _fsdp_wrapped_module",
    )


def test_two_modules_of_one_kind_are_a_question(tmp_path):
    path = saved(tmp_path / "x.safetensors", under("student.", 2) | under("teacher."))
    with pytest.raises(ValueError, match="--weights=student or --weights=teacher takes those"):
        read_source(path)
    source = read_source(path, "teacher")
    assert_expected(source)
    assert source.notes == ("tensors 'teacher.*'; 27 beside them left out",)
    twice = read_source(path, "student").tensors["pos_embed"]
    np.testing.assert_array_equal(twice, 2 * EXPECTED["pos_embed"])
    with pytest.raises(ValueError, match="no entry 'tutor'"):
        read_source(path, "tutor")


def test_a_module_beside_other_tensors_is_a_question(tmp_path):
    tensors = under("net.") | {"loss.weight": np.ones(2, np.float32)}
    path = saved(tmp_path / "x.safetensors", tensors)
    message = r"under 'net.' \(27 tensors\), and 1 other tensors; --weights=net takes"
    with pytest.raises(ValueError, match=message):
        read_source(path)
    assert_expected(read_source(path, "net"))
    with pytest.raises(ValueError, match=r"--weights=teacher\.net takes those alone"):
        common_prefix(tensors, "teacher")


def with_second_head(path, plain):
    """Internal Guidance's generators have another final layer, after a block in the middle.

    Here after the first of two blocks.
    """
    rng = np.random.default_rng(0)

    def others(one, other):
        return {
            k.replace(one, other): rng.normal(size=v.shape).astype(np.float32)
            for k, v in EXPECTED.items()
            if k.startswith(one)
        }

    second = others("final_layer.", "final_layer_xr.")
    blocks = others("blocks.0.", "blocks.1.")
    return saved(path, EXPECTED | blocks | second), saved(plain, EXPECTED | blocks), len(second)


def test_the_head_of_internal_guidance_there_and_back(tmp_path):
    path, _, count = with_second_head(tmp_path / "ig.safetensors", tmp_path / "plain.safetensors")
    assert count == 5
    dit, back = str(tmp_path / "dit"), tmp_path / "back.safetensors"
    convert_files([str(path)], dit, hints=Hints(aux_head_depth=1), say=str)
    assert read_meta(find_checkpoint(dit))["architecture"]["aux_head_depth"] == 1
    export_file(dit, str(back), say=str)
    got, want = load_file(back), load_file(path)
    assert got.keys() == want.keys()
    for key, tensor in want.items():
        np.testing.assert_array_equal(got[key], tensor)
        assert got[key].dtype == tensor.dtype
    model = ldj.load(dit)
    kernel = model.aux_head.linear.kernel[...]
    np.testing.assert_array_equal(kernel.T, want["final_layer_xr.linear.weight"])
    shift, scale = np.split(want["final_layer_xr.adaLN_modulation.1.bias"], 2)
    np.testing.assert_array_equal(model.aux_head.adaLN_modulation.bias[...], [shift, scale])


def test_after_which_block_a_second_head_stands_is_asked_for(tmp_path):
    """But of the published model, which the yaml beside it says of: encoder_depth 8."""
    path, plain, _ = with_second_head(tmp_path / "ig.safetensors", tmp_path / "plain.safetensors")
    dit = tmp_path / "dit"
    with pytest.raises(ConversionError) as caught:
        convert_files([str(path)], str(dit), say=str)
    (problem,) = caught.value.problems
    assert "final_layer_xr, the second head of Internal Guidance" in problem
    assert "(--aux-head-depth)" in problem and "--without=final_layer_xr" in problem
    for depth in (0, 2):
        with pytest.raises(ConversionError, match=f"aux_head_depth is {depth}; .* 1 to 1"):
            convert_files([str(path)], str(dit), hints=Hints(aux_head_depth=depth), say=str)
    with pytest.raises(ConversionError, match="aux_head_depth is 1, but there is no final_layer_x"):
        convert_files([str(plain)], str(dit), hints=Hints(aux_head_depth=1), say=str)
    assert not dit.exists()
    published = torch_shapes("lightningdit", generator_config(tiny.config("dit_xl_ig")))
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in published.items()}
    assert infer_config("lightningdit", tensors).aux_head_depth == 8


def test_the_head_of_internal_guidance_can_be_left_out(tmp_path):
    path, plain, count = with_second_head(
        tmp_path / "ig.safetensors", tmp_path / "plain.safetensors"
    )
    convert_files([str(path)], str(tmp_path / "dit"), without=["final_layer_xr"], say=str)
    source = read_meta(find_checkpoint(str(tmp_path / "dit")))["source"]
    assert source["left_out"] == {"--without=final_layer_xr": count}
    assert (source["tensors"], source["converted"]) == (len(load_file(path)), len(load_file(plain)))
    convert_files([str(plain)], str(tmp_path / "plain"), say=str)
    got, want = (nnx.to_pure_dict(nnx.state(ldj.load(str(tmp_path / n)))) for n in ("dit", "plain"))
    chex.assert_trees_all_equal(got, want)


def test_leaving_out_what_is_not_there_is_refused(tmp_path):
    for name in ("final_layer_x", "blocks.1", "pos"):
        with pytest.raises(ValueError, match=f"--without={name}: no tensor is called so"):
            convert_files(
                [str(DATA / "expected.safetensors")], str(tmp_path / "x"), without=[name], say=str
            )
    with pytest.raises(ConversionError, match="missing: pos_embed"):
        convert_files(
            [str(DATA / "expected.safetensors")],
            str(tmp_path / "x"),
            without=["pos_embed"],
            say=str,
        )


def test_a_number_beyond_all_tensors_allocates_nothing(tmp_path):
    """The depth is one more than the largest number of a block."""
    tensors = EXPECTED | {"blocks.1000000000000.norm1.weight": np.ones(16, np.float32)}
    path = saved(tmp_path / "x.safetensors", tensors)
    with pytest.raises(ConversionError, match=r"unknown: blocks.10+.norm1.weight"):
        convert_files([str(path)], str(tmp_path / "dit"), say=str)
