"""The jobs that a command acts on: the options of a filter, and the matching jobs.

Owns the options of the filter and the order in which jobs are shown. The daemon applies the filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from stoker.cli.kit import outcome, values
from stoker.cli.kit.addresses import StepAddress, address
from stoker.cli.kit.naming import workflow_id
from stoker.cli.kit.parser import Given, Option
from stoker.core.reason_words import SENTENCES
from stoker.rpc.client import Client

if TYPE_CHECKING:
    from stoker.core.views import JobView


def _workflow_or_steps(text: str) -> int | StepAddress:
    return address(text) if "/" in text else workflow_id(text)


STATES = ("waiting", "queued", "running", "held", *outcome.FINAL)
# The order in which jobs are shown: running, held for a person, waiting, ended.
SECTIONS = (("running",), ("held",), ("waiting", "queued"), outcome.FINAL)
HELD, WAITING = SECTIONS[1:3]
REASONS = ("exit", "signal", *SENTENCES)
# Each option with the parameter of job.list that it sets.
FIELDS = {
    "queue": Option("--queue", "NAME", "only jobs of this queue"),
    "name": Option("--name", "TEXT", "only jobs with this name"),
    "name_prefix": Option("--name-prefix", "TEXT", "only jobs whose name begins so"),
    "search": Option(
        "--search",
        "TEXT",
        "only jobs with this text in their name, command or an argument, in small or capital letters",
    ),
    "label": Option("--label", "K=V", "only jobs with this label", convert=values.label),
    "workflow": Option(
        "--workflow", "ID[/STEP]", "only steps of this workflow, or those that STEP names", convert=_workflow_or_steps
    ),
    "reasons": Option(
        "--why",
        "REASON,…",
        "only jobs that ended, or are held, for these reasons",
        choices=REASONS,
        listed=True,
        to="reasons",
    ),
    "exit_code": Option("--exit-code", "N", "only jobs with this exit status", convert=values.integer),
    "created_since": Option(
        "--since", "TIME", "only jobs submitted since then: an age, or a time", convert=values.past, to="created_since"
    ),
    "created_until": Option(
        "--until", "TIME", "only jobs submitted until then", convert=values.past, to="created_until"
    ),
    "ended_since": Option("--ended-since", "TIME", "only jobs that ended since then", convert=values.past),
    "ended_until": Option("--ended-until", "TIME", "only jobs that ended until then", convert=values.past),
}
FILTER = (
    Option("--state", "STATE,…", "only jobs in these states", choices=STATES, listed=True),
    *FIELDS.values(),
)
PAGE = 1000


def filter_fields(given: Given) -> dict[str, Any]:
    """The parameters of job.list that were given, except the states."""
    fields = {field: given[option.to] for field, option in FIELDS.items() if given[option.to] is not None}
    if isinstance(asked := fields.get("workflow"), StepAddress):
        fields["workflow"], fields["step"] = asked
    return fields


def has_filter(given: Given) -> bool:
    return any(given[option.to] is not None for option in FILTER)


def matching(
    client: Client,
    states: Sequence[str],
    fields: dict[str, Any],
    most: int | None = None,
    *,
    oldest_first: bool = False,
) -> Iterator[JobView]:
    """The matching jobs in one of `states`, newest first if not asked otherwise, page by page; at most `most`."""
    cursor, left = {"after": 0} if oldest_first else {}, most
    while states and (left is None or left > 0):
        limit = PAGE if left is None else min(PAGE, left)
        page = client.call("job.list", {**fields, "states": states, "limit": limit, **cursor})
        yield from page["jobs"]
        if page["next"] is None:
            return
        cursor = {"after" if oldest_first else "before": page["next"]}
        left = None if left is None else left - len(page["jobs"])


class Overview:
    """At most `most` jobs, section by section: those that wait about in the order of their start, others newest first.

    Held jobs stay until a person acts: they take at most a third of the room, unless other jobs leave more.
    `more`: some jobs were left out; `held_left_off`: held ones are among them.
    """

    def __init__(self, client: Client, only: Sequence[str] | None, fields: dict[str, Any], most: int | None) -> None:
        sections, room = {}, most
        for section in SECTIONS:
            states = [state for state in section if only is None or state in only]
            one_more = None if room is None else room + 1  # one more than fits shows that there are more
            sections[section] = list(matching(client, states, fields, one_more, oldest_first=section == WAITING))
            if room is not None and section != HELD:
                room = max(0, room - len(sections[section]))
        others = sum(len(jobs) for section, jobs in sections.items() if section != HELD)
        held = sections[HELD] if most is None else sections[HELD][: max(most // 3, most - others)]
        self.held_left_off = len(held) < len(sections[HELD])
        sections[WAITING].sort(key=lambda job: (job["state"], -job["priority"], job["id"]))
        jobs = [job for section in SECTIONS for job in (held if section == HELD else sections[section])]
        self.jobs = jobs[:most]
        self.more = self.held_left_off or len(jobs) > len(self.jobs)
