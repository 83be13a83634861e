"""Commands on jobs that a filter selects: without --yes they only print how many jobs match."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from stoker.cli.control import APPLIES_TO, MOST_SHOWN
from stoker.core.job import events as ev
from stoker.core.job.lifecycle import TABLE
from stoker.rpc.conversation import Conversation

if TYPE_CHECKING:
    import socket

    from tests.cli.conftest import Desk
    from tests.support.daemon import DaemonProcess


@pytest.fixture
def daemon_with_two_queues(daemon: DaemonProcess) -> DaemonProcess:
    """Jobs 1 to 3 wait in `bulk`, job 4 in `other`; both are paused."""
    for queue in ("bulk", "other"):
        daemon.cli("queue", "set", queue)
        daemon.cli("queue", "pause", queue)
    for queue in ("bulk", "bulk", "bulk", "other"):
        daemon.cli("submit", "--queue", queue, "true")
    return daemon


def states(daemon: DaemonProcess) -> dict[int, str]:
    return {job["id"]: job["state"] for job in json.loads(daemon.cli("ls", "--json").stdout)["jobs"]}


def test_cancel_when_a_filter_has_no_yes_then_only_the_number_of_jobs_is_printed(
    daemon_with_two_queues: DaemonProcess,
) -> None:
    preview = daemon_with_two_queues.cli("cancel", "--queue", "bulk", "--state", "queued")

    assert (preview.returncode, preview.stdout) == (64, "")
    assert preview.stderr == (
        "stoker: cancel would act on 3 jobs (3 queued)\n"
        "hint: nothing was changed: --yes does it, --dry-run prints the jobs\n"
    )
    assert set(states(daemon_with_two_queues).values()) == {"queued"}


def test_cancel_when_a_preview_is_asked_for_then_the_jobs_are_shown_with_success(
    daemon_with_two_queues: DaemonProcess,
) -> None:
    preview = daemon_with_two_queues.cli("cancel", "--queue", "bulk", "--dry-run")

    assert (preview.returncode, preview.stdout) == (0, "3 queued\n2 queued\n1 queued\n")
    assert preview.stderr == (
        "stoker: cancel would act on 3 jobs (3 queued); nothing was changed: --yes instead of --dry-run does it\n"
    )
    assert set(states(daemon_with_two_queues).values()) == {"queued"}


def test_retry_when_a_person_holds_the_job_then_it_stays_held_and_release_is_named(
    daemon_with_two_queues: DaemonProcess,
) -> None:
    cli = daemon_with_two_queues.cli
    cli("hold", "1")
    cli("cancel", "2")

    one, restarted = cli("retry", "1"), cli("restart", "1", "--yes")
    by_filter = cli("retry", "--queue", "bulk", "--yes")

    message = "stoker: job 1 was held by a person, and only a release ends that\nhint: stoker release 1\n"
    assert (one.returncode, one.stderr, restarted.stderr) == (65, message, message)
    assert (by_filter.returncode, by_filter.stdout) == (0, "job 2 queued\n")
    assert by_filter.stderr == "stoker: left out: 1 job that a person holds (stoker release)\n"
    assert states(daemon_with_two_queues)[1] == "held"


def test_cancel_when_a_filter_has_yes_then_exactly_the_matching_jobs_are_cancelled(
    daemon_with_two_queues: DaemonProcess,
) -> None:
    done = daemon_with_two_queues.cli("cancel", "--queue", "bulk", "--yes", "--reason", "wrong input")

    assert (done.returncode, done.stdout, done.stderr) == (0, "job 3 cancelled\njob 2 cancelled\njob 1 cancelled\n", "")
    assert states(daemon_with_two_queues) == {1: "cancelled", 2: "cancelled", 3: "cancelled", 4: "queued"}
    assert "wrong input" in daemon_with_two_queues.cli("history", "2").stdout


def test_verbs_when_a_filter_follows_another_then_each_acts_on_its_own_states(
    daemon_with_two_queues: DaemonProcess,
) -> None:
    cli = daemon_with_two_queues.cli
    cli("cancel", "1", "2")

    held = cli("hold", "--queue", "bulk", "--yes")
    released = cli("release", "--queue", "bulk", "--yes")
    again = cli("retry", "--queue", "bulk", "--state", "cancelled", "--yes", "--json")
    nothing = cli("retry", "--queue", "bulk", "--state", "failed", "--yes")

    assert (held.stdout, released.stdout) == ("job 3 held\n", "job 3 queued\n")
    assert [answer["id"] for answer in json.loads(again.stdout)] == [2, 1]
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "stoker: no job matches the filter\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cancel"], "missing ID…"),
        (["cancel", "--yes"], "missing ID…"),
        (["cancel", "--queue", "bulk", "1"], "ids and a filter exclude each other"),
    ],
)
def test_verbs_when_it_is_unclear_which_jobs_are_meant_then_nothing_is_sent(
    daemon_with_two_queues: DaemonProcess, arguments: list[str], message: str
) -> None:
    refused = daemon_with_two_queues.cli(*arguments)

    assert (refused.returncode, refused.stdout) == (64, "")
    assert message in refused.stderr
    assert set(states(daemon_with_two_queues).values()) == {"queued"}


def test_cancel_when_jobs_have_ended_then_json_has_their_errors(daemon_with_two_queues: DaemonProcess) -> None:
    cli = daemon_with_two_queues.cli
    cli("cancel", "1")

    alone, several = cli("cancel", "1", "--json"), cli("cancel", "1", "2", "--json")

    assert (alone.returncode, several.returncode, alone.stdout, several.stderr) == (65, 65, "", "")
    assert json.loads(alone.stderr)["error"]["data"]["code"] == "already_finished"
    assert [answer.get("state") for answer in json.loads(several.stdout)] == [None, "cancelled"]


def test_cancel_when_jobs_are_many_then_one_frame_has_all_and_refusals_are_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[bytes] = []
    send = Conversation._send

    def watched(self: Conversation, connected: socket.socket, frame: bytes) -> dict[str, Any] | None:
        frames.append(frame)
        return send(self, connected, frame)

    monkeypatch.setattr(Conversation, "_send", watched)

    ended = desk.stoker("cancel", *map(str, range(1, MOST_SHOWN + 3)))

    assert len(frames) == 1
    assert ended.status == 65
    assert ended.err.count("there is no job") == MOST_SHOWN
    assert ended.err.endswith(
        f"stoker: {MOST_SHOWN + 2} of {MOST_SHOWN + 2} jobs refused in all; --json has each error\n"
    )


def test_edit_when_a_job_is_queued_then_the_given_fields_change_and_are_printed(
    daemon_with_two_queues: DaemonProcess,
) -> None:
    cli = daemon_with_two_queues.cli

    done = cli("edit", "1", "2", "--priority", "5", "--queue", "other", "--timeout", "1h30m", "--limit", "cpu=60s")
    undone = cli("edit", "1", "--timeout", "none", "--limit", "cpu=none", "--reason", "on second thoughts")
    shown = [cli("show", job).stdout for job in ("1", "2")]

    changed = "queue bulk -> other, priority 0 -> 5, timeout none -> 1h30m, cpu none -> 60s"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"job 1 queued: {changed}\njob 2 queued: {changed}\n"
    assert undone.stdout == "job 1 queued: timeout 1h30m -> none, cpu 60s -> none\n"
    assert ["queue        other, priority 5" in text for text in shown] == [True, True]
    assert ["1h30m an attempt" in text for text in shown] == [False, True]
    assert ["cpu=60s" in text for text in shown] == [False, True]
    history = cli("history", "1").stdout
    assert "on second thoughts" in history
    assert "priority 0 -> 5" in history
    assert "timeout 1h30m -> none" in history
    assert "order_key" not in history


def test_edit_when_it_cannot_be_done_then_the_words_are_those_that_were_typed(
    daemon_with_two_queues: DaemonProcess,
) -> None:
    cli = daemon_with_two_queues.cli
    cli("cancel", "1")

    assert "nothing to change" in cli("edit", "2").stderr
    assert "job 1 has already finished (cancelled), so edit does not apply" in cli("edit", "1", "--name", "x").stderr
    assert cli("edit", "2", "--timeout", "0s").stderr.startswith("stoker: --timeout 0s: ")
    assert cli("edit", "2", "--queue", "nope").stderr.startswith("stoker: --queue nope: there is no queue 'nope'")
    assert "no limit 'tape'" in cli("edit", "2", "--limit", "tape=none").stderr


def test_states_when_a_filter_names_no_state_then_the_daemon_allows_each() -> None:
    allowed = {verb: {state.value for state, event in TABLE if event is ev.VERBS[verb]} for verb in APPLIES_TO}

    assert {verb: set(states) for verb, states in APPLIES_TO.items()} == allowed
