"""Going back to a checkpoint under a real daemon, by hand and through kill -9.

Owns the steps that a rollback stops, resets, keeps and names as not undone, and that it is finished at the next start
if the daemon dies in the middle.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from stoker.background.tasks import BackgroundTasks
from stoker.core.errors import CheckpointNotFound, NotAllowed, WorkflowNotFound
from stoker.core.job.model import Reason, State
from stoker.core.workflow.rollback import Target
from stoker.core.workflow.state import Intent, Step, Workflow, WorkflowState
from stoker.engine.inbox import Barrier, Inbox
from stoker.engine.memory import LiveState
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.turn import Turn
from stoker.store import checkpoints
from stoker.store.loading import Loaded
from stoker.workflows import rollback
from stoker.workflows.followups import FollowUps
from tests.support import jobs
from tests.support.facts import DEADLINE_S, until
from tests.support.flows import chain, job_of, sent_flow, settled, step, step_states, workflow_view
from tests.support.work import job_view, kill9, lines, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

SETTINGS = "[daemon]\nmax_running = 8\n[jobs]\ngrace_ms = 200\n"


def roll_back(client: stoker.Client, workflow: int, to: int | str = "latest", **options: object) -> dict[str, object]:
    answer: dict[str, object] = client.call("workflow.rollback", {"id": workflow, "to": to, **options})
    return answer


def first_checkpoint(client: stoker.Client, workflow: int) -> int:
    return int(chain(client, workflow=workflow)[0]["id"])


def test_rollback_when_to_the_latest_then_running_steps_stop_and_others_are_kept(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    wait = f"echo b >> {ledger}; read _ < {gate.path}; :"
    workflow = sent_flow(
        client, {"a": step(f"echo a >> {ledger}"), "b": step(wait, "a"), "c": step(f"echo c >> {ledger}", "b")}
    )
    until(lambda: lines(ledger) == ["a", "b"], why="the second step")
    running(client, job_of(client, workflow, "b"))

    answer = roll_back(client, workflow, reason="let me look")

    assert (answer["reset"], answer["kept"], answer["stopping"], answer["not_undone"]) == (["b", "c"], ["a"], ["b"], [])
    settled(client, workflow, "paused")
    assert step_states(client, workflow) == {"a": "succeeded", "b": "queued", "c": "waiting"}
    client.call("workflow.resume", {"id": workflow})
    gate.open()
    assert settled(client, workflow) == "succeeded"
    assert lines(ledger) == ["a", "b", "b", "c"]


@pytest.mark.parametrize(("redo", "wanted"), [(False, ["a", "b"]), (True, ["a", "b", "a", "b"])])
def test_rollback_when_steps_were_completed_since_then_they_run_again_if_asked(
    client: stoker.Client, tmp_path: Path, *, redo: bool, wanted: list[str]
) -> None:
    ledger, flag = tmp_path / "ledger", tmp_path / "flag"
    steps = {
        "a": step(f"echo a >> {ledger}"),
        "b": step(f"echo b >> {ledger}", "a"),
        "c": step(f"test -e {flag}", "b"),
    }
    workflow = sent_flow(client, steps)
    assert settled(client, workflow) == "failed"

    flag.touch()
    answer = roll_back(client, workflow, first_checkpoint(client, workflow), redo=redo, resume=True)

    assert answer["not_undone"] == ["a", "b"]
    assert answer["reset"] == (["a", "b", "c"] if redo else ["c"])
    assert settled(client, workflow, "succeeded") == "succeeded"
    assert lines(ledger) == wanted


def test_rollback_when_nothing_is_left_to_take_back_then_it_is_refused(client: stoker.Client) -> None:
    workflow = sent_flow(client, {"a": step("exit 0")})
    settled(client, workflow)

    with pytest.raises(NotAllowed, match="nothing to roll back"):
        roll_back(client, workflow)

    assert workflow_view(client, workflow)["state"] == "succeeded"


def test_rollback_when_the_checkpoint_is_foreign_or_missing_then_nothing_changes(client: stoker.Client) -> None:
    mine, other = (sent_flow(client, {"a": step("exit 1")}) for _ in range(2))
    settled(client, mine)
    settled(client, other)

    for ident in (first_checkpoint(client, other), 987_654):
        with pytest.raises(CheckpointNotFound, match=f"to: workflow {mine} has no checkpoint {ident}"):
            roll_back(client, mine, ident)
    with pytest.raises(WorkflowNotFound):
        roll_back(client, 987_654)

    assert workflow_view(client, mine)["state"] == "failed"


def test_rollback_when_under_way_then_only_a_cancel_or_another_rollback_is_taken(
    client: stoker.Client, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    stubborn = step(f"trap '' TERM; touch {ready}; while :; do read _ < /dev/zero; done", grace_ms=600_000)
    workflow = sent_flow(client, {"a": stubborn, "b": step("exit 0", "a")})
    until(ready.exists, why="a worker that ignores SIGTERM")
    roll_back(client, workflow)
    assert workflow_view(client, workflow)["state"] == "rolling_back"

    for verb in ("pause", "retry", "resume"):
        with pytest.raises(NotAllowed, match="is rolling back"):
            client.call(f"workflow.{verb}", {"id": workflow})

    client.call("workflow.cancel", {"id": workflow})
    with pytest.raises(NotAllowed, match="is being cancelled"):  # else the step would come back to the queue
        client.call("workflow.pause", {"id": workflow})
    running(client, job_of(client, workflow, "a"))
    pid = job_view(client, job_of(client, workflow, "a"))["pid"]
    os.kill(pid, signal.SIGKILL)
    assert settled(client, workflow) == "cancelled"
    assert step_states(client, workflow) == {"a": "cancelled", "b": "cancelled"}


@pytest.mark.parametrize("moment", ["answered", "stopped"])
def test_rollback_when_the_daemon_dies_on_the_way_then_the_next_start_finishes_it(
    stopped_daemon: DaemonProcess, tmp_path: Path, moment: str
) -> None:
    ready = tmp_path / "ready"
    stubborn = step(f"trap '' TERM; echo x >> {ready}; while :; do read _ < /dev/zero; done", "a", grace_ms=2_000)
    stopped_daemon.start()
    with stopped_daemon.client() as client:
        workflow = sent_flow(client, {"a": step("exit 0"), "b": stubborn, "c": step("exit 0", "b")})
        until(lambda: lines(ready), why="a worker that ignores SIGTERM")
        running(client, job_of(client, workflow, "b"))
        pid = client.get(job_of(client, workflow, "b"))["pid"]
        roll_back(client, workflow)
    if moment == "stopped":  # the second half may be committed by now, or not
        kill9(pid)

    stopped_daemon.kill_and_start()

    with stopped_daemon.client() as client:
        settled(client, workflow, "paused")
        assert step_states(client, workflow) == {"a": "succeeded", "b": "queued", "c": "waiting"}
        assert lines(ready) == ["x"]


def test_rollback_when_the_daemon_died_between_halves_then_the_next_one_finishes_it(
    daemon: DaemonProcess,
) -> None:
    with daemon.client() as client:
        workflow = sent_flow(client, {"a": step("exit 0"), "b": step("exit 1", "a")})
        assert settled(client, workflow) == "failed"
    daemon.kill9()
    target = '{"checkpoint":1,"seq":1,"done":["a"]}'
    with closing(sqlite3.connect(daemon.state_dir / "stoker.db")) as database, database:
        first_half = "UPDATE workflows SET state = 'rolling_back', intent = 'rollback', finished_at = NULL, target = ?"
        assert database.execute(first_half, (target,)).rowcount == 1

    daemon.start()

    with daemon.client() as client:
        settled(client, workflow, "paused")
        assert step_states(client, workflow) == {"a": "succeeded", "b": "queued"}


async def test_finish_when_another_rollback_was_asked_for_then_it_keeps_its_own_target() -> None:
    early, late = (msgspec.json.encode(Target(checkpoint=seq, seq=seq)).decode() for seq in (1, 5))
    workflow = Workflow(id=1, name="w", owner_uid=0, trace_id="0", flow="", flow_hash=b"", created_at=0, target=early)
    run = LiveWorkflow(workflow, {7: Step(name="a", job_id=7)}, {"a": State.FAILED}, {"a": Reason.EXIT}, set())
    asked = []

    class Reading:
        """A slow reader: another rollback is asked for while it reads."""

        async def run(self, query: Callable[..., Any], *_: object) -> Any:
            asked.append(query)
            run.workflow = replace(run.workflow, target=late)
            return 9 if query is checkpoints.last_progress else (None, [])

    message = await rollback.finish(Reading(), run)  # type: ignore[arg-type]

    assert asked == [checkpoints.last_progress, checkpoints.newest_sound]
    assert message._target == early


async def test_finish_when_a_completed_step_was_retried_meanwhile_then_it_begins_again() -> None:
    """The progress of that step was not looked for, so it would start from what it saved after the target."""
    target = msgspec.json.encode(Target(checkpoint=1, seq=1)).decode()
    workflow = Workflow(id=1, name="w", owner_uid=0, trace_id="0", flow="", flow_hash=b"", created_at=0, target=target)
    workflow = replace(workflow, state=WorkflowState.ROLLING_BACK, intent=Intent.ROLLBACK)
    steps = {job_id: Step(name=name, job_id=job_id) for job_id, name in ((7, "a"), (8, "b"))}
    states = {"a": State.FAILED, "b": State.SUCCEEDED}
    run = LiveWorkflow(workflow, steps, states, {"a": Reason.EXIT, "b": Reason.EXIT}, set())
    memory = LiveState({}, {}, 0, 0)
    memory.workflows.add(run)

    class Reading:
        async def run(self, query: Callable[..., Any], *_: object) -> Any:
            return 0 if query is checkpoints.last_progress else (None, [])

    message = await rollback.finish(Reading(), run)  # type: ignore[arg-type]
    loaded = {job_id: jobs.job(id=job_id, workflow_id=1, step=step.name) for job_id, step in steps.items()}
    turn = Turn(memory, jobs.NOW, Loaded(jobs=loaded))
    run.states["b"] = State.QUEUED
    list(message.apply_to(turn))

    assert not turn.batch
    assert run.workflow.intent is Intent.ROLLBACK


async def test_follow_up_when_another_rollback_came_meanwhile_then_that_one_is_finished() -> None:
    early, late = (msgspec.json.encode(Target(checkpoint=seq, seq=seq)).decode() for seq in (1, 5))
    workflow = Workflow(id=1, name="w", owner_uid=0, trace_id="0", flow="", flow_hash=b"", created_at=0, target=early)
    workflow = replace(workflow, state=WorkflowState.ROLLING_BACK, intent=Intent.ROLLBACK)
    run = LiveWorkflow(workflow, {7: Step(name="a", job_id=7)}, {"a": State.FAILED}, {"a": Reason.EXIT}, set())
    memory, inbox, background = LiveState({}, {}, 0, 0), Inbox(), BackgroundTasks()
    memory.workflows.add(run)

    class Reading:
        """A reader that takes its time: the turn of another rollback is committed while it reads."""

        async def run(self, query: Callable[..., Any], *_: object) -> Any:
            run.workflow = replace(run.workflow, target=late)
            followups.begin([1])
            return 0 if query is checkpoints.last_progress else (None, [])

    followups = FollowUps(memory, Reading(), inbox, background)  # type: ignore[arg-type]
    followups.begin([1])

    targets = []
    async with asyncio.timeout(DEADLINE_S):
        while late not in targets:
            await inbox.news()
            for message in inbox.take(2):
                if isinstance(message, Barrier):
                    message.answer(None)
                else:
                    assert isinstance(message, rollback.Finish)
                    targets.append(message._target)  # the first changes nothing: it is of the earlier rollback

    assert targets == [early, late]
    await background.close()
