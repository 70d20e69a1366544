"""What can be the case with rented machines, and what the launch scripts then do: data alone.

    python scripts/launch_states.py

prints the tables of docs/pods.md. States and their meanings: google.cloud.tpu_v2, types
QueuedResourceState.State and Node.State.
"""

from typing import NamedTuple

TRY_AGAIN = 75  # main.py's exit status after SIGTERM
POLL_SECONDS = 60

# What a script does.
REQUEST = "request it"
WAIT = "wait"
WAIT_A_WHILE = "wait 10 minutes, then end"
USE = "use it"
REPLACE = "delete it, request anew"
ANEW = "wait for its end, request anew"
END = "end with a line"
BEGIN = "begin again"
REQUEUE = "back into the queue"

NO_REQUEST = "no such request"
NO_NODE = "no such node"


class Request(NamedTuple):
    """A state of a request of slices, and what `keep` does in it."""

    meaning: str
    costs: str
    at_first: str  # before `keep` has seen or made a request
    awaited: str  # from then on
    in_use: str  # while it installs and trains


REQUESTS = {
    NO_REQUEST: Request("gcloud says NOT_FOUND of it", "no", REQUEST, WAIT_A_WHILE, WAIT_A_WHILE),
    "CREATING": Request("received", "no", WAIT, WAIT, WAIT),
    "ACCEPTED": Request("in the queue", "no", WAIT, WAIT, WAIT),
    "WAITING_FOR_RESOURCES": Request("in the queue", "no", WAIT, WAIT, WAIT),
    "PROVISIONING": Request("its nodes are being made", "soon", WAIT, WAIT, WAIT),
    "ACTIVE": Request("its nodes are there", "yes", USE, USE, USE),
    "SUSPENDING": Request("being taken away", "yes", WAIT, WAIT, ANEW),
    "SUSPENDED": Request("was taken away", "no", REPLACE, REPLACE, ANEW),
    "FAILED": Request("could not be made", "nodes that are left", REPLACE, REPLACE, ANEW),
    "DELETING": Request("somebody deletes it", "yes", WAIT, END, END),
}


class Node(NamedTuple):
    """What `keep` does in a state of a node."""

    to_install: str  # its request is ACTIVE
    to_request: str  # it has no request, never had one or has lost it


_IN_BETWEEN = Node("wait an hour, then end", WAIT_A_WHILE)
_NOT_READY = (
    *("CREATING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING", "UNHIDING", "DELETING"),
    *("STOPPING", "STOPPED", "HIDING", "HIDDEN", "PREEMPTED", "TERMINATED", "UNKNOWN"),
)
NODES = {
    NO_NODE: Node(_IN_BETWEEN.to_install, REQUEST),
    "READY": Node(USE, WAIT_A_WHILE),
    **dict.fromkeys(_NOT_READY, _IN_BETWEEN),
}
HOUR_OF_POLLS = 60
WHILE_OF_POLLS = 10


class Patience(NamedTuple):
    """How long a command that fails is tried."""

    of: str
    pauses: tuple[int, ...]  # seconds before each further try
    seconds: int  # one try; without an end by then it has failed
    until: str  # what makes another try needless; asked before each


# A question costs nothing but its time; while a step fails, a slice may cost.
QUESTION = Patience(
    "a question: the state of the request, of a node, of main.py",
    (10, 30, 60, 120, 300, 600, 600, 600, 600, 600),
    300,
    "of main.py: the request is not ACTIVE any more",
)
CREATION = Patience("create", (10, 30, 60, 120), 3600, "there is a request")
DELETION = Patience("delete", (10, 30, 60, 120), 3600, "it is not SUSPENDED or FAILED any more")
START = Patience(
    "copy, install, --setup, start", (10, 30, 60, 120), 3600, "the request is not ACTIVE any more"
)
PATIENCES = (QUESTION, CREATION, DELETION, START)


class Exit(NamedTuple):
    """Exit statuses of main.py, and what the scripts do after them."""

    first: int
    last: int
    meaning: str
    keep: str
    gke: str
    slurm: str


EXITS = (
    Exit(0, 0, "complete", END, "end", "end"),
    Exit(TRY_AGAIN, TRY_AGAIN, "saved, told to end", BEGIN, BEGIN, REQUEUE),
    Exit(128, 255, "ended by a signal, as when another host was lost", BEGIN, BEGIN, "end"),
    Exit(1, 127, "another failure: the log says which", END, "end", "end"),
)


def exit_of(status: int) -> Exit:
    """The row of an exit status of main.py."""
    return next(row for row in EXITS if row.first <= status <= row.last)


def _table(header: tuple[str, ...], rows) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def tables() -> str:
    """All of it as Markdown."""
    requests = _table(
        ("request", "that is", "costs money", "`keep` at first", "once awaited", "in use"),
        ((name, *row) for name, row in REQUESTS.items()),
    )
    nodes = _table(
        ("node", "before installing", "before a request is made"),
        (
            (", ".join(name for name, its in NODES.items() if its == row), *row)
            for row in dict.fromkeys(NODES.values())
        ),
    )
    patiences = _table(
        ("command that fails", "again after s", "has failed after s", "unless"),
        (
            (row.of, ", ".join(map(str, row.pauses)), str(row.seconds), row.until)
            for row in PATIENCES
        ),
    )
    exits = _table(
        ("main.py's status", "that is", "`keep`", "GKE", "Slurm"),
        (
            (f"{row.first}" if row.first == row.last else f"{row.first} to {row.last}", *row[2:])
            for row in sorted(EXITS)
        ),
    )
    return "\n\n".join((requests, nodes, patiences, exits))


if __name__ == "__main__":
    print(tables())
