"""Repositories of the hub, against a local server that speaks its protocol (stand_in_hub)."""

import hashlib
import sys

import chex
import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

import lightningdit_jax as ldj
from lightningdit_jax.assembly.describe import describe
from lightningdit_jax.assembly.loading import load_functional
from lightningdit_jax.checkpoint import read_host_arrays, read_meta
from lightningdit_jax.commands import convert, main
from lightningdit_jax.convert.files import convert_files
from lightningdit_jax.convert.folders import find_weights
from lightningdit_jax.data.latents import load_stats
from lightningdit_jax.hub import Address, address_of, open_repository, renewal
from lightningdit_jax.parallel.mesh import make_mesh
from lightningdit_jax.publishing.card import MARK
from lightningdit_jax.storage_errors import StorageError
from lightningdit_jax.training.init.source import open_source
from tests import published_run, stand_in_hub, tiny

# One server, whose requests and commits are counted.
pytestmark = pytest.mark.xdist_group(__name__)

NAME = "me/dit"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with stand_in_hub.serving(tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, published_run.write_run(folder)


@pytest.fixture(scope="module")
def pushed(hub, run):
    """A run that is in the hub; the URL of its commit."""
    return ldj.push_to_hub(str(run[0]), NAME, private=True, license="mit", say=print)


@pytest.fixture
def away(hub, pushed, monkeypatch):
    """The hub is not reached, after the run was fetched."""
    ldj.load(f"hf://{NAME}")
    constants = sys.modules["huggingface_hub.constants"]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def params_of(module):
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def test_what_is_pushed_is_loaded_with_the_same_bits(hub, run, pushed):
    assert hub.created[0] == {"name": "dit", "organization": "me", "visibility": "private"}
    commits = [p for method, p in hub.requests if method == "POST" and "/commit/" in p]
    assert len(commits) == 1 and pushed.endswith(hub.branches[NAME]["main"])
    assert hub.files(NAME).keys() == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "samples.png"
    }  # fmt: skip
    card = hub.files(NAME)["README.md"].decode()
    assert f'ldj.load("hf://{NAME}")' in card
    dit = ldj.load(f"hf://{NAME}")
    chex.assert_trees_all_equal(params_of(dit), run[1]["ema"])
    names = [p.rpartition("/")[2] for method, p in hub.requests if method == "GET"]
    weights = hashlib.sha256(hub.files(NAME)["model.safetensors"]).hexdigest()
    assert {"config.json", weights} <= set(names) and not {"README.md", "samples.png"} & set(names)
    loaded = load_functional(f"hf://{NAME}", make_mesh(1, 8, 1))
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, loaded.params), run[1]["ema"])


def test_a_repository_is_described_and_trained_from(hub, pushed):
    lines = describe(f"hf://{NAME}")
    assert lines[0] == f"hf://{NAME}" and "'ema' of the checkpoint" in "\n".join(lines)
    assert f"--config.sample.checkpoint=hf://{NAME}" in lines[-1]
    source = open_source(tiny.config("digits_dit", train__init=f"hf://{NAME}"))
    commit = hub.branches[NAME]["main"]
    assert str(source).startswith(f"hf://{NAME}@{commit} (lightningdit, step 6")
    chex.assert_trees_all_equal_shapes(
        source.shapes, read_host_arrays(source.checkpoint, source.item, source.shapes)
    )


def test_a_revision_and_a_folder(hub, run, pushed):
    url = ldj.push_to_hub(str(run[0]), f"hf://{NAME}@raw", use_ema=False, say=print)
    commit = hub.branches[NAME]["raw"]
    assert f'ldj.load("hf://{NAME}@raw")' in hub.files(NAME, "raw")["README.md"].decode()
    assert url.endswith(commit) and hub.branches[NAME]["main"] != commit
    for address in (f"hf://{NAME}@raw", f"hf://{NAME}@{commit}"):
        chex.assert_trees_all_equal(params_of(ldj.load(address)), run[1]["params"])
    files = {f"best/{name}": data for name, data in hub.files(NAME).items()}
    hub.commit("me/several", files | hub.files(NAME, "raw"))
    for address, item in (("hf://me/several/best", "ema"), ("hf://me/several", "params")):
        chex.assert_trees_all_equal(params_of(ldj.load(address)), run[1][item])


