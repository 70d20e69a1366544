"""Cloud TPU slices: request, install, train, watch over, delete. Needs gcloud and a project.

    tpu="--name=dit --accelerator=v5litepod-16 --zone=us-west4-a --spot"
    .venv/bin/python scripts/launch_tpu_vm.py keep $tpu -- --config=configs/dit_xl.py \\
        --workdir=gs://BUCKET/dit_xl --config.data.path=/mnt/latents

`keep` does it all: it requests the slice, installs, starts main.py on every host, and begins again
when the slice is taken away; training resumes from its checkpoints. create, install, train, status,
logs, stop and delete are its steps. --dry-run prints the commands and runs none.

A command that fails never counts as an answer: `keep` asks again, and in the end leaves slice and
training as they are.
"""

import argparse
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from main_arguments import check_arguments

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHIVE = "lightningdit_jax.tar.gz"
FOLDER = "lightningdit_jax"  # in the home folder of every host
TRY_AGAIN = 75  # main.py's exit status after SIGTERM
LOST = ("SUSPENDED", "FAILED")  # states of a request whose slice is gone
NO_REQUEST = "no such request"
RUNNING = "running"

POLL_SECONDS = 60
ANSWER_SECONDS = 300  # a question without an answer by then has failed
# Pauses before a question that failed is asked again, an hour together, and before a step is taken
# again: a slice costs while its installation fails.
QUESTION_PAUSES = (10, 30, 60, 120, 300, 600, 600, 600, 600, 600)
STEP_PAUSES = (10, 30, 60, 120)

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

Answer = TypeVar("Answer")


class CommandFailed(Exception):
    """A command without status 0: which, its status, and what it said where that was read."""

    def __init__(self, command: Sequence[str], status: int | str, said: str):
        # Of gcloud's paragraphs the one that says what is wrong.
        lines = said.strip().splitlines() or [""]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        name = shlex.join(word for word in command[:6] if not word.startswith("-"))
        super().__init__(f"`{name}` ended with status {status}" + (reason and f": {reason[:300]}"))
        self.said = said


