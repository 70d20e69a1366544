"""Stands in for gcloud and git archive in `slice_commands.run`: replayed answers, or a cloud.

What failures say is what gcloud 500 and later said to others who published it, shortened; where
that was not found, it stands here.
"""

import importlib
import pathlib
import subprocess
import types

ROOT = pathlib.Path(__file__).parent.parent
TPUS = "ERROR: (gcloud.compute.tpus."
_WHO = "This command is authenticated as a@b.c which is the active account specified by the"


def not_found(kind, name):
    """What gcloud says, with status 1, of a resource that is not there."""
    group, verb = {"nodes": ("tpu-vm", "describe")}.get(kind, ("queued-resources", "describe"))
    resource = f"projects/p/locations/us-west4-a/{kind}/{name}"
    said = f"{TPUS}{group}.{verb}) NOT_FOUND: Resource '{resource}' was not found. {_WHO} property"
    return [1, "", f"{said}\n- '@type': type.googleapis.com/google.rpc.ResourceInfo\n"]


NOT_FOUND = not_found("queuedResources", "dit")
NO_NODE = not_found("nodes", "dit")
EXPIRED = [
    1,
    "",
    f"{TPUS}queued-resources.describe) There was a problem refreshing your current auth tokens: "
    "Reauthentication failed. cannot prompt during non-interactive execution.\n"
    "Please run:\n\n  $ gcloud auth login\n\nto obtain new credentials.\n",
]
NETWORK = [
    1,
    "",
    "ERROR: gcloud crashed (ConnectionError): HTTPSConnectionPool(host='tpu.googleapis.com', "
    "port=443): Max retries exceeded with url: /v2/projects/p\n",
]
QUOTA = [
    1,
    "",
    f"{TPUS}queued-resources.create) RESOURCE_EXHAUSTED: Quota limit "
    "'TPUV5sLitepodServingPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 4 in zone "
    "us-west4-a.\n- '@type': type.googleapis.com/google.rpc.QuotaFailure\n",
]
OTHER = not_found("queuedResources", "dit-2")
ZONE = [1, "", f"{TPUS}queued-resources.describe) PERMISSION_DENIED: Permission denied on "
        "'locations/us-west4-a' (or it may not exist). NOT_FOUND"]  # fmt: skip
KILLED = [-9, "", ""]
LATE = subprocess.TimeoutExpired("gcloud", 300)
FAILURES = [EXPIRED, NETWORK, QUOTA, OTHER, ZONE, KILLED, LATE]
REFUSED = [
    1,
    "",
    f"{TPUS}queued-resources.delete) FAILED_PRECONDITION: DeleteQueuedResource is not supported "
    "when state is ACTIVE (must be one of [ACCEPTED WAITING_FOR_RESOURCES SUSPENDED FAILED])\n",
]
# Where one of several workers fails, gcloud ends with its status once all have ended.
WORKER = [255, "", "##### Command execution on worker 3 failed with exit status 255. Continuing.\n"]


def answer(state):
    return [0, state, ""]


def verb(words):
    """describe, create, delete, node, scp, or what a command over ssh does: install, end, ..."""
    if words[0] == "git":
        return "archive"
    command = next((w for w in words if w.startswith("--command=")), None)
    if command is None:
        return "node" if list(words[3:5]) == ["tpu-vm", "describe"] else words[4]
    marks = {
        "tar -xzf": "install",
        "nohup": "train",
        "cat train.status": "status",
        "SETUP": "setup",
        "tail -n": "logs",
    }
    return next((name for mark, name in marks.items() if mark in command), "end")


class Replayed:
    """Answers of {verb: [[status, standard output, standard error] or an exception, ...]}.

    The last answer of a verb repeats; a verb without answers succeeds, and a node without is there
    while its request is ACTIVE. asked: the verbs, without archive. words: of all commands.
    """

    def __init__(self, **answers):
        self._answers, self.asked, self.words = answers, [], []
        self._active = False

    def __call__(self, words, captured, seconds):
        name = verb(words)
        self.words.append(words)
        if name == "archive":
            return 0, "", ""
        answers = self._answers.get(name)
        if not answers and name == "node":
            answers = [answer("READY") if self._active else NO_NODE]
        chosen = (answers or [[0, "", ""]])[min(self.asked.count(name), len(answers or "1") - 1)]
        self.asked.append(name)
        if name == "describe" and isinstance(chosen, list) and chosen[0] == 0:
            self._active = chosen[1] == "ACTIVE"
        elif name == "describe" and chosen is NOT_FOUND:
            self._active = False
        if isinstance(chosen, BaseException):
            raise chosen
        return tuple(chosen)

    @property
    def steps(self):
        """What was done, without what was asked."""
        return [a for a in self.asked if a not in ("describe", "status", "node")]


class Scripts:
    """The launch scripts, in this process: no command is run, no time passes."""

    def __init__(self, monkeypatch):
        monkeypatch.syspath_prepend(str(ROOT / "scripts"))
        for name in (
            *("launch_tpu_vm", "keep_slices", "slice_commands", "launch_states"),
            *("launch_gke", "log_in"),
        ):
            setattr(self, name, importlib.import_module(name))
        self.pauses, self._patch = [], monkeypatch.setattr
        self.sleep = self.pauses.append
        passing = types.SimpleNamespace(sleep=lambda seconds: self.sleep(seconds))
        self._patch(self.keep_slices, "time", passing)

    def without_checks(self):
        """Takes every argument of main.py; that they are checked is in test_launch_checks.py."""
        for name in ("check_arguments", "check_lasting", "check_is_sent"):
            self._patch(self.launch_tpu_vm, name, lambda given: "configs/dit_xl.py")
            self._patch(self.launch_gke, name, lambda given: None, raising=False)
        for script in (self.launch_tpu_vm, self.launch_gke):
            self._patch(script, "check_log_in", lambda: None)
        return self

    def run(self, cloud, action, *options, arguments=("--config=configs/dit_xl.py",)):
        """Does an action with a stand-in; the message that it ends with, or None."""
        self._patch(self.slice_commands, "run", cloud)
        place = ["--name=dit", "--zone=us-west4-a"]
        return self.main("launch_tpu_vm", action, *place, *options, "--", *arguments)

    def main(self, script, *argv):
        """Runs a script; the message or status that it ends with, or None."""
        self._patch("sys.argv", [f"{script}.py", *argv])
        try:
            getattr(self, script).main()
        except SystemExit as end:
            return end.code
        return None