def test_a_push_replaces_weights_and_keeps_what_is_somebodys(hub, run):
    before = {
        "model-00001-of-00002.safetensors": b"1",
        "model-00002-of-00002.safetensors": b"2",
        "model.safetensors.index.json": b"{}",
        "pictures.zip": b"mine",
        "README.md": b"My words.",
    }
    hub.commit("me/own", before)
    lines = []
    ldj.push_to_hub(str(run[0]), "me/own", commit_message="anew", say=lines.append)
    after = hub.files("me/own")
    assert after["README.md"] == b"My words." and "is somebody's own and is kept" in lines[0]
    assert after.keys() - before.keys() == {"model.safetensors", "config.json", "samples.png"}
    assert before.keys() - after.keys() == set(list(before)[:3])
    hub.commit("me/own", after | {"README.md": f"{MARK} of a former push".encode()})
    ldj.push_to_hub(str(run[0]), "me/own", say=print)
    assert b"# own\n" in hub.files("me/own")["README.md"]


def test_without_the_hub_what_was_fetched_is_taken(away):
    ldj.load(f"hf://{NAME}")
    with pytest.raises(ValueError, match=r"the hub cannot be reached .* was fetched before"):
        ldj.load("hf://me/unseen")


def test_offline_what_was_fetched_is_taken(hub, pushed, monkeypatch):
    ldj.load(f"hf://{NAME}")
    monkeypatch.setattr(sys.modules["huggingface_hub.constants"], "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    ldj.load(f"hf://{NAME}")
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    "answer, said",
    [
        ((401, "GatedRepo"), "asks for terms to be accepted first, at .*/me/refused; then log in"),
        ((401, "RepoNotFound"), "no such repository, or it is private: log in"),
        ((403, ""), r"the hub refuses \(403: .*\); log in .* with the right to it"),
        ((429, ""), "the hub answers 429"),
        ((503, ""), "the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_a_line(hub, run, answer, said):
    hub.refusals["me/refused"] = answer
    for use in (
        lambda: ldj.load("hf://me/refused"),
        lambda: convert_files(["hf://me/refused"], str(run[0] / "x")),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as refused:
            use()
        assert str(refused.value).startswith("hf://me/refused: ")
        assert "\n" not in str(refused.value)


def test_a_push_that_is_refused_leaves_everything(hub, run, pushed):
    before = hub.files(NAME)
    hub.refusals["me/dit"] = (403, "")
    try:
        with pytest.raises(ValueError, match="the hub refuses"):
            ldj.push_to_hub(str(run[0]), NAME)
    finally:
        del hub.refusals["me/dit"]
    assert hub.files(NAME) == before
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        ldj.push_to_hub(str(run[0] / "nothing"), "me/new")
    assert "me/new" not in hub.branches


def test_weights_that_the_hubs_store_refuses_are_not_committed(hub, run, pushed):
    before, hub.full = hub.files(NAME), True
    hub.large.clear()
    try:
        with pytest.raises(ValueError, match=r"^hf://me/dit: the hub answers 507: [^\n]*$"):
            ldj.push_to_hub(str(run[0]), NAME)
    finally:
        hub.full = False
    assert hub.files(NAME) == before


@pytest.mark.parametrize(
    "files, said",
    [
        ({"README.md": b""}, "holds no model, but README.md; expected config.json"),
        ({"b.pt": b"", "config.json": b"{}"}, "--src hf://me/other/b.pt --dst FOLDER"),
        ({"model.safetensors": b"", "config.json": b"{}"}, "weights of another program"),
    ],
)
def test_a_repository_of_another_program_is_refused(hub, files, said):
    hub.commit("me/other", files)
    with pytest.raises(ValueError, match=said):
        ldj.load("hf://me/other")
    assert not any("/me/other/resolve/main/b.pt" in path for _, path in hub.requests)


@pytest.mark.parametrize(
    "address, said",
    [
        ("hf://me", "no address of a model; expected hf://OWNER/NAME"),
        ("hf://datasets/me/x", "no address of a model"),
        ("hf://me/x--y", "hf://me/x--y: .*--"),
        (f"hf://{NAME}@nowhere", "the repository has no revision 'nowhere'"),
        (f"hf://{NAME}/nowhere", "the repository has no 'nowhere'"),
    ],
)
def test_what_is_not_there_is_said(hub, pushed, address, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        ldj.load(address)


def test_addresses():
    at = Address.parse("hf://me/dit.v1@refs/pr/3/best/ema")
    assert at == Address("me/dit.v1", "refs/pr/3", "best/ema")
    assert str(at) == "hf://me/dit.v1@refs/pr/3/best/ema"
    assert Address.parse("hf://me/dit@a%2Fb") == Address("me/dit", "a/b")
    assert str(Address("me/dit", "a/b")) == "hf://me/dit@a%2Fb"
    assert address_of("/c/models--me--dit/snapshots/" + "0" * 40) == f"hf://me/dit@{'0' * 40}"
    assert address_of("/runs/dit") == "/runs/dit"
    cached = epath.Path("/c/models--me--dit/snapshots") / ("0" * 40)
    assert renewal(cached) == "delete /c/models--me--dit, and it is fetched again"
    assert renewal(epath.Path("/runs/dit")) == "copy it again"


def test_without_the_library_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    with pytest.raises(ValueError, match=r"needs huggingface_hub: pip install -e '.\[hub\]'"):
        ldj.load("hf://me/dit")


def test_a_full_disk_is_an_error_of_storage(hub, pushed, monkeypatch):
    hub.commit("me/large", hub.files(NAME))

    def full(*_, **__):
        raise OSError(28, "No space left on device", "/cache/blobs/x")

    monkeypatch.setattr(sys.modules["huggingface_hub.file_download"], "http_get", full)
    with pytest.raises(StorageError, match="/cache/blobs/x: No space left on device"):
        ldj.load("hf://me/large")


def test_weights_of_pytorch_are_converted_from_the_hub(hub, tmp_path):
    from safetensors.numpy import save

    stats = {"mean": np.ones((1, 4, 1, 1), np.float32), "std": np.full((1, 4, 1, 1), 2, np.float32)}
    hub.commit("me/torch", {"latents_stats.safetensors": save(stats), "x/model.ckpt": b"1"})
    convert_files(["hf://me/torch/latents_stats.safetensors"], str(tmp_path), say=print)
    np.testing.assert_array_equal(load_stats(tmp_path).std, [2, 2, 2, 2])
    assert find_weights("hf://me/torch/x").read_bytes() == b"1"
    hub.commit("me/many", {"a.pt": b"1", "b.pt": b"2"})
    with pytest.raises(ValueError, match=r"me/many holds weights of several names, a\.pt, b\.pt"):
        find_weights("hf://me/many")
    shards = {f"model-0000{n}-of-00002.safetensors": b"" for n in (1, 2)}
    index = {"model.safetensors.index.json": b"{}", "config.json": b"{}", "flax.msgpack": b""}
    hub.commit("me/shards", shards | index)
    for address in ("hf://me/shards", "hf://me/shards/model.safetensors.index.json"):
        found = find_weights(address)
        assert found.name == "model.safetensors.index.json"
        names = {path.name for path in found.parent.iterdir()}
        assert names == {*shards, "model.safetensors.index.json", "config.json"}
    assert len(open_repository("hf://me/shards").names) == 5


def test_the_command_pushes(hub, run, monkeypatch, capsys):
    def command(*arguments):
        words = ["convert", "--to-hub", "--src", str(run[0]), "--dst", "hf://me/cli", *arguments]
        monkeypatch.setattr("sys.argv", words)
        convert.main()

    for wrong, said in ((["--overwrite"], "is of a folder"), (["--weights=ema_0.9"], "ema_0.5")):
        with pytest.raises(SystemExit) as ended:
            command(*wrong)
        assert ended.value.code == 2 and said in capsys.readouterr().err
    assert "me/cli" not in hub.branches
    command("--private", "--weights=model")
    assert hub.created[-1] == {"name": "cli", "organization": "me", "visibility": "private"}
    assert "15,392 parameters (params): http" in capsys.readouterr().out
    assert "model.safetensors" in hub.files("me/cli")


def test_what_is_ours_is_not_converted(hub, pushed, tmp_path):
    with pytest.raises(ValueError, match=f"hf://{NAME} holds a model of this program"):
        convert_files([f"hf://{NAME}"], str(tmp_path / "x"))


def test_a_workdir_is_no_address(monkeypatch):
    words = ["lightningdit", "--config=digits_dit", f"--workdir=hf://{NAME}"]
    monkeypatch.setattr("sys.argv", words)
    from absl import flags
    from absl.testing import flagsaver

    saved = flagsaver.save_flag_values()
    flags.FLAGS.unparse_flags()
    try:
        with pytest.raises(ValueError, match="cannot be written into the hub"):
            main.checked(main.parse_flags(words))
    finally:
        flagsaver.restore_flag_values(saved)


def test_published_again_it_says_what_it_was_first(hub, pushed, tmp_path):
    ldj.save_for_hub(f"hf://{NAME}", str(tmp_path / "again"), say=print)
    meta = read_meta(tmp_path / "again")
    assert meta["published"] == {"weights": "ema"}
