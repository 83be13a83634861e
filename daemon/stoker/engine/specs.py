"""From what was sent to the Spec that is stored: defaults filled in, promises checked.

Owns the layers of defaults (settings, then the queue's, then what was sent) and the checks that want more
than the request itself. Refuses to store. Invariant: a Spec that leaves here can be kept as it stands.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from stoker.config import Config
from stoker.core.clock import Now
from stoker.core.errors import InvalidParams, ResourceNotFound
from stoker.core.limits import Limits
from stoker.core.model import ExecutionMode, Need, OnOrphan, Queue, Resource, Spec
from stoker.core.requests import JobDefaults, JobParams, JobWork

_SENT = tuple(name for name in JobWork.__struct_fields__ if name != "limits")


class Specs:
    """Makes specs; keeps the merged defaults of each queue."""

    def __init__(self, config: Config) -> None:
        self._settings = {
            "working_dir": "/",
            "base_delay_ms": config.retry.base_delay_ms,
            "backoff_factor": config.retry.backoff_factor,
            "max_delay_ms": config.retry.max_delay_ms,
            "max_orphanings": config.recovery.max_orphanings,
            "survive": config.recovery.survive,
            "grace_ms": config.jobs.grace_ms,
            "max_log_bytes": config.jobs.max_log_bytes,
        }
        self._merged: dict[str, tuple[Queue, dict[str, Any]]] = {}

    def _defaults(self, queue: Queue) -> dict[str, Any]:
        known = self._merged.get(queue.name)
        if known is None or known[0] is not queue:
            said = msgspec.convert(queue.defaults, JobDefaults)
            values = {name: value for name in said.__struct_fields__ if (value := getattr(said, name)) is not UNSET}
            known = (queue, self._settings | values | {"queue": queue.name})
            self._merged[queue.name] = known
        return known[1]

    def resolve(self, sent: JobWork, queue: Queue, needs: tuple[Need, ...] = ()) -> Spec:
        """The whole spec that `sent` asks for in `queue`."""
        words = {name: value for name in _SENT if (value := getattr(sent, name)) is not UNSET}
        words["needs"] = needs
        if sent.limits is not UNSET:
            words["limits"] = Limits(**msgspec.structs.asdict(sent.limits))
        spec = Spec(**(self._defaults(queue) | words))
        if spec.execution_mode is ExecutionMode.IN_PROCESS and sent.on_orphan is UNSET:
            return replace(spec, on_orphan=OnOrphan.REQUEUE)
        return spec


def needs_of(sent: JobParams) -> tuple[Need, ...]:
    """The needs of a job as they are stored."""
    if sent.needs is UNSET:
        return ()
    return tuple(Need(need) if isinstance(need, int) else Need(need.job, need.on) for need in sent.needs)


def check(spec: Spec, now: Now, resources: dict[str, Resource]) -> None:
    """Refuse what could never run. Raises InvalidParams or ResourceNotFound."""
    if spec.deadline is not None and spec.deadline <= now.wall:
        raise InvalidParams(
            f"deadline: {spec.deadline} has passed (it is {now.wall} now)", path="deadline", hint="--deadline +1h"
        )
    if spec.deadline is not None and spec.run_at is not None and spec.run_at >= spec.deadline:
        raise InvalidParams(f"run_at: {spec.run_at} is not before the deadline {spec.deadline}", path="run_at")
    if spec.warn_signal is not None and spec.timeout_ms is None and spec.deadline is None:
        raise InvalidParams("warn_signal: there is no limit to warn of", path="warn_signal", hint="add --timeout")
    check_reporting(spec)
    ids = [need.job for need in spec.needs]
    if len(set(ids)) != len(ids):
        raise InvalidParams("needs: a job is named twice", path="needs")
    for name, amount in spec.resources.items():
        _check_resource(name, amount, resources)


def check_reporting(spec: Spec) -> None:
    """Refuse what a worker could not say, or what could not be told apart. Raises InvalidParams."""
    code, beat_ms = spec.checkpoint_exit_code, spec.heartbeat_ms
    for field in ("success_exit_codes", "no_retry_exit_codes"):
        if code is not None and code in getattr(spec, field):
            raise InvalidParams(
                f"checkpoint_exit_code: {code} is among {field} too; it can mean only one thing",
                hint="75 (EX_TEMPFAIL) is a usual choice",
                path="checkpoint_exit_code",
            )
    if spec.speaks and spec.execution_mode is ExecutionMode.IN_PROCESS:
        field = "notify" if beat_ms is None else "heartbeat_ms"
        raise InvalidParams(f"{field}: a handler inside the daemon has no process that could report", path=field)
    for field in ("unresponsive_warn_ms", "unresponsive_kill_ms"):
        limit_ms = getattr(spec, field)
        if beat_ms is not None and beat_ms >= limit_ms:
            raise InvalidParams(
                f"heartbeat_ms: {beat_ms} is not less than {field}, {limit_ms}: a healthy worker would pass it",
                hint=f"a larger {field}",
                path="heartbeat_ms",
            )


def _check_resource(name: str, amount: int, resources: dict[str, Resource]) -> None:
    known = resources.get(name)
    if known is None:
        raise ResourceNotFound(
            f"resources.{name}: there is no such resource",
            hint=f"stoker resource set {name} {amount}",
            path=f"resources.{name}",
        )
    if amount > known.capacity:
        raise InvalidParams(
            f"resources.{name}: {amount} is more than its capacity, {known.capacity}",
            hint=f"stoker resource set {name} {amount}",
            path=f"resources.{name}",
        )