class Slices:
    """The gcloud commands for one request of slices, run or printed."""

    def __init__(self, args: argparse.Namespace):
        self._args, self._place = args, [f"--zone={args.zone}"]
        if args.project:
            self._place.append(f"--project={args.project}")
        count = range(args.slices)
        self._nodes = [args.name] if args.slices == 1 else [f"{args.name}-{i}" for i in count]

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
        self._run(*self._request("create", *nodes, *kind, *spot))

    def state(self) -> str:
        """State of the request, WAITING_FOR_RESOURCES, ACTIVE, SUSPENDED, ...; or NO_REQUEST.

        There is no request only where gcloud says NOT_FOUND of this very one: a token, a network, a
        quota or a zone that fails says nothing about it. `list` would be no safer: its answer
        leaves out, with status 0, what the service could not reach (the field `unreachable`).
        """
        try:
            state = self._ask(*self._request("describe", "--format=value(state.state)"))
        except CommandFailed as failure:
            resource = rf"queuedResources/{re.escape(self._args.name)}(?![\w-])"
            if "NOT_FOUND" in failure.said and re.search(resource, failure.said):
                return NO_REQUEST
            raise
        return NO_REQUEST if self._args.dry_run else state

    def delete(self) -> None:
        """Gives the slices back."""
        self._run(*self._request("delete", "--force", "--quiet"))

    def install(self) -> None:
        """Copies the committed code of this folder to every host, installs it, runs --setup."""
        with tempfile.TemporaryDirectory() as folder:  # nobody else can put anything there
            archive = f"{folder}/{ARCHIVE}"
            self._run(
                "git", "-C", ROOT, "archive", "--format=tar.gz", f"--output={archive}", "HEAD"
            )
            for node in self._nodes:
                self._run(*self._vm("scp", archive, f"{node}:", "--worker=all"))
                self._run(*self._ssh(node, INSTALL))
                if self._args.setup:
                    self._run(*self._ssh(node, self._args.setup))

    def train(self, arguments: Sequence[str]) -> None:
        """Starts main.py in the background on every host, after ending what runs there."""
        python = shlex.join([".venv/bin/python", "main.py", *arguments])
        script = f"{python} & echo $! > train.pid; wait $!; echo $? > train.status"
        for node in self._nodes:
            self._run(*self._ssh(node, END))
        for node in self._nodes:
            start = (
                f"cd {FOLDER} && rm -f train.status && "
                f"(nohup bash -c {shlex.quote(script)} >> train.log 2>&1 < /dev/null &)"
            )
            self._run(*self._ssh(node, start))

    def logs(self) -> None:
        """Follows the log of the first host."""
        self._run(*self._ssh(self._nodes[0], f"tail -n 50 -F {FOLDER}/train.log", worker="0"))

    def stop(self) -> None:
        """Asks main.py on every host to save and end; says where nothing runs."""
        for node in self._nodes:
            self._run(*self._ssh(node, STOP))

    def exit_status(self) -> str:
        """What main.py ended with on the first host; RUNNING while it runs."""
        command = self._ssh(self._nodes[0], STATUS, worker="0")
        answer = self._ask(*command).rpartition("\n")[2]
        if answer != RUNNING and not answer.isdigit():
            raise CommandFailed(command, 0, f"said {answer!r}, no exit status")
        return answer

    def keep(self, arguments: Sequence[str]) -> None:
        """Creates, installs and trains, again and again, until training ends."""
        for _ in range(self._args.max_restarts + 1):
            if not self._obtain():
                continue
            if self._insist(lambda: self._start(arguments), STEP_PAUSES, self._is_lost) is None:
                continue
            if self._args.dry_run or self._wait() == 0:
                return
        sys.exit(f"error: ended {self._args.max_restarts + 1} times; see the action `logs`")

    def _obtain(self) -> bool:
        """Waits for the slices, requested where there are none; whether they are there."""
        state = self._state()
        if state in LOST:
            self._insist(self.delete, STEP_PAUSES, lambda: self._state() == NO_REQUEST)
            state = NO_REQUEST
        if state == NO_REQUEST:
            # A request whose answer was lost on the way may be there.
            self._insist(self.create, STEP_PAUSES, lambda: self._state() != NO_REQUEST)
        while not self._args.dry_run and (state := self._state()) != "ACTIVE":
            if state in (*LOST, NO_REQUEST):
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _start(self, arguments: Sequence[str]) -> bool:
        self.install()
        self.train(arguments)
        return True

    def _wait(self) -> int:
        """Waits for the end of training or of the slice; 0 if training is complete."""
        while not self._is_lost():
            answer = self._insist(self.exit_status, QUESTION_PAUSES, self._is_lost)
            if answer is None:
                break
            if answer != RUNNING:
                status = int(answer)
                # From 128 on a signal ended it, as when another host was lost.
                if status not in (0, TRY_AGAIN) and status < 128:
                    sys.exit(f"error: main.py ended with status {status}; see the action `logs`")
                return status
            time.sleep(POLL_SECONDS)
        return TRY_AGAIN

    def _state(self) -> str:
        return self._insist(self.state, QUESTION_PAUSES, lambda: False)

    def _is_lost(self) -> bool:
        return self._state() != "ACTIVE"

    def _insist(
        self, step: Callable[[], Answer], pauses: Sequence[float], needless: Callable[[], bool]
    ) -> Answer | None:
        """What a step returns, taken again after each pause while it fails.

        None where it has become needless. Ends the program after the last pause.
        """
        for pause in pauses:
            try:
                return step()
            except CommandFailed as failure:
                print(f"{failure}; again in {pause} s", file=sys.stderr)
            time.sleep(pause)
            if needless():
                return None
        try:
            return step()
        except CommandFailed as failure:
            sys.exit(
                f"error: {failure}, {len(pauses) + 1} times. The request '{self._args.name}' and "
                "what runs there are left as they are; mend the cause and give the same command "
                "again"
            )

    def _request(self, action: str, *options: str) -> tuple[str, ...]:
        command = ("gcloud", "compute", "tpus", "queued-resources", action, self._args.name)
        return (*command, *self._place, *options)

    def _vm(self, action: str, *options: str) -> tuple[str, ...]:
        return ("gcloud", "compute", "tpus", "tpu-vm", action, *options, *self._place)

    def _ssh(self, node: str, command: str, worker: str = "all") -> tuple[str, ...]:
        return self._vm("ssh", node, f"--worker={worker}", f"--command={command}")

    def _ask(self, *command: str) -> str:
        """Runs a command, or prints it; returns its output. Raises CommandFailed."""
        return self._run(
            *command, capture_output=True, stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS
        )

    def _run(self, *command: str | pathlib.Path, **options) -> str:
        """Runs a command, or prints it; returns what was captured. Raises CommandFailed."""
        words = [str(part) for part in command]
        if self._args.dry_run:
            print(shlex.join(words))
            return ""
        try:
            done = subprocess.run(words, check=False, text=True, **options)
        except FileNotFoundError:
            sys.exit(f"error: there is no program `{words[0]}` on this machine's PATH; install it")
        except subprocess.TimeoutExpired as late:
            raise CommandFailed(words, "none", f"no answer in {late.timeout:.0f} s") from late
        if done.returncode:
            raise CommandFailed(words, done.returncode, done.stderr or "")
        return (done.stdout or "").strip()


