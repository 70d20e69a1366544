"""What is other where files are objects in a bucket, gs:// or s3://: listings, errors, libraries.

Imports nothing of ours, and no library of a store.
"""

import os
import re
import sys
import traceback

_FRESH = "use_listings_cache"
# Those whose exceptions have no number of the system.
_LIBRARIES = (
    "aiobotocore.",
    "aiohttp.",
    "botocore.",
    "gcsfs.",
    "google.api_core.",
    "google.auth.",
    "google.resumable_media.",
    "s3fs.",
)
# What TensorStore adds to the words of a server, and of a connection.
_TENSORSTORE = re.compile(r" \[(?:http_response_code|http_response_body|curl_code)=")
_TENSORSTORE_STATUS = re.compile(r"\[http_response_code='(\d+)'\]")
_MESSAGE = re.compile(r'"message": "([^"]+)"')
_UPLOAD = re.compile(r"https?://\S*/upload/")
_ADVICE = {
    401: "log in again (gcloud auth application-default login)",
    403: "get the permission (roles/storage.objectUser), or choose another bucket",
    404: "see whether the bucket is still there",
}
# Of google.auth, where a token has expired and cannot be had anew: what answers 401.
_LOGIN = ("RefreshError", "DefaultCredentialsError", "InvalidOperation")
_LONGEST = 200
_AGAIN = "see whether the store can be reached, and try again"


def forget_listings() -> None:
    """Has fsspec ask a store each time what is in it, where the user's settings say nothing else.

    It would keep what a folder held when it was listed, with sizes: of an object that another
    process has written since, a read would end at the former size, and a new one would be missing.
    """
    config = sys.modules.get("fsspec.config")
    for protocol in ("gcs", "s3"):
        os.environ.setdefault(f"FSSPEC_{protocol.upper()}", f'{{"{_FRESH}": false}}')
        if config is not None:  # it has read the environment
            config.conf.setdefault(protocol, {}).setdefault(_FRESH, False)


def refusal_of_store(error: BaseException) -> tuple[str, str] | None:
    """What a store, or the way to it, refused, and what to do; None for another exception."""
    text, status = str(error), 0
    if found := _TENSORSTORE.search(text):
        code = _TENSORSTORE_STATUS.search(text)
        status, said = int(code[1]) if code else 0, text[: found.start()]  # its cause is last
    elif type(error) is OSError and text.startswith("Forbidden: "):
        status, said = 403, text.partition("\n")[2]
    elif isinstance(error, FileNotFoundError) and _UPLOAD.match(text):
        status, said = 404, "nothing can be written there"
    elif type(error).__module__.startswith(_LIBRARIES):
        code = getattr(error, "code", None)
        status = code if isinstance(code, int) else 0
        if type(error).__module__.startswith("google.auth.") and type(error).__name__ in _LOGIN:
            status = 401
        said = found[1] if (found := _MESSAGE.search(text)) else text
    else:
        return None
    said = " ".join(said.split())[-_LONGEST:] or type(error).__name__
    cause = f"{said} (HTTP {status})" if status else said
    return cause, _ADVICE.get(status, _AGAIN)


def check_mounted(path: object) -> None:
    """Raises ValueError for data in a bucket, which are read as files of a disk."""
    if "://" in str(path):
        raise ValueError(
            f"{path} is in a bucket, and data are read as files of a disk; set config.data.path to "
            "a local folder, or to one where the bucket is mounted (gcsfuse)"
        )


def missing_library(error: BaseException) -> str:
    """A line, where what fsspec needs for a store is not installed; "" for another error."""
    if not isinstance(error, ImportError):
        return ""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if not raised_in.endswith(os.path.join("fsspec", "registry.py")):
        return ""
    return f"{error}: for gs:// install the extra, pip install -e '.[gcs]'"
