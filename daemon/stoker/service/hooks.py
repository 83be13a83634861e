"""The methods of the protocol for hooks, as plain calls.

Owns the view of a hook, with the reason why its program cannot be executed, if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stoker.core.access import Role
from stoker.core.errors import HookNotFound, StokerError
from stoker.core.hooks import Hook, HookOn, made_up
from stoker.core.similar_names import did_you_mean
from stoker.engine.hooks import Hooks
from stoker.engine.intake import CommandRequest, Intake
from stoker.engine.turn import Turn
from stoker.service.declared import unmatched
from stoker.store import hooks as rows

if TYPE_CHECKING:
    from stoker.core.hook_views import HookDetails, HookList, HookRunView, HookTestAnswer, HookView
    from stoker.service.engine import Engine
    from stoker.store.hooks import HookRun

RUNS_SHOWN = 10


class HookService:
    """Hooks, as the handlers of rpc/hook_methods.py call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def list(self) -> HookList:
        """All hooks, by name, each with its newest job."""
        hooks = sorted(self._engine.hooks.by_name.values(), key=lambda hook: hook.name)
        return {"hooks": [view for view, _ in await _views(self._engine, hooks, 1)]}

    async def get(self, name: str) -> HookDetails:
        """A hook and its newest jobs. Raises HookNotFound."""
        ((view, runs),) = await _views(self._engine, [find(self._engine.hooks, name)], RUNS_SHOWN)
        return {**view, "runs": runs}

    def test(self, name: str, on: HookOn | None) -> asyncio.Future[HookTestAnswer]:
        """Submit a job for a change that is made up: of the first kind of the hook, or of the kind `on`."""
        hook = find(self._engine.hooks, name)
        return self._engine.submit(HookTest(self._engine.intake, self._engine.hooks, hook, on or hook.on[0]))


async def _views(engine: Engine, hooks: Sequence[Hook], limit: int) -> list[tuple[HookView, list[HookRunView]]]:
    """Each hook with its newest jobs."""
    problems = await engine.preflight.problems([hook.work for hook in hooks])
    without_match = await unmatched(engine.queries, hooks)
    rows_by_hook = await engine.queries.run(rows.runs, [hook.name for hook in hooks], limit)
    views = []
    for hook, problem in zip(hooks, problems, strict=True):
        runs = [_run(run) for run in rows_by_hook[hook.name]]
        view = _view(hook, problem, without_match.get(hook.name), engine.hooks.refused.get(hook.name, 0), runs)
        views.append((view, runs))
    return views


class HookTest(CommandRequest["HookTestAnswer"]):
    """Run a hook for a change that is made up. Its command is checked like the command of a job."""

    def __init__(self, intake: Intake, hooks: Hooks, hook: Hook, on: HookOn) -> None:
        super().__init__([hook.work], Role.ADMIN)
        self._intake = intake
        self._hooks = hooks
        self._hook = hook
        self._on = on

    def apply_to(self, turn: Turn) -> None:
        for problem in (self._intake.closed, *self.problems):
            if problem is not None:
                raise problem
        change, subject = made_up(self._hook, self._on, turn.now.wall)
        job = self._hooks.submit(turn, self._hook, self._on, change, subject)
        self.answer_after(turn, {"name": self._hook.name, "on": self._on.value, "job": job.id})


def find(hooks: Hooks, name: str) -> Hook:
    """Raises HookNotFound."""
    hook = hooks.by_name.get(name)
    if hook is None:
        there = ", ".join(sorted(hooks.by_name)) or "none"
        hint = did_you_mean(name, hooks.by_name) or f"declare [hooks.{name}] in the settings file: stoker config path"
        raise HookNotFound(f"name: there is no hook {name!r} (there are: {there})", hint=hint, path="name")
    return hook


def _view(
    hook: Hook, problem: StokerError | None, unmatched: str | None, refused: int, runs: Sequence[HookRunView]
) -> HookView:
    return {
        "name": hook.name,
        "on": [on.value for on in hook.on],
        "queue": hook.queue,
        "workflow": hook.workflow,
        "labels": hook.labels,
        "command": hook.command,
        "args": list(hook.args),
        "working_dir": hook.working_dir,
        "problem": None if problem is None else problem.message,
        "unmatched": unmatched,
        "refused": refused,
        "last": runs[0] if runs else None,
    }


def _run(run: HookRun) -> HookRunView:
    return {
        "job": run.job_id,
        "change": run.change,
        "state": run.state,
        "reason": run.reason,
        "submitted_at": run.created_at,
        "finished_at": run.finished_at,
    }
