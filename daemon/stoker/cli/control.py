"""Stepping in: cancel, retry, restart, hold, release, skip, edit.

Owns their options, and which states each verb is for when jobs are named by a filter. Refuses to judge: whether a verb
applies to a job in its state is the daemon's table. Several jobs are handled one by one; an error of one does not keep
the others from being handled.
"""

from __future__ import annotations

from typing import Any

from stoker.cli.kit import outcome, render, values
from stoker.cli.kit.connection import connect
from stoker.cli.kit.parser import JSON, Given, Option, command
from stoker.cli.kit.selection import FILTER, filtered, matching, wanted
from stoker.cli.kit.steps import few
from stoker.core.errors import StokerError, UsageError
from stoker.rpc.client import Client

REASON = Option("--reason", "TEXT", "why, for the history")
YES = Option("--yes", None, "act on every job that the filter names")
YES_AGAIN = Option("--yes", None, "run it a second time although it is not marked safe; act on all that a filter names")
FORCE = Option("--force", None, "SIGKILL at once, without its grace; an unsafe job wants --yes as well")
REASSIGN = Option("--reassign", None, "also where its launcher does not answer; held if its end cannot be proven")
TIMEOUT = Option("--timeout", "DURATION", "new limit of one attempt", convert=values.duration, to="timeout_ms")
DEADLINE = Option("--deadline", "TIME", "new deadline: 2026-12-01T10:00 or +2h", convert=values.moment)
OR_NO_DURATION = values.optional(values.duration)
WORDS = "[ID…]"
MOST_TOLD = 20

# What a filter without --state means: a test keeps these true to the daemon's table.
APPLIES_TO = {
    "cancel": ("waiting", "queued", "running", "held"),
    "retry": ("held", *outcome.FINAL),
    "restart": ("running", "held", *outcome.FINAL),
    "hold": ("waiting", "queued"),
    "release": ("held",),
    "skip": ("waiting", "queued", "held", "failed", "cancelled", "expired"),
}


@command(
    words=WORDS,
    most=None,
    options=(*FILTER, YES, REASON, JSON),
    examples=("stoker cancel 42", "stoker cancel --queue bulk --state queued --yes --reason 'wrong input'"),
)
def cancel(given: Given) -> int:
    """Without ids the filter says which jobs; without --yes their number is told and nothing happens."""
    return _each("cancel", given)


@command(
    words=WORDS,
    most=None,
    options=(TIMEOUT, DEADLINE, *FILTER, YES, REASON, JSON),
    examples=("stoker retry 42 --timeout 20m", "stoker retry --state failed --queue bulk --yes"),
)
def retry(given: Given) -> int:
    """Without ids the filter says which jobs; without --yes their number is told and nothing happens."""
    return _each("retry", given)


@command(
    words=WORDS,
    most=None,
    options=(FORCE, REASSIGN, *FILTER, YES_AGAIN, REASON, JSON),
    examples=("stoker restart 42 --yes", "stoker restart 42 --force --reassign --yes"),
)
def restart(given: Given) -> int:
    """A job that has ended begins again as with retry, which does not ask whether an unsafe job may run twice."""
    return _each("restart", given)


@command(
    words=WORDS,
    most=None,
    options=(*FILTER, YES, REASON, JSON),
    examples=("stoker hold 42 --reason 'ask Ada first'", "stoker hold --label team=blue --yes"),
)
def hold(given: Given) -> int:
    return _each("hold", given)


@command(
    words=WORDS,
    most=None,
    options=(*FILTER, YES, REASON, JSON),
    examples=("stoker release 42", "stoker release --queue bulk --yes"),
)
def release(given: Given) -> int:
    return _each("release", given)


@command(
    words=WORDS,
    most=None,
    options=(*FILTER, YES, REASON, JSON),
    examples=("stoker skip 42 --reason 'done by hand'",),
)
def skip(given: Given) -> int:
    return _each("skip", given)


