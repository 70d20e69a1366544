"""A training on file systems that really refuse: a quota, a server that goes, a disk that is thin.

Each ends with one line and status 74, and the same command then ends with the bits of a run that
met nothing. Needs root, and of Debian btrfs-progs, sshfs and openssh-sftp-server.
"""

import os
import shutil
import socket
import subprocess
import threading

import jax
import numpy as np
import pytest

from lightningdit_jax.storage_errors import EXIT_STATUS
from tests.test_main import final_arrays, run, start, training
from tests.tiny import write_latents

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("mounts"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount"),
]
SFTP = "/usr/lib/openssh/sftp-server"


def shell(*command, check=True):
    return subprocess.run(list(map(str, command)), check=check, capture_output=True, text=True)


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def flags(folder, latents):
    changes = {"num_steps": 40, "log_every_steps": 2, "checkpoint_every_steps": 4}
    return training(folder, latents, **{f"train__{key}": n for key, n in changes.items()})


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return write_latents(tmp_path_factory.mktemp("latents"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, latents):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(*flags(folder, latents))[0] == 0
    return final_arrays(folder)


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts what a command says on a folder, which it returns."""
    folders = []

    def mount(*command):
        folder = tmp_path / f"mount{len(folders)}"
        folder.mkdir()
        # No pipes: what stays behind, as sshfs does, would hold them.
        subprocess.run([*map(str, command), folder], check=True, stdin=subprocess.DEVNULL)
        folders.append(folder)
        return folder

    yield mount
    for folder in reversed(folders):
        shell("umount", "-l", folder, check=False)


def assert_refused(answer, said):
    status, _, errors = answer
    assert status == EXIT_STATUS and errors.count("error: ") == 1, errors
    assert "Traceback" not in errors and said in errors


def assert_goes_on(folder, latents, undisturbed):
    status, out, errors = run(*flags(folder, latents))
    assert status == 0 and "resumed from step" in out, errors
    jax.tree.map(np.testing.assert_array_equal, final_arrays(folder), undisturbed)


def disk(path, *options, make):
    """A file that is a disk of 256 MB."""
    with path.open("wb") as file:
        file.truncate(2**28)
    shell(make, "-q", *options, path)
    return path


@needs("mkfs.btrfs")
def test_a_quota(tmp_path, mounted, latents, undisturbed):
    volume = mounted("mount", "-o", "loop", disk(tmp_path / "disk", make="mkfs.btrfs"))
    shell("btrfs", "quota", "enable", volume)
    shell("btrfs", "subvolume", "create", volume / "runs")
    shell("btrfs", "qgroup", "limit", "2800K", volume / "runs")

    assert_refused(run(*flags(volume / "runs" / "w", latents)), "Disk quota exceeded (EDQUOT); ")

    shell("btrfs", "qgroup", "limit", "none", volume / "runs")
    assert_goes_on(volume / "runs" / "w", latents, undisturbed)


@needs("mkfs.ext4")
def test_a_thin_disk_whose_storage_is_full(tmp_path, mounted, latents, undisturbed):
    """It takes into memory what it cannot keep, and forgets it when that is cleared."""
    storage = mounted("mount", "-t", "tmpfs", "-o", "size=2600k", "tmpfs")
    thin = disk(storage / "disk", "-F", "-O", "^has_journal", make="mkfs.ext4")
    folder = mounted("mount", "-o", "loop", thin)

    assert_refused(run(*flags(folder / "w", latents)), "/w/checkpoints")

    shell("umount", folder)
    shell("mount", "-o", "remount,size=100m", storage)
    shell("mount", "-o", "loop", thin, folder)
    assert_goes_on(folder / "w", latents, undisturbed)


@needs("sshfs", SFTP)
def test_a_server_that_goes(tmp_path, mounted, latents, undisturbed):
    served = tmp_path / "served"
    served.mkdir()

    def mount():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(30)
            port = f"directport={listening.getsockname()[1]}"
            connecting = threading.Thread(
                target=lambda: folders.append(mounted("sshfs", "-o", port, f"127.0.0.1:{served}"))
            )
            folders = []
            connecting.start()
            connection, _ = listening.accept()
            with connection:
                server = subprocess.Popen([SFTP], stdin=connection, stdout=connection)
            connecting.join()
        return folders[0], server

    folder, server = mount()
    process = start(*flags(folder / "w", latents))
    for line in process.stdout:
        if line.startswith("step 20/"):
            server.kill()
    assert_refused((process.wait(), "", process.stderr.read()), "mount it again")

    folder, server = mount()
    assert_goes_on(folder / "w", latents, undisturbed)
    server.kill()
