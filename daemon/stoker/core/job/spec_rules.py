"""The rules for fields of a spec that exclude each other, or that would have no effect.

Owns the table of these rules, by the field that is reported. Rules need only the spec, no clock, resources or host.
Invariants: a field that was not given is never reported; a default of the queue may be without effect for a job.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from stoker.core.errors import InvalidParams
from stoker.core.job.model import ExecutionMode, Spec
from stoker.core.units import duration

NEVER_CAUGHT = {9: "SIGKILL", 19: "SIGSTOP"}  # signal(7)
Given = Collection[str]  # names of the fields that were given for this job


class Rule(NamedTuple):
    """`broken` says whether a spec breaks the rule, `message` why that is wrong."""

    field: str
    broken: Callable[[Spec, Given], bool]
    message: Callable[[Spec], str]
    hint: str


def _clash(field: str) -> Rule:
    """The exit code that means "saved" cannot also mean success or failure."""
    return Rule(
        "checkpoint_exit_code",
        lambda spec, _: spec.checkpoint_exit_code in getattr(spec, field),
        lambda spec: f"{spec.checkpoint_exit_code} is among {field}, too; it can mean only one thing",
        "75 (EX_TEMPFAIL) is a usual choice",
    )


def _too_slow(field: str) -> Rule:
    """The heartbeat must be shorter than a silence that is reported or punished."""
    return Rule(
        "heartbeat_ms",
        lambda spec, _: spec.heartbeat_ms is not None and spec.heartbeat_ms >= getattr(spec, field),
        lambda spec: (
            f"{duration(spec.heartbeat_ms or 0)} is not less than {field}, {duration(getattr(spec, field))}: a healthy"
            " worker would pass it"
        ),
        f"give a larger {field}",
    )


def _unasked(field: str) -> Rule:
    return Rule(
        field,
        lambda spec, given: field in given and spec.heartbeat_ms is None,
        lambda _: "it has no effect without heartbeat_ms",
        "give heartbeat_ms, too: how often the job gives a sign of life",
    )


def _without_key(field: str) -> Rule:
    return Rule(
        field,
        lambda spec, given: field in given and not spec.supersede_key,
        lambda _: "it has no effect without supersede_key",
        "give supersede_key, too: newer jobs replace older ones of the same key",
    )


def _no_process(field: str) -> Rule:
    return Rule(
        field,
        lambda spec, given: spec.execution_mode is ExecutionMode.IN_PROCESS and field in given,
        lambda _: "it has no effect on a handler, which runs inside the daemon and has no process",
        f"leave {field} out",
    )


# What a job on a cluster cannot have, and why.
NOT_ON_A_CLUSTER = {
    "survive": "a job on a cluster always outlives the daemon",
    "notify": "a node of a cluster cannot reach the daemon's socket",
    "heartbeat_ms": "a node of a cluster cannot reach the daemon's socket",
    "secrets": "a secret does not leave this host",
}


def _not_on_a_cluster(field: str, why: str) -> Rule:
    return Rule(
        field,
        lambda spec, given: (
            spec.execution_mode is ExecutionMode.CLUSTER and field in given and bool(getattr(spec, field))
        ),
        lambda _: why,
        f"leave {field} out, or submit to a queue of this host",
    )


RULES = (
    *(_not_on_a_cluster(field, why) for field, why in NOT_ON_A_CLUSTER.items()),
    *map(_no_process, ("env", "stdin", "limits", "nice", "survive", "warn_signal", "secrets")),
    Rule(
        "notify",
        lambda spec, _: spec.notify and spec.execution_mode is ExecutionMode.IN_PROCESS,
        lambda _: "a handler inside the daemon has no process that could report",
        "leave notify out",
    ),
    Rule(
        "heartbeat_ms",
        lambda spec, _: spec.has_notify_socket and spec.execution_mode is ExecutionMode.IN_PROCESS,
        lambda _: "a handler inside the daemon has no process that could report",
        "leave heartbeat_ms out",
    ),
    Rule(
        "base_delay_ms",
        lambda spec, given: "base_delay_ms" in given and spec.base_delay_ms > spec.max_delay_ms,
        lambda spec: f"{duration(spec.base_delay_ms)} is more than max_delay_ms, {duration(spec.max_delay_ms)}",
        "give a larger max_delay_ms, too",
    ),
    Rule(
        "warn_signal",
        lambda spec, _: spec.warn_signal in NEVER_CAUGHT,
        lambda spec: f"{NEVER_CAUGHT[spec.warn_signal or 0]} cannot warn, as no program can catch it",
        "USR1 (10) is a usual choice",
    ),
    Rule(
        "warn_signal",
        lambda spec, _: spec.warn_signal is not None and spec.timeout_ms is None and spec.deadline is None,
        lambda _: "it has no effect without a time limit to warn of",
        "give timeout_ms or a deadline, too",
    ),
    Rule(
        "warn_signal",
        lambda spec, _: spec.warn_signal is not None and spec.warn_before_ms == 0,
        lambda _: "the warning would come only when the time limit is reached",
        "give warn_before_ms, too: how long before the limit the warning comes",
    ),
    Rule(
        "warn_before_ms",
        lambda spec, _: spec.warn_signal is None and spec.warn_before_ms > 0,
        lambda _: "it has no effect without warn_signal",
        "give warn_signal, too",
    ),
    Rule(
        "warn_before_ms",
        lambda spec, _: spec.timeout_ms is not None and spec.warn_before_ms >= spec.timeout_ms,
        lambda spec: (
            f"{duration(spec.warn_before_ms)} is not less than timeout_ms, {duration(spec.timeout_ms or 0)}:"
            " the warning would come as the job starts"
        ),
        "give a smaller warn_before_ms",
    ),
    *map(_without_key, ("supersede_running", "debounce_ms", "debounce_max_ms")),
    Rule(
        "debounce_ms",
        lambda spec, _: spec.ttl_ms is not None and spec.debounce_ms >= spec.ttl_ms,
        lambda spec: (
            f"{duration(spec.debounce_ms)} is not less than ttl_ms, {duration(spec.ttl_ms or 0)}: the job would expire"
            " before it could start"
        ),
        "give a smaller debounce_ms",
    ),
    Rule(
        "debounce_max_ms",
        lambda spec, _: spec.debounce_max_ms is not None and spec.debounce_max_ms < spec.debounce_ms,
        lambda spec: (
            f"{duration(spec.debounce_max_ms or 0)} is less than debounce_ms, {duration(spec.debounce_ms)}: the start"
            " would be later than the latest"
        ),
        "give a larger debounce_max_ms",
    ),
    *map(_clash, ("success_exit_codes", "no_retry_exit_codes")),
    *map(_unasked, ("unresponsive_warn_ms", "unresponsive_kill_ms")),
    *map(_too_slow, ("unresponsive_warn_ms", "unresponsive_kill_ms")),
    Rule(
        "unresponsive_warn_ms",
        lambda spec, given: "unresponsive_warn_ms" in given and spec.unresponsive_warn_ms > spec.unresponsive_kill_ms,
        lambda spec: (
            f"{duration(spec.unresponsive_warn_ms)} is more than unresponsive_kill_ms,"
            f" {duration(spec.unresponsive_kill_ms)}: the job would be stopped before it is warned of"
        ),
        "give a larger unresponsive_kill_ms, too",
    ),
)

BY_FIELD = {field: [rule for rule in RULES if rule.field == field] for field in {rule.field for rule in RULES}}


def contradictions(spec: Spec, given: Given, by_queue: Iterable[str] = ()) -> Iterator[InvalidParams]:
    """An error for every broken rule. The fields are those given for the job and those that its queue fills in."""
    for field in dict.fromkeys(chain(given, by_queue)):
        for rule in BY_FIELD.get(field, ()):
            if rule.broken(spec, given):
                yield InvalidParams(f"{field}: {rule.message(spec)}", hint=rule.hint, path=field)


def contradictions_of_defaults(spec: Spec, by_queue: Collection[str]) -> Iterator[InvalidParams]:
    """`spec` is a job with the queue's defaults only: a default may be without effect, but not contradict another."""
    return contradictions(spec, {"base_delay_ms"}.intersection(by_queue), by_queue)