@command(
    words="ID…",
    least=1,
    most=None,
    options=(
        Option("--queue", "NAME", "the line to stand in; its defaults are not taken over"),
        Option("--priority", "N", "higher starts first", convert=values.integer),
        Option("--name", "TEXT|none", "a name for people", convert=values.optional(str)),
        Option("--max-attempts", "N", "tries before it has failed", convert=values.integer),
        Option("--timeout", "DURATION|none", "limit of one attempt", convert=OR_NO_DURATION, to="timeout_ms"),
        Option("--deadline", "TIME|none", "over by then", convert=values.optional(values.moment)),
        Option("--ttl", "DURATION|none", "longest wait for the start, from now", convert=OR_NO_DURATION, to="ttl_ms"),
        Option(
            "--limit", "WHAT=N|none", "memory=64M cpu=none …; repeatable", convert=values.limit_or_none, to="limits",
            many=True,
        ),
        REASON,
        JSON,
    ),
    examples=("stoker edit 41 --priority 5", "stoker edit 41 42 --queue bulk --limit memory=2G --timeout none"),
)  # fmt: skip
def edit(given: Given) -> int:
    """Refused once the job runs: what was started keeps its limits."""
    changes = {to: given[to] for to in ("queue", "priority", "max_attempts") if given[to] is not None}
    changes |= {to: given[to][0] for to in ("name", "timeout_ms", "deadline", "ttl_ms") if given[to] is not None}
    if given["limits"]:
        changes["limits"] = dict(given["limits"])
    if not changes:
        raise UsageError("nothing to change", hint="stoker edit --help lists what can be changed")
    if given["reason"]:
        changes["reason"] = given["reason"]
    ids = [values.job_id(word) for word in given["words"]]
    with connect(given) as client:
        return _carry_out(client, "edit", ids, changes, given)


def _each(verb: str, given: Given) -> int:
    """Act on the jobs that are named, or on those that a filter names."""
    ids = [values.job_id(word) for word in given["words"]]
    if ids and filtered(given):
        raise UsageError("ids and a filter exclude each other", hint=f"stoker {verb} {ids[0]}")
    sent = ("reason", "timeout_ms", "deadline", "force", "reassign", *(["yes"] if verb == "restart" else []))
    extra = {to: given[to] for to in sent if given.get(to) is not None and given[to] is not False}
    with connect(given) as client:
        return _carry_out(client, verb, ids or _selected(client, verb, given), extra, given)


def _carry_out(client: Client, verb: str, ids: list[int], extra: dict[str, Any], given: Given) -> int:
    """The worst exit status of all; answers are told as they come."""
    alone = len(given["words"]) == 1
    answers: list[dict[str, Any]] = []
    status = 0
    for job in ids:
        try:
            answer = client.call(f"job.{verb}", {"id": job, **extra})
        except StokerError as failure:
            if alone or failure.transient:
                raise
            render.error(failure, where=f"job {job}: ")
            status = max(status, failure.exit_status)
        else:
            answers.append(answer)
            if not given["json"]:
                _print_answer(answer)
    if given["json"]:
        render.json_document(answers[0] if alone else answers)
    return status


def _print_answer(answer: dict[str, Any]) -> None:
    render.line(_told(answer))
    taken_up = answer.get("taken_up") or []
    if taken_up:
        render.flush()  # ahead of the note where both go to the same place
        render.note(f"taken up again with it: {few([str(job) for job in taken_up], MOST_TOLD)}")


def _selected(client: Client, verb: str, given: Given) -> list[int]:
    """The jobs that the filter names, once the person has agreed to their number. Raises UsageError."""
    if not filtered(given):
        raise UsageError("missing ID…", hint=f"stoker {verb} 42, or a filter: stoker {verb} --queue bulk --yes")
    found = list(matching(client, given["state"] or APPLIES_TO[verb], wanted(given)))
    if found and not given["yes"]:
        count = "1 job" if len(found) == 1 else f"{len(found)} jobs"
        raise UsageError(f"{verb} would act on {count} ({_counts(found)})", hint="the same command with --yes does it")
    if not found:
        render.note("no job matches")
    return [job["id"] for job in found]


def _counts(found: list[dict[str, Any]]) -> str:
    """`3 running, 34 queued`."""
    counts: dict[str, int] = {}
    for job in found:
        counts[job["state"]] = counts.get(job["state"], 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _told(answer: dict[str, Any]) -> str:
    by_hand = answer["state"] if answer.get("reason") == "user" else None
    state = "stopping" if answer.get("stopping") else by_hand or outcome.result(answer) or answer["state"]
    return f"{answer['id']} {state}"
