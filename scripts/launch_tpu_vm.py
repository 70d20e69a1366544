"""Cloud TPU slices: request, install, train, watch over, delete. Needs gcloud and a project.

    tpu="--name=dit --accelerator=v5litepod-16 --zone=us-west4-a --spot"
    python scripts/launch_tpu_vm.py keep $tpu -- --config=configs/dit_xl.py \\
        --workdir=gs://BUCKET/dit_xl --config.data.path=/mnt/latents --config.mesh.fsdp=16

`keep` does it all: it requests the slice, installs, starts main.py on every host, and begins again
when the slice is taken away; training resumes from its checkpoints. create, install, train, status,
logs, stop and delete are its steps. --dry-run prints the commands and runs none.
"""

import argparse
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHIVE = "lightningdit_jax.tar.gz"
FOLDER = "lightningdit_jax"  # in the home folder of every host
TRY_AGAIN = 75  # main.py's exit status after SIGTERM
LOST = ("SUSPENDED", "FAILED", "")  # states of a request whose slice is gone; "" is no request

# By the accelerator's prefix; cloud.google.com/tpu/docs/runtimes
RUNTIMES = {
    "v4-": "tpu-ubuntu2204-base",
    "v5litepod-": "v2-alpha-tpuv5-lite",
    "v5p-": "v2-alpha-tpuv5",
    "v6e-": "v2-alpha-tpuv6e",
}

# Saves, or is killed where it cannot: after a lost host the others wait for it for a while.
END = (
    f"cd {FOLDER} && if [ -e train.pid ]; then pid=$(cat train.pid); rm train.pid;"
    " kill -TERM $pid; timeout 120 tail --pid=$pid -f /dev/null; kill -KILL $pid;"
    " fi 2> /dev/null; true"
)

INSTALL = (
    f"mkdir -p {FOLDER} && tar -xzf {ARCHIVE} -C {FOLDER} && cd {FOLDER}"
    " && python3 -m pip install --user --quiet uv"
    " && ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 .venv"
    " && ~/.local/bin/uv pip install --quiet -c constraints.txt -e '.[gcs,tpu]'"
)


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
        prefix = next((p for p in RUNTIMES if args.accelerator.startswith(p)), None)
        if prefix is None:
            sys.exit(
                f"error: --accelerator={args.accelerator}; expected {', '.join(RUNTIMES)} and a "
                "size, such as v5litepod-16 or v4-32"
            )
        if args.slices == 1:
            nodes = [f"--node-id={args.name}"]
        else:
            nodes = [f"--node-count={args.slices}", f"--node-prefix={args.name}"]
        kind = [f"--accelerator-type={args.accelerator}", f"--runtime-version={RUNTIMES[prefix]}"]
        spot = ["--spot"] if args.spot else []
        self._request("create", *nodes, *kind, *spot)

    def state(self) -> str:
        """State of the request: WAITING_FOR_RESOURCES, ACTIVE, SUSPENDED, ...; "" without one."""
        return self._request("describe", "--format=value(state.state)", read=True)

    def delete(self) -> None:
        """Gives the slices back."""
        self._request("delete", "--force", "--quiet")

    def install(self) -> None:
        """Copies the committed code of this folder to every host, installs it, runs --setup."""
        self._run(
            "git", "-C", ROOT, "archive", "--format=tar.gz", f"--output=/tmp/{ARCHIVE}", "HEAD"
        )
        for node in self._nodes:
            self._vm("scp", f"/tmp/{ARCHIVE}", f"{node}:", "--worker=all")
            self._ssh(node, INSTALL)
            if self._args.setup:
                self._ssh(node, self._args.setup)

    def train(self, arguments: Sequence[str]) -> None:
        """Starts main.py in the background on every host, after ending what runs there."""
        python = shlex.join([".venv/bin/python", "main.py", *arguments])
        script = f"{python} & echo $! > train.pid; wait $!; echo $? > train.status"
        for node in self._nodes:
            self._ssh(node, END)
        for node in self._nodes:
            self._ssh(
                node,
                f"cd {FOLDER} && rm -f train.status && "
                f"(nohup bash -c {shlex.quote(script)} >> train.log 2>&1 < /dev/null &)",
            )

    def logs(self) -> None:
        """Follows the log of the first host."""
        self._ssh(self._nodes[0], f"tail -n 50 -F {FOLDER}/train.log", worker="0")

    def stop(self) -> None:
        """Asks main.py on every host to save and end."""
        for node in self._nodes:
            self._ssh(node, f"kill -TERM $(cat {FOLDER}/train.pid)")

    def exit_status(self) -> str:
        """What main.py ended with on the first host; "" while it runs."""
        command = f"cat {FOLDER}/train.status || true"
        return self._ssh(self._nodes[0], command, worker="0", read=True)

    def keep(self, arguments: Sequence[str]) -> None:
        """Creates, installs and trains, again and again, until training ends."""
        for _ in range(self._args.max_restarts + 1):
            if self.state() in LOST:
                self._request("delete", "--force", "--quiet", check=False)
                self.create()
            while not self._args.dry_run and (state := self.state()) != "ACTIVE":
                if state in LOST:
                    break
                time.sleep(60)
            else:
                self.install()
                self.train(arguments)
                if self._args.dry_run or self._wait() == 0:
                    return
        sys.exit(f"error: ended {self._args.max_restarts + 1} times; see the action `logs`")

    def _wait(self) -> int:
        """Waits for the end of training or of the slice; 0 if training is complete."""
        while self.state() == "ACTIVE":
            status = self.exit_status()
            # From 128 on a signal ended it, as when another host was lost.
            if status and int(status) not in (0, TRY_AGAIN) and int(status) < 128:
                sys.exit(f"error: main.py ended with status {status}; see the action `logs`")
            if status:
                return int(status)
            time.sleep(60)
        return TRY_AGAIN

    def _request(self, action: str, *options: str, read: bool = False, check: bool = True) -> str:
        command = ("gcloud", "compute", "tpus", "queued-resources", action, self._args.name)
        return self._run(*command, *self._place, *options, read=read, check=check and not read)

    def _vm(self, action: str, *options: str, read: bool = False) -> str:
        command = ("gcloud", "compute", "tpus", "tpu-vm", action)
        return self._run(*command, *options, *self._place, read=read, check=not read)

    def _ssh(self, node: str, command: str, worker: str = "all", read: bool = False) -> str:
        return self._vm("ssh", node, f"--worker={worker}", f"--command={command}", read=read)

    def _run(self, *command, read: bool = False, check: bool = True) -> str:
        """Runs a command, or prints it; returns its output if it is read."""
        command = [str(part) for part in command]
        if self._args.dry_run:
            print(shlex.join(command))
            return ""
        done = subprocess.run(
            command, check=check, text=True, stdout=subprocess.PIPE if read else None
        )
        return (done.stdout or "").strip()


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
    slices = Slices(args)
    if args.action in ("keep", "train"):
        if not arguments:
            parser.error(f"{args.action} needs main.py's arguments after --")
        getattr(slices, args.action)(arguments)
    elif args.action == "status":
        print(slices.state() or "no such request")
    else:
        getattr(slices, args.action)()


if __name__ == "__main__":
    main()
