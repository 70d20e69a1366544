"""A stand-in for the Hugging Face hub: a local server that speaks what its library asks of it here.

Repositories live in memory. Weights are kept as the hub keeps them, in a store of large files: sent
there before the commit, which has their digests, and downloaded from where a redirection points.
Other files are within the commit. The store's other protocol (xet), quotas and delays of the real
one are not tested.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

import pytest

_BATCH = ".git/info/lfs/objects/batch"


class StandInHub:
    """branches: OWNER/NAME -> {branch: commit}; commits: commit -> {file: bytes}.

    refusals: OWNER/NAME -> (status, X-Error-Code) of all that is asked of it. created: what was
    asked for with each new repository. requests: (method, path) of all. large: SHA-256 -> bytes,
    the store. full: the store refuses what is sent to it.
    """

    def __init__(self):
        self.branches, self.commits, self.refusals = {}, {}, {}
        self.created, self.requests, self.url = [], [], ""
        self.large, self.full = {}, False

    def commit(self, repository, files, branch="main"):
        """Makes these the files of a branch; returns the commit."""
        content = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        number = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[number] = dict(files)
        self.branches.setdefault(repository, {})[branch] = number
        return number

    def files(self, repository, revision="main"):
        """Files of a branch or commit; None where there is no such."""
        number = self.branches.get(repository, {}).get(revision, revision)
        return self.commits.get(number)

    def answer(self, method, path, body):
        """(status, headers, content) of a request."""
        self.requests.append((method, path))
        path = urllib.parse.unquote(path.partition("?")[0]).strip("/")
        if path == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if status := self.refusals.get(name):
                return refusal(*status)
            known = name in self.branches
            self.created.append(asked)
            if not known:
                self.commit(name, {".gitattributes": b""})
            return 409 if known else 200, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
        if path == "api/validate-yaml":
            return 200, {}, b"{}"
        if path.startswith("large/"):
            return self.answer_of_store(method, path.removeprefix("large/"), body)
        if path.endswith(_BATCH):
            missing = [x for x in json.loads(body)["objects"] if x["oid"] not in self.large]
            return reply({"transfer": "basic", "objects": list(map(self.destination, missing))})
        parts = path.removeprefix("api/models/").split("/")
        repository, parts = "/".join(parts[:2]), parts[2:]
        if status := self.refusals.get(repository):
            return refusal(*status)
        if repository not in self.branches:
            return refusal(401, "RepoNotFound")
        what, revision = (parts or ["revision"])[0], (parts[1:] or ["main"])[0]
        if what == "branch":
            newest = self.branches[repository]["main"]
            known = revision in self.branches[repository]
            self.branches[repository].setdefault(revision, newest)
            return 409 if known else 200, {}, b"{}"
        files = self.files(repository, revision)
        if files is None:
            return refusal(404, "RevisionNotFound")
        number = self.branches[repository].get(revision, revision)
        if what == "revision":
            siblings = [{"rfilename": name} for name in files]
            return reply({"id": repository, "sha": number, "siblings": siblings})
        if what == "tree":
            return reply([entry(name, data) for name, data in files.items()])
        if what == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return reply({"files": list(map(upload_mode, names))})
        if what == "commit":
            number = self.commit(repository, self.changed(files, body), revision)
            url = f"{self.url}/{repository}/commit/{number}"
            return reply({"commitUrl": url, "commitOid": number})
        name = "/".join(parts[2:])
        if what != "resolve" or name not in files:
            return refusal(404, "EntryNotFound")
        data, headers = files[name], {"X-Repo-Commit": number}
        if not is_large(name):
            headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
            return 200, {**headers, "Content-Length": str(len(data))}, data
        digest = hashlib.sha256(data).hexdigest()
        self.large.setdefault(digest, data)
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{digest}"'}
        return 302, {**headers, **linked, "Location": self.place(digest)}, b""

    def answer_of_store(self, method, digest, body):
        """(status, headers, content) of a request to the store of large files."""
        if method == "PUT":
            if self.full:
                return 507, {}, b"no space"
            assert hashlib.sha256(body).hexdigest() == digest
            self.large[digest] = body
            return 200, {"ETag": f'"{digest}"'}, b""
        return 200, {}, self.large[digest]

    def destination(self, file):
        """What the store says to a large file that it has not got."""
        actions = {"upload": {"href": self.place(file["oid"])}}
        return {**file, "authenticated": True, "actions": actions}

    def place(self, digest):
        """Of a large file; not the hub's host, or the library would ask it for a commit there."""
        return f"{self.url.replace('127.0.0.1', 'localhost')}/large/{digest}"

    def changed(self, files, body):
        """What the lines of a commit make of the files."""
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert not is_large(value["path"])
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
                assert len(files[value["path"]]) == value["size"]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return files


def is_large(name):
    """By the .gitattributes that a new repository of the hub begins with."""
    return name.endswith(".safetensors")


def upload_mode(name):
    mode = "lfs" if is_large(name) else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False}


def entry(name, data):
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def reply(content):
    return 200, {}, json.dumps(content).encode()


def refusal(status, code):
    return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"


@contextlib.contextmanager
def serving(folder):
    """A hub that the library talks to within it, with its cache in the folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    hub = StandInHub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = hub.answer(self.command, self.path, body)
            self.send_response(status)
            headers = {"Content-Length": str(len(content)), **headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", "of-a-test")
        yield hub
    server.shutdown()
    server.server_close()
