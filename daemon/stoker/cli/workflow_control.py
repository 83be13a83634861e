"""Controlling a whole workflow: cancel, pause, resume, retry, rollback, skip, add-need, remove-need.

Owns their options and how the answers are printed. The daemon decides which steps run again, are stopped or skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from stoker.cli.control import REASON, TIMEOUT
from stoker.cli.kit import render, table, values
from stoker.cli.kit.connection import call
from stoker.cli.kit.naming import WAIT, checkpoint_id, few, groups, need_texts, workflow_id
from stoker.cli.kit.parser import JSON, Command, Given, Option, reason_of
from stoker.cli.kit.progress import QUIET
from stoker.cli.workflow_wait import until_ended
from stoker.core.errors import UsageError

if TYPE_CHECKING:
    from stoker.core.workflow_answers import ResumedStep, WorkflowCommandAnswer

# The lists in an answer that are printed besides the state, in this order. Others are for --json only.
REPORTED: dict[Literal["running", "stopping", "reset", "not_undone", "stuck", "spared"], str] = {
    "running": "still running",
    "stopping": "being stopped",
    "reset": "queued again",
    "not_undone": "completed since then and not undone",
    "stuck": "held as stuck, without a signal",
    "spared": "of [finally], run nevertheless (a second cancel ends them)",
}
MOST_SHOWN = 20
# Those of `core.workflow.strategies.BUILT_IN`; a test compares them.
STRATEGIES = ("restart", "from_checkpoint", "skip", "fail", "adopt")
LIMITS = ("timeout_ms", "max_attempts")  # of the steps that are taken again
LATEST = "latest"
MAX_ATTEMPTS = Option(
    "--max-attempts", "N", "new limit of failures for the steps that run again", convert=values.positive
)


def _target(text: str) -> int | str:
    """`latest`, `112` or `#112`."""
    return text if text == LATEST else checkpoint_id(text)


@Command(words="ID", options=(REASON, JSON), examples=("stoker workflow cancel 7 --reason 'wrong branch'",))
def cancel(given: Given) -> int:
    return _call("cancel", given, {})


@Command(words="ID", options=(REASON, JSON), examples=("stoker workflow pause 7",))
def pause(given: Given) -> int:
    """Steps that run go on; no further steps start."""
    return _call("pause", given, {})


@Command(
    words="ID",
    options=(
        Option("--from", "STEP", "only this step and those that depend on it, unless they completed", to="from"),
        Option(
            "--strategy",
            "NAME",
            f"for all steps that did not complete: {', '.join(STRATEGIES)}, or your own",
        ),
        Option("--explain", None, "change nothing: print which steps would run, and why"),
        Option("--no-verify", None, "keep completed steps with verify = true, and ignore a gap in the checkpoints"),
        TIMEOUT,
        MAX_ATTEMPTS,
        WAIT,
        QUIET,
        REASON,
        JSON,
    ),
    examples=(
        "stoker workflow resume 7",
        "stoker workflow resume 7 --from build --strategy restart --explain",
    ),
)
def resume(given: Given) -> int:
    if given["explain"] and given["wait"]:
        raise UsageError("--explain changes nothing, so there is nothing to wait for", hint="leave out --wait")
    params = {key: given[key] for key in ("from", "strategy", *LIMITS) if given[key] is not None}
    params |= {"explain": True} if given["explain"] else {}
    return _call("resume", given, params | ({"verify": False} if given["no_verify"] else {}))


@Command(
    words="ID",
    options=(
        Option("--failed", None, "the steps that failed and those that need them (the default)"),
        Option("--all", None, "every step, also those that succeeded"),
        Option("--step", "STEP", "this step, or group of steps, and all that depend on it; repeatable", many=True),
        TIMEOUT,
        MAX_ATTEMPTS,
        WAIT,
        QUIET,
        REASON,
        JSON,
    ),
    examples=(
        "stoker workflow retry 7",
        "stoker workflow retry 7 --failed --timeout 20m",
        "stoker workflow retry 7 --step link --wait",
        "stoker workflow retry 7 --step compile --step 'test[linux,3.12]'",
        "stoker workflow retry 7 --all",
    ),
)
def retry(given: Given) -> int:
    if sum(map(bool, (given["failed"], given["all"], given["step"]))) > 1:
        raise UsageError("--failed, --all and --step exclude each other")
    params: dict[str, Any] = {"again": "all" if given["all"] else "failed"}
    params |= {"steps": given["step"]} if given["step"] else {}
    params |= {key: given[key] for key in LIMITS if given[key] is not None}
    return _call("retry", given, params)


@Command(
    words="ID",
    options=(
        Option("--to", "ID|latest", "the checkpoint to return to", convert=_target),
        Option("--redo", None, "also run steps again that completed since then"),
        Option("--resume", None, "continue at once; else the workflow stays paused"),
        REASON,
        JSON,
    ),
    examples=(
        "stoker checkpoint ls 7",
        "stoker workflow rollback 7 --to latest",
        "stoker workflow rollback 7 --to 112 --redo --resume --reason 'bad input data'",
    ),
)
def rollback(given: Given) -> int:
    if given["to"] is None:
        raise UsageError(
            "missing --to", hint=f"--to latest, or an id that `stoker checkpoint ls {given['words'][0]}` lists"
        )
    return _call("rollback", given, {"to": given["to"]} | {key: True for key in ("redo", "resume") if given[key]})


@Command(
    words="ID STEP",
    options=(REASON, JSON),
    examples=("stoker workflow skip 7 tests --reason 'flaky today; checked by hand'", "stoker workflow skip 7 compile"),
)
def skip(given: Given) -> int:
    """Of a group of steps those that are not done are skipped."""
    return _call("skip", given, {"step": given["words"][1]})


@Command(
    words="ID STEP NEED[:ok|failed|any]",
    options=(REASON, JSON),
    examples=(
        "stoker workflow add-need 7 deploy approval",
        "stoker workflow add-need 7 report tests:any",
        "stoker workflow add-need 7 compile approval           # each step of a group that has not started",
    ),
)
def add_need(given: Given) -> int:
    """STEP then also waits for NEED; each may be a group of steps. A cycle is refused."""
    _, step, word = given["words"]
    need, colon, end = word.rpartition(":")
    if end not in ("ok", "failed", "any"):  # the colon is part of a name: `compile[a:b]`, `compile:3`
        need, colon = word, ""
    return _call("add_need", given, {"step": step, "need": need} | ({"on": end} if colon else {}))


@Command(
    words="ID STEP NEED",
    options=(REASON, JSON),
    examples=("stoker workflow remove-need 7 deploy approval --reason 'approved by mail'",),
)
def remove_need(given: Given) -> int:
    """STEP no longer waits for NEED; each may be a group of steps."""
    _, step, need = given["words"]
    return _call("remove_need", given, {"step": step, "need": need})


def _call(verb: str, given: Given, params: dict[str, Any]) -> int:
    ident = workflow_id(given["words"][0])
    answer: WorkflowCommandAnswer = call(given, f"workflow.{verb}", {"id": ident, **params, **reason_of(given)})
    if given["json"]:
        render.json_document(answer)
    elif given.get("explain"):
        _print_plan(answer["steps"])
        if warning := answer.get("chain_warning"):
            render.note(warning)
    else:
        _print_answer(ident, answer, stopping=verb == "cancel")
        if verb == "retry" and not answer["reset"]:
            render.note("no step failed, so no step was queued again; --all or --step NAME queues others")
        elif verb == "retry" and answer["state"] == "paused":
            render.note(f"the workflow is paused, so no step starts; next: stoker workflow resume {ident}")
    render.flush()
    return until_ended(given, ident) if given.get("wait") else 0


def _print_answer(ident: int, answer: WorkflowCommandAnswer, *, stopping: bool) -> None:
    state = "stopping" if stopping and answer["state"] == "running" else answer["state"]
    render.line(f"workflow {ident} {state}")
    render.flush()  # before the notes, where both go to the same place
    if "needs" in answer:
        _print_needs(answer)
    if warning := answer.get("chain_warning"):
        render.note(warning)
    to = answer.get("to")
    if to:
        render.note(f"back to checkpoint {to['checkpoint']} (seq {to['seq']})")
        if to["damaged"]:
            render.note(f"checkpoint {to['damaged']} is damaged: its data and that of later ones was not used")
    if answer.get("skipped", []) not in ([], [answer.get("step")]):
        render.note(f"skipped: {few(answer['skipped'], MOST_SHOWN)}")
    for key, words in REPORTED.items():
        if steps := answer.get(key):
            render.note(f"{words}: {few(steps, MOST_SHOWN)}")
    if going_on := answer.get("going_on"):
        render.note(f"run without the result of {answer['step']}: {few(going_on, MOST_SHOWN)}")


def _print_needs(answer: WorkflowCommandAnswer) -> None:
    if len(answer["changed"]) > 1:
        render.note(f"needs changed: {few(groups(answer['changed']), MOST_SHOWN)}")
    else:
        render.note(f"{answer['step']} needs: {few(need_texts(answer), MOST_SHOWN) or 'nothing'}")
    if answer["left"]:
        render.note(f"started before, so left as they are: {few(groups(answer['left']), MOST_SHOWN)}")


def _print_plan(steps: list[ResumedStep]) -> None:
    rows = [
        (step["step"], step["job"], step["state"], "yes" if step["runs"] else "no", step["action"], step["why"])
        for step in steps
    ]
    table.show(("STEP", "JOB", "STATE", "RUNS", "ACTION", "WHY"), rows, spare=("JOB", "RUNS"), whole=True)
