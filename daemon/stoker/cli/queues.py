"""Queues and resources: list, pause, resume, set.

Owns how their settings are typed and shown. The daemon decides which defaults a queue may have.
"""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import call, connect
from stoker.cli.kit.parser import JSON, REASON, Command, Given, Option, reason_of
from stoker.cli.kit.selection import matching
from stoker.cli.kit.spec import SPEC
from stoker.cli.rates import BURST, in_words
from stoker.core.errors import StokerError, UsageError
from stoker.core.units import counted, exit_codes, spoken
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from stoker.core.daemon_views import QueueView

MOST_SHOWN = 20
AT_ONCE = 1_000  # jobs are moved by so many, of which those that stay do not count for --limit
GONE = ("not_allowed", "already_finished", "job_not_found")  # it has started, ended or been purged by now


@Command(options=(JSON,), examples=("stoker queue", "stoker queue ls --json"))
def ls(given: Given) -> None:
    queues = call(given, "queue.list", {})["queues"]
    if given["json"]:
        render.json_document(queues)
    else:
        print_queues(queues)


def print_queues(queues: list[QueueView]) -> None:
    headers = ("QUEUE", "CLASS", "STATE", "RUNNING", "QUEUED", "WAITING", "MAX RUNNING", "MAX QUEUED")
    table.show(headers, [_queue_row(queue) for queue in queues], spare=("MAX QUEUED", "CLASS", "MAX RUNNING"))
    defaults = [(f"defaults of {queue['name']}", defaults_in_words(queue)) for queue in queues if queue["defaults"]]
    rates = [(f"rate of {queue['name']}", in_words(queue["rate"])) for queue in queues if queue["rate"]]
    backends = [(f"backend of {queue['name']}", backend_in_words(queue)) for queue in queues if queue["backend"]]
    overflows = [(f"overflow of {queue['name']}", overflow_in_words(queue)) for queue in queues if queue["overflow"]]
    if facts := backends + overflows + rates + defaults:
        render.line()
        render.facts(facts)


def backend_in_words(queue: QueueView) -> str | None:
    """`slurm, which does not answer: squeue is not installed`."""
    away = "" if queue["backend_away"] is None else f", which does not answer: {queue['backend_away']}"
    return None if queue["backend"] is None else queue["backend"] + away


def overflow_in_words(queue: QueueView) -> str | None:
    """`to hpc, under pressure and above 100 queued; 12 jobs to move now`."""
    overflow = queue["overflow"]
    if overflow is None:
        return None
    above = "" if overflow["above"] is None else f" and above {overflow['above']} queued"
    now = f"; {counted(overflow['jobs_now'], 'job')} to move now" if overflow["jobs_now"] else ""
    return f"to {overflow['to']}, under pressure{above}{now}"


def _queue_row(queue: QueueView) -> tuple[object, ...]:
    counts = (queue["running"], queue["queued"], queue["waiting"])
    return (
        queue["name"],
        queue["class"],
        state_of(queue),
        *counts,
        running_bound(queue),
        _bound(queue["max_queued"]),
    )


def state_of(queue: QueueView) -> str:
    if queue["paused"] or queue["throttled"]:
        return "paused" if queue["paused"] else "throttled"
    if queue["backend_away"] is not None:
        return "away"
    return "open" if queue["narrowed_to"] is None else "narrowed"


def defaults_in_words(queue: QueueView) -> str:
    """As the command line writes them: `timeout=20m survive=yes`."""
    names = {option.to: option.names[-1].removeprefix("--") for option in SPEC}
    return " ".join(f"{names.get(field, field)}={_typed(field, value)}" for field, value in queue["defaults"].items())


