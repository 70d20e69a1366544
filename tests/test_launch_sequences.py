"""`keep` against a cloud of its own will: hundreds of seeded sequences of states and failures.

The cloud knows what is true, `keep` only what it is told. Whatever happens, no slice that is there
is deleted, no training that runs is stopped, no training is called complete that is not, and what
is left is named with the command that deletes it.
"""

import random
import subprocess

import pytest

from tests.fake_gcloud import (
    FAILURES,
    NOT_FOUND,
    REFUSED,
    WORKER,
    Scripts,
    answer,
    not_found,
    verb,
)

QUEUE = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
GONE = ("SUSPENDED", "FAILED")


class Cloud:
    """A request, its nodes and what runs there, which change between two commands."""

    def __init__(self, seed, slices):
        self.random = random.Random(seed)
        self.names = ["dit"] if slices == 1 else [f"dit-{i}" for i in range(slices)]
        self.request, self.nodes = None, {}
        self.training = self.status = None  # running, or its exit status; None: never begun
        self.known_running = False  # `keep` was told so, of this very process
        self.completed = False
        self.trouble = self.random.choice([0.0, 0.05, 0.2])  # share of commands that fail
        self.loss = self.random.choice([0.0, 0.02, 0.1])  # chance to be taken away at a command
        self.meddling = self.random.choice([0.0, 0.0, 0.003])  # ... or deleted, or interrupted
        self.meddled = self.creating = False
        self.violations, self.calls = [], 0
        self.begin()

    def begin(self):
        """There may be something from an earlier command."""
        self.request = self.random.choice([None, None, "ACTIVE", *GONE, "SUSPENDING", "DELETING"])
        self.meddled = self.request == "DELETING"
        if self.request == "ACTIVE":
            self.nodes = dict.fromkeys(self.names, "READY")
            self.training = self.random.choice(["running", "137", None])

    def chance(self, share):
        return self.random.random() < share

    def pass_time(self, seconds=0):
        """One thing may happen."""
        if self.request == "DELETING":
            self.request, self.creating = self._lose(), False
        elif self.request == "SUSPENDING":
            self._lose()
            self.request = "SUSPENDED"
        elif self.request in QUEUE[:-1] and self.chance(0.6):
            self.request = QUEUE[QUEUE.index(self.request) + 1]
            if self.chance(self.loss):
                self.request = "FAILED"
            elif self.request == "ACTIVE":
                self.nodes = dict.fromkeys(self.names, "CREATING")
        elif self.request == "ACTIVE":
            for name, state in self.nodes.items():
                if state != "READY" and self.chance(0.5):
                    self.nodes[name] = "READY"
            if self.chance(self.loss):
                self.request, self.training = "SUSPENDING", None
                self.nodes = dict.fromkeys(self.names, "PREEMPTED")
        if self.training == "running" and self.chance(0.15):
            self.training = self.random.choice(["0", "0", "0", "75", "137", "143", "2"])
            self.completed |= self.training == "0"
        if self.request and self.chance(self.meddling):
            self.request, self.meddled = "DELETING", True

    def _lose(self):
        self.nodes, self.training, self.known_running = {}, None, False

    def is_healthy(self):
        return self.request == "ACTIVE" and set(self.nodes.values()) <= {"READY", "CREATING"}

    def __call__(self, words, captured, seconds):
        self.calls += 1
        if self.calls > 20_000:
            raise AssertionError("does not end")
        name = verb(words)
        if name == "archive":
            return 0, "", ""
        self.pass_time()
        if self.chance(self.meddling):
            raise KeyboardInterrupt
        fails = self.chance(self.trouble)
        if fails and self.chance(0.5):
            return self.failure(captured)
        given = getattr(self, f"do_{name}")(words)
        if fails:  # done, and the answer is lost
            return self.failure(captured)
        return tuple(given)

    def failure(self, captured):
        chosen = self.random.choice([*FAILURES, WORKER, *([[0, "", ""]] if captured else [])])
        if isinstance(chosen, BaseException):
            raise chosen
        return tuple(chosen)

    def do_describe(self, words):
        if self.request == "ACTIVE" and self.chance(self.trouble / 4):
            return answer("PROVISIONING")  # an old answer
        return answer(self.request) if self.request else NOT_FOUND

    def do_node(self, words):
        state = self.nodes.get(words[5])
        return answer(state) if state else not_found("nodes", words[5])

    def do_create(self, words):
        if self.request and not self.creating:
            self.violations.append(f"requests again what is {self.request}")
        if self.request or self.nodes:
            return [1, "", "ERROR: ALREADY_EXISTS"]
        self.request, self.creating = "CREATING", True
        return [0, "", ""]

    def do_delete(self, words):
        if self.is_healthy() or self.request in QUEUE:
            self.violations.append(f"deletes a request that is {self.request}")
        if "--force" not in words and self.request not in (*GONE, *QUEUE[1:3]):
            return REFUSED
        self._lose()
        self.request, self.creating = None, False
        return [0, "", ""]

    def over_ssh(self, words, doing):
        node = next(word for word in words if word.rstrip(":") in self.names).rstrip(":")
        if self.nodes.get(node) != "READY":
            return [255, "", "ssh: connect to host 10.0.0.2 port 22: Connection timed out"]
        if doing and self.known_running and self.training == "running":
            self.violations.append(f"{doing} while training runs")
        return [0, "", ""]

    def do_scp(self, words):
        return self.over_ssh(words, "copies")

    def do_install(self, words):
        return self.over_ssh(words, "installs")

    def do_end(self, words):
        done = self.over_ssh(words, "ends")
        if done[0] == 0:
            self.training, self.known_running = None, False
        return done

    def do_train(self, words):
        done = self.over_ssh(words, "starts")
        if done[0] == 0:
            self.training, self.known_running = "running", False
        return done

    def do_status(self, words):
        done = self.over_ssh(words, "")
        if done[0]:
            return done
        if self.training is None:
            return [1, "", "nothing was started"]
        self.known_running = self.training == "running"
        return answer(self.training)


