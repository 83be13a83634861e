"""The type of each method's answer, for those who describe the protocol. The daemon itself never imports it.

Owns the tables of answers and notifications. A test asks that every method has a row, and compares the rows with the
answers of a real daemon.
"""

from __future__ import annotations

from typing import Any, Final, TypedDict

from stoker.core import (
    daemon_views,
    event_views,
    hook_views,
    overview_views,
    quota_views,
    rate_views,
    views,
    wire_types,
    workflow_answers,
)
from stoker.core.answers import EditedJob, JobStanding, SubmitAnswer
from stoker.core.schedule import views as schedule_views

# By method, the types that its answer may have, by its parameters.
ANSWERS: Final[dict[str, tuple[Any, ...]]] = {
    "job.submit": (SubmitAnswer,),
    "job.submit_many": (dict[str, list[dict[str, Any]]],),  # each as of job.submit, or an error
    "job.get": (views.JobDetails,),
    "job.find": (SubmitAnswer,),
    "job.list": (views.JobPage,),
    "job.edit": (EditedJob,),
    "job.cancel": (JobStanding,),
    "job.retry": (JobStanding,),
    "job.skip": (JobStanding,),
    "job.hold": (JobStanding,),
    "job.release": (JobStanding,),
    "job.restart": (JobStanding,),
    "job.wait": (dict[str, list[JobStanding]],),
    "job.logs": (dict[str, int],),
    "job.why": (views.Explanation,),
    "job.environment": (views.EnvironmentView,),
    "job.history": (views.JobHistory,),
    "worker.get": (views.WorkerView,),
    "queue.list": (daemon_views.QueueList,),
    "queue.set": (daemon_views.QueueChanged,),
    "queue.wait": (daemon_views.QueueRoom,),
    "queue.pause": (daemon_views.QueuePaused,),
    "queue.resume": (daemon_views.QueuePaused,),
    "resource.list": (daemon_views.ResourceList,),
    "resource.set": (daemon_views.ResourceChanged,),
    "rate.list": (rate_views.RateList,),
    "rate.set": (rate_views.RateChanged,),
    "rate.remove": (rate_views.RateRemoved,),
    "system.status": (daemon_views.StatusView,),
    "system.health": (daemon_views.HealthView,),
    "system.settings": (daemon_views.SettingsView,),
    "system.reload": (daemon_views.ReloadedView,),
    "system.drain": (daemon_views.DrainBegun,),
    "system.backup": (dict[str, int],),
    "system.backups": (daemon_views.BackupList,),
    "system.purge": (daemon_views.Purged, daemon_views.PurgePreview),
    "watch": (dict[str, int],),
    "workflow.submit": (wire_types.WorkflowAccepted,),
    "workflow.get": (views.WorkflowDetails, views.AnalysedWorkflow),
    "workflow.steps": (views.StepList,),
    "workflow.list": (views.WorkflowPage,),
    "workflow.pause": (workflow_answers.WorkflowPaused,),
    "workflow.cancel": (workflow_answers.WorkflowCancelled,),
    "workflow.retry": (workflow_answers.WorkflowRetried,),
    "workflow.skip": (workflow_answers.StepSkipped,),
    "workflow.add_need": (workflow_answers.NeedsChanged,),
    "workflow.remove_need": (workflow_answers.NeedsChanged,),
    "workflow.resume": (workflow_answers.WorkflowResumed, workflow_answers.ResumePlan),
    "workflow.rollback": (workflow_answers.WorkflowRolledBack,),
    "checkpoint.save": (wire_types.SavedCheckpoint, wire_types.ReceivedPiece),
    "checkpoint.get": (wire_types.CheckpointView, wire_types.CheckpointPiece, wire_types.ContextView),
    "checkpoint.list": (wire_types.CheckpointPage,),
    "schedule.add": (schedule_views.ScheduleView,),
    "schedule.list": (schedule_views.SchedulePage,),
    "schedule.get": (schedule_views.ScheduleDetails,),
    "schedule.next": (schedule_views.ComingSlots,),
    "schedule.remove": (schedule_views.ScheduleRemoved,),
    "schedule.pause": (schedule_views.ScheduleView,),
    "schedule.resume": (schedule_views.ScheduleView,),
    "schedule.run": (schedule_views.ScheduleRunAnswer,),
    "event.emit": (views.EmitAnswer,),
    "event.list": (event_views.EventPage,),
    "hook.list": (hook_views.HookList,),
    "hook.get": (hook_views.HookDetails,),
    "hook.test": (hook_views.HookTestAnswer,),
    "system.overview": (overview_views.OverviewView,),
    "system.load": (overview_views.LoadView,),
    "system.limits": (quota_views.LimitsView,),
    "system.users": (quota_views.UserList,),
    "attempt.list": (overview_views.AttemptPage,),
    "recovery.list": (overview_views.RecoveryPage,),
    "recovery.get": (overview_views.RecoveryReport,),
}


class WatchedChanges(TypedDict):
    """Changes, in the order of their numbers, to a client that watches."""

    stream: int
    changes: list[wire_types.ChangeShape]


# By method that streams, the type of the notifications that follow its answer.
NOTIFICATIONS: Final[dict[str, Any]] = {
    "job.logs": wire_types.LogPiece,
    "system.backup": daemon_views.BackupProgress,
    "watch": WatchedChanges,
}
