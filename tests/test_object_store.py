"""Runs that live in gs://, against a local server that speaks the API of Google Cloud Storage.

The server is a stand-in: permissions, quotas and delays of the real one are not tested.
"""

import gc
import os
import socket
import subprocess
import sys

import fsspec.config
import jax
import numpy as np
import pytest
from etils import epath

from lightningdit_jax.assembly.workdir import read_config, write_config
from lightningdit_jax.checkpoint import (
    TrainingCheckpoints,
    find_checkpoint,
    item_names,
    read_meta,
    save_checkpoint,
)
from lightningdit_jax.storage_errors import storage_error
from tests import tiny
from tests.training import loop_cases, test_loop

# Of a bucket gcsfs asks by gRPC which kind it is, which a stand-in does not answer, for a minute.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
pytest.importorskip("gcsfs", reason="needs the extra `gcs`")
emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("localhost", port, in_memory=True, default_bucket="bucket")
    server.start()
    url = f"http://localhost:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
        # Or gcsfs looks for a machine of Google's to log in by, for a minute.
        patch.setitem(fsspec.config.conf["gcs"], "token", "anon")
        patch.setenv("NO_GCE_CHECK", "true")
        yield epath.Path("gs://bucket")
    gc.collect()  # event files are sent when their writers go
    server.stop()


def test_a_killed_run_goes_on_and_ends_with_the_same_bits(bucket, tmp_path):
    scores = test_loop.Scores(test_loop.SCORES)
    settings = {"evaluator": scores, **test_loop.EVALUATED}
    whole, _ = loop_cases.run(tmp_path, **settings)
    with pytest.raises(KeyboardInterrupt):
        loop_cases.run(bucket / "w", fail_at=8, **settings)
    state, lines = loop_cases.run(bucket / "w", **settings)
    assert lines[0].startswith("resumed from step 6 in gs://bucket/w/checkpoints")
    loop_cases.assert_same(state, whole)
    assert loop_cases.records(bucket / "w") == loop_cases.records(tmp_path)
    assert test_loop.best(bucket / "w") == (10, 1.0)
    assert list((bucket / "w" / "tensorboard").iterdir())


def test_a_trace_is_copied_there(bucket):
    _, lines = loop_cases.run(bucket / "traced", profile_steps=(2, 3))
    assert any("traced in gs://bucket/traced/profile" in line for line in lines)
    [day] = (bucket / "traced" / "profile" / "plugins" / "profile").iterdir()
    [trace] = [path for path in day.iterdir() if path.name.endswith(".xplane.pb")]
    assert b"PjitFunction(step)" in trace.read_bytes()
    assert not os.path.exists("gs:"), "something was written to a local folder of this name"


def test_what_another_process_writes_is_seen_at_once(bucket):
    """A lease that another one took, in a folder that was listed before."""
    path = bucket / "held" / ".train.lock"
    path.write_text("of this one")
    assert list(path.parent.iterdir()) == [path]
    code = "from etils import epath; epath.Path({!r}).write_text({!r})"
    text = "of another one, which took it since"
    subprocess.run([sys.executable, "-c", code.format(str(path), text)], check=True)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "log in again"), (403, "(HTTP 403); get the permission")]
)
@pytest.mark.parametrize("granted", [20, 60])
def test_a_refused_write_is_a_line_and_the_run_goes_on(
    bucket, tmp_path, monkeypatch, status, advice, granted
):
    whole, _ = loop_cases.run(tmp_path)
    folder, uploads = bucket / f"refused{status}after{granted}", []
    handle = emulator.Router.handle

    def handled(router, method):
        if method == "POST" and "upload" in router._request_handler.path:
            uploads.append(1)
        if len(uploads) <= granted:
            return handle(router, method)
        return router._request_handler.send_error(status)

    with monkeypatch.context() as patch:
        patch.setattr(emulator.Router, "handle", handled)
        with pytest.raises(Exception) as raised:
            loop_cases.run(folder)
    line = str(storage_error(raised.value, folder))  # as main.py says it
    assert line.startswith("gs://bucket/") and advice in line
    state, _ = loop_cases.run(folder)
    loop_cases.assert_same(state, whole)


def test_a_config_comes_back_from_a_bucket(bucket):
    config = tiny.config("digits_vavae")
    write_config(config, str(bucket / "run"))
    assert read_config(str(bucket / "run")) == config
    assert read_config(str(bucket / "elsewhere")) is None


def test_half_a_checkpoint_is_none(bucket):
    weights = {"w": np.arange(3.0)}
    for step in (1, 2):
        path = bucket / "half" / "checkpoints" / str(step)
        save_checkpoint(str(path), {"params": weights}, {"meta": {"format_version": 1}})
    assert find_checkpoint("gs://bucket/half").name == "2"
    meta = {"format_version": 1, "items": ["meta", "params"], "digests": 1}
    assert read_meta(find_checkpoint("gs://bucket/half")) == meta
    assert item_names(find_checkpoint("gs://bucket/half")) == {"params", "meta"}
    (path / "commit_success.txt").unlink()
    assert find_checkpoint("gs://bucket/half").name == "1"


def test_a_damaged_checkpoint_is_set_aside(bucket):
    for step in (1, 2):
        path = bucket / "damaged" / "checkpoints" / str(step)
        meta = {"format_version": 1, "step": step}
        save_checkpoint(str(path), {"params": {"w": np.arange(3.0)}}, {"meta": meta})
    (path / "params").rmtree()
    assert find_checkpoint("gs://bucket/damaged").name == "1"
    checkpoints = TrainingCheckpoints("gs://bucket/damaged", keep=2)
    assert checkpoints.latest_step() == 1
    checkpoints.close()
    names = {p.name for p in (bucket / "damaged" / "checkpoints").iterdir()}
    assert {"1", "2.damaged"} <= names and "2" not in names


def test_the_cache_of_compiled_programs(bucket):
    cache = "gs://bucket/cache"
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        jax.jit(lambda x: x * 3 + 41)(np.arange(4.0)).block_until_ready()
        assert list(epath.Path(cache).iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
