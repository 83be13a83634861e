"""docs/events.md: every event that the daemon logs, from the closed list and the meanings.

`python -m tests.support.event_page` writes the file; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stoker.telemetry.event_reference import MEANINGS
from stoker.telemetry.events import LogEvent, Severity
from stoker.telemetry.journald import message_id

PAGE = Path(__file__).parents[2] / "docs" / "events.md"

HEAD = """\
# The log of the daemon

`stokerd` writes one line of JSON for each event to stderr. The first fields are `event`, `level` and `ts` (UTC);
`job`, `attempt`, `queue`, `workflow` and `trace_id` follow where they apply, then others. The name of an event never
changes its meaning, and the level belongs to the name: *critical* and *error* need a person now, *warning* needs one
if it goes on, *info* tells what happens, *debug* (`[log] level = "debug"`) helps to find a bug. `stoker history ID`
has the changes of one job from the database, for as long as they are kept.

## With systemd

Where systemd connects stderr to the journal, each event is an entry with fields of its own: `PRIORITY`, `MESSAGE_ID`
(one for each event, see below), `STOKER_EVENT`, `STOKER_JOB`, `STOKER_ATTEMPT`, `STOKER_QUEUE`, `STOKER_WORKFLOW` and
`STOKER_TRACE_ID`. `MESSAGE` is the line of JSON.

<!-- run: in a booted machine with jobs -->
```console
# journalctl -u stoker -p warning --since -1h
# journalctl -u stoker STOKER_JOB=1 -o cat
# journalctl -u stoker STOKER_EVENT=task_failed STOKER_EVENT=task_timeout --since today -o cat
# journalctl -u stoker STOKER_QUEUE=default -o cat | jq -r '[.ts, .event, .job] | @tsv'
# journalctl -u stoker -o cat --since -1d | jq -rR 'fromjson? | .event' | sort | uniq -c | sort -rn
# journalctl -u stoker STOKER_EVENT=task_failed -o cat | jq -r 'select(.exit_code == 3) | .job'
# journalctl -u stoker -F STOKER_EVENT
```

`journalctl -u stoker -f -p warning` follows what needs a look.
"""


def page() -> str:
    return "\n".join([HEAD, *_tables()])


def _tables() -> Iterator[str]:
    for severity in sorted(Severity, reverse=True):
        events = [event for event in LogEvent if event.severity is severity]
        yield f"## {severity.name.capitalize()}\n"
        yield "| event, MESSAGE_ID | it means | what to do |\n|---|---|---|"
        for event in events:
            text, remedy = MEANINGS[event]
            yield f"| `{event}`<br><sub>{message_id(event)}</sub> | {text} | {remedy} |"
        yield ""


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
