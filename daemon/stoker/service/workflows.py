"""The methods of the protocol for workflows, as plain calls.

Owns the way from a request to the loop and the view of a workflow. Nothing is decided here: core makes the plans, and
turns change the state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from stoker.core.access import Viewer
from stoker.core.errors import FlowInvalid
from stoker.core.job.model import Actor, NeedOn, Reason, State
from stoker.core.workflow.definition import FlowRequest
from stoker.core.workflow.resume import ResumeOptions
from stoker.core.workflow.rollback import target_of
from stoker.core.workflow.state import Again, Intent, Step, Workflow, WorkflowFilter, behind, to_reset
from stoker.core.workflow.step_names import beside_groups, found_steps
from stoker.engine.memory.blueprint import steps_of
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.engine.turn import Turn
from stoker.host.threads import start_threads
from stoker.service.engine import Engine
from stoker.service.views import stored_workflow
from stoker.store import attempts, conditions, decisions, workflows
from stoker.store.workflows import StoredWorkflow
from stoker.telemetry.events import LogEvent
from stoker.telemetry.logs import log
from stoker.workflows import chain, commands, dependencies, resume, reuse, rollback
from stoker.workflows.archive import analysis_of
from stoker.workflows.submit import WorkflowSubmission, offer_of
from stoker.workflows.submit_answers import WorkflowAnswer

if TYPE_CHECKING:
    from stoker.core.views import (
        AnalysedWorkflow,
        EarlierRuns,
        StepList,
        StepView,
        WorkflowDetails,
        WorkflowPage,
        WorkflowView,
    )
    from stoker.core.workflow_answers import (
        NeedsChanged,
        ResumePlan,
        StepSkipped,
        WorkflowCancelled,
        WorkflowPaused,
        WorkflowRetried,
        WorkflowRolledBack,
    )

A = TypeVar("A")
ERROR_BYTES = 300  # of each step; `job.get` has the whole error


class WorkflowService:
    """Workflows, as the handlers of rpc/workflow_methods.py call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._planner = start_threads(1, "flow-plans")

    async def submit(self, request: FlowRequest, viewer: Viewer, newest: int | None = None) -> WorkflowAnswer:
        """`newest`: the workflow that `latest` means, if it is there."""
        engine, loop = self._engine, asyncio.get_running_loop()
        wish = await reuse.wish_of(engine.queries, request, viewer.uid, newest)
        offer = await loop.run_in_executor(self._planner, offer_of, request, wish, viewer.uid)
        future = engine.submit(WorkflowSubmission(engine.intake, offer, viewer.role))
        future.add_done_callback(lambda done: _log_cycle(done, flow=request.flow.name))
        return await future

    async def get(self, workflow_id: int, *, analysed: bool) -> WorkflowDetails:
        """One workflow with all its steps; with `analysed` also the analysis of its failure."""
        stored = await stored_workflow(self._engine, workflow_id)
        engine, jobs = self._engine, {step.job_id for step in stored.steps}
        errors = await engine.queries.run(attempts.errors, _unsuccessful(stored))
        errors |= await engine.queries.run(decisions.notes, _without_value(stored))
        waiting = [step.job_id for step in stored.steps if step.state is State.WAITING]
        open_conditions = await engine.queries.run(conditions.of_jobs, waiting)
        view: WorkflowDetails = {
            **_view(stored, engine),
            "earlier_runs": await self._earlier_runs(stored.workflow),
            "steps": await asyncio.to_thread(_steps, stored, errors, open_conditions),  # there may be thousands
            "archive": await asyncio.to_thread(engine.archives.path, stored),
            "stale": await engine.staleness.find(jobs),
        }
        if not analysed:
            return view
        analysis = await analysis_of(engine.queries, stored)
        shown = None if analysis is None else msgspec.to_builtins(analysis)
        with_analysis: AnalysedWorkflow = {**view, "analysis": shown}
        return with_analysis

    async def _earlier_runs(self, workflow: Workflow) -> EarlierRuns | None:
        if workflow.ended:
            return None
        took = await self._engine.queries.run(workflows.earlier_durations, workflow)
        return {"count": len(took), "median_ms": sorted(took)[len(took) // 2]} if took else None

    async def steps(self, workflow_id: int, name: str | None) -> StepList:
        """The steps that a name stands for, with their jobs. Raises StepNotFound."""
        stored = await stored_workflow(self._engine, workflow_id)
        by_name = {step.step: step for step in stored.steps}
        found = list(by_name) if name is None else await asyncio.to_thread(found_steps, workflow_id, name, by_name)
        shown: StepList = {
            "workflow": workflow_id,
            "steps": [{"name": one, "job": by_name[one].job_id, "state": by_name[one].state.value} for one in found],
        }
        return shown

    async def list(self, workflow_filter: WorkflowFilter, viewer: Viewer) -> WorkflowPage:
        wanted = workflow_filter
        page = await self._engine.queries.run(
            workflows.page, wanted.before, wanted.states, wanted.label, wanted.limit, viewer.sees
        )
        last = page[-1].workflow.id if len(page) == workflow_filter.limit else None
        return {"workflows": [_view(stored, self._engine) for stored in page], "next": last}

    def pause(self, workflow_id: int, actor: Actor) -> asyncio.Future[WorkflowPaused]:
        """Start no further steps of it."""
        return self.command(workflow_id, partial(commands.pause, actor=actor))

    def cancel(self, workflow_id: int, actor: Actor) -> asyncio.Future[WorkflowCancelled]:
        """Stop all its jobs."""
        return self.command(workflow_id, partial(commands.cancel, actor=actor))

    def retry(
        self, workflow_id: int, again: Again, names: Sequence[str], actor: Actor, **budget: int | None
    ) -> asyncio.Future[WorkflowRetried]:
        """Run steps again: those that failed, all of them, or those named with every step that depends on them."""

        def reset_steps(turn: Turn, run: LiveWorkflow) -> commands.Pieces[WorkflowRetried]:
            commands.must_not_go_back(run, "retry")
            steps = list(run.steps.values())
            if names:
                roots: set[str] = set()
                for name in names:
                    roots.update(run.steps_named(name))
                    yield
                reset = behind(steps, roots)
            else:
                reset = to_reset(again, steps, run.states, run.reasons)
            return (yield from commands.retry(turn, run, reset, actor, commands.Budget(**budget)))

        return self.command(workflow_id, reset_steps)

    def skip(self, workflow_id: int, step: str, actor: Actor) -> asyncio.Future[StepSkipped]:
        return self.command(workflow_id, partial(commands.skip, name=step, actor=actor))

    def add_need(
        self, workflow_id: int, step: str, need: str, on: NeedOn, actor: Actor
    ) -> asyncio.Future[NeedsChanged]:
        decision = partial(dependencies.add_need, name=step, need=need, on=on, actor=actor)
        future = self.command(workflow_id, decision)
        future.add_done_callback(lambda done: _log_cycle(done, workflow=workflow_id))
        return future

    def remove_need(self, workflow_id: int, step: str, need: str, actor: Actor) -> asyncio.Future[NeedsChanged]:
        return self.command(workflow_id, partial(dependencies.remove_need, name=step, need=need, actor=actor))

    async def resume(self, options: ResumeOptions, actor: Actor) -> ResumePlan:
        """Go on after a pause or an unsuccessful end; or (`options.explain`) say which steps would run, and why."""
        stored = await stored_workflow(self._engine, options.id)
        engine, limit_ms = self._engine, self._engine.config.workflows.resume_timeout_ms
        facts = await resume.prepare(engine.queries, stored, options, engine.memory.workflows.surroundings, limit_ms)
        return await self.command(options.id, resume.decision(options, facts, actor))

    async def rollback(
        self, workflow_id: int, to: int | None, actor: Actor, *, redo: bool, resume: bool
    ) -> WorkflowRolledBack:
        """Go back to a checkpoint, by default the newest: stop running steps, then reset those not completed there."""
        await stored_workflow(self._engine, workflow_id)
        reader = self._engine.queries
        checkpoint = await chain.target(reader, workflow_id, to)
        context = await chain.context_at(reader, checkpoint.chain, checkpoint.seq)
        target = target_of(context, checkpoint.id, redo=redo, resume=resume, uid=actor.uid)
        decision = partial(rollback.begin, target=target, context=context, actor=actor)
        return await self.command(workflow_id, decision)

    def command(self, workflow_id: int, decision: commands.Decision[A]) -> asyncio.Future[A]:
        """Apply a decision to a whole workflow in one turn."""
        return self._engine.request(commands.WorkflowCommand(workflow_id, decision))


def _log_cycle(done: asyncio.Future[Any], **where: object) -> None:
    error = None if done.cancelled() else done.exception()
    if isinstance(error, FlowInvalid) and "cycle" in error.details:
        log(LogEvent.DEPENDENCY_CYCLE_DETECTED, cycle=list(error.details["cycle"]), **where)


def _view(stored: StoredWorkflow, engine: Engine) -> WorkflowView:
    """The workflow as it is on disk; memory is ahead of the disk while a commit is under way."""
    workflow, skew = stored.workflow, engine.clock.now().skew
    counts: dict[str, int] = {}
    for standing in stored.steps:
        counts[standing.state.value] = counts.get(standing.state.value, 0) + 1
    return {
        "id": workflow.id,
        "name": workflow.name,
        "state": workflow.state.value,
        "intent": workflow.intent,
        "owner_uid": workflow.owner_uid,
        "trace_id": workflow.trace_id,
        "created_at": workflow.created_at,
        "finished_at": workflow.finished_at,
        "deadline": workflow.deadline,
        "times_out_at": None if workflow.expires_at is None else workflow.expires_at + skew,
        "inner_limits": [
            {
                "step": outer.removesuffix("/"),
                "deadline": limit.deadline,
                "times_out_at": None if limit.expires_at is None else limit.expires_at + skew,
                "passed": None if limit.passed is None else limit.passed.value,
            }
            for outer, limit in stored.counting.items()
        ],
        "labels": msgspec.json.decode(workflow.labels, type=dict[str, str]),
        "concurrency_key": workflow.concurrency_key,
        "waits_for": [] if workflow.ended else engine.memory.workflows.turns.before(workflow),
        "aborted_by": workflow.target if workflow.intent is Intent.ABORT else None,
        "counts": counts,
    }


def _unsuccessful(stored: StoredWorkflow) -> list[int]:
    return [step.job_id for step in stored.steps if step.attempts and step.state is not State.SUCCEEDED]


def _without_value(stored: StoredWorkflow) -> list[int]:
    return [step.job_id for step in stored.steps if step.reason is Reason.CONDITION]


def _steps(stored: StoredWorkflow, errors: dict[int, str], open_conditions: dict[int, list[str]]) -> list[StepView]:
    by_job: dict[int, Step] = {step.job_id: step for step in steps_of(stored.workflow)}
    by_name = {standing.step: standing for standing in stored.steps}
    return [
        {
            "name": standing.step,
            "job": standing.job_id,
            "state": standing.state.value,
            "reason": standing.reason,
            "exit_code": standing.exit_code,
            "signal": standing.signal,
            "error": errors.get(standing.job_id, "")[-ERROR_BYTES:] or None,
            "attempts": standing.attempts,
            "failures": standing.failures,
            "needs": [{"step": edge.step, "on": edge.on.value} for edge in by_job[standing.job_id].needs],
            "when": None if (when := by_job[standing.job_id].when) is None else when.value,
            "run_if": by_job[standing.job_id].run_if,
            "conditions_open": open_conditions.get(standing.job_id, []),
            "critical": by_job[standing.job_id].critical,
            "resume": by_job[standing.job_id].resume,
            "reused": standing.reused,
            "handler": None if (handler := by_job[standing.job_id].handler) is None else handler.value,
        }
        for standing in map(by_name.__getitem__, beside_groups([*by_name]))
    ]
