"""What launch_tpu_vm.py makes of the answers of the cloud, by a gcloud that replays them.

No answer but NOT_FOUND of the very request may lead to another slice, and no failure to a deletion
or a restart. All states stand in test_launch_states.py, any sequence in test_launch_sequences.py.
"""

import pathlib
import subprocess
import sys
import time

import pytest

from tests.fake_gcloud import (
    EXPIRED,
    FAILURES,
    KILLED,
    LATE,
    NETWORK,
    NOT_FOUND,
    OTHER,
    QUOTA,
    WORKER,
    Replayed,
    Scripts,
    answer,
)

ACTIVE, WAITING, SUSPENDED = map(answer, ("ACTIVE", "WAITING_FOR_RESOURCES", "SUSPENDED"))
RUNNING, DONE, SAVED = ([0, s, "SSH: connecting"] for s in ("running", "0", "75"))
STARTED = ["scp", "install", "end", "train"]
GIVE_BACK = "gcloud compute tpus queued-resources delete dit --zone=us-west4-a --force --quiet"


@pytest.fixture
def scripts(monkeypatch):
    return Scripts(monkeypatch).without_checks()


@pytest.fixture
def launch(scripts):
    """Runs an action against answers: the stand-in, the pauses, the end's message or None."""

    def run(action, *options, **answers):
        cloud = Replayed(**answers)
        message = scripts.run(cloud, action, *options)
        return cloud, scripts.pauses, message

    return run


def test_a_request_is_created_once_where_there_is_none(launch):
    cloud, _, message = launch(
        "keep", describe=[NOT_FOUND, WAITING, ACTIVE], status=[RUNNING, DONE]
    )
    assert message is None and cloud.steps == ["create", *STARTED]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_question_that_fails_at_first_neither_deletes_nor_creates(launch, failure):
    cloud, pauses, message = launch(
        "keep", describe=[failure, failure, ACTIVE], status=[RUNNING, DONE]
    )
    assert message is None and pauses[:2] == [10, 30] and cloud.steps == STARTED


@pytest.mark.parametrize("failure", FAILURES)
def test_a_question_that_fails_in_training_stops_nothing(launch, failure):
    cloud, pauses, message = launch(
        "keep",
        describe=[ACTIVE, ACTIVE, failure, failure, failure, ACTIVE],
        status=[RUNNING, failure, [0, "", ""], RUNNING, DONE],
    )
    assert message is None and {10, 30, 60} <= set(pauses) and cloud.steps == STARTED


@pytest.mark.parametrize("said", ["", "STATE_UNSPECIFIED", "A_NEW_STATE"])
def test_an_answer_that_is_no_state_stops_nothing(launch, said):
    cloud, _, message = launch(
        "keep", describe=[ACTIVE, answer(said), answer(said), ACTIVE], status=[RUNNING, DONE]
    )
    assert message is None and cloud.steps == STARTED


@pytest.mark.parametrize("failure", [EXPIRED, OTHER])
@pytest.mark.parametrize("answers", ["describe", "status"])
def test_a_question_that_fails_for_an_hour_ends_with_a_line(launch, capsys, failure, answers):
    describe = [ACTIVE, ACTIVE, failure] if answers == "describe" else [ACTIVE]
    cloud, pauses, message = launch("keep", describe=describe, status=[RUNNING, failure])
    assert message.startswith("error: `gcloud compute tpus") and "\n" not in message
    assert "11 times" in message and "left as they are" in message
    assert 3000 < sum(pauses) < 4200 and cloud.steps == STARTED
    assert GIVE_BACK in capsys.readouterr().err


def test_a_slice_that_was_taken_away_is_requested_anew(launch):
    gone = [ACTIVE, ACTIVE, SUSPENDED, SUSPENDED]
    cloud, _, message = launch(
        "keep", describe=[*gone, NOT_FOUND, ACTIVE], status=[RUNNING, EXPIRED, DONE]
    )
    assert message is None and cloud.steps == [*STARTED, "delete", "create", *STARTED]
    deleted = next(words for words in cloud.words if words[4] == "delete")
    assert "--force" not in deleted  # so that the service refuses it of an ACTIVE one


