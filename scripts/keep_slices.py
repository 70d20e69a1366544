"""Slices that are requested, used and replaced until training ends, by the tables of launch_states.

A command that fails never counts as an answer: it is tried again, and in the end request, slices
and training are left as they are, with a line.
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from launch_states import (
    ANEW,
    BEGIN,
    CREATION,
    DELETION,
    END,
    HOUR_OF_POLLS,
    NO_REQUEST,
    NODES,
    POLL_SECONDS,
    QUESTION,
    REPLACE,
    REQUEST,
    REQUESTS,
    START,
    USE,
    WHILE_OF_POLLS,
    Node,
    Patience,
    exit_of,
)
from slice_commands import RUNNING, CommandFailed, Slices

Answer = TypeVar("Answer")


class Keeper:
    """Keeps main.py running on slices. arguments: main.py's."""

    def __init__(self, slices: Slices, arguments: Sequence[str], name: str, dry_run: bool):
        self._slices, self._arguments = slices, arguments
        self._name, self._dry_run = name, dry_run
        self._awaited = False  # whether there has been a request that is not ours to miss

    def keep(self, max_restarts: int) -> None:
        """Obtains, installs and trains, again and again, until training ends.

        Ends the program with a line where it cannot go on.
        """
        for _ in range(max_restarts + 1):
            if not self._obtain():
                time.sleep(POLL_SECONDS)
                continue
            if self._insist(self._start, START, self._is_lost) is None:
                continue
            if self._dry_run or self._wait() == END:
                return
        sys.exit(f"error: ended {max_restarts + 1} times; see the action `logs`")

    def _obtain(self) -> bool:
        """Waits for slices that are ready, requested where there are none; False: were lost."""
        while True:
            state = self._state()
            then = REQUESTS[state].awaited if self._awaited else REQUESTS[state].at_first
            if then == END:
                self._deleted_by_others(state)
            if then == REPLACE:
                self._slices.say(f"{state}: {REQUESTS[state].meaning}")
                self._replace()
                return False
            if then == REQUEST:
                self._request()
            # What somebody had begun to take away before we came is not ours to miss.
            self._awaited |= state not in ("DELETING", "SUSPENDING")
            if then == USE or self._dry_run:
                return self._ready()
            if then != REQUEST:
                time.sleep(POLL_SECONDS)

    def _request(self) -> None:
        """Makes a request, once there are no nodes of its names."""
        for node in () if self._dry_run else self._slices.nodes:
            if not self._reaches(node, lambda row: row.to_request == REQUEST, WHILE_OF_POLLS):
                sys.exit(
                    f"error: the node '{node}' is there without a request, and may cost money. To "
                    f"delete it: {self._slices.to_delete_node(node)}"
                )
        # A request whose answer was lost on the way may be there.
        self._insist(self._slices.create, CREATION, lambda: self._state() != NO_REQUEST)

    def _replace(self) -> None:
        """Deletes a request whose slices are gone."""
        self._awaited = False  # whoever deletes it now does what we want
        self._insist(
            self._slices.delete_lost,
            DELETION,
            lambda: REQUESTS[self._state()].at_first != REPLACE,
        )

    def _ready(self) -> bool:
        """Waits until every node can be reached; False where the slices are lost before."""
        if self._dry_run:
            return True
        for node in self._slices.nodes:
            if self._reaches(node, lambda row: row.to_install == USE, HOUR_OF_POLLS):
                continue
            if self._is_lost():
                return False
            sys.exit(f"error: the node '{node}' is not READY, for {HOUR_OF_POLLS} minutes")
        return True

    def _reaches(self, node: str, wanted: Callable[[Node], bool], polls: int) -> bool:
        """Whether a node comes into a state before so many polls, or before its request is lost."""

        def lost() -> bool:
            return self._awaited and self._is_lost()

        for _ in range(polls):
            state = self._insist(lambda: self._slices.node_state(node), QUESTION, lost)
            if state is not None and wanted(NODES.get(state, NODES["UNKNOWN"])):
                return True
            time.sleep(POLL_SECONDS)
            if state is None or lost():
                break
        return False

    def _start(self) -> bool:
        self._slices.install()
        self._slices.train(self._arguments)
        return True

    def _wait(self) -> str:
        """Waits for the end of training or of the slice: END if complete, or BEGIN."""
        while not self._is_lost():
            answer = self._insist(self._slices.exit_status, QUESTION, self._is_lost)
            if answer is None:
                break
            if answer != RUNNING:
                then = exit_of(int(answer)).keep
                if then == END and int(answer):
                    sys.exit(f"error: main.py ended with status {answer}; see the action `logs`")
                return then
            time.sleep(POLL_SECONDS)
        return BEGIN

    def _state(self) -> str:
        """State of the request; that there is none, where there has been one, if it stays so."""
        for _ in range(WHILE_OF_POLLS):
            state = self._insist(self._slices.state, QUESTION, lambda: False)
            if state != NO_REQUEST or not self._awaited:
                return state
            time.sleep(POLL_SECONDS)
        self._deleted_by_others(NO_REQUEST)

    def _is_lost(self) -> bool:
        """Whether slices in use have been taken away. Ends the program where somebody deletes."""
        state = self._state()
        if REQUESTS[state].in_use == END:
            self._deleted_by_others(state)
        return REQUESTS[state].in_use == ANEW

    def _deleted_by_others(self, state: str) -> NoReturn:
        sys.exit(
            f"error: the request '{self._name}' is {state}, which this command did not do; none is "
            "made anew"
        )

    def _insist(
        self, step: Callable[[], Answer], patience: Patience, needless: Callable[[], bool]
    ) -> Answer | None:
        """What a step returns, taken again after each pause while it fails.

        None where it has become needless. Ends the program after the last pause.
        """
        for pause in patience.pauses:
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
                f"error: {failure}, {len(patience.pauses) + 1} times. The request "
                f"'{self._name}' and what runs there are left as they are; mend the cause and give "
                "the same command again"
            )
