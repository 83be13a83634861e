"""Hooks: ls, show, test.

Owns how a hook is shown. Hooks are declared in the settings file of the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stoker.cli.kit import render, table
from stoker.cli.kit.connection import call
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.core.units import counted

if TYPE_CHECKING:
    from stoker.core.hook_views import HookDetails, HookList, HookRunView, HookTestAnswer, HookView


@Command(options=(JSON,), examples=("stoker hook", "stoker hook ls --json"))
def ls(given: Given) -> None:
    """A hook is a section [hooks.NAME] of the settings file: changes, a filter, and a command."""
    answer: HookList = call(given, "hook.list", {})
    if given["json"]:
        render.json_document(answer)
        return
    rows = [
        (each["name"], ",".join(each["on"]), filter_words(each), _last(each["last"]), remark(each), command_line(each))
        for each in answer["hooks"]
    ]
    table.show(("NAME", "ON", "FILTER", "LAST RUN", "REMARK", "COMMAND"), rows, spare=("ON", "COMMAND"))


def filter_words(hook: HookView) -> str:
    fields = [f"{name}={hook[name]}" for name in ("queue", "workflow") if hook[name] is not None]
    return " ".join(fields + [f"{name}={value}" for name, value in hook["labels"].items()]) or "-"


def _last(run: HookRunView | None) -> str:
    return "-" if run is None else f"job {run['job']} {run['state']}"


def remark(hook: HookView) -> str:
    """The reason why the hook cannot run now, if there is one."""
    refused = f"{counted(hook['refused'], 'change')} refused" if hook["refused"] else None
    return "; ".join(text for text in (hook["problem"], hook["unmatched"], refused) if text) or "-"


def command_line(hook: HookView) -> str:
    return " ".join([hook["command"], *hook["args"]])


def why(run: HookRunView) -> str:
    return "-" if run["state"] == "succeeded" else run["reason"] or "-"


@Command(words="NAME", options=(JSON,), examples=("stoker hook show mail",))
def show(given: Given) -> None:
    hook: HookDetails = call(given, "hook.get", {"name": given["words"][0]})
    if given["json"]:
        render.json_document(hook)
        return
    render.facts(
        [
            ("name", hook["name"]),
            ("on", ", ".join(hook["on"])),
            ("filter", filter_words(hook)),
            ("command", command_line(hook)),
            ("directory", hook["working_dir"]),
            ("problem", hook["problem"]),
            ("unmatched", hook["unmatched"]),
            ("refused", f"{counted(hook['refused'], 'change')} since the daemon started" if hook["refused"] else None),
        ]
    )
    if hook["runs"]:
        render.line()
        rows = [
            (run["job"], run["change"] or "test", render.when(run["submitted_at"]), run["state"], why(run))
            for run in hook["runs"]
        ]
        table.show(("JOB", "CHANGE", "SUBMITTED", "STATE", "REASON"), rows)


@Command(
    words="NAME",
    options=(
        Option("--on", "CHANGE", "the kind of the change, such as job.failed (default: the first one of the hook)"),
        JSON,
    ),
    examples=("stoker hook test mail", "stoker logs -f $(stoker hook test mail --on workflow.failed)"),
)
def test(given: Given) -> None:
    """The change is made up and passes the filter of the hook. Prints the id of the job."""
    params: dict[str, Any] = {"name": given["words"][0]}
    if given["on"] is not None:
        params["on"] = given["on"]
    answer: HookTestAnswer = call(given, "hook.test", params)
    render.receipt(f"job {answer['job']}", render.json_text(answer) if given["json"] else answer["job"])
