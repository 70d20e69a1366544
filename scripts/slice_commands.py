"""The gcloud commands for one request of Cloud TPU slices, run or printed."""

import argparse
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from launch_states import NO_NODE, NO_REQUEST, QUESTION, REQUESTS, START

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHIVE = "lightningdit_jax.tar.gz"
FOLDER = "lightningdit_jax"  # in the home folder of every host
RUNNING = "running"

# By the accelerator's prefix; cloud.google.com/tpu/docs/runtimes
RUNTIMES = {
    "v4-": "tpu-ubuntu2204-base",
    "v5litepod-": "v2-alpha-tpuv5-lite",
    "v5p-": "v2-alpha-tpuv5",
    "v6e-": "v2-alpha-tpuv6e",
}

# Saves, or is killed where it cannot: after a lost host the others wait for it for a while. Nothing
# is sent to the number of a process that has ended.
END = (
    f"cd {FOLDER} && if [ -e train.pid ] && [ ! -e train.status ]; then pid=$(cat train.pid);"
    " kill -TERM $pid && timeout 120 tail --pid=$pid -f /dev/null || kill -KILL $pid || true;"
    " fi 2> /dev/null && rm -f train.pid"
)

INSTALL = (
    f"mkdir -p {FOLDER} && tar -xzf {ARCHIVE} -C {FOLDER} && cd {FOLDER}"
    " && python3 -m pip install --user --quiet uv"
    " && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv"
    " && ~/.local/bin/uv pip install --quiet -c constraints.txt -e '.[gcs,tpu]'"
)

STOP = (
    f"cd {FOLDER} && if [ -e train.pid ] && [ ! -e train.status ] &&"
    " kill -TERM $(cat train.pid) 2> /dev/null;"
    " then echo saving and ending; else echo nothing runs here; fi"
)

# 137, as of SIGKILL, where the process has ended and nothing wrote its status: the host was started
# anew, or the shell around main.py was killed. Between the end and the writing is a moment.
STATUS = (
    f"cd {FOLDER} || exit 1; alive() {{ kill -0 $(cat train.pid) 2> /dev/null; }};"
    " [ -e train.status ] || [ ! -e train.pid ] || alive || sleep 1;"
    " if [ -e train.status ]; then cat train.status;"
    " elif [ ! -e train.pid ]; then echo nothing was started >&2; exit 1;"
    f" elif alive; then echo {RUNNING}; else echo 137; fi"
)


class CommandFailed(Exception):
    """A command without status 0: which, its status, and what it said where that was read."""

    def __init__(self, command: Sequence[str], status: int | str, said: str):
        # Of gcloud's paragraphs the one that says what is wrong.
        lines = said.strip().splitlines() or [""]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        name = shlex.join(word for word in command[:6] if not word.startswith("-"))
        super().__init__(f"`{name}` ended with status {status}" + (reason and f": {reason[:300]}"))
        self.said = said


def missing(program: str) -> str:
    """The line about a program that is not there."""
    return f"error: there is no program `{program}` on this machine's PATH; install it"


def run(words: Sequence[str], captured: bool, seconds: float) -> tuple[int, str, str]:
    """Runs a command: its status, and where captured its output and errors.

    Raises FileNotFoundError, and subprocess.TimeoutExpired after so many seconds.
    """
    if not captured:
        # In our own session, where ssh may ask for a passphrase.
        return subprocess.run(words, check=False, timeout=seconds).returncode, "", ""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            # gcloud starts ssh, which would hold the pipes, and us, open.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, out.strip(), err


