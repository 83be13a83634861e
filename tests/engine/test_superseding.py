"""Superseding: of the jobs of one key the newest takes the place of the others, in every state, and through kills.

Owns the answers that name what was replaced, the one job that waits and the one that runs, and the debounce window.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

import stoker
from stoker.core.errors import InvalidParams, NotAllowed, StokerError
from stoker.store.invariants import Invariant, broken
from stoker.store.jobs_from_changes import examine
from tests.support.work import (
    changes,
    end_of,
    job_view,
    kill9,
    running,
    shell,
    state,
    submit,
    submit_many,
    submit_running,
)

if TYPE_CHECKING:
    from tests.support.daemon import DaemonProcess
    from tests.support.work import DeafWorker, Gate

SETTINGS = "[queues.parked]\npaused = true\n[queues.small]\npaused = true\nmax_queued = 1\n"
TRUE = shell("exit 0")
HOUR_MS = 3_600_000


def parked(key: str, **options: Any) -> dict[str, Any]:
    """A job that stays queued."""
    return {**TRUE, "queue": "parked", "supersede_key": key, **options}


def offer(client: stoker.Client, spec: dict[str, Any]) -> dict[str, Any]:
    """The whole answer to a submit."""
    return dict(client.call("job.submit", spec))


# --- jobs that have not started -----------------------------------------------------------------------------


def test_supersede_when_the_older_is_queued_then_the_answer_names_it(client: stoker.Client) -> None:
    older = offer(client, parked("queued"))

    newer = offer(client, parked("queued"))

    assert (older["superseded"], newer["superseded"], newer["starts_after"]) == ([], [older["id"]], [])
    assert end_of(client, older["id"]) == ("superseded", "superseded")
    assert state(client, newer["id"]) == "queued"
    assert job_view(client, older["id"])["superseded_by"] == newer["id"]
    assert client.why(older["id"])["message"] == f"was superseded by job {newer['id']}, which is newer"
    assert client.why(older["id"])["hint"] == f"stoker why {newer['id']}"
    (change,) = changes(client, older["id"], "superseded")
    assert change["details"]["superseded_by"] == newer["id"]


@pytest.mark.parametrize("how", ["waiting", "held"])
def test_supersede_when_the_older_waits_or_is_held_then_it_is_replaced(client: stoker.Client, how: str) -> None:
    older = submit(client, parked(how), **({"run_at": 4_000_000_000_000} if how == "waiting" else {}))
    if how == "held":
        client.call("job.hold", {"id": older})
    assert state(client, older) == how

    newer = offer(client, parked(how))

    assert newer["superseded"] == [older]
    assert state(client, older) == "superseded"


def test_supersede_when_the_older_has_ended_then_there_is_nothing_to_replace(client: stoker.Client) -> None:
    older = submit(client, TRUE, supersede_key="ended")
    end_of(client, older)

    newer = offer(client, {**TRUE, "supersede_key": "ended"})

    assert (newer["superseded"], newer["starts_after"]) == ([], [])
    assert end_of(client, older) == ("succeeded", "exit")
    assert end_of(client, newer["id"]) == ("succeeded", "exit")


def test_supersede_when_a_batch_repeats_a_key_then_its_last_job_is_left(client: stoker.Client) -> None:
    for atomic in (False, True):
        answers = submit_many(client, [parked("batch") for _ in range(5)], atomic=atomic)

        ids = [answer["id"] for answer in answers]
        assert [state(client, job) for job in ids] == ["superseded"] * 4 + ["queued"]
        assert [answer["superseded"] for answer in answers[1:]] == [[job] for job in ids[:-1]]


def test_supersede_when_the_idempotency_key_is_known_then_nothing_is_replaced(client: stoker.Client) -> None:
    first = offer(client, parked("twice", idempotency_key="once"))
    second = offer(client, parked("twice"))

    again = offer(client, parked("twice", idempotency_key="once"))

    assert again == {"id": first["id"], "state": "superseded", "existing": True}
    assert state(client, second["id"]) == "queued"


def test_supersede_when_the_queue_is_full_then_a_replacement_has_room(client: stoker.Client) -> None:
    older = submit(client, parked("full"), queue="small")

    newer = offer(client, {**parked("full"), "queue": "small"})

    assert newer["superseded"] == [older]
    with pytest.raises(StokerError, match="its limit max_queued is 1"):
        submit(client, parked("other"), queue="small")
    assert state(client, newer["id"]) == "queued"


def test_supersede_when_others_need_the_older_then_they_are_skipped(client: stoker.Client) -> None:
    older = submit(client, parked("needed"))
    dependent = submit(client, TRUE, needs=[older])

    submit(client, parked("needed"))

    assert end_of(client, dependent) == ("skipped", "dependency")


def test_supersede_when_the_newer_needs_the_older_then_it_is_refused(client: stoker.Client) -> None:
    older = submit(client, parked("needy"))

    with pytest.raises(InvalidParams, match=rf"needs\[0\]: job {older} has the same supersede_key") as refused:
        submit(client, parked("needy"), needs=[older])

    assert refused.value.details["path"] == "needs[0]"
    assert state(client, older) == "queued"


def test_supersede_when_the_newer_is_skipped_at_once_then_the_older_stays(client: stoker.Client) -> None:
    failed = submit(client, shell("exit 1"))
    end_of(client, failed)
    older = submit(client, parked("hopeless"))

    newer = offer(client, parked("hopeless", needs=[failed]))

    assert (newer["state"], newer["superseded"]) == ("skipped", [])
    assert state(client, older) == "queued"


def test_supersede_when_it_is_a_step_of_a_workflow_then_the_field_is_refused(client: stoker.Client) -> None:
    flow = {"name": "f", "steps": {"a": {"command": "true", "supersede_key": "k"}}}

    with pytest.raises(InvalidParams, match="supersede_key"):
        client.call("workflow.submit", {"flow": flow})


# --- jobs that run ------------------------------------------------------------------------------------------


def test_supersede_when_the_older_runs_then_the_newer_starts_after_its_end(client: stoker.Client, gate: Gate) -> None:
    older = submit_running(client, gate.spec(), supersede_key="runs")

    newer = offer(client, {**TRUE, "supersede_key": "runs"})

    assert (newer["state"], newer["superseded"], newer["starts_after"]) == ("waiting", [], [older])
    waits = f"waits for job {older} to end; jobs of one supersede_key run one after the other"
    assert client.why(newer["id"])["message"] == waits
    assert f"job {newer['id']} takes its place after this attempt" in client.why(older)["message"]
    gate.open()
    assert end_of(client, older) == ("succeeded", "exit")
    assert end_of(client, newer["id"]) == ("succeeded", "exit")


def test_supersede_when_the_older_fails_then_it_is_not_tried_again(client: stoker.Client, gate: Gate) -> None:
    older = submit_running(client, gate.spec("exit 3"), supersede_key="fails", max_attempts=5)
    newer = submit(client, TRUE, supersede_key="fails")

    gate.open()

    assert end_of(client, older) == ("superseded", "superseded")
    assert (job_view(client, older)["attempts"], job_view(client, older)["exit_code"]) == (1, 3)
    assert end_of(client, newer) == ("succeeded", "exit")


def test_supersede_when_the_older_is_to_stop_then_the_newer_waits_for_its_tree(
    client: stoker.Client, deaf: DeafWorker
) -> None:
    older = deaf.submit(client, supersede_key="stops", grace_ms=300)

    newer = offer(client, {**TRUE, "supersede_key": "stops", "supersede_running": "stop"})

    assert newer["starts_after"] == [older]
    assert end_of(client, newer["id"]) == ("succeeded", "exit")
    assert end_of(client, older) == ("superseded", "superseded")
    assert job_view(client, older)["finished_at"] <= job_view(client, newer["id"])["started_at"]


def test_supersede_when_three_come_then_the_last_starts_after_the_first(client: stoker.Client, gate: Gate) -> None:
    first = submit_running(client, gate.spec(), supersede_key="three")
    second = submit(client, TRUE, supersede_key="three")

    third = offer(client, {**TRUE, "supersede_key": "three"})

    assert (third["superseded"], third["starts_after"]) == ([second], [first])
    assert job_view(client, first)["superseded_by"] == second
    gate.open()
    assert end_of(client, third["id"]) == ("succeeded", "exit")
    assert end_of(client, first) == ("succeeded", "exit")


# --- running again ------------------------------------------------------------------------------------------


def test_retry_when_another_job_of_the_key_is_open_then_it_is_refused(client: stoker.Client) -> None:
    older = submit(client, parked("again"))
    newer = submit(client, parked("again"))

    with pytest.raises(NotAllowed, match=f"has the same supersede_key as job {newer}, which is queued"):
        client.retry(older)

    client.cancel(newer)
    client.retry(older)
    assert (state(client, older), job_view(client, older)["superseded_by"]) == ("queued", None)


def test_retry_when_a_skipped_dependent_was_replaced_then_it_stays_skipped(client: stoker.Client) -> None:
    failed = submit(client, shell("exit 1"))
    end_of(client, failed)
    skipped = submit(client, parked("dependent"), needs=[failed])
    submit(client, parked("dependent"))

    answer = client.call("job.retry", {"id": failed})

    assert answer["taken_up"] == []
    assert state(client, skipped) == "skipped"


# --- the debounce window ------------------------------------------------------------------------------------


def test_debounce_when_submits_follow_each_other_then_only_the_last_one_starts(client: stoker.Client) -> None:
    spec = {**TRUE, "supersede_key": "burst", "debounce_ms": HOUR_MS}
    first = offer(client, spec)
    why = client.why(first["id"])

    last = offer(client, {**spec, "debounce_ms": 1})

    assert first["state"] == "waiting"
    assert (why["code"], why["details"]["debounce_ms"]) == ("run_at", HOUR_MS)
    assert "unless a newer job of its supersede_key takes its place" in why["message"]
    assert last["superseded"] == [first["id"]]
    assert end_of(client, last["id"]) == ("succeeded", "exit")


def test_debounce_when_newer_jobs_never_cease_then_the_bound_of_the_first_holds(client: stoker.Client) -> None:
    offer(client, {**TRUE, "supersede_key": "stream", "debounce_ms": 100, "debounce_max_ms": 100})

    newer = offer(client, {**TRUE, "supersede_key": "stream", "debounce_ms": HOUR_MS})

    assert end_of(client, newer["id"]) == ("succeeded", "exit")


def test_debounce_when_a_job_waits_for_it_then_its_row_is_as_its_changes_say(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        offer(client, {**TRUE, "supersede_key": "burst", "debounce_ms": HOUR_MS})

    with closing(sqlite3.connect(daemon.state_dir / "stoker.db", isolation_level=None)) as database:
        examined = examine(database, 0)

    assert examined is not None
    assert (examined.jobs, examined.unlike, examined.damaged) == (1, [], [])


# --- kills --------------------------------------------------------------------------------------------------


def test_supersede_when_the_daemon_is_killed_among_submits_then_one_is_left(daemon: DaemonProcess) -> None:
    daemon.config.write_text(SETTINGS)
    daemon.stop()
    daemon.start()
    for _ in range(4):
        answered: list[dict[str, Any]] = []
        submitters = [threading.Thread(target=_submit_until_killed, args=(daemon, answered)) for _ in range(3)]
        for thread in submitters:
            thread.start()
        while len(answered) < 20 and any(thread.is_alive() for thread in submitters):
            submitters[0].join(0.001)
        daemon.kill9()
        for thread in submitters:
            thread.join()

        with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database:
            assert list(broken(database, Invariant.SUPERSEDED)) == []
            states = dict(database.execute("SELECT id, state FROM jobs WHERE supersede_key = 'k'").fetchall())
        newest = max(states)
        assert [job for job, current in states.items() if current == "queued"] == [newest]
        assert {answer["id"] for answer in answered} <= states.keys()
        assert len(answered) >= 20
        daemon.start()


def _submit_until_killed(daemon: DaemonProcess, answered: list[dict[str, Any]]) -> None:
    with daemon.client() as client:
        client.patience_s = 0.0
        try:
            while True:
                answered.append(offer(client, parked("k")))
        except StokerError:
            return


def test_supersede_when_the_daemon_is_killed_during_the_stop_then_the_newer_runs(
    daemon: DaemonProcess, deaf: DeafWorker
) -> None:
    with daemon.client() as client:
        older = deaf.submit(client, supersede_key="k", grace_ms=60_000, survive=True)
        newer = submit(client, TRUE, supersede_key="k", supersede_running="stop")
        running(client, older)
        worker = job_view(client, older)["pid"]
    daemon.kill9()

    daemon.start()

    with daemon.client() as client:
        assert state(client, newer) == "waiting"
        kill9(worker)
        assert end_of(client, older) == ("superseded", "superseded")
        assert end_of(client, newer) == ("succeeded", "exit")
        running_again = job_view(client, older)["attempts"]
    assert running_again == 1
