"""The payload of a change of a job: the name of its cause, and the values that rebuild the row.

Every step of a job writes one change (`turn`). Invariant: the payloads of a job's changes, applied in order, give its
row and those of its attempts.
"""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Any

from msgspec.structs import replace

from stoker.core.job import events as ev
from stoker.core.job.model import Attempt, Job, Spec
from stoker.core.requests import JobChanges

# The fields of a job that change during its life; all others are its spec.
MUTABLE = (
    "state", "reason", "attempts", "failures", "orphanings", "needs_open", "conditions_open", "undecided", "not_needed",
    "wake_at", "expires_at", "started_at", "finished_at", "exit_code", "signal", "checkpoint_floor", "order_key",
    "superseded_by",
)  # fmt: skip
_mutable_values = attrgetter(*MUTABLE)
DERIVED = frozenset({"needs_open"})  # follows from the rows of needs: alone it makes no change


def cause_of(event: type[ev.Event]) -> str:
    """The name of an event in the log of changes, for example `need_met`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()


CAUSES = {event: cause_of(event) for event in ev.Event.__subclasses__()}


def first_values(job: Job) -> dict[str, Any]:
    """The values beside the spec that rebuild the row of a new job."""
    values = {
        "owner_uid": job.owner_uid,
        "trace_id": job.trace_id,
        "order_key": job.order_key,
        "created_at": job.created_at,
        "state": job.state,
        "needs_open": job.needs_open,
        "conditions_open": job.conditions_open,
        "undecided": job.undecided,
        "expires_at": job.expires_at,
        "workflow_id": job.workflow_id,
        "step": job.step,
    }
    if job.debounce_by is not None:
        values |= {"wake_at": job.wake_at, "debounce_by": job.debounce_by}
    return values


def difference(before: Job, job: Job, attempt: Attempt | None, touched: Attempt | None) -> dict[str, Any]:
    """The values that a step changed: enough to apply it again to the row before it."""
    values = zip(MUTABLE, _mutable_values(before), _mutable_values(job), strict=True)
    payload: dict[str, Any] = {name: value for name, earlier, value in values if value != earlier}
    if job.spec is not before.spec:
        payload |= {"spec": job.spec, "edited": edited_fields(before.spec, job.spec)}
    if touched is not None:
        payload["attempt"] = _attempt_difference(attempt, touched)
        if touched.outcome is not None:
            payload["started_at"] = job.started_at  # set when the worker began, for which no change is written
    return payload


def edited_fields(before: Spec, after: Spec) -> dict[str, tuple[Any, Any]]:
    """Old and new value of each field that an edit can change and that differs."""
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in JobChanges.__struct_fields__}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _attempt_difference(before: Attempt | None, after: Attempt) -> dict[str, Any]:
    payload: dict[str, Any] = {"run_id": after.run_id}
    if before is None:
        payload |= {"ordinal": after.ordinal, "launcher": after.launcher}
    elif after.stop_reason is not before.stop_reason:
        payload["stop_reason"] = after.stop_reason
    if after.outcome is not None:
        outcome = replace(after.outcome, files=None) if after.outcome.files is not None else after.outcome
        payload |= {"identity": after.identity, "outcome": outcome, "started_at": after.started_at}
        if after.bounds is not None:
            payload["bounds"] = after.bounds
    return payload
