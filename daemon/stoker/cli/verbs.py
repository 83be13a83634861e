"""Stepping in: cancel, retry, restart, hold, release, skip.

Owns their options. Refuses to judge: whether a verb applies to a job in its state is the daemon's table.
Several ids are handled one by one; an error of one does not keep the others from being handled.
"""

from __future__ import annotations

from stoker.cli import outcome, render, values
from stoker.cli.connection import connect
from stoker.cli.options import JSON, Option, command
from stoker.core.errors import StokerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stoker.cli.options import Given

REASON = Option("--reason", "TEXT", "why, for the history")
YES = Option("--yes", None, "run it a second time although it is not marked safe")
FORCE = Option("--force", None, "SIGKILL at once, without its grace")
REASSIGN = Option("--reassign", None, "also where its launcher does not answer; held if its end cannot be proven")
TIMEOUT = Option("--timeout", "DURATION", "new limit of one attempt", convert=values.duration, to="timeout_ms")
DEADLINE = Option("--deadline", "TIME", "new deadline: 2026-12-01T10:00 or +2h", convert=values.moment)
IDS = "ID…"


@command(
    words=IDS,
    least=1,
    most=None,
    options=(REASON, JSON),
    examples=("stoker cancel 42", "stoker ls --queue bulk --ids | xargs stoker cancel --reason 'wrong input'"),
)
def cancel(given: Given) -> int:
    return _each("cancel", given)


@command(
    words=IDS,
    least=1,
    most=None,
    options=(TIMEOUT, DEADLINE, REASON, JSON),
    examples=("stoker retry 42 --timeout 20m", "stoker ls --state failed --ids | xargs stoker retry"),
)
def retry(given: Given) -> int:
    return _each("retry", given)


@command(
    words=IDS,
    least=1,
    most=None,
    options=(YES, FORCE, REASSIGN, REASON, JSON),
    examples=("stoker restart 42 --yes", "stoker restart 42 --force --reassign --yes"),
)
def restart(given: Given) -> int:
    """A job that has ended begins again as with retry, which does not ask whether an unsafe job may run twice."""
    return _each("restart", given)


@command(words=IDS, least=1, most=None, options=(REASON, JSON), examples=("stoker hold 42 --reason 'ask Ada first'",))
def hold(given: Given) -> int:
    return _each("hold", given)


@command(words=IDS, least=1, most=None, options=(REASON, JSON), examples=("stoker release 42",))
def release(given: Given) -> int:
    return _each("release", given)


@command(words=IDS, least=1, most=None, options=(REASON, JSON), examples=("stoker skip 42 --reason 'done by hand'",))
def skip(given: Given) -> int:
    return _each("skip", given)


def _each(verb: str, given: Given) -> int:
    """The worst exit status of all; answers are told as they come."""
    ids = [values.job_id(word) for word in given["words"]]
    sent = ("reason", "timeout_ms", "deadline", "yes", "force", "reassign")
    extra = {to: given[to] for to in sent if given.get(to) is not None and given[to] is not False}
    answers: list[dict[str, Any]] = []
    status = 0
    with connect(given) as client:
        for job in ids:
            try:
                answer = client.call(f"job.{verb}", {"id": job, **extra})
            except StokerError as failure:
                if len(ids) == 1 or failure.transient:
                    raise
                render.error(failure, where=f"job {job}: ")
                status = max(status, failure.exit_status)
            else:
                answers.append(answer)
                if not given["json"]:
                    render.line(_told(answer))
    if given["json"]:
        render.json_document(answers if len(ids) > 1 else answers[0])
    return status


def _told(answer: dict[str, Any]) -> str:
    by_hand = answer["state"] if answer.get("reason") == "user" else None
    state = "stopping" if answer.get("stopping") else by_hand or outcome.result(answer) or answer["state"]
    return f"{answer['id']} {state}"
