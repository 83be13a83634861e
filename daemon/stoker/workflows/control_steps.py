"""Control steps: the steps of a workflow that are Stoker's own and need no process.

Owns their handlers, which the in-process executor runs. Each reads what the needs of its step handed on, plans in a
thread, and changes the workflow by a message. Invariant: a handler can run twice; the second run changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from stoker.core.errors import NotAllowed
from stoker.core.workflow.definition import Flow, ItemSource
from stoker.core.workflow.expansion import GroupPlan, group_of, listed
from stoker.core.workflow.fan_out import EXPAND
from stoker.core.workflow.state import Workflow
from stoker.engine.inbox import Inbox
from stoker.engine.intake import Intake
from stoker.engine.memory import LiveState
from stoker.engine.memory.workflows import LiveWorkflow, blueprint
from stoker.executors.handlers import Call
from stoker.executors.in_process import OwnHandler
from stoker.store import attempts
from stoker.store.reader import Reader
from stoker.workflows.expansion import Expansion


class ControlSteps:
    def __init__(self, memory: LiveState, reader: Reader, inbox: Inbox, intake: Intake) -> None:
        self._memory = memory
        self._reader = reader
        self._inbox = inbox
        self._intake = intake
        self.handlers: Mapping[str, OwnHandler] = {EXPAND: self._expand}

    async def _expand(self, call: Call) -> None:
        """Make the steps of a group from the list that a step handed on."""
        run, name = self._step(call)
        source = await asyncio.to_thread(_source, run.workflow, name)
        outputs = await self._output(run, str(source.step))
        group = await asyncio.to_thread(_group, run.workflow, name, source, outputs)
        await self._inbox.ask(Expansion(self._intake, call.run_id, run.workflow, group))

    def _step(self, call: Call) -> tuple[LiveWorkflow, str]:
        """The workflow and the name of the step that the run belongs to. Raises NotAllowed if it has ended."""
        attempt = self._memory.by_run(call.run_id)
        run = None if attempt is None else self._memory.workflows.runs.get(attempt.job.workflow_id or 0)
        if run is None:
            raise NotAllowed(f"run {call.run_id} is not open any more")
        return run, run.steps[call.job_id].name

    async def _output(self, run: LiveWorkflow, name: str) -> str | None:
        """All that a step handed on, as JSON; None if it handed on nothing."""
        ended = await self._reader.run(attempts.needed, [run.jobs[name]])
        return ended[0].output if ended else None


def _source(workflow: Workflow, name: str) -> ItemSource:
    source = _flow(workflow).steps[name].each
    assert isinstance(source, ItemSource), "only a group without a list of its own is expanded"
    return source


def _group(workflow: Workflow, name: str, source: ItemSource, outputs: str | None) -> GroupPlan:
    items = listed(outputs, str(source.step), str(source.output), f"steps.{name}.each")
    return group_of(_flow(workflow), blueprint(workflow).parameters, name, items)


def _flow(workflow: Workflow) -> Flow:
    return msgspec.json.decode(blueprint(workflow).flow, type=Flow)