class Slices:
    """The commands. Each raises CommandFailed.

    last_state: of the request as last heard of, None before.
    """

    def __init__(self, args: argparse.Namespace):
        self._args, self._place = args, [f"--zone={args.zone}"]
        if args.project:
            self._place.append(f"--project={args.project}")
        count = range(args.slices)
        self.nodes = [args.name] if args.slices == 1 else [f"{args.name}-{i}" for i in count]
        self.last_state: str | None = None

    def create(self) -> None:
        """Queues a request for the slices."""
        args = self._args
        if args.slices == 1:
            nodes = [f"--node-id={args.name}"]
        else:
            nodes = [f"--node-count={args.slices}", f"--node-prefix={args.name}"]
        runtime = next(r for p, r in RUNTIMES.items() if args.accelerator.startswith(p))
        kind = [f"--accelerator-type={args.accelerator}", f"--runtime-version={runtime}"]
        spot = ["--spot"] if args.spot else []
        self.last_state = "requested"
        self.say(f"requesting; once ACTIVE it costs money. {self.to_give_back()}")
        self._run(*self._request("create", *nodes, *kind, *spot))

    def state(self) -> str:
        """State of the request, a key of REQUESTS.

        There is no request only where gcloud says NOT_FOUND of this very one: a token, a network, a
        quota or a zone that fails says nothing about it. `list` would be no safer: its answer
        leaves out, with status 0, what the service could not reach (the field `unreachable`). Nor
        does an answer that is none of the known states say anything.
        """
        command = self._request("describe", "--format=value(state.state)")
        state = self._ask_of(command, f"queuedResources/{self._args.name}", NO_REQUEST)
        if state not in REQUESTS:
            raise CommandFailed(command, 0, f"said {state!r}, no state of a request")
        self.last_state = state
        return state

    def node_state(self, node: str) -> str:
        """State of a node, a key of NODES or another word."""
        command = self._vm("describe", node, "--format=value(state)")
        return self._ask_of(command, f"nodes/{node}", NO_NODE)

    def delete(self) -> None:
        """Gives the slices back."""
        self._run(*self._deletion())
        self.last_state = NO_REQUEST

    def delete_lost(self) -> None:
        """Deletes a request whose slices are gone; the service refuses it of an ACTIVE one."""
        self._run(*self._request("delete", "--quiet"))
        self.last_state = NO_REQUEST

    def to_give_back(self) -> str:
        """The command that deletes it all, as a sentence."""
        return f"To give it back: {shlex.join(self._deletion())}"

    def to_delete_node(self, node: str) -> str:
        """The command that deletes a node which has lost its request."""
        return shlex.join(self._vm("delete", node, "--quiet"))

    def say(self, words: str) -> None:
        """A line about the request on standard error; none where nothing is done."""
        if not self._args.dry_run:
            print(f"'{self._args.name}' in {self._args.zone}: {words}", file=sys.stderr, flush=True)

    def install(self) -> None:
        """Copies the committed code of this folder to every host, installs it, runs --setup."""
        with tempfile.TemporaryDirectory() as folder:  # nobody else can put anything there
            archive = f"{folder}/{ARCHIVE}"
            self._run(
                "git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={archive}", "HEAD"
            )
            for node in self.nodes:
                self._run(*self._vm("scp", archive, f"{node}:", "--worker=all"))
                self._run(*self._ssh(node, INSTALL))
                if self._args.setup:
                    self._run(*self._ssh(node, self._args.setup))

    def train(self, arguments: Sequence[str]) -> None:
        """Starts main.py in the background on every host, after ending what runs there."""
        python = shlex.join([".venv/bin/python", "main.py", *arguments])
        script = f"{python} & echo $! > train.pid; wait $!; echo $? > train.status"
        for node in self.nodes:
            self._run(*self._ssh(node, END))
        for node in self.nodes:
            start = (
                f"cd {FOLDER} && rm -f train.status && "
                f"(nohup bash -c {shlex.quote(script)} >> train.log 2>&1 < /dev/null &)"
            )
            self._run(*self._ssh(node, start))

    def logs(self) -> None:
        """Follows the log of the first host."""
        follow = f"tail -n 50 -F {FOLDER}/train.log"
        self._run(*self._ssh(self.nodes[0], follow, worker="0"), seconds=None)

    def stop(self) -> None:
        """Asks main.py on every host to save and end; says where nothing runs."""
        for node in self.nodes:
            self._run(*self._ssh(node, STOP))

    def exit_status(self) -> str:
        """What main.py ended with on the first host; RUNNING while it runs."""
        command = self._ssh(self.nodes[0], STATUS, worker="0")
        answer = self._ask(*command).rpartition("\n")[2]
        if answer != RUNNING and not answer.isdigit():
            raise CommandFailed(command, 0, f"said {answer!r}, no exit status")
        return answer

    def _deletion(self) -> tuple[str, ...]:
        return self._request("delete", "--force", "--quiet")

    def _request(self, action: str, *options: str) -> tuple[str, ...]:
        command = ("gcloud", "compute", "tpus", "queued-resources", action, self._args.name)
        return (*command, *self._place, *options)

    def _vm(self, action: str, *options: str) -> tuple[str, ...]:
        return ("gcloud", "compute", "tpus", "tpu-vm", action, *options, *self._place)

    def _ssh(self, node: str, command: str, worker: str = "all") -> tuple[str, ...]:
        return self._vm("ssh", node, f"--worker={worker}", f"--command={command}")

    def _ask_of(self, command: Sequence[str], resource: str, none: str) -> str:
        """An answer about a resource; `none` where gcloud says NOT_FOUND of this very one."""
        try:
            answer = self._ask(*command)
        except CommandFailed as failure:
            there = rf"{re.escape(resource)}(?![\w-])"
            if "NOT_FOUND" in failure.said and re.search(there, failure.said):
                return none
            raise
        return none if self._args.dry_run else answer

    def _ask(self, *command: str) -> str:
        return self._run(*command, captured=True, seconds=QUESTION.seconds)

    def _run(
        self, *words: str, captured: bool = False, seconds: float | None = START.seconds
    ) -> str:
        """Runs a command, or prints it; returns what was captured."""
        if self._args.dry_run:
            print(shlex.join(words))
            return ""
        try:
            status, out, err = run(words, captured, seconds)
        except FileNotFoundError:
            sys.exit(missing(words[0]))
        except subprocess.TimeoutExpired as late:
            raise CommandFailed(words, "none", f"no end in {late.timeout:.0f} s") from late
        if status:
            raise CommandFailed(words, status, err)
        return out
