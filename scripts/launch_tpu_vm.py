"""Cloud TPU slices: request, install, train, watch over, delete. Needs gcloud and a project.

    tpu="--name=dit --accelerator=v5litepod-16 --zone=us-west4-a --spot"
    .venv/bin/python scripts/launch_tpu_vm.py keep $tpu -- --config=configs/dit_xl.py \\
        --workdir=gs://BUCKET/dit_xl --config.data.path=/mnt/latents

`keep` does it all: it requests the slice, installs, starts main.py on every host, and begins again
when the slice is taken away; training resumes from its checkpoints. create, install, train, status,
logs, stop and delete are its steps. --dry-run prints the commands and runs none.

A command that fails never counts as an answer: `keep` asks again, and in the end leaves slice and
training as they are. What it does in which state: launch_states.py. Its last line names the request
that is left and the command that deletes it, and so does a line before the request is made.
"""

import argparse
import pathlib
import shutil
import signal
import subprocess
import sys

from keep_slices import Keeper
from launch_states import NO_REQUEST
from log_in import check_log_in
from main_arguments import check_arguments, check_lasting, refuse
from slice_commands import ROOT, RUNTIMES, CommandFailed, Slices, missing


def check_is_sent(config: str) -> None:
    """Ends with one line for a --config that the hosts will not have: only the commit is sent.

    config: a file, or a workdir, which must be a bucket's. What has changed since the commit is
    named on standard error.
    """
    if shutil.which("git") is None:
        sys.exit(missing("git"))
    git = ["git", "-C", str(ROOT)]
    tracked = [*git, "cat-file", "-e", f"HEAD:{config}"]
    if "://" not in config and pathlib.Path(config).is_dir():
        refuse(
            f"--config={config} is a folder of this machine, which the hosts do not have; "
            "give a workdir in gs:// or a config file"
        )
    if "://" not in config and subprocess.run(tracked, check=False, capture_output=True).returncode:
        refuse(
            f"--config={config} is not in the last commit of {ROOT}, and only that is "
            "sent to the hosts; commit it"
        )
    done = subprocess.run(
        [*git, "diff", "--name-only", "HEAD"], check=False, capture_output=True, text=True
    )
    if done.returncode:
        refuse(f"{ROOT} is no clone of the repository, and a commit of it is sent")
    changed = done.stdout.split()
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
    kind, _, size = args.accelerator.rpartition("-")
    if f"{kind}-" not in RUNTIMES or not size.isdigit():
        parser.error(
            f"--accelerator={args.accelerator}; expected {', '.join(RUNTIMES)} and a size, such as "
            "v5litepod-16 or v4-32"
        )
    if args.slices < 1:
        parser.error(f"--slices={args.slices}; expected at least 1")
    if args.action in ("keep", "train"):
        if not arguments:
            parser.error(f"{args.action} needs main.py's arguments after --")
        given = check_arguments(arguments)
        if args.action == "keep":
            check_lasting("the slice")
        check_is_sent(given)
    if not args.dry_run:
        check_log_in()
    act(args, arguments)


def act(args: argparse.Namespace, arguments: list[str]) -> None:
    """Does the action of a checked command line; then says what may be left that costs money."""
    slices = Slices(args)
    silent = args.action in ("status", "logs")
    try:
        if args.action == "keep":
            Keeper(slices, arguments, args.name, args.dry_run).keep(args.max_restarts)
        elif args.action == "train":
            slices.train(arguments)
        elif args.action == "status":
            state = slices.state()
            if not args.dry_run:
                print(state)
        else:
            getattr(slices, args.action)()
    except CommandFailed as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt as interrupt:
        if args.action != "logs":
            print(f"ended by {str(interrupt) or 'SIGINT'}", file=sys.stderr)
        sys.exit(130)
    finally:
        if not silent and slices.last_state != NO_REQUEST:
            slices.say(
                f"last heard of: {slices.last_state or 'nothing'}; may cost money. "
                f"{slices.to_give_back()}"
            )


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
            signal.signal(ending, _interrupt)
    main()
