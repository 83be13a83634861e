"""The types of answers are true: what a real daemon answers has exactly the fields and types that clients are promised.

Owns the comparison with `core.views` and `core.daemon_views`; `tests/rpc/test_schema.py` compares requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec
import pytest

from stoker.core import (
    daemon_views,
    hook_views,
    overview_views,
    quota_views,
    rate_views,
    views,
    wire_types,
    workflow_answers,
)
from stoker.core.event_views import EventPage
from stoker.core.schedule import views as schedule_views
from stoker.core.wire_types import ChangeShape, CheckpointPage
from tests.support.daemon import DaemonProcess
from tests.support.facts import until
from tests.support.flows import flow_end, sent_flow, step, step_states
from tests.support.work import Gate, end_of, lines, shell, submit, submit_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stoker import Client


SETTINGS = """
[hooks.mail]
on = ["job.failed"]
command = "true"
"""


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[Client]:
    """A client of a real daemon, where its neighbours speak to a server in memory."""
    with daemon.client() as connected:
        yield connected


def check(answer: Any, kind: Any) -> None:
    """Raises ValidationError for a wrong type or a missing field; a field that has no type is dropped and differs."""
    assert msgspec.to_builtins(msgspec.convert(answer, kind)) == answer


def call(client: Client, method: str, **params: Any) -> Any:
    return client.call(method, params)


def test_answers_when_they_are_about_schedules_then_they_are_of_their_types(client: Client) -> None:
    flow = {"name": "f", "steps": {"a": shell("exit 0")}}
    check(call(client, "schedule.add", name="jobs", timing="@daily", job=shell("exit 0")), schedule_views.ScheduleView)
    check(call(client, "schedule.add", name="flows", timing="@daily", flow=flow), schedule_views.ScheduleView)

    for name in ("jobs", "flows"):
        check(call(client, "schedule.run", name=name), schedule_views.ScheduleRunAnswer)
        check(call(client, "schedule.get", name=name), schedule_views.ScheduleDetails)
        check(call(client, "schedule.next", name=name), schedule_views.ComingSlots)
        check(call(client, "schedule.pause", name=name), schedule_views.ScheduleView)
        check(call(client, "schedule.resume", name=name), schedule_views.ScheduleView)
    part = {"target": ["a"], "from": ["a"], "reuse": "latest"}
    parted = call(client, "schedule.add", name="parts", timing="@daily", flow=flow, **part)
    assert parted["part"] == part
    check(parted, schedule_views.ScheduleView)
    check(call(client, "schedule.list"), schedule_views.SchedulePage)
    check(call(client, "schedule.remove", name="jobs"), schedule_views.ScheduleRemoved)


def test_answers_when_a_daemon_gives_them_then_they_are_of_their_types(client: Client, gate: Gate) -> None:
    failed = submit(client, shell("exit 3"), limits={"memory_bytes": 64 << 20}, labels={"a": "b"})
    end_of(client, failed)
    running = submit_running(client, gate.spec(), notify=True, env={"A": "b"}, needs=[{"job": failed, "on": "any"}])
    workflow = sent_flow(client, {"a": step("exit 0"), "b": step("exit 1", "a")})
    flow_end(client, workflow)

    for job in (failed, running):
        check(client.get(job), views.JobDetails)
        check(client.history(job), views.JobHistory)
        check(client.why(job), views.Explanation)
        check(call(client, "job.environment", id=job), views.EnvironmentView)
    check(client.list(), views.JobPage)
    check(call(client, "queue.wait", name="default"), daemon_views.QueueRoom)
    check(next(iter(client.watch(after=0))), ChangeShape)
    check(call(client, "worker.get", job=running), views.WorkerView)
    check(client.workflow(workflow), views.WorkflowDetails)
    check(call(client, "workflow.get", id=workflow, analyse=True), views.AnalysedWorkflow)
    check(call(client, "workflow.list"), views.WorkflowPage)
    check(call(client, "workflow.steps", id=workflow, step="a"), views.StepList)
    check(client.checkpoints(workflow=workflow), CheckpointPage)
    check(call(client, "queue.list"), daemon_views.QueueList)
    check(call(client, "resource.list"), daemon_views.ResourceList)
    check_commands_of_queues(client)
    check(call(client, "system.settings"), daemon_views.SettingsView)
    check(call(client, "system.reload"), daemon_views.ReloadedView)
    check(call(client, "system.purge", before=1_000_000_000_000, dry_run=True), daemon_views.PurgePreview)
    check(call(client, "system.purge", before=1_000_000_000_000), daemon_views.Purged)
    until(lambda: client.status()["recovery"]["finished_at"], why="the end of the recovery")
    check(client.status(), daemon_views.StatusView)
    check(call(client, "system.health"), daemon_views.HealthView)
    check(call(client, "system.backups"), daemon_views.BackupList)
    for progress in client.stream("system.backup"):
        assert progress.pop("stream")  # of every notification
        check(progress, daemon_views.BackupProgress)
    check_overview(client)
    check(call(client, "system.drain"), daemon_views.DrainBegun)


def check_overview(client: Client) -> None:
    check(call(client, "system.overview"), overview_views.OverviewView)
    check(call(client, "system.limits"), quota_views.LimitsView)
    check(call(client, "system.users"), quota_views.UserList)
    until(lambda: call(client, "system.load")["samples"], why="a sample of the load")
    check(call(client, "system.load"), overview_views.LoadView)
    check(call(client, "attempt.list", since=1_600_000_000_000), overview_views.AttemptPage)
    check(call(client, "recovery.list"), overview_views.RecoveryPage)
    check(call(client, "recovery.get", epoch=1), overview_views.RecoveryReport)


def check_commands_of_queues(client: Client) -> None:
    check(call(client, "queue.set", name="bulk", max_running=2), daemon_views.QueueChanged)
    check(call(client, "queue.pause", name="bulk"), daemon_views.QueuePaused)
    check(call(client, "queue.resume", name="bulk"), daemon_views.QueuePaused)
    check(call(client, "resource.set", name="gpu", capacity=1), daemon_views.ResourceChanged)
    check(call(client, "rate.set", key="api", rate="1/s"), rate_views.RateChanged)
    check(call(client, "rate.set", key="*", rate="1/s", burst=2), rate_views.RateChanged)
    check(call(client, "rate.list"), rate_views.RateList)
    check(call(client, "rate.remove", key="*"), rate_views.RateRemoved)


def test_answers_when_they_are_about_events_then_they_are_of_their_types(client: Client) -> None:
    check(call(client, "event.emit", name="go", data={"a": 1}, keep_ms=60_000), views.EmitAnswer)
    check(call(client, "event.list"), EventPage)


def test_answers_when_commands_change_a_workflow_then_they_are_of_their_types(client: Client, gate: Gate) -> None:
    steps = {
        "a": step("exit 0"),
        "b": step(f"read _ < {gate.path}", "a"),
        "c": step("exit 0", "b"),
        "d": step("exit 0", "b"),
    }
    workflow = sent_flow(client, steps)
    until(lambda: step_states(client, workflow)["b"] == "running", why="the second step")

    check(call(client, "workflow.pause", id=workflow), workflow_answers.WorkflowPaused)
    check(call(client, "workflow.add_need", id=workflow, step="d", need="c"), workflow_answers.NeedsChanged)
    check(call(client, "workflow.remove_need", id=workflow, step="d", need="c"), workflow_answers.NeedsChanged)
    check(call(client, "workflow.skip", id=workflow, step="c"), workflow_answers.StepSkipped)
    check(call(client, "workflow.resume", id=workflow, explain=True), workflow_answers.ResumePlan)
    check(call(client, "workflow.resume", id=workflow), workflow_answers.WorkflowResumed)
    check(call(client, "workflow.cancel", id=workflow), workflow_answers.WorkflowCancelled)
    flow_end(client, workflow)
    check(call(client, "workflow.retry", id=workflow), workflow_answers.WorkflowRetried)
    check(call(client, "workflow.rollback", id=workflow, to="latest"), workflow_answers.WorkflowRolledBack)

    newest = client.checkpoints(workflow=workflow)["checkpoints"][0]["id"]
    check(call(client, "checkpoint.get", id=newest), wire_types.CheckpointView)
    check(call(client, "checkpoint.get", id=newest, offset=0), wire_types.CheckpointPiece)
    check(call(client, "checkpoint.get", id=newest, context=True), wire_types.ContextView)


def test_answers_when_a_checkpoint_is_saved_then_they_are_of_their_types(
    daemon: DaemonProcess, gate: Gate, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    with daemon.client() as client:
        submit(client, shell(f"echo $STOKER_TOKEN > {tokens}; read _ < {gate.path}"))
        (token,) = until(lambda: lines(tokens), why="the token of the job")

        first = call(client, "checkpoint.save", token=token, data="YWJj", more=True)
        check(first, wire_types.ReceivedPiece)
        last = call(client, "checkpoint.save", token=token, data="ZGVm", upload=first["upload"], offset=3)
        check(last, wire_types.SavedCheckpoint)


@pytest.mark.parametrize("change", [{"extra": 1}, {"running": "1"}, {"name": None}])
def test_check_when_an_answer_has_another_shape_then_it_is_noticed(change: dict[str, Any]) -> None:
    queue = {
        "class": "normal",
        "max_running": None,
        "min_running": None,
        "backend": None,
        "backend_away": None,
        "overflow": None,
        "narrowed_to": None,
        "max_queued": None,
        "rate": None,
        "paused": False,
        "throttled": False,
    }
    counts = {"name": "q", "defaults": {}, "queued": 0, "waiting": 0, "held": 0, "running": 0}
    check(queue | counts, daemon_views.QueueView)

    with pytest.raises((AssertionError, msgspec.ValidationError)):
        check(queue | counts | change, daemon_views.QueueView)


def test_fields_when_any_answer_about_a_workflow_is_printed_then_each_is_there() -> None:
    answers = [
        workflow_answers.WorkflowPaused,
        workflow_answers.WorkflowCancelled,
        workflow_answers.WorkflowRetried,
        workflow_answers.StepSkipped,
        workflow_answers.NeedsChanged,
        workflow_answers.WorkflowResumed,
        workflow_answers.WorkflowRolledBack,
    ]
    fields = {name: kind for answer in answers for name, kind in get_type_hints(answer).items()}

    assert get_type_hints(workflow_answers.WorkflowCommandAnswer) == fields


def test_pieces_when_a_log_is_read_then_they_are_of_their_type(client: Client) -> None:
    job = submit(client, shell("echo hello"))
    end_of(client, job)

    pieces = list(client.stream("job.logs", {"id": job}))

    assert pieces
    for piece in pieces:
        check(piece, wire_types.LogPiece)


def test_standing_when_a_job_is_edited_then_it_is_of_its_type(client: Client, running_job: int) -> None:
    waiting = submit(client, shell("exit 0"), needs=[running_job])

    check(call(client, "job.edit", id=waiting, priority=5), wire_types.StandingShape)


def test_answers_when_they_are_about_hooks_then_they_are_of_their_types(client: Client) -> None:
    end_of(client, submit(client, shell("exit 3")))

    check(call(client, "hook.test", name="mail"), hook_views.HookTestAnswer)
    check(call(client, "hook.list"), hook_views.HookList)
    check(call(client, "hook.get", name="mail"), hook_views.HookDetails)
