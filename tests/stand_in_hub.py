"""A stand-in for the Hugging Face hub: a local server that speaks what its library asks of it here.

Repositories live in memory, every file of them as a small one, which the library sends within the
commit. Sizes above that, quotas and delays of the real one are not tested.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse

import pytest


class StandInHub:
    """branches: OWNER/NAME -> {branch: commit}; commits: commit -> {file: bytes}.

    refusals: OWNER/NAME -> (status, X-Error-Code) of all that is asked of it. created: what was
    asked for with each new repository. requests: (method, path) of all.
    """

    def __init__(self):
        self.branches, self.commits, self.refusals = {}, {}, {}
        self.created, self.requests, self.url = [], [], ""

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
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return reply({"files": modes})
        if what == "commit":
            number = self.commit(repository, changed(files, body), revision)
            url = f"{self.url}/{repository}/commit/{number}"
            return reply({"commitUrl": url, "commitOid": number})
        name = "/".join(parts[2:])
        if what != "resolve" or name not in files:
            return refusal(404, "EntryNotFound")
        data = files[name]
        tag = f'"{hashlib.sha1(data).hexdigest()}"'
        return 200, {"ETag": tag, "X-Repo-Commit": number, "Content-Length": str(len(data))}, data


def changed(files, body):
    """What the lines of a commit make of the files."""
    files = dict(files)
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    return files


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

        do_GET = do_POST = do_HEAD

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
