"""Control steps: the steps of a workflow that are Stoker's own and need no process.

Owns their handlers, which the in-process executor runs. Each reads what the needs of its step handed on, plans in a
thread, and changes the workflow by a message. Invariant: a handler can run twice; the second run changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import wraps
from typing import NoReturn

import msgspec
from msgspec.structs import replace

from stoker.core import outputs
from stoker.core.answers import JobStanding
from stoker.core.errors import NotAllowed, StokerError
from stoker.core.job.conditions import ConditionKind, kind_of, target_of
from stoker.core.job.model import Reason
from stoker.core.sorted_json import encode_sorted
from stoker.core.workflow.definition import OUTSIDE, Flow, ItemSource
from stoker.core.workflow.expansion import EntryPlace, GroupPlan, group_of, listed, place_of
from stoker.core.workflow.fan_out import BEGIN, COLLECT, EMPTY, EXPAND
from stoker.core.workflow.inner_limits import TimeLimit, in_words
from stoker.core.workflow.nesting import inner_flow, is_critical, split_word
from stoker.core.workflow.outside import why_not
from stoker.core.workflow.state import Workflow, WorkflowState, is_broken
from stoker.core.workflow.template import named, pieces_of
from stoker.engine.inbox import Inbox
from stoker.engine.intake import Intake
from stoker.engine.memory import LiveState
from stoker.engine.memory.blueprint import blueprint
from stoker.engine.memory.live_workflow import LiveWorkflow
from stoker.executors.handlers import Call
from stoker.executors.in_process import OwnHandler, StepFailed
from stoker.store import attempts, jobs, workflows
from stoker.store.reader import Reader
from stoker.workflows.expansion import Expansion
from stoker.workflows.limits import StepOverdue
from stoker.workflows.reuse import later_wish


class ControlSteps:
    def __init__(self, memory: LiveState, reader: Reader, inbox: Inbox, intake: Intake) -> None:
        self._memory = memory
        self._reader = reader
        self._inbox = inbox
        self._intake = intake
        self.handlers: Mapping[str, OwnHandler] = {
            EXPAND: _in_words(self._expand),
            BEGIN: _met,
            EMPTY: _met,
            COLLECT: _in_words(self._collect),
            OUTSIDE: _in_words(self._look_outside),
        }

    async def _expand(self, call: Call) -> None:
        """Make the steps of a group from the list that a step handed on."""
        run, name = self._step(call)
        place = await asyncio.to_thread(_place, run.workflow, name)
        source = place.step.each
        assert isinstance(source, ItemSource), "only a group without a list of its own is expanded"
        handed = await self._output(run, f"{place.outer}{source.step}")
        group = await asyncio.to_thread(_group, place, source, handed)
        wish = await later_wish(self._reader, run, name)
        await self._inbox.ask(Expansion(self._intake, call.run_id, run.workflow, group, wish))

    async def _collect(self, call: Call) -> str | None:
        """End a nested workflow: fail at a limit of it, or if a critical step of it did; else hand on its outputs."""
        run, name = self._step(call)
        limit = run.counting.get(f"{name}/")
        if limit is not None and limit.passed is not None:
            await self._stop(call, limit.passed, in_words(run.inner_limits[f"{name}/"], limit.passed))
        flow = await asyncio.to_thread(_inner, run.workflow, name)
        inner = [edge.step for edge in run.steps[call.job_id].needs if edge.step.startswith(f"{name}/")]
        broken = [step for step in inner if is_critical(flow, name, step) and _is_broken(run, step)]
        if broken:
            raise StepFailed(f"{named(broken)} did not succeed")
        return await self._outputs(run, name, flow) if flow.outputs else None

    async def _stop(self, call: Call, limit: TimeLimit, value: str) -> NoReturn:
        """Stop this step, as each step is stopped at a limit of its own."""
        with suppress(asyncio.CancelledError):
            await self._inbox.ask(StepOverdue(call.run_id, limit))
        raise StepFailed(f"ended by its {limit}: {value}")

    async def _outputs(self, run: LiveWorkflow, name: str, flow: Flow) -> str:
        """The outputs of a nested workflow, filled in with those of its steps. Raises StepFailed."""
        pieces = {key: pieces_of(text) for key, text in flow.outputs.items()}
        words = {word: split_word(flow, word) for own in pieces.values() for word in own[1::2]}
        handed = {step: await self._output(run, f"{name}/{step}") for step in {step for step, _ in words.values()}}
        known = {step: {} if text is None else msgspec.json.decode(text) for step, text in handed.items()}
        for word, (step, key) in words.items():
            if key not in known[step]:
                raise StepFailed(f"outputs: {{{{{word}}}}}: step {name}/{step} handed on no {key!r}")
        values = {
            key: "".join(known[words[one][0]][words[one][1]] if at % 2 else one for at, one in enumerate(own))
            for key, own in pieces.items()
        }
        encoded = encode_sorted(values)
        if len(encoded) > outputs.MAX_BYTES:
            raise StepFailed(f"outputs: {outputs.too_large(len(encoded))}")
        return encoded.decode()

    async def _look_outside(self, call: Call) -> None:
        """Fail unless the job or workflow that the step waited for ended well."""
        run, _ = self._step(call)
        awaited = self._memory.runs[call.job_id].job.spec.wait_for
        assert isinstance(awaited, str), "such a step waits for one condition"
        end: JobStanding | WorkflowState | None
        target = int(target_of(awaited))
        if kind_of(awaited) is ConditionKind.JOB:
            end = (await self._reader.run(jobs.standings, [target])).get(target)
        else:
            end = (await self._reader.run(workflows.states, [target])).get(target)
        problem = why_not(awaited, end, f"stoker workflow retry {run.workflow.id} --failed")
        if problem is not None:
            raise StepFailed(problem)

    def _step(self, call: Call) -> tuple[LiveWorkflow, str]:
        """The workflow and the name of the step that the run belongs to. Raises NotAllowed if it has ended."""
        attempt = self._memory.by_run(call.run_id)
        run = None if attempt is None else self._memory.workflows.runs.get(attempt.job.workflow_id or 0)
        if run is None:
            raise NotAllowed(f"run {call.run_id} is not open any more")
        return run, run.steps[call.job_id].name

    async def _output(self, run: LiveWorkflow, name: str) -> str | None:
        """All that a step handed on, as JSON; None if it handed on nothing."""
        if name not in run.jobs:
            raise StepFailed(f"step {name} is not in this part of the workflow, so its outputs are not known")
        ended = await self._reader.run(attempts.needed, [run.jobs[name]])
        return ended[0].output if ended else None


def _in_words(handler: OwnHandler) -> OwnHandler:
    """The handler, whose errors are for a person: a traceback would be of no use."""

    @wraps(handler)
    async def in_words(call: Call) -> str | None:
        try:
            return await handler(call)
        except StokerError as error:
            raise StepFailed(f"{error.message}\n{error.hint}" if error.hint else error.message) from error

    return in_words


async def _met(_call: Call) -> None:
    """Nothing is left to do once the needs are met: others wait for the end of this step."""


def _inner(workflow: Workflow, name: str) -> Flow:
    return inner_flow(_flow(workflow), name)


def _is_broken(run: LiveWorkflow, name: str) -> bool:
    step = replace(run.steps[run.jobs[name]], critical=True)  # in the whole workflow it may be none
    return is_broken(step, run.states[name], by_dependency=run.reasons[name] is Reason.DEPENDENCY)


def _place(workflow: Workflow, name: str) -> EntryPlace:
    return place_of(_flow(workflow), blueprint(workflow).parameters, name)


def _group(place: EntryPlace, source: ItemSource, handed: str | None) -> GroupPlan:
    step, path = f"{place.outer}{source.step}", f"steps.{place.outer}{place.entry}.each"
    return group_of(place, listed(handed, step, str(source.output), path))


def _flow(workflow: Workflow) -> Flow:
    return msgspec.json.decode(blueprint(workflow).flow, type=Flow)
