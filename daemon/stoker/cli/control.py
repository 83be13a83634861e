"""Controlling jobs: cancel, retry, restart, hold, release, skip, edit.

Owns their options, and the states of the jobs that a filter selects. The daemon decides whether a command applies to a
job. Several jobs are sent together; an error of one does not stop the others.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from stoker.cli.history import edited
from stoker.cli.kit import outcome, render, values
from stoker.cli.kit.addresses import jobs_named
from stoker.cli.kit.connection import connect
from stoker.cli.kit.naming import few
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.kit.selection import FILTER, filter_fields, has_filter, matching
from stoker.core.errors import StokerError, UsageError
from stoker.core.units import counted
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from stoker.core.views import JobView
    from stoker.core.wire_types import Failure, NotDone, StandingShape

REASON = Option("--reason", "TEXT", "why, for the history of changes")
DRY_RUN = Option("--dry-run", None, "change nothing: print the jobs that match the filter")
YES = Option("--yes", None, "act on every job that matches the filter")
YES_AGAIN = Option("--yes", None, "run a job again that is not marked safe; act on every job that matches the filter")
FORCE = Option("--force", None, "SIGKILL at once, without the grace; a job that is not marked safe needs --yes too")
REASSIGN = Option(
    "--reassign", None, "also if its launcher does not answer; if its end cannot be proven the job is held"
)
TIMEOUT = values.duration_option("--timeout", "new time limit of an attempt")
DEADLINE = Option("--deadline", "TIME", "new deadline: 2026-12-01T10:00 or +2h", convert=values.moment)
OR_NO_DURATION = values.optional(values.duration)
MOST_SHOWN = 20

# The states that a filter without --state selects. A test compares them with the daemon's table.
APPLIES_TO = {
    "cancel": ("waiting", "queued", "running", "held"),
    "retry": ("held", *outcome.FINAL),
    "restart": ("running", "held", *outcome.FINAL),
    "hold": ("waiting", "queued"),
    "release": ("held",),
    "skip": ("waiting", "queued", "held", "failed", "cancelled", "expired"),
}


EDITABLE = ("waiting", "queued", "held")
NAMING = "Name jobs by their ids or by a filter. A filter needs --yes, or --dry-run, which only prints matching jobs."
AGAIN = "A job that has ended is queued again, as by `stoker retry`, which does not ask for --yes."


def _verb(verb: str, *own: Option, yes: Option = YES, remark: str | None = None, examples: tuple[str, ...]) -> Command:
    """The command that acts on the jobs named by ids or by a filter. `remark` is printed by its help."""

    def act(given: Given) -> int:
        return _each(verb, given)

    act.__doc__ = remark
    return Command(words="[ID…]", options=(*own, *FILTER, DRY_RUN, yes, REASON, JSON), examples=examples)(act)


cancel = _verb(
    "cancel",
    remark=NAMING,
    examples=(
        "stoker cancel 42",
        "stoker cancel 7/compile",
        "stoker cancel --queue bulk --dry-run",
        "stoker cancel --queue bulk --yes",
    ),
)
retry = _verb(
    "retry",
    TIMEOUT,
    DEADLINE,
    remark=NAMING,
    examples=("stoker retry 42 --timeout 20m", "stoker retry --state failed --queue bulk --yes"),
)
restart = _verb(
    "restart",
    FORCE,
    REASSIGN,
    yes=YES_AGAIN,
    remark=AGAIN,
    examples=("stoker restart 42 --yes", "stoker restart 42 --force --reassign --yes"),
)
hold = _verb("hold", examples=("stoker hold 42 --reason 'ask Ada first'", "stoker hold --label team=blue --yes"))
release = _verb("release", examples=("stoker release 42", "stoker release --queue bulk --yes"))
skip = _verb("skip", examples=("stoker skip 42 --reason 'done by hand'",))


@Command(
    words="ID…",
    options=(
        Option("--queue", "NAME", "the queue to move to; its defaults are not applied"),
        Option("--priority", "N", "jobs with a higher priority start first", convert=values.integer),
        Option("--name", "TEXT|none", "a name for people", convert=values.optional(str)),
        Option("--max-attempts", "N", "attempts before the job has failed", convert=values.integer),
        Option("--timeout", "DURATION|none", "time limit of an attempt", convert=OR_NO_DURATION, to="timeout_ms"),
        Option("--deadline", "TIME|none", "the job must have ended by then", convert=values.optional(values.moment)),
        Option(
            "--ttl",
            "DURATION|none",
            "expires if it has not started in this time, from now",
            convert=OR_NO_DURATION,
            to="ttl_ms",
        ),
        Option(
            "--limit",
            "WHAT=N|none",
            "memory=64M, cpu=none …; repeatable",
            convert=values.limit_or_none,
            to="limits",
            many=True,
        ),
        REASON,
        JSON,
    ),
    examples=("stoker edit 41 --priority 5", "stoker edit 41 42 --queue bulk --limit memory=2G --timeout none"),
)
def edit(given: Given) -> int:
    """A job that runs or has ended is refused."""
    changes = {to: given[to] for to in ("queue", "priority", "max_attempts") if given[to] is not None}
    changes |= {to: given[to][0] for to in ("name", "timeout_ms", "deadline", "ttl_ms") if given[to] is not None}
    if given["limits"]:
        changes["limits"] = dict(given["limits"])
    if not changes:
        raise UsageError("nothing to change", hint="stoker edit --help lists what can be changed")
    if given["reason"]:
        changes["reason"] = given["reason"]
    ids = jobs_named(given, given["words"], EDITABLE)
    with connect(given) as client:
        return _carry_out(client, "edit", ids, changes, given)


def _each(verb: str, given: Given) -> int:
    """Act on the jobs that are named by their ids or by a filter."""
    words = given["words"]
    if words and has_filter(given):
        raise UsageError("ids and a filter exclude each other", hint=f"stoker {verb} {words[0]}")
    if words and given["dry_run"]:
        raise UsageError("--dry-run needs a filter, such as --queue NAME", hint=f"stoker why {words[0]}")
    if given["dry_run"]:
        return _preview(verb, given)
    sent = ("reason", "timeout_ms", "deadline", "force", "reassign", *(["yes"] if verb == "restart" else []))
    extra = {to: given[to] for to in sent if given.get(to) is not None and given[to] is not False}
    ids = jobs_named(given, words, APPLIES_TO[verb])
    with connect(given) as client:
        return _carry_out(client, verb, ids or _selected(client, verb, given), extra, given)


def _carry_out(client: Client, verb: str, ids: list[int], extra: dict[str, Any], given: Given) -> int:
    """Act on the jobs and print the answer or error of each; the highest exit status of all."""
    alone = len(given["words"]) == len(ids) == 1
    answers: list[StandingShape | NotDone] = []
    refused: list[StokerError] = []
    taken_up: dict[int, None] = {}
    each = client.call_each(f"job.{verb}", ({"id": job, **extra} for job in ids))
    for job, answer in zip(ids, each, strict=True):
        if isinstance(answer, StokerError):
            if answer.transient or alone:
                raise answer
            refused.append(answer)
            answers.append({"id": job, "error": cast("Failure", answer.to_wire())})
            if not given["json"] and len(refused) <= MOST_SHOWN:
                render.error(answer, where="" if f"job {job}" in answer.message else f"job {job}: ")
        else:
            answers.append(answer)
            taken_up |= dict.fromkeys(answer.get("taken_up", ()))
            if not given["json"]:
                render.line(result(answer))
    if given["json"]:
        render.json_document(answers[0] if alone else answers)
    else:
        _print_rest([str(job) for job in taken_up if job not in ids], len(refused), len(ids))
    return max((error.exit_status for error in refused), default=0)


def _print_rest(taken_up: list[str], refused: int, asked: int) -> None:
    render.flush()  # before the notes, where both go to the same place
    if taken_up:
        render.note(f"also queued again: {few(taken_up, MOST_SHOWN)}")
    if refused > MOST_SHOWN:
        render.note(f"{refused} of {counted(asked, 'job')} refused in all; --json has each error")


def _selected(client: Client, verb: str, given: Given) -> list[int]:
    """The jobs that match the filter. Raises UsageError without --yes: a script that forgot it must not go on."""
    jobs = _matching(client, verb, given)
    if jobs and not given["yes"]:
        raise UsageError(_would_act(verb, jobs), hint="nothing was changed: --yes does it, --dry-run prints the jobs")
    return [job["id"] for job in jobs]


def _preview(verb: str, given: Given) -> int:
    with connect(given) as client:
        jobs = _matching(client, verb, given)
    if given["json"]:
        render.json_document(jobs)
    else:
        for job in jobs:
            render.line(f"{job['id']} {job['state']}")
    render.flush()
    if jobs:
        render.note(f"{_would_act(verb, jobs)}; nothing was changed: --yes instead of --dry-run does it")
    return 0


def _matching(client: Client, verb: str, given: Given) -> list[JobView]:
    """The jobs that match the filter, which must be given. Retry and restart leave out jobs that a person holds."""
    if not has_filter(given):
        raise UsageError("missing ID…", hint=f"stoker {verb} 42, or with a filter: stoker {verb} --queue bulk --yes")
    matches = list(matching(client, given["state"] or APPLIES_TO[verb], filter_fields(given)))
    jobs = [job for job in matches if not (verb in ("retry", "restart") and _held_by_person(job))]
    if len(jobs) < len(matches):
        count = counted(len(matches) - len(jobs), "job")
        render.note(f"left out: {count} that a person holds (stoker release)")
    elif not jobs:
        render.note("no job matches the filter")
    return jobs


def _held_by_person(job: JobView) -> bool:
    return bool(job["state"] == "held" and job["reason"] == "user")


def _would_act(verb: str, jobs: list[JobView]) -> str:
    return f"{verb} would act on {counted(len(jobs), 'job')} ({_counts(jobs)})"


def _counts(jobs: list[JobView]) -> str:
    """`3 running, 34 queued`."""
    counts = Counter(job["state"] for job in jobs)
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def result(answer: StandingShape) -> str:
    """`job 41 queued: priority 0 -> 5`."""
    changed = list(edited(answer.get("changed", {})))
    state = "is being stopped" if answer.get("stopping") else answer["state"]
    return f"job {answer['id']} {state}{': ' if changed else ''}{', '.join(changed)}"