@pytest.mark.parametrize("step", ["scp", "install", "setup", "end", "train"])
@pytest.mark.parametrize("state", ["SUSPENDING", "SUSPENDED", "FAILED"])
def test_a_slice_that_is_taken_away_in_the_middle_of_an_install(launch, step, state):
    seen = [answer(state), answer(state)] + [SUSPENDED] * (state == "SUSPENDING")
    cloud, _, message = launch(
        "keep",
        "--setup=SETUP",
        describe=[ACTIVE, *seen, NOT_FOUND, ACTIVE],
        status=[DONE],
        **{step: [WORKER, [0, "", ""]]},
    )
    started = ["scp", "install", "setup", "end", "train"]
    begun = started[: started.index(step) + 1]
    assert message is None and cloud.steps == [*begun, "delete", "create", *started]


def test_the_answer_to_a_creation_may_be_lost_on_the_way(launch):
    cloud, _, message = launch(
        "keep", describe=[NOT_FOUND, WAITING, ACTIVE], create=[NETWORK], status=[DONE]
    )
    assert message is None and cloud.steps.count("create") == 1


def test_the_answer_to_a_deletion_may_be_lost_on_the_way(launch):
    cloud, _, message = launch(
        "keep", describe=[SUSPENDED, NOT_FOUND, NOT_FOUND, ACTIVE], delete=[LATE], status=[DONE]
    )
    assert message is None and cloud.steps == ["delete", "create", *STARTED]


def test_a_quota_is_asked_for_five_times_and_nothing_is_left(launch, capsys):
    cloud, _, message = launch("keep", describe=[NOT_FOUND], create=[QUOTA])
    assert "RESOURCE_EXHAUSTED" in message and "5 times" in message
    assert cloud.steps == ["create"] * 5 and GIVE_BACK in capsys.readouterr().err


def test_nothing_is_created_while_a_deletion_fails(launch):
    cloud, _, message = launch("keep", describe=[SUSPENDED], delete=[EXPIRED])
    assert "delete dit` ended with status 1" in message and "5 times" in message
    assert cloud.steps == ["delete"] * 5


def test_a_node_without_a_request_is_named_and_nothing_requested(launch):
    cloud, _, message = launch("keep", describe=[NOT_FOUND], node=[answer("READY")])
    assert cloud.steps == []
    assert "gcloud compute tpus tpu-vm delete dit --quiet --zone=us-west4-a" in message


@pytest.mark.parametrize("step", STARTED)
@pytest.mark.parametrize("failure", [NETWORK, WORKER, KILLED, LATE])
def test_a_step_that_fails_is_taken_again(launch, step, failure):
    cloud, _, message = launch(
        "keep", describe=[ACTIVE], status=[DONE], **{step: [failure, [0, "", ""]]}
    )
    assert message is None and "delete" not in cloud.asked
    assert cloud.steps.count(step) == 2
    assert cloud.steps.count("train") == (2 if step == "train" else 1)


def test_a_failed_setup_ends_before_training(launch, capsys):
    cloud, _, message = launch("keep", "--setup=SETUP", describe=[ACTIVE], setup=[[1, "", ""]])
    assert "ended with status 1, 5 times" in message and GIVE_BACK in capsys.readouterr().err
    assert "train" not in cloud.asked and "end" not in cloud.asked


def test_main_pys_own_failure_is_named_and_a_save_is_gone_on_from(launch):
    cloud, _, message = launch("keep", describe=[ACTIVE], status=[SAVED, [0, "2", ""]])
    assert "main.py ended with status 2" in message and cloud.steps.count("train") == 2