def _typed(field: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return exit_codes(value)
    return spoken(field, value) if isinstance(value, int) else str(value)


def running_bound(queue: QueueView) -> object:
    """`3 of 8` while the host is under pressure."""
    bound = _bound(queue["max_running"])
    return bound if queue["narrowed_to"] is None else f"{queue['narrowed_to']} of {bound}"


def _bound(count: int | None) -> object:
    return "-" if count is None else count


@Command(
    words="NAME…",
    options=(REASON, JSON),
    examples=("stoker queue pause bulk --reason 'database upgrade'",),
)
def pause(given: Given) -> None:
    _each("queue.pause", given)


@Command(words="NAME…", options=(REASON, JSON), examples=("stoker queue resume bulk",))
def resume(given: Given) -> None:
    _each("queue.resume", given)


@Command(
    words="TO",
    options=(
        Option("--from", "QUEUE", "the queue whose queued jobs move; repeatable", to="sources", many=True),
        Option("--limit", "N", "move at most N jobs, those first that have waited longest", convert=values.positive),
        REASON,
        JSON,
    ),
    examples=("stoker queue drain-to hpc --from bulk", "stoker queue drain-to hpc --from bulk --limit 100"),
)
def drain_to(given: Given) -> int:
    """Between a queue of this host and one of a cluster, too. Jobs that the queue cannot take stay where they are."""
    (to,), sources = given["words"], given["sources"]
    if not sources:
        raise UsageError("--from is missing: the queue whose jobs move", hint=f"stoker queue drain-to {to} --from bulk")
    if to in sources:
        raise UsageError(f"--from {to}: its jobs are there already", hint="name another queue")
    moved, limit, refused = 0, given["limit"] or sys.maxsize, list[tuple[int, StokerError]]()
    with connect(given) as client:
        for source in sources:
            queued = (job["id"] for job in matching(client, ["queued"], {"queue": source}, oldest_first=True))
            while jobs := list(islice(queued, min(AT_ONCE, limit - moved))):
                asked = ({"id": job, "queue": to, **reason_of(given)} for job in jobs)
                for job, answer in zip(jobs, client.call_each("job.edit", asked), strict=True):
                    if not isinstance(answer, StokerError):
                        moved += 1
                    elif answer.transient or answer.code == "queue_not_found":
                        raise answer
                    elif answer.code not in GONE:
                        refused.append((job, answer))
    return _print_moved(given, moved, refused)


def _print_moved(given: Given, moved: int, refused: list[tuple[int, StokerError]]) -> int:
    if given["json"]:
        render.json_document({"moved": moved, "refused": [{"id": job, **error.to_wire()} for job, error in refused]})
    else:
        render.line(f"{counted(moved, 'job')} moved to {given['words'][0]}")
        render.flush()
        for job, error in refused[:MOST_SHOWN]:
            render.error(error, where=f"job {job}: ")
        if len(refused) > MOST_SHOWN:
            render.note(f"{counted(len(refused), 'job')} stay in all; --json has each error")
    return max((error.exit_status for _, error in refused), default=0)


def _each(method: str, given: Given) -> None:
    with connect(given) as client:
        for name in given["words"]:
            client.call(method, {"name": name, **reason_of(given)})
        _print_now(client, given)


def _print_now(client: Client, given: Given) -> None:
    """The queues that were changed, as they are now."""
    rows = {queue["name"]: queue for queue in client.call("queue.list", {})["queues"]}
    changed = [rows[name] for name in given["words"]]
    if given["json"]:
        render.json_document(changed[0] if len(changed) == 1 else changed)
        return
    for queue in changed:
        render.line(f"queue {queue['name']} {_sentence(queue)}")


def _sentence(queue: QueueView) -> str:
    """`open, class low, at most 4 running; defaults: timeout=20m`."""
    bounds = [(queue["max_running"], "running"), (queue["max_queued"], "queued")]
    limits = [f"at most {bound} {state}" for bound, state in bounds if bound is not None]
    if queue["backend"] is not None:
        limits.append(f"handed to {backend_in_words(queue)}")
    if queue["overflow"] is not None:
        limits.append(f"overflow {overflow_in_words(queue)}")
    if queue["min_running"] is not None:
        limits.append(f"under pressure fewer, down to {queue['min_running']}")
    if queue["rate"] is not None:
        limits.append(f"rate {queue['rate']['rate']}, burst {queue['rate']['burst']}")
    line = ", ".join([state_of(queue), f"class {queue['class']}", *limits])
    return f"{line}; defaults: {defaults_in_words(queue)}" if queue["defaults"] else line


def _default(text: str) -> tuple[str, Any]:
    """`timeout=20m`: an option of submit without its dashes, as a field of the spec."""
    name, value = values.pair(text)
    option = next((option for option in SPEC if f"--{name}" in option.names and not option.many), None)
    if option is None:
        raise UsageError(f"no default {name!r}", hint="write an option of submit without dashes: timeout=20m")
    if option.metavar is None and value not in ("yes", "no"):
        raise UsageError(f"{name}={value}: write {name}=yes or {name}=no")
    return option.to, option.convert(value) if option.metavar else value == "yes"


@Command(
    words="NAME",
    options=(
        Option(
            "--class",
            "CLASS",
            "jobs of class high start before normal, normal before low",
            choices=("high", "normal", "low"),
        ),
        Option("--max-running", "N|none", "at most N jobs run at once", convert=values.optional(values.integer)),
        Option(
            "--min-running",
            "N|none",
            "while the host is busy fewer jobs run, but N at least",
            convert=values.optional(values.integer),
        ),
        Option(
            "--max-queued",
            "N|none",
            "at most N jobs wait; further ones are refused",
            convert=values.optional(values.integer),
        ),
        Option(
            "--rate",
            "N/TIME|none",
            "at most so many of its jobs start in that time, retries included: 100/m",
            convert=values.optional(str),
        ),
        BURST,
        Option(
            "--default",
            "K=V",
            "default of an option of submit for its jobs: timeout=20m; repeatable",
            convert=_default,
            to="defaults",
            many=True,
        ),
        REASON,
        JSON,
    ),
    examples=(
        "stoker queue set bulk --class low --max-running 4 --max-queued 100000",
        "stoker queue set bulk --max-running 16 --min-running 2",
        "stoker queue set mails --rate 100/m --burst 20",
        "stoker queue set nightly --default max-attempts=3 --default on-orphan=requeue",
    ),
)
def set_queue(given: Given) -> None:
    params: dict[str, Any] = {"name": given["words"][0], **reason_of(given)}
    if given["class"]:
        params["class"] = given["class"]
    for bound in ("max_running", "min_running", "max_queued", "rate"):
        if given[bound] is not None:
            (params[bound],) = given[bound]
    if given["burst"] is not None:
        params["burst"] = given["burst"]
    if given["defaults"]:
        params["defaults"] = dict(given["defaults"])
    with connect(given) as client:
        client.call("queue.set", params)
        _print_now(client, given)


@Command(options=(JSON,), examples=("stoker resource ls",))
def resource_ls(given: Given) -> None:
    resources = call(given, "resource.list", {})["resources"]
    if given["json"]:
        render.json_document(resources)
        return
    rows = [(one["name"], one["used"], one["capacity"], " ".join(map(str, one["holders"]))) for one in resources]
    table.show(("RESOURCE", "USED", "CAPACITY", "HELD BY"), rows, whole=True)


def _capacity(given: Given) -> tuple[str, int]:
    text = "=".join(given["words"])
    if "=" not in text:
        raise UsageError(f"{text}: the capacity is missing", hint=f"stoker resource set {text}=1")
    return values.amount(text)


@Command(
    words="NAME=N",
    most=2,
    options=(REASON, JSON),
    examples=("stoker resource set git_repo_write=1", "stoker resource set gpu 2 --reason 'second card'"),
)
def resource_set(given: Given) -> None:
    name, capacity = _capacity(given)
    with connect(given) as client:
        client.call("resource.set", {"name": name, "capacity": capacity, **reason_of(given)})
        resources = client.call("resource.list", {})["resources"]
    row = next(one for one in resources if one["name"] == name)
    if given["json"]:
        render.json_document(row)
    else:
        holders = f" by {counted(len(row['holders']), 'job')}" if row["holders"] else ""
        render.line(f"resource {name}: capacity {capacity}, {row['used']} used{holders}")
