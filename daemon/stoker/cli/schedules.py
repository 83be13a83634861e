"""Schedules: add, ls, show, next, rm, pause, resume, run.

Owns how a schedule is typed and shown. The daemon decides what a valid time is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stoker.cli import flowfile, workflow_parts
from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import call, connect
from stoker.cli.kit.parser import JSON, REASON, Command, Given, Option, reason_of
from stoker.cli.kit.spec import SPEC, complete, given_fields
from stoker.core.errors import FlowInvalid, UsageError
from stoker.core.units import duration, span
from stoker.rpc.client import Client, of_any_bytes

if TYPE_CHECKING:
    from stoker.core.schedule.views import ScheduleDetails, ScheduleView

REPLACE = Option("--replace", None, "take the place of a schedule with that name")
MISFIRES, OVERLAPS = ("skip", "latest", "all"), ("allow", "skip", "queue", "supersede")
PAGE = 1_000
COMING = 10
NOT_IN_A_TEMPLATE = (
    "--run-at",
    "--deadline",
    "--after",
    "--idempotency-key",
    "--secret",
    "--supersede-key",
    "--supersede-running",
    "--debounce",
    "--debounce-max",
)
TEMPLATE = tuple(option for option in SPEC if option.names[-1] not in NOT_IN_A_TEMPLATE)


def policies(misfire: str, overlap: str) -> tuple[Option, ...]:
    """The options of a schedule beside its template, with these defaults."""
    return (
        Option("--zone", "NAME", "the time zone of its times, e.g. Europe/Berlin (default: the local one)"),
        Option(
            "--misfire",
            "POLICY",
            f"slots that came while no daemon ran: leave them out, run the newest, or run all (default: {misfire})",
            choices=MISFIRES,
        ),
        values.duration_option("--catch-up", "how old a slot may be to be made up for (default: 1d)"),
        Option(
            "--overlap",
            "POLICY",
            "a slot comes before the last run ended: run beside it, leave it out, wait or stop that run (default:"
            f" {overlap})",
            choices=OVERLAPS,
        ),
        values.duration_option(
            "--jitter", "start up to this much later: another time, but always the same, for each slot"
        ),
    )


# The words of `workflow submit`; `latest` means another run.
PART = (
    *(option for option in workflow_parts.OPTIONS if option.to != "reuse"),
    Option(
        "--reuse",
        "ID|latest",
        "take over the steps of this workflow, or of the newest run of the schedule, that are unchanged",
        convert=workflow_parts.earlier,
    ),
)
LOCALTIME, ZONES = "/etc/localtime", "/zoneinfo/"


@Command(
    words="NAME TIMES -- COMMAND [ARG…]",
    least=2,
    options=(
        *policies("latest", "skip"),
        Option("--flow", "FILE|-", "submit the workflow of this flow file, in place of a command"),
        *PART,
        Option("--paused", None, "begin only with `stoker schedule resume`"),
        REPLACE,
        REASON,
        *TEMPLATE,
        JSON,
    ),
    examples=(
        "stoker schedule add backup '30 2 * * *' --zone Europe/Berlin -- /usr/local/bin/backup.sh",
        "stoker schedule add poll 'every 15m' --jitter 2m --timeout 10m -- ./poll.py",
        "stoker schedule add report @weekly --flow report.toml",
        "stoker schedule add build 'every 1h' --flow build.toml --target link --reuse latest",
        "stoker schedule add once 'at 2026-12-24T18:00' -- ./lights.sh on",
    ),
)
def add(given: Given) -> None:
    """TIMES is a cron expression with five fields, @hourly, @daily, @weekly, @monthly, @yearly, `every 15m`, or
    `at 2026-12-01T03:00`.
    """
    name, timing, *command = given["words"]
    params = {"name": name, "timing": timing, "zone": given["zone"] or here(), "replace": given["replace"]}
    params |= {key: value for key in ("misfire", "overlap", "reason") if (value := given[key])}
    params |= workflow_parts.part_params(given)
    params |= {key: value for key in ("catch_up_ms", "jitter_ms") if (value := given[key]) is not None}
    if given["paused"]:
        params["paused"] = True
    if (given["flow"] is None) == (not command):
        raise UsageError("a schedule has a command or --flow FILE", hint="stoker schedule add NAME TIMES -- COMMAND")
    if given["flow"] is not None:
        answer = _add_flow(given, params)
    else:
        answer = _add(given, params | {"job": _job(given, command)})
    if given["json"]:
        render.json_document(answer)
    else:
        render.line(f"schedule {name}: {_next_words(answer)}")


def _job(given: Given, command: list[str]) -> dict[str, Any]:
    """The template, as the fields of a job."""
    fields = given_fields({**given, **{option.to: option.absent() for option in SPEC if option not in TEMPLATE}})
    spec = complete({**fields, "command": command[0]})
    return dict(of_any_bytes({**spec, "args": command[1:]}))


def _add(given: Given, params: dict[str, Any]) -> ScheduleView:
    answer: ScheduleView = call(given, "schedule.add", params)
    return answer


def _add_flow(given: Given, params: dict[str, Any]) -> ScheduleView:
    flow, files = flowfile.read(given["flow"])
    flow = flowfile.complete(flow)
    try:
        return _add(given, params | {"flow": of_any_bytes(flow)})
    except FlowInvalid as error:
        raise flowfile.located(given["flow"], flow, error, "; nothing was stored", files) from None


def here() -> str:
    """The name of the time zone of this host; UTC if it has none."""
    name = os.environ.get("TZ", "").lstrip(":")
    if name and not name.startswith("/"):
        return name
    return os.path.realpath(name or LOCALTIME).partition(ZONES)[2] or "UTC"


def _next_words(schedule: ScheduleView) -> str:
    if schedule["paused"]:
        return "paused"
    if schedule["next_slot"] is None:
        return "no further run"
    return f"next run {render.when(schedule['next_slot'])}"


@Command(options=(JSON,), examples=("stoker schedule", "stoker schedule ls --json"))
def ls(given: Given) -> None:
    with connect(given) as client:
        schedules = list(_all(client))
    if given["json"]:
        render.json_document(schedules)
        return
    rows = [
        (
            each["name"],
            state_of(each),
            each["timing"],
            each["zone"],
            render.when(each["next_slot"]),
            render.when(each["last_slot"]),
            submits_words(each),
        )
        for each in schedules
    ]
    table.show(("NAME", "STATE", "TIMES", "ZONE", "NEXT", "LAST", "SUBMITS"), rows, spare=("ZONE", "LAST"))


def _all(client: Client) -> Iterator[ScheduleView]:
    after: str | None = ""
    while after is not None:
        page = client.call("schedule.list", {"after": after, "limit": PAGE}, again=True)
        yield from page["schedules"]
        after = page["next"]


def submits_words(schedule: ScheduleView) -> str:
    return f"{schedule['submits']} {workflow_parts.part_words(schedule['part'])}".rstrip()


def state_of(schedule: ScheduleView) -> str:
    return "paused" if schedule["paused"] else "ended" if schedule["next_slot"] is None else "on"


@Command(words="NAME", options=(JSON,), examples=("stoker schedule show backup",))
def show(given: Given) -> None:
    schedule: ScheduleDetails = call(given, "schedule.get", {"name": given["words"][0]})
    if given["json"]:
        render.json_document(schedule)
        return
    render.facts(
        [
            ("name", schedule["name"]),
            ("state", state_of(schedule)),
            ("times", schedule["timing"]),
            ("zone", schedule["zone"]),
            ("next", render.when(schedule["next_slot"])),
            ("misfire", f"{schedule['misfire']}, of slots up to {duration(schedule['catch_up_ms'])} old"),
            ("overlap", schedule["overlap"]),
            ("jitter", duration(schedule["jitter_ms"]) if schedule["jitter_ms"] else None),
            ("declared", "in the settings file" if schedule["declared"] else None),
            ("owner", schedule["owner_uid"]),
            ("submits", template_words(schedule)),
            ("part", workflow_parts.part_words(schedule["part"]) or None),
        ]
    )
    if schedule["runs"]:
        render.line()
        rows = [(run["scheduled_for"], run_words(run), run["state"]) for run in schedule["runs"]]
        table.show(("SCHEDULED FOR", "RUN", "STATE"), rows)


def run_words(run: Any) -> str:
    return f"job {run['job']}" if run["workflow"] is None else f"workflow {run['workflow']}"


def template_words(schedule: ScheduleDetails) -> str:
    """The job as JSON, or the names of the steps."""
    if schedule["job"] is None:
        return f"workflow {schedule['submits']}: {', '.join(schedule['flow']['steps'])}"
    return json.dumps(schedule["job"], ensure_ascii=False)


@Command(
    words="NAME",
    options=(Option("--count", "N", "how many (default: 10)", convert=values.positive), JSON),
    examples=("stoker schedule next backup", "stoker schedule next --count 3 --json backup"),
)
def coming(given: Given) -> None:
    params = {"name": given["words"][0], "count": given["count"] or COMING}
    answer = call(given, "schedule.next", params)
    if given["json"]:
        render.json_document(answer)
        return
    for slot in answer["slots"]:
        later = slot["submitted_at"] - slot["slot"]
        render.line(render.when(slot["slot"]) + (f" +{span(later)}" if later else ""))


@Command(words="NAME…", options=(REASON, JSON), examples=("stoker schedule rm backup --reason 'moved to the NAS'",))
def remove(given: Given) -> None:
    """Its jobs and their history stay."""
    _each(given, "schedule.remove", lambda _answer: "removed")


@Command(words="NAME…", options=(REASON, JSON), examples=("stoker schedule pause backup --reason 'disk full'",))
def pause(given: Given) -> None:
    """Slots that came during the pause are left out."""
    _each(given, "schedule.pause", _next_words)


@Command(words="NAME…", options=(REASON, JSON), examples=("stoker schedule resume backup",))
def resume(given: Given) -> None:
    _each(given, "schedule.resume", _next_words)


def _each(given: Given, method: str, words: Any) -> None:
    answers = []
    with connect(given) as client:
        for name in given["words"]:
            answer = client.call(method, {"name": name, **reason_of(given)})
            answers.append(answer)
            if not given["json"]:
                render.line(f"schedule {name}: {words(answer)}")
    if given["json"]:
        render.json_document(answers[0] if len(answers) == 1 else answers)


@Command(
    words="NAME",
    options=(REASON, JSON),
    examples=("stoker schedule run backup", "stoker logs -f $(stoker schedule run backup)"),
)
def run(given: Given) -> None:
    """At once, also while the schedule is paused. Prints the id of the job or workflow."""
    answer = call(given, "schedule.run", {"name": given["words"][0], **reason_of(given)})
    run_id = answer["job"] if answer["workflow"] is None else answer["workflow"]
    render.receipt(run_words(answer), render.json_text(answer) if given["json"] else run_id)
