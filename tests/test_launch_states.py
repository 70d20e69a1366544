"""Each row of scripts/launch_states.py is what `keep` does, and what docs/pods.md says.

States: those of google.cloud.tpu_v2 (types QueuedResourceState.State and Node.State).
"""

import pytest

from tests.fake_gcloud import (
    EXPIRED,
    NO_NODE,
    NOT_FOUND,
    REFUSED,
    ROOT,
    Replayed,
    Scripts,
    answer,
    verb,
)
from tests.test_launch_answers import ACTIVE, DONE, RUNNING, STARTED, SUSPENDED

REQUEST_STATES = [
    "CREATING",
    "ACCEPTED",
    "PROVISIONING",
    "FAILED",
    "DELETING",
    "ACTIVE",
    "SUSPENDING",
    "SUSPENDED",
    "WAITING_FOR_RESOURCES",
]
NODE_STATES = [
    "CREATING",
    "READY",
    "RESTARTING",
    "REIMAGING",
    "DELETING",
    "REPAIRING",
    "STOPPED",
    "STOPPING",
    "STARTING",
    "PREEMPTED",
    "TERMINATED",
    "HIDING",
    "HIDDEN",
    "UNHIDING",
    "UNKNOWN",
]
LOST = ("SUSPENDED", "FAILED")
NONE = "no such request"

# What `keep` is seen to do for what the table says: answers that follow, steps, and how it ends.
ANEW = ["delete", "create", *STARTED]
SEEN = {
    "request it": ([ACTIVE], ["create", *STARTED], None),
    "wait": ([ACTIVE], STARTED, None),
    "wait 10 minutes, then end": ([], [], "none is made anew"),
    "use it": ([], STARTED, None),
    "delete it, request anew": ([NOT_FOUND, ACTIVE], ANEW, None),
    "end with a line": ([], [], "none is made anew"),
    "wait for its end, request anew": ([SUSPENDED, NOT_FOUND, ACTIVE], ANEW, None),
}


@pytest.fixture
def scripts(monkeypatch):
    return Scripts(monkeypatch).without_checks()


def said(state):
    return NOT_FOUND if state == NONE else answer(state)


def test_the_states_are_those_of_the_service(scripts):
    assert set(scripts.launch_states.REQUESTS) == {NONE, *REQUEST_STATES}
    assert set(scripts.launch_states.NODES) == {"no such node", *NODE_STATES}


def test_only_what_is_lost_is_deleted_and_only_what_is_not_there_requested(scripts):
    for state, row in scripts.launch_states.REQUESTS.items():
        assert ("delete" in " ".join(row[2:4])) == (state in LOST)
        assert ("request it" in row) == (state == NONE)


@pytest.mark.parametrize("state", [NONE, *REQUEST_STATES])
@pytest.mark.parametrize("column", ["at_first", "awaited", "in_use"])
def test_what_keep_does_in_each_state_of_the_request(scripts, state, column):
    then = getattr(scripts.launch_states.REQUESTS[state], column)
    after, steps, end = SEEN[then]
    before = {"at_first": [], "awaited": [NOT_FOUND], "in_use": [ACTIVE, ACTIVE]}[column]
    done = {"at_first": [], "awaited": ["create"], "in_use": STARTED}[column]
    if column == "in_use" and then in ("use it", "wait"):
        steps = []  # it goes on as it was
    cloud = Replayed(describe=[*before, said(state), *after], status=[RUNNING, DONE])
    message = scripts.run(cloud, "keep")
    assert cloud.steps == [*done, *steps]
    assert message is None if end is None else end in message
    if then == "wait 10 minutes, then end":
        assert 9 * 60 <= sum(scripts.pauses) <= 12 * 60
        late = Replayed(describe=[*before, said(state), ACTIVE], status=[RUNNING, DONE])
        assert scripts.run(late, "keep") is None
        assert late.steps == done + (STARTED if column == "awaited" else [])


def test_a_request_that_became_active_after_all_is_used(scripts):
    """The service refuses the deletion; what is asked next decides."""
    cloud = Replayed(describe=[answer("FAILED"), ACTIVE], delete=[REFUSED], status=[DONE])
    assert scripts.run(cloud, "keep") is None and cloud.steps == ["delete", *STARTED]