def test_a_slice_that_is_left_after_training_is_named(launch, capsys):
    assert launch("keep", describe=[ACTIVE], status=[DONE])[2] is None
    assert f"last heard of: ACTIVE; may cost money. To give it back: {GIVE_BACK}\n" in (
        capsys.readouterr().err
    )


KEPT = ("describe", "create", "node", "scp", "install", "end", "train", "status")


@pytest.mark.parametrize("verb", KEPT)
@pytest.mark.parametrize("signal", ["", "SIGTERM"])
def test_an_interrupt_anywhere_names_what_is_left(launch, capsys, verb, signal):
    cloud, _, message = launch(
        "keep",
        describe=[NOT_FOUND, ACTIVE, KeyboardInterrupt(signal)],
        **({} if verb == "describe" else {verb: [KeyboardInterrupt(signal)]}),
    )
    assert message == 130 and "delete" not in cloud.asked
    said = capsys.readouterr().err
    assert f"ended by {signal or 'SIGINT'}\n" in said
    # Before anything was requested nothing is left.
    assert (GIVE_BACK in said) == ("create" in cloud.asked)


def test_what_is_requested_is_named_before_it_is(scripts, capsys):
    """Also for a kill that lets nothing be said."""
    said = []

    class Killed(BaseException):
        pass

    class Watching(Replayed):
        def __call__(self, words, captured, seconds):
            if "create" in words:
                said.append(capsys.readouterr().err)
                raise Killed
            return super().__call__(words, captured, seconds)

    with pytest.raises(Killed):
        scripts.run(Watching(describe=[NOT_FOUND]), "keep")
    assert GIVE_BACK in said[0]


@pytest.mark.parametrize("action", ["status", "create", "install", "train", "stop", "delete"])
def test_a_single_step_ends_with_its_failure(launch, capsys, action):
    verbs = ("describe", "create", "delete", "scp", "end")
    cloud, pauses, message = launch(action, **{verb: [EXPIRED] for verb in verbs})
    assert message.startswith("error: `gcloud compute tpus") and "status 1" in message
    assert len(cloud.asked) == 1 and pauses == []
    assert (GIVE_BACK in capsys.readouterr().err) == (action != "status")


def test_a_deletion_leaves_nothing_to_name(launch, capsys):
    cloud, _, message = launch("delete")
    assert message is None and capsys.readouterr().err == ""
    assert "--force" in cloud.words[0]  # what was asked for by hand


def test_status_tells_none_from_a_failure(launch, capsys):
    launch("status", describe=[NOT_FOUND])
    assert capsys.readouterr().out == "no such request\n"


def test_a_missing_gcloud_is_one_line(scripts, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = scripts.run(scripts.slice_commands.run, "keep")
    assert message.startswith("error: there is no program `gcloud`") and "\n" not in message


def test_a_question_that_hangs_in_a_grandchild_has_failed(scripts, monkeypatch, tmp_path):
    """As ssh under gcloud, which holds the pipes while gcloud is killed."""
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        scripts.slice_commands.run(["bash", "-c", "sleep 30 & wait"], True, 0.2)
    assert time.monotonic() - started < 10


def test_a_command_that_is_run_says_its_status_and_what_it_said(scripts):
    run = scripts.slice_commands.run
    line = "import sys; print(' out '); print('err', file=sys.stderr); sys.exit(3)"
    assert run([sys.executable, "-SEc", line], True, 60) == (3, "out", "err\n")


def test_the_archive_is_written_where_nobody_else_can_write(scripts):
    written = []

    def run(words, captured, seconds):
        if "archive" in words:
            path = pathlib.Path(next(w for w in words if w.startswith("--output=")).split("=")[1])
            written.append((path, path.parent.stat().st_mode & 0o777))
        return 0, "", ""

    scripts.run(run, "install")
    [(path, mode)] = written
    assert mode == 0o700 and not path.parent.exists()
