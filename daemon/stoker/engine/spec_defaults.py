"""From the fields that were sent to the Spec that is stored: defaults are filled in, contradictions refused.

Owns the layers of defaults (the settings, then the queue, then the request) and the checks that need the clock or the
resources. Nothing is stored here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from stoker.config import Config
from stoker.core.clock import Now
from stoker.core.errors import InvalidParams, RateNotFound, ResourceNotFound, StokerError
from stoker.core.job.limits import Limits
from stoker.core.job.model import ExecutionMode, Need, OnOrphan, Queue, Spec
from stoker.core.job.spec_rules import contradictions, contradictions_of_defaults
from stoker.core.rate import KEY_PREFIX
from stoker.core.requests import JobDefaults, JobParams, JobWork
from stoker.core.similar_names import did_you_mean
from stoker.core.units import instant
from stoker.engine.memory import LiveState

# The fields that become the field of the spec with that name; a step has not all of them.
_SENT = frozenset(JobParams.__struct_fields__) - {"limits", "needs", "idempotency_key", "secrets"} | {
    "sources",
    "produces",
}
USUAL = {one.name: one.default for one in msgspec.structs.fields(Spec)}


class Merged(NamedTuple):
    """The defaults for the jobs of a queue: `values`, and the names of those that the queue itself gives."""

    queue: Queue
    given: tuple[str, ...]
    values: dict[str, Any]


class SpecDefaults:
    """Makes specs; keeps the merged defaults of each queue."""

    def __init__(self, config: Config) -> None:
        self._settings = config.job_defaults()
        self._on_cluster = config.backends.keys()
        self._merged: dict[str, Merged] = {}

    def _defaults(self, queue: Queue) -> Merged:
        merged = self._merged.get(queue.name)
        if merged is None or merged.queue is not queue:
            defaults = msgspec.convert(queue.defaults, JobDefaults)
            fields = defaults.__struct_fields__
            values = {name: value for name in fields if (value := getattr(defaults, name)) is not UNSET}
            merged = Merged(queue, tuple(values), _usual(self._settings | values | {"queue": queue.name}))
            self._merged[queue.name] = merged
        return merged

    def check_defaults(self, queue: Queue) -> None:
        """Refuse a queue whose defaults contradict each other. Raises InvalidParams."""
        merged = self._defaults(queue)
        for problem in contradictions_of_defaults(Spec(command="", **merged.values), merged.given):
            raise problem.within("defaults")

    def resolve(self, sent: JobWork, queue: Queue, needs: tuple[Need, ...] = ()) -> Spec:
        """The whole spec that `sent` asks for in `queue`. Raises InvalidParams if it contradicts itself."""
        spec, problems = self.read(sent, queue, needs)
        for problem in problems:
            raise problem
        return spec

    def read(self, sent: JobWork, queue: Queue, needs: tuple[Need, ...] = ()) -> tuple[Spec, Iterator[InvalidParams]]:
        """The spec of `sent` with the defaults of `queue`, and its contradictions."""
        merged = self._defaults(queue)
        # to_builtins leaves out what was not sent, ten times as fast as a loop over the fields.
        given = {name: getattr(sent, name) for name in msgspec.to_builtins(sent) if name in _SENT}
        given["needs"] = needs
        if secrets := getattr(sent, "secrets", None):  # of a job with their values, of a step their names
            given["secrets"] = tuple(sorted(set(secrets)))
        if sent.limits is not UNSET:
            given["limits"] = Limits(**msgspec.structs.asdict(sent.limits))
        spec = Spec(**(merged.values | given))
        if queue.name in self._on_cluster and spec.execution_mode is ExecutionMode.SUBPROCESS:
            spec = replace(spec, execution_mode=ExecutionMode.CLUSTER)
        problems = chain(self.wrong_place(spec), contradictions(spec, given, merged.given))
        if spec.execution_mode is ExecutionMode.IN_PROCESS and sent.on_orphan is UNSET:
            return replace(spec, on_orphan=OnOrphan.REQUEUE), problems
        return spec, problems

    def mode_in(self, queue: str, mode: ExecutionMode) -> ExecutionMode:
        """How a job runs that moves to that queue: a handler in the daemon, all others where the queue says."""
        if mode is ExecutionMode.IN_PROCESS:
            return mode
        return ExecutionMode.CLUSTER if queue in self._on_cluster else ExecutionMode.SUBPROCESS

    def wrong_place(self, spec: Spec) -> Iterator[InvalidParams]:
        """The queue says where a job runs, and a handler runs in the daemon only."""
        if (spec.execution_mode is ExecutionMode.CLUSTER) != (spec.queue in self._on_cluster):
            why = "cluster: only a queue can give it"
            if spec.execution_mode is ExecutionMode.IN_PROCESS:
                why = f"a handler runs inside the daemon, and queue {spec.queue!r} hands its jobs to a cluster"
            yield InvalidParams(
                f"execution_mode: {why}",
                path="execution_mode",
                hint="stoker queue ls shows the queues, and which have a backend",
            )


def _usual(values: dict[str, Any]) -> dict[str, Any]:
    """The same values; those that are defaults of Spec as these very objects, which rows and changes leave out."""
    return {name: USUAL[name] if value == USUAL[name] else value for name, value in values.items()}


def needs_of(sent: JobParams) -> tuple[Need, ...]:
    if sent.needs is UNSET:
        return ()
    return tuple(Need(need) if isinstance(need, int) else Need(need.job, need.on) for need in sent.needs)


def check(spec: Spec, now: Now, memory: LiveState) -> None:
    """Refuse a job that could never run. Raises InvalidParams, ResourceNotFound or RateNotFound."""
    for problem in problems(spec, now, memory):
        raise problem


def problems(spec: Spec, now: Now, memory: LiveState) -> Iterator[StokerError]:
    """All reasons why a job could never run."""
    if spec.deadline is not None and spec.deadline <= now.wall:
        message = f"deadline: {instant(spec.deadline)} has passed (it is {instant(now.wall)} now)"
        yield InvalidParams(message, path="deadline", hint="--deadline +1h")
    if spec.deadline is not None and spec.run_at is not None and spec.run_at >= spec.deadline:
        message = f"run_at: {instant(spec.run_at)} is not before the deadline, {instant(spec.deadline)}"
        yield InvalidParams(message, path="run_at", hint="a later deadline, or an earlier run_at")
    ids = [need.job for need in spec.needs]
    if len(set(ids)) != len(ids):
        yield InvalidParams("needs: a job is named twice", path="needs")
    yield from unknown_limits(spec, memory)


def unknown_limits(spec: Spec, memory: LiveState) -> Iterator[StokerError]:
    """The resources of a job that do not exist, or not in that amount, and its key if that has no rate."""
    resources = memory.resources
    if spec.rate_key is not None and memory.rates.rate(f"{KEY_PREFIX}{spec.rate_key}") is None:
        hint = f"stoker rate set {spec.rate_key} 10/s, or for each key without a rate: stoker rate set '*' 10/s"
        yield RateNotFound(f"rate_key: there is no rate for {spec.rate_key!r}", hint=hint, path="rate_key")
    for name, amount in spec.resources.items():
        path, hint = f"resources.{name}", f"stoker resource set {name} {amount}"
        resource = resources.get(name)
        if resource is None:
            hint = did_you_mean(name, resources) or hint
            yield ResourceNotFound(f"{path}: there is no such resource", hint=hint, path=path)
        elif amount > resource.capacity:
            message = f"{path}: {amount} is more than its capacity, {resource.capacity}"
            yield InvalidParams(message, hint=hint, path=path)
