"""Repositories of the Hugging Face hub: their addresses, what is fetched of them and committed.

The library (extra `hub`) does the talking: its cache, its token, its offline mode. Imports nothing
of ours but errors.
"""

import contextlib
import dataclasses
import glob
import importlib
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from lightningdit_jax.errors import one_line
from lightningdit_jax.storage_errors import storage_error

_SCHEME = "hf://"
_NAME = r"[A-Za-z0-9][\w.-]*"
_REVISION = r"refs/(?:pr|convert)/[^/@]+|[^/@]+"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@({_REVISION}))?(?:/([^@]*))?")
_CACHED = re.compile(r"/models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})(?:/(.*))?$")
_LOGIN = "log in (hf auth login) or set HF_TOKEN"
# What other kinds of repositories are called in such addresses.
_OTHER_KINDS = ("buckets", "datasets", "kernels", "spaces")


def is_address(path: object) -> bool:
    """Whether a path is of the hub: hf://..."""
    return str(path).startswith(_SCHEME)


@dataclasses.dataclass(frozen=True)
class Address:
    """hf://REPOSITORY[@REVISION][/PATH], as the hub's own file system writes it.

    repository: OWNER/NAME of a model. revision: a branch, a tag or a commit; "" is the main branch.
    path: of a folder or file in it, "" for all.
    """

    repository: str
    revision: str = ""
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises ValueError for anything else."""
        match = _ADDRESS.fullmatch(text)
        if match is None or match[1].partition("/")[0] in _OTHER_KINDS:
            raise ValueError(
                f"{text} is no address of a model; expected hf://OWNER/NAME, "
                "hf://OWNER/NAME@REVISION, or either with /FOLDER behind it"
            )
        return cls(match[1], urllib.parse.unquote(match[2] or ""), (match[3] or "").strip("/"))

    def __str__(self) -> str:
        is_reference = self.revision.startswith("refs/")
        revision = urllib.parse.quote(self.revision, safe="/" if is_reference else "")
        revision = revision and f"@{revision}"
        return f"{_SCHEME}{self.repository}{revision}{self.path and f'/{self.path}'}"


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository, as far as an address goes into it.

    names: of all files under the address's path, relative to it; ("",) where that is a file.
    """

    address: Address
    names: tuple[str, ...]

    def fetch(self, names: Sequence[str]) -> epath.Path:
        """Has some of the files in the library's cache; returns what the address's path is there.

        Raises as open_repository, and StorageError.
        """
        where, library = self.address, _library()
        wanted = ["/".join(filter(None, (where.path, name))) for name in names]
        revision = where.revision or None
        with _told(where):
            if len(wanted) == 1:  # which says nothing where it is there already
                file = library.hf_hub_download(where.repository, wanted[0], revision=revision)
                folder = epath.Path(os.fspath(file).removesuffix(f"/{wanted[0]}"))
            else:
                folder = epath.Path(
                    library.snapshot_download(
                        where.repository,
                        revision=revision,
                        allow_patterns=[glob.escape(name) for name in wanted],
                    )
                )
        return folder / where.path if where.path else folder


def open_repository(address: str) -> Repository:
    """The repository of an address, as it is now; where the hub is not reached, as it was last.

    Raises ValueError for what is no address, without the library, where the hub cannot be reached
    or refuses, and FileNotFoundError where there is no such repository, revision or path.
    """
    where, info, unreached = Address.parse(address), None, None
    with _told(where):
        try:
            info = _library().HfApi().model_info(where.repository, revision=where.revision or None)
        except Exception as error:
            if 0 < _status(error) < 500 or isinstance(error, ValueError):
                raise
            unreached = error
    if info is None:
        files = _last_seen(where, unreached)
    else:
        files = [file.rfilename for file in info.siblings]
    if not where.path:
        return Repository(where, tuple(files))
    within = f"{where.path}/"
    names = [name.removeprefix(within) for name in files if name.startswith(within)]
    names += [""] * (where.path in files)
    if not names:
        raise FileNotFoundError(f"{where}: the repository has no '{where.path}'")
    return Repository(where, tuple(names))


def address_of(path: epath.Path) -> str:
    """The address, at its commit, of what lies in the library's cache; other paths as they are."""
    match = _CACHED.search(os.fspath(path))
    if match is None:
        return str(path)
    owner, name, commit, within = match.groups("")
    return str(Address(f"{owner}/{name}", commit, within))


def renewal(path: epath.Path) -> str:
    """What is to be done about a folder that is damaged, or not all there, in words."""
    if _CACHED.search(os.fspath(path)) is None:
        return "copy it again"
    repository, _, _ = os.fspath(path).partition("/snapshots/")
    return f"delete {repository}, and it is fetched again"


