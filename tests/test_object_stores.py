"""What stores of objects refuse, without one: exceptions as their libraries raise them.

tests/test_object_store.py asks a local server that speaks the API of Google Cloud Storage.
"""

import http.server
import importlib.util
import json
import threading

import orbax.checkpoint as ocp
import pytest
import tensorstore
from etils import epath

from lightningdit_jax.checkpoint_choice import finalized_steps
from lightningdit_jax.checkpoint_reading import DamagedCheckpointError, read_items
from lightningdit_jax.commands.main import refusal
from lightningdit_jax.convert.files import export_diffusers, export_file
from lightningdit_jax.data.latents import LatentShards
from lightningdit_jax.data.sources import open_images
from lightningdit_jax.lease import Lease
from lightningdit_jax.storage_errors import StorageError, storage_error, storing


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request as Google Cloud Storage refuses one."""

    def do_GET(self):
        said = json.dumps({"error": {"code": 403, "message": "no storage.objects.get access"}})
        self.send_response(403)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def refused_read(monkeypatch):
    """What TensorStore raises of a read that a server refuses."""
    server = http.server.HTTPServer(("localhost", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://localhost:{server.server_port}")
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
    store = tensorstore.KvStore.open({"driver": "gcs", "bucket": "bucket", "path": "x/"}).result()
    with pytest.raises(ValueError) as raised:
        store.read("y").result()
    server.shutdown()
    server.server_close()
    return raised.value


def of_library(module, code=None, text="refused", name="HttpError"):
    """An exception of a library that need not be installed."""
    error = type(name, (Exception,), {"__module__": module})(text)
    error.code = code
    return error


UPLOAD = "https://storage.googleapis.com/upload/storage/v1/b/bucket/o?name=x"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        # As gcsfs raises them.
        (OSError(f"Forbidden: {UPLOAD}\nno access"), r"no access \(HTTP 403\); get the permission"),
        (FileNotFoundError(UPLOAD), r"\(HTTP 404\); see whether the bucket is still there"),
        (of_library("gcsfs.retry", 401), r"refused \(HTTP 401\); log in again"),
        (of_library("gcsfs.retry", 503), r"refused \(HTTP 503\); see whether the store can"),
        (of_library("aiohttp.client_exceptions"), "refused; see whether the store can be reached"),
        (of_library("google.auth.exceptions", name="RefreshError"), "log in again"),
        (of_library("google.auth.exceptions", name="TransportError"), "refused; see whether"),
        # As the client of TensorBoard's events raises it.
        (
            of_library("google.api_core.exceptions", 429, 'POST x: {"message": "slow down"}: (1,)'),
            r"^gs://b/w: slow down \(HTTP 429\); see whether",
        ),
        # As TensorStore says it of a server that is gone.
        (
            ValueError("ABORTED: All 32 retry attempts failed: no reply [curl_code='52']"),
            "ABORTED: All 32 retry attempts failed: no reply; see whether",
        ),
    ],
)
def test_what_a_store_refuses_is_a_line(error, said):
    with pytest.raises(StorageError, match=r"^gs://b/w: ") as raised, storing("gs://b/w"):
        raise error
    assert raised.match(said) and "\n" not in str(raised.value)


def test_what_tensorstore_is_refused_is_a_line(refused_read):
    assert str(storage_error(refused_read, "gs://b/w")) == (
        "gs://b/w: PERMISSION_DENIED: no storage.objects.get access (HTTP 403); "
        "get the permission (roles/storage.objectUser), or choose another bucket"
    )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("NOT_FOUND: Error opening the manifest"),
        FileNotFoundError("https://storage.googleapis.com/download/storage/v1/b/bucket/o/x"),
        of_library("google.protobuf.message"),
    ],
)
def test_what_is_not_refused(error):
    assert storage_error(error) is None


def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch, refused_read):
    """A damaged one would be set aside, and the run go on from an older one."""

    def restore(*_, **__):
        raise refused_read

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", restore)
    with pytest.raises(StorageError, match=r"1/params: PERMISSION_DENIED.*\(HTTP 403\)"):
        read_items(epath.Path(tmp_path / "1"), {"params": {}})
    monkeypatch.setattr(refused_read, "args", ("NOT_FOUND: no manifest",))
    with pytest.raises(DamagedCheckpointError, match="no manifest"):
        read_items(epath.Path(tmp_path / "1"), {"params": {}})


def test_listings_of_stores_are_not_kept():
    """Their sizes would cut what another process has written since."""
    import fsspec.config

    assert fsspec.config.conf["gcs"]["use_listings_cache"] is False
    assert fsspec.config.conf["s3"]["use_listings_cache"] is False


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="is what is missing")
def test_a_missing_library_is_a_line():
    with pytest.raises(ImportError) as raised:
        epath.Path("gs://bucket/x").exists()
    assert refusal(raised.value) == (
        "Please install gcsfs to access Google Storage: for gs:// install the extra, "
        "pip install -e '.[gcs]'"
    )


@pytest.mark.parametrize("source", ["folder", "parquet", "webdataset"])
def test_images_in_a_bucket_are_refused(source):
    with pytest.raises(ValueError, match=r"^gs://b/x is in a bucket.*config\.data\.path"):
        open_images(source, path="gs://b/x", split="train", size=16, tfds_name="")


def test_latents_in_a_bucket_are_refused():
    with pytest.raises(ValueError, match=r"^gs://b/x is in a bucket.*gcsfuse"):
        LatentShards("gs://b/x")


@pytest.mark.parametrize("export", [export_file, export_diffusers])
def test_weights_are_not_written_into_a_bucket(export):
    with pytest.raises(ValueError, match=r"^gs://b/x\.pt is remote; expected a path on a local"):
        export("nowhere", "gs://b/x.pt")


def test_a_lease_is_given_up_where_its_store_has_failed(tmp_path, monkeypatch):
    lease = Lease(epath.Path(tmp_path / "lease"), {}, renew=0.01, settle=0.0)
    assert lease.take() is None

    def read():
        raise of_library("gcsfs.retry", 503)

    monkeypatch.setattr(lease, "_read", read)
    lease.release()
    assert (tmp_path / "lease").exists()


def test_a_folder_that_a_store_does_not_show_is_no_empty_one():
    """The run would begin again. is_dir() of a store is False whatever is refused."""

    class Folder:
        def __str__(self):
            return "gs://bucket/checkpoints"

        def is_dir(self):
            return False

        def iterdir(self):
            raise OSError("Forbidden: https://storage.googleapis.com/storage/v1/b/bucket/o\nno")

    with pytest.raises(OSError, match="Forbidden"):
        finalized_steps(Folder())