def check_is_sent(config: str) -> None:
    """Ends with one line for a --config that the hosts will not have: only the commit is sent.

    config: a file, or a workdir, which must be a bucket's. What has changed since the commit is
    named on standard error.
    """
    git = ["git", "-C", str(ROOT)]
    tracked = [*git, "cat-file", "-e", f"HEAD:{config}"]
    if "://" not in config and pathlib.Path(config).is_dir():
        sys.exit(
            f"error: --config={config} is a folder of this machine, which the hosts do not have; "
            "give a workdir in gs:// or a config file"
        )
    if "://" not in config and subprocess.run(tracked, check=False, capture_output=True).returncode:
        sys.exit(
            f"error: --config={config} is not in the last commit of {ROOT}, and only that is "
            "sent to the hosts; commit it"
        )
    changed = subprocess.run(
        [*git, "diff", "--name-only", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.split()
    if changed:
        print(f"not sent, as not committed: changes of {', '.join(changed)}", file=sys.stderr)


def main() -> None:
    """Parses the command line and does one action."""
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = ("keep", "create", "install", "train", "status", "logs", "stop", "delete")
    parser.add_argument("action", choices=actions)
    parser.add_argument("--name", required=True, help="of the request and its slices")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", help="default: gcloud's")
    parser.add_argument("--accelerator", default="v5litepod-16", help="v5litepod-16, v4-32, ...")
    parser.add_argument("--slices", type=int, default=1, help="joined over the network")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    parser.add_argument("--max-restarts", type=int, default=100)
    parser.add_argument("--setup", default="", help="command run on every host after installing")
    parser.add_argument("--dry-run", action="store_true")
    args, arguments = parser.parse_args(argv[:cut]), argv[cut + 1 :]
    if not args.accelerator.startswith(tuple(RUNTIMES)):
        parser.error(
            f"--accelerator={args.accelerator}; expected {', '.join(RUNTIMES)} and a size, such as "
            "v5litepod-16 or v4-32"
        )
    slices = Slices(args)
    try:
        if args.action in ("keep", "train"):
            if not arguments:
                parser.error(f"{args.action} needs main.py's arguments after --")
            check_is_sent(check_arguments(arguments))
            getattr(slices, args.action)(arguments)
        elif args.action == "status":
            print(slices.state())
        else:
            getattr(slices, args.action)()
    except CommandFailed as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
