"""Named events: emit and ls.

Owns how the data of an event are typed, and the idempotency key with which an emit is sent again after a lost answer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import call, patiently
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.cli.submit_once import new_key
from stoker.core.errors import UsageError
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.event_views import EventView
    from stoker.core.views import EmitAnswer

DATA_LIMIT_BYTES = 64 * 1024
PAGE = 1_000


def event_data(text: str) -> Any:
    """JSON as typed, from a file for `@FILE`, from stdin for `-`."""
    prefix, source = "", None
    if text == "-" or text.startswith("@"):
        source = text.removeprefix("@")
        prefix = f"{source}: "
        text = _read(source)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except ValueError as error:
        hint = None if source else "text is JSON in quotes, as in --data '\"v1.2\"'; a file: --data @FILE"
        raise UsageError(f"{prefix}not JSON: {error}", hint=hint) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises ValueError where a key occurs twice: one of its values would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in its object")
    return value


def _read(source: str) -> str:
    try:
        with open(0 if source == "-" else source, "rb", closefd=source != "-") as file:
            data = file.read(4 * DATA_LIMIT_BYTES)  # spaces between values do not count
            return data.decode()
    except OSError as error:
        raise UsageError(f"cannot read {source or repr(source)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{source}: not UTF-8 text") from None


@Command(
    words="NAME",
    options=(
        Option("--data", "JSON|@FILE|-", "what the jobs get with it, at most 64 KiB of JSON", convert=event_data),
        Option("--one", None, "for one job only: the one that has waited longest"),
        values.duration_option("--keep", "it also reaches jobs that are submitted in this time"),
        Option("--idempotency-key", "KEY", "an event with the same key within a day is emitted once"),
        JSON,
    ),
    examples=(
        "stoker submit --wait-for event:deploy -- ./smoke-test.sh",
        'stoker event emit deploy --data \'{"version": "1.4.2"}\'',
        "stoker event emit token --one --keep 1h",
    ),
)
def emit(given: Given) -> None:
    """Prints how many jobs it reached. They find its data in the file $STOKER_EVENT_FILE, as JSON by name of event.
    An event reaches your own jobs, one of root those of all users.
    """
    params = {"name": given["words"][0], "idempotency_key": given["idempotency_key"]}
    if params["idempotency_key"] is None:
        params["idempotency_key"] = new_key()
    params |= {name: value for name in ("data", "keep_ms") if (value := given[name]) is not None}
    if given["one"]:
        params["one"] = True
    answer: EmitAnswer = patiently(given, lambda client: client.call("event.emit", params))
    if given["json"]:
        render.json_document(answer)
    else:
        render.line(_receipt(answer))


def _receipt(answer: EmitAnswer) -> str:
    existing = " was emitted before and" if answer["existing"] else ""
    more = ", and goes on to others" if answer["more"] else ""
    return f"event {answer['name']}{existing} reached {counted(answer['reached'], 'job')}{more}"


@Command(
    words="[NAME]",
    least=0,
    options=(JSON,),
    examples=("stoker event ls", "stoker event ls deploy --json"),
)
def ls(given: Given) -> None:
    """Newest first: your events of the last day, and those that are kept or that a job got."""
    params: dict[str, Any] = {"limit": PAGE}
    if given["words"]:
        params["name"] = given["words"][0]
    events: list[EventView] = []
    before: int | None = None
    while True:
        page = call(given, "event.list", params | ({} if before is None else {"before": before}))
        events += page["events"]
        before = page["next"]
        if before is None:
            break
    if given["json"]:
        render.json_document({"events": events})
        return
    rows = [(event["id"], event["name"], render.when(event["emitted_at"]), reached(event)) for event in events]
    table.show(("ID", "NAME", "EMITTED", "REACHED"), rows)
    if page["kept"]:
        render.note(f"{page['kept']} of at most {counted(page['most_kept'], 'event')} of yours are kept for later jobs")


def reached(event: EventView) -> str:
    """`0 jobs, for one job, kept until 2026-11-29 23:27:39`."""
    words = [counted(event["reached"], "job")]
    if event["one"]:
        words.append("for one job")
    if event["kept"]:
        words.append(f"kept until {render.when(event['keep_until'])}")
    return ", ".join(words)
