"""Downloads have the SHA-256 that is published or that they had at first; latents come whole.

A stand-in for huggingface_hub, with the names and fields of its version 2.4.0.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import types

import pytest

from lightningdit_jax.commands import download_weights


@pytest.fixture
def scripts():
    return download_weights


class Hub:
    """Files by name; those of `published` have an LFS entry, as large ones do."""

    def __init__(self, monkeypatch, files, published):
        self.files, self.published, self.downloaded = files, published, []
        hub = types.ModuleType("huggingface_hub")
        hub.hf_hub_download, hub.snapshot_download = self.download, self.snapshot
        hub.HfApi = lambda: types.SimpleNamespace(get_paths_info=self.info)
        hub.utils = types.ModuleType("huggingface_hub.utils")
        hub.utils.logging = types.SimpleNamespace(set_verbosity_error=lambda: None)
        monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
        monkeypatch.setitem(sys.modules, "huggingface_hub.utils", hub.utils)

    def download(self, repository, name, local_dir):
        self.downloaded.append(name)
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(self.files[name])

    def snapshot(self, repository, repo_type, allow_patterns, local_dir):
        (local_dir / "splits").mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (local_dir / name).write_bytes(content)

    def info(self, repository, names, repo_type):
        lfs = types.SimpleNamespace
        return [
            lfs(path=name, lfs=lfs(sha256=self.published[name]) if name in self.published else None)
            for name in names
        ]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def statistics(scripts, tmp_path):
    return scripts.STATISTICS, scripts.STATISTICS.local(tmp_path)


def test_what_is_published_is_compared_and_recorded(scripts, monkeypatch, tmp_path, statistics):
    file, path = statistics
    hub = Hub(monkeypatch, {file.name: b"right"}, {file.name: sha256(b"right")})
    scripts.fetch([file], tmp_path)
    scripts.fetch([file], tmp_path)
    assert hub.downloaded == [file.name]
    line = ["sha256sum", "--check", "--strict", f"{path.name}.sha256"]
    assert subprocess.run(line, cwd=path.parent, capture_output=True).returncode == 0


def test_another_file_than_the_published_is_refused(scripts, monkeypatch, tmp_path, statistics):
    file, path = statistics
    Hub(monkeypatch, {file.name: b"wrong"}, {file.name: sha256(b"right")})
    for _ in range(2):  # the second time as well, when it lies there
        with pytest.raises(ValueError, match=f"{sha256(b'wrong')}, its publisher says") as said:
            scripts.fetch([file], tmp_path)
        assert "\n" not in str(said.value) and str(path) in str(said.value)


def test_what_is_not_published_is_pinned(scripts, monkeypatch, tmp_path, statistics, capsys):
    file, path = statistics
    Hub(monkeypatch, {file.name: b"first"}, {})
    scripts.fetch([file], tmp_path)
    assert f"pinned, as no SHA-256 of {file.name} is published" in capsys.readouterr().out
    path.write_bytes(b"later")
    with pytest.raises(ValueError, match=r"latents_stats\.pt\.sha256 says"):
        scripts.fetch([file], tmp_path)
    path.unlink()
    Hub(monkeypatch, {file.name: b"later"}, {})
    with pytest.raises(ValueError, match="it is damaged, or another file"):
        scripts.fetch([file], tmp_path)


def test_a_hub_that_cannot_be_asked_is_said(scripts, monkeypatch, tmp_path, statistics, capsys):
    file, path = statistics
    path.parent.mkdir(parents=True)
    path.write_bytes(b"put by hand")
    Hub(monkeypatch, {}, {}).info = None
    sys.modules["huggingface_hub"].HfApi = lambda: 1 / 0
    scripts.fetch([file], tmp_path)
    said = capsys.readouterr().out
    assert "the hub cannot be asked" in said and "pinned" in said


def archive(damage=lambda content: content):
    """The parts of a tar.gz of one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("imagenet/shard.safetensors")
        content = bytes(range(256)) * 64
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    whole = damage(packed.getvalue())
    cut = len(whole) // 2
    return {"splits/split_aa": whole[:cut], "splits/split_ab": whole[cut:]}


def test_latents_have_their_name_when_they_are_whole(scripts, monkeypatch, tmp_path):
    parts = archive()
    Hub(monkeypatch, parts, {name: sha256(content) for name, content in parts.items()})
    target = tmp_path / "latents"
    for _ in range(2):
        scripts.unpack_latents(scripts.fetch_latents(tmp_path), target)
    assert (target / "imagenet/shard.safetensors").stat().st_size == 2**14
    assert not (tmp_path / "latents.partial").exists()


def flipped(position):
    def damage(content):
        changed = bytearray(content)
        changed[position] ^= 1
        return bytes(changed)

    return damage


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-20], flipped(-9), flipped(-6), flipped(80)],
    ids=["cut", "the end of the data", "the checksum", "the data"],
)
def test_damaged_latents_do_not_get_their_name(scripts, monkeypatch, tmp_path, damage):
    """The archive's own checksum is read, though it comes after the last file."""
    Hub(monkeypatch, archive(damage), {})
    with pytest.raises(ValueError, match="are damaged, or not all of them are there"):
        scripts.unpack_latents(scripts.fetch_latents(tmp_path), tmp_path / "latents")
    assert not (tmp_path / "latents").exists()


def test_a_part_that_is_not_the_published_is_named(scripts, monkeypatch, tmp_path):
    parts = archive()
    Hub(monkeypatch, parts, {name: sha256(b"other") for name in parts})
    with pytest.raises(ValueError, match="split_aa has the SHA-256"):
        scripts.fetch_latents(tmp_path)
