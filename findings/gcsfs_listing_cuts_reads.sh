#!/bin/sh
# A read through gcsfs ends where the object ended when its folder was listed, also after it was written anew.
#
# Seen with gcsfs 2026.8.2, fsspec 2026.9.0, Python 3.11 on Linux, against gcp-storage-emulator 2026.7.19. One
# process lists a folder of a bucket, another one writes an object in it anew, and longer. The first one then
# reads the start of the new object, as long as the old one, without an error:
#
#   listed before:         b'another one'
#   without kept listings: b'another one wrote this since'
#
# Google Cloud Storage itself shows what was written last to whoever asks. fsspec keeps what it listed, with
# sizes, for as long as the process lives, and open() takes the size from there; the request for the bytes names
# no generation, so nothing notices that they are of another one. use_listings_cache=False asks anew.
# Exits with status 1 if the first read is whole or the second is not. Needs the network and PYTHON (python3) of
# version 3.11 or newer.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    gcsfs==2026.8.2 fsspec==2026.9.0 gcp-storage-emulator==2026.7.19
cat > "$folder/read.py" <<'PYTHON'
import os
import socket
import sys

import gcsfs
from gcp_storage_emulator.server import create_server

with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
server = create_server("localhost", port, in_memory=True, default_bucket="bucket")
server.start()
os.environ["STORAGE_EMULATOR_HOST"] = f"http://localhost:{port}"

NEW = b"another one wrote this since"


def read_after_listing(**options):
    """What one client reads of an object that another one wrote after the first listed its folder."""
    reader, writer = (
        gcsfs.GCSFileSystem(token="anon", skip_instance_cache=True, **options) for _ in range(2)
    )
    writer.pipe_file("bucket/folder/x", b"of this one")
    assert reader.ls("bucket/folder") == ["bucket/folder/x"]
    writer.pipe_file("bucket/folder/x", NEW)
    with reader.open("bucket/folder/x", "rb") as file:
        return file.read()


kept, asked = read_after_listing(), read_after_listing(use_listings_cache=False)
server.stop()
print("listed before:        ", kept)
print("without kept listings:", asked)
sys.exit(0 if kept != NEW and NEW.startswith(kept) and asked == NEW else 1)
PYTHON
GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false "$folder/venv/bin/python" "$folder/read.py"
