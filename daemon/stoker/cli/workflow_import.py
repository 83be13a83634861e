"""`stoker workflow import`: a flow file from a file of another tool, and what it leaves out.

Owns the choice of the reader, and the check of what it made. No daemon is asked, and nothing of the file is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stoker.cli import flowfile
from stoker.cli.imports.dagman import read_dag
from stoker.cli.imports.flow_text import flow_text
from stoker.cli.imports.makefile import read_makefile
from stoker.cli.kit import render
from stoker.cli.kit.parser import JSON, Command, Given, Option
from stoker.core.errors import FlowInvalid, UsageError
from stoker.rpc.flows import planned

if TYPE_CHECKING:
    from stoker.cli.imports.draft import Draft

MAKE, DAGMAN, GITHUB = "make", "dagman", "github"
LEFT_OUT = 1


@Command(
    words="FILE",
    options=(
        Option("--from", "TOOL", "the tool that the file is for", to="tool", choices=(MAKE, DAGMAN, GITHUB)),
        Option("--goal", "TARGET", "of a makefile: the target to make (default: its first); repeatable", many=True),
        Option("-o --output", "FILE", "write to this file instead of stdout"),
        Option("--strict", None, "exit with 1, and write nothing, if something was left out"),
        JSON,
    ),
    examples=(
        "stoker workflow import --from make Makefile -o build.toml",
        "stoker workflow import --from make --goal test Makefile | stoker workflow submit -",
        "stoker workflow import --from dagman --strict diamond.dag > diamond.toml",
        "stoker workflow import --from github .github/workflows/ci.yml -o ci.toml",
    ),
)
def import_workflow(given: Given) -> int:
    """Parts of the file that have no place in a flow are listed on stderr, with their lines. A makefile is read by GNU
    make 4, which runs no recipe for it.
    """
    (source,) = given["words"]
    draft = _draft(given, source)
    _check(source, draft)
    lost = [remark for remark in draft.remarks if remark.loss]
    for remark in draft.remarks:
        render.note(str(remark))
    if lost and given["strict"]:
        render.hint("leave out --strict to write the flow without these parts")
        return LEFT_OUT
    if given["json"]:
        render.json_document(draft.flow())
        return 0
    with render.Sink(given["output"]) as write:
        write(flow_text(draft, source).encode())
    return 0


def _draft(given: Given, source: str) -> Draft:
    if given["tool"] is None:
        raise UsageError("which tool is the file for?", hint=f"--from {MAKE}, --from {DAGMAN} or --from {GITHUB}")
    if given["tool"] == MAKE:
        return read_makefile(source, given["goal"])
    if given["goal"]:
        raise UsageError("--goal is for makefiles")
    return read_dag(source) if given["tool"] == DAGMAN else _of_github(source)


def _of_github(source: str) -> Draft:
    try:
        from stoker.cli.imports.actions import read_actions  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        hint = "pip install 'stoker[import]'"
        raise UsageError("files of GitHub Actions are YAML, which needs PyYAML", hint=hint) from None
    return read_actions(source)


def _check(source: str, draft: Draft) -> None:
    """Raises FlowInvalid if no workflow can be like this: too many steps, a text too long."""
    flow = draft.flow()
    steps = {name: _without_file(step) for name, step in flow["steps"].items()}
    try:
        planned(flow | {"steps": steps})
    except FlowInvalid as error:
        raise flowfile.located(source, flow, error, ", as a workflow; nothing was written") from None


def _without_file(step: dict[str, Any]) -> dict[str, Any]:
    """The step with the smallest flow in place of the file that it names, which is imported on its own."""
    if "workflow" not in step:
        return step
    parameters = dict.fromkeys(step.get("parameters", ()), "")
    return step | {"workflow": {"name": "imported", "parameters": parameters, "steps": {"step": {"command": "true"}}}}