@pytest.mark.parametrize("state", ["no such node", *NODE_STATES, "", "A_NEW_STATE"])
def test_what_keep_does_in_each_state_of_a_node(scripts, state):
    table = scripts.launch_states.NODES
    row = table.get(state, table["UNKNOWN"])
    node = NO_NODE if state == "no such node" else answer(state)
    for then, before, none in ((row.to_install, [], NO_NODE), (row.to_request, [NOT_FOUND], None)):
        nodes = [node, answer("READY")] if none else [node, NO_NODE, answer("READY")]
        cloud = Replayed(describe=[*before, ACTIVE], node=nodes, status=[DONE])
        assert scripts.run(cloud, "keep") is None
        assert cloud.steps == ["create"] * len(before) + STARTED
        scripts.pauses.clear()
        stays = Replayed(describe=[*before, ACTIVE], node=[node], status=[DONE])
        message = scripts.run(stays, "keep")
        if "then end" in then:
            minutes = 60 if "an hour" in then else 10
            assert "the node 'dit' is" in message and stays.steps == []
            assert sum(scripts.pauses) == 60 * minutes
        elif then == "use it":
            assert message is None and stays.steps == STARTED
        else:
            assert stays.steps[0] == "create"


def test_a_request_that_is_lost_before_its_node_is_ready_is_replaced(scripts):
    describe = [ACTIVE, *[SUSPENDED] * 3, NOT_FOUND, ACTIVE]
    nodes = [answer("CREATING"), NO_NODE, answer("READY")]
    cloud = Replayed(describe=describe, node=nodes, status=[DONE])
    assert scripts.run(cloud, "keep") is None and cloud.steps == ANEW


@pytest.mark.parametrize(
    ("patience", "verb", "describe"),
    [
        ("QUESTION", "describe", None),
        ("QUESTION", "node", [ACTIVE]),
        ("QUESTION", "status", [ACTIVE]),
        ("CREATION", "create", [NOT_FOUND]),
        ("DELETION", "delete", [SUSPENDED]),
        ("START", "scp", [ACTIVE]),
        ("START", "install", [ACTIVE]),
        ("START", "end", [ACTIVE]),
        ("START", "train", [ACTIVE]),
    ],
)
def test_how_long_each_command_is_tried(scripts, patience, verb, describe):
    row = getattr(scripts.launch_states, patience)
    answers = {verb: [EXPIRED]} | ({"describe": describe} if describe else {})
    cloud = Replayed(**answers)
    message = scripts.run(cloud, "keep")
    assert cloud.asked.count(verb) == len(row.pauses) + 1
    assert scripts.pauses == list(row.pauses) and f"{len(row.pauses) + 1} times" in message


def test_a_command_has_the_time_that_the_table_gives_it(scripts):
    seconds = {}

    class Timed(Replayed):
        def __call__(self, words, captured, limit):
            answered = super().__call__(words, captured, limit)
            seconds[verb(words)] = limit
            return answered

    scripts.run(Timed(describe=[SUSPENDED, NOT_FOUND, ACTIVE], status=[DONE]), "keep")
    questions = {"describe", "node", "status"}
    states = scripts.launch_states
    assert {seconds[name] for name in questions} == {states.QUESTION.seconds}
    for name in seconds.keys() - questions:
        assert seconds[name] == states.START.seconds, name
    assert states.START.seconds == states.CREATION.seconds == states.DELETION.seconds


@pytest.mark.parametrize("status", [0, 1, 2, 74, 75, 127, 128, 130, 137, 143, 255])
def test_what_keep_does_after_each_status_of_main_py(scripts, status):
    then = scripts.launch_states.exit_of(status).keep
    cloud = Replayed(describe=[ACTIVE], status=[RUNNING, answer(str(status)), DONE])
    message = scripts.run(cloud, "keep")
    assert cloud.steps == STARTED * (2 if then == "begin again" else 1)
    failed = then == "end with a line" and status
    assert f"main.py ended with status {status}" in message if failed else message is None


def test_the_tables_are_those_of_the_documents(scripts):
    assert scripts.launch_states.tables() in (ROOT / "docs" / "pods.md").read_text()