def commit_files(
    repository: str,
    files: Mapping[str, os.PathLike[str]],
    *,
    delete: Iterable[str],
    message: str,
    revision: str,
    token: str | None,
) -> str:
    """Puts files into a repository that is there, and takes others out, in one commit.

    files: by their names there. revision: a branch, "" for the main one. Returns the commit's URL.
    Raises as open_repository.
    """
    library, where = _library(), Address(repository, revision)
    operations = [library.CommitOperationAdd(name, os.fspath(p)) for name, p in files.items()]
    operations += [library.CommitOperationDelete(name) for name in delete]
    with _told(where):
        made = library.HfApi(token=token).create_commit(
            repository, operations, commit_message=message, revision=revision or None
        )
    return made.commit_url


def prepare(
    repository: str, *, private: bool | None, revision: str, token: str | None
) -> tuple[str, ...]:
    """Makes a repository and a branch where they are not there; returns the files in it.

    private: None is what the owner's settings say. Raises as open_repository.
    """
    where = Address(repository, revision)
    with _told(where):
        api = _library().HfApi(token=token)
        api.create_repo(repository, private=private, exist_ok=True)
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        return tuple(api.list_repo_files(repository, revision=revision or None))


def read_file(repository: str, name: str, *, revision: str, token: str | None) -> str:
    """The text of a file of a repository. Raises as open_repository."""
    with _told(Address(repository, revision, name)):
        path = _library().hf_hub_download(repository, name, revision=revision or None, token=token)
    return epath.Path(path).read_text()


def _library(part: str = "") -> Any:
    """The library, or a module of it. Raises ValueError naming the extra without it."""
    try:
        logs = importlib.import_module("huggingface_hub.utils").logging
    except ImportError as error:
        raise ValueError(
            "an address of the hub, hf://, needs huggingface_hub: pip install -e '.[hub]'"
        ) from error
    logs.set_verbosity_error()  # what it warns of is told in a line here
    return importlib.import_module(f"huggingface_hub{part}")


def _last_seen(where: Address, unreached: Exception | None) -> list[str]:
    """Files of a repository as the library's cache has it."""
    try:
        folder = pathlib.Path(
            _library().snapshot_download(
                where.repository,
                revision=where.revision or None,
                allow_patterns=[],
                local_files_only=True,
            )
        )
    except Exception as error:
        raise ValueError(
            f"{where}: the hub cannot be reached ({one_line(unreached or error)}), and nothing of "
            "this revision was fetched before"
        ) from error
    logging.warning("%s: the hub cannot be reached; taken as it was fetched last", where)
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return [path.relative_to(folder).as_posix() for path in files]


@contextlib.contextmanager
def _told(where: Address) -> Iterator[None]:
    """Within it, what the library raises becomes an error of one line that names the address."""
    errors, constants = _library(".errors"), _library(".constants")
    try:
        yield
    # Its errors derive from those of several libraries.
    except Exception as error:
        if refused := storage_error(error):
            raise refused from error
        cause: BaseException = error
        # Why a file was not fetched, and why weights were not sent.
        if isinstance(error, (errors.LocalEntryNotFoundError, RuntimeError)):
            cause = error.__cause__ or error
        status = _status(cause)
        page = f"{constants.ENDPOINT}/{where.repository}"
        if isinstance(cause, errors.GatedRepoError):
            line = f"its owner asks for terms to be accepted first, at {page}; then {_LOGIN}"
            raise ValueError(f"{where}: {line}") from error
        if isinstance(cause, errors.RevisionNotFoundError):
            line = f"the repository has no revision '{where.revision or 'main'}'"
            raise FileNotFoundError(f"{where}: {line}") from error
        if isinstance(cause, errors.RepositoryNotFoundError):
            line = f"there is no such repository, or it is private: {_LOGIN}"
            raise FileNotFoundError(f"{where}: {line}") from error
        if status in (401, 403):
            line = f"the hub refuses ({status}: {one_line(cause)}); {_LOGIN} with the right to it"
        elif status:
            line = f"the hub answers {status}: {one_line(cause)}"
        elif isinstance(cause, errors.HFValidationError):
            line = one_line(cause)
        else:
            line = f"the hub cannot be reached ({one_line(cause)})"
        raise ValueError(f"{where}: {line}") from error


def _status(error: BaseException) -> int:
    """Of the hub's answer that an error tells of; 0 where there was none."""
    return getattr(getattr(error, "response", None), "status_code", 0)
