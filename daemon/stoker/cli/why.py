"""`stoker why`: why a job, or the steps of a group, do not run or ended as they did.

Owns how many steps are shown, and which share a line. The daemon knows the reasons.
"""

from __future__ import annotations

from stoker.cli.kit import render
from stoker.cli.kit.addresses import NamedGroup, job_or_group
from stoker.cli.kit.connection import call, connect
from stoker.cli.kit.graph_shape import URGENT
from stoker.cli.kit.naming import few, groups
from stoker.cli.kit.parser import JSON, Command, Given
from stoker.core.errors import StokerError
from stoker.core.units import counted

MOST_STEPS = 100


@Command(
    words="ID",
    options=(JSON,),
    examples=("stoker why 42", "stoker why '7/compile[lexer]'", "stoker why 7/compile"),
)
def why(given: Given) -> None:
    """Steps of a group that have the same reason share a line; of very many those that need a look."""
    named = job_or_group(given, given["words"][0])
    if isinstance(named, NamedGroup):
        _why_group(given, named)
        return
    answer = call(given, "job.why", {"id": named})
    if given["json"]:
        render.json_document(answer)
    else:
        _print(answer["message"], answer.get("hint"))


def _why_group(given: Given, group: NamedGroup) -> None:
    steps = sorted(group.tasks, key=lambda step: URGENT.index(step["state"]))[:MOST_STEPS]
    with connect(given) as client:
        answers = list(client.call_each("job.why", [{"id": step["job"]} for step in steps], again=True))
    reasons: dict[str, tuple[list[str], str | None]] = {}
    for step, answer in zip(steps, answers, strict=True):
        if isinstance(answer, StokerError):
            raise answer
        reasons.setdefault(answer["message"], ([], answer["hint"]))[0].append(step["name"])
    if given["json"]:
        render.json_document(answers)
        return
    for message, (names, hint) in reasons.items():
        _print(f"{few(groups(names))}: {message}", hint)
    if len(steps) < len(group.tasks):
        render.note(f"not shown: {counted(len(group.tasks) - len(steps), 'step')}; stoker show {group.address}")


def _print(message: str, hint: str | None) -> None:
    render.text("\n".join(render.wrapped(message, render.terminal_size()[0])))
    if hint:
        render.line(f"next: {render.visible(render.naming_socket(hint))}")
