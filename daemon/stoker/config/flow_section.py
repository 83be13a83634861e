"""The flow of a schedule in the settings file, as [schedules.NAME.flow]: its tables, and the check of the whole.

Owns which keys each table has. What the host and an earlier run must have is checked by the daemon alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from stoker.core.job.secret_values import NOT_KEPT
from stoker.core.schedule.model import FlowPart
from stoker.core.workflow.definition import Flow, FlowRequest, Part, StepDefaults, StepParams
from stoker.core.workflow.handlers import STEPS, Handler
from stoker.core.workflow.mistakes import Mistake, refuse
from stoker.core.workflow.plan import plan_flow
from stoker.core.workflow.selection import select

DEFAULTS, NESTED = "defaults", "workflow"
OF_STEPS = (STEPS, *Handler)
REQUIRED = {"name": 'name = "nightly"', STEPS: "[{section}.steps.NAME]"}


def tables_of(section: str, flow: Any) -> Iterator[tuple[str, type[Struct], Any]]:
    """Each table of a flow and of those that are nested in it: its section, the type of its keys, its value."""
    for place, one in _flows(section, flow):
        if not isinstance(one, dict):
            yield place, Flow, one
            continue
        yield place, Flow, {key: one[key] for key in one if key not in (DEFAULTS, *OF_STEPS)}
        yield f"{place}.{DEFAULTS}", StepDefaults, one.get(DEFAULTS, {})
        for within, step in _steps(place, one):
            yield within, StepParams, {key: step[key] for key in step if key != NESTED} if _is_nested(step) else step


def missing_keys(section: str, flow: Any) -> Iterator[str]:
    """A mistake for each key that a flow must have."""
    for place, one in _flows(section, flow):
        for key, example in REQUIRED.items():
            if isinstance(one, dict) and not one.get(key):
                yield f"[{place}] {key}: it is missing, as in {example.format(section=place)}"


def _flows(section: str, flow: Any) -> Iterator[tuple[str, Any]]:
    yield section, flow
    for place, step in _steps(section, flow):
        if _is_nested(step):
            yield from _flows(f"{place}.{NESTED}", step[NESTED])


def _steps(section: str, flow: Any) -> Iterator[tuple[str, Any]]:
    """Each step and handler; a value that should be a table of them stands for itself."""
    for kind in OF_STEPS if isinstance(flow, dict) else ():
        steps = flow.get(kind, {})
        if isinstance(steps, dict):
            yield from ((f"{section}.{kind}.{name}", step) for name, step in steps.items())
        else:
            yield f"{section}.{kind}", steps


def _is_nested(step: Any) -> bool:
    return isinstance(step, dict) and NESTED in step


def check_flow(text: str, wanted: FlowPart) -> None:
    """Raises ValidationError or FlowInvalid."""
    flow = msgspec.json.decode(text, type=Flow)
    plan = plan_flow(FlowRequest(flow=flow, raw=msgspec.Raw(text.encode())), None)
    completed = () if wanted.reuse is None else [step.name for step in plan.steps]
    selected = select(plan, Part(wanted.target, wanted.start), completed).plan
    with_secrets = {
        step.path: Mistake(f"{step.path}.secrets", NOT_KEPT) for step in selected.steps if step.sent.secrets
    }
    refuse([*selected.mistakes, *with_secrets.values()])