def left_unnamed(cloud, said):
    """What is left that no line names with the command that deletes it."""
    place = "--zone=us-west4-a"
    request = f"gcloud compute tpus queued-resources delete dit {place} --force --quiet"
    if cloud.request:
        return [] if request in said else [f"request {cloud.request}"]
    delete = "gcloud compute tpus tpu-vm delete {} --quiet " + place
    return [node for node in cloud.nodes if delete.format(node) not in said]


@pytest.mark.parametrize("slices", [1, 2])
def test_any_sequence_of_states_and_failures(monkeypatch, capsys, slices):
    scripts, ends = Scripts(monkeypatch).without_checks(), set()
    for seed in range(150):
        cloud = Cloud(seed, slices)
        scripts.sleep = cloud.pass_time
        message = scripts.run(cloud, "keep", f"--slices={slices}", "--max-restarts=20")
        said = f"{capsys.readouterr().err.splitlines()[-1:]}{message}"
        assert not cloud.violations, (seed, cloud.violations)
        assert not left_unnamed(cloud, said), (seed, said)
        assert message is not None or cloud.completed, (seed, "is called complete")
        if "none is made anew" in str(message):
            assert cloud.meddled, (seed, "nobody deleted it")
        assert message in (None, 130) or "\n" not in message, (seed, message)
        if not (cloud.trouble or cloud.loss or cloud.meddling):
            assert message is None or "ended with status 2" in message, (seed, message)
        ends.add("complete" if message is None else str(message)[:18])
    # The sequences reach what they are to reach.
    assert {"complete", "130", "error: main.py end", "error: the request"} <= ends, ends


def test_the_cloud_notices_what_must_not_happen():
    """So that the test above can fail."""
    cloud = Cloud(0, 1)
    cloud.trouble = 0
    cloud.request, cloud.nodes = "ACTIVE", {"dit": "READY"}
    words = ["gcloud", "compute", "tpus", "queued-resources", "delete", "dit", "--force"]
    cloud.training, cloud.known_running = "running", True
    cloud.do_end(["gcloud", "compute", "tpus", "tpu-vm", "ssh", "dit", "--worker=all"])
    cloud.do_create(words)
    cloud.do_delete(words)
    assert cloud.violations == [
        "ends while training runs",
        "requests again what is ACTIVE",
        "deletes a request that is ACTIVE",
    ]
    cloud.request, cloud.nodes = None, {"dit": "READY"}
    assert left_unnamed(cloud, "") == ["dit"]
    assert isinstance(FAILURES[-1], subprocess.TimeoutExpired)
