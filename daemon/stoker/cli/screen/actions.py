"""The actions of a person on jobs, queues and workflows: the words of each question, and the calls.

Owns one table. The daemon decides whether an action applies; several objects are handled one by one, and an error of
one does not stop the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.cli import control
from stoker.cli.kit.render import visible
from stoker.core.errors import StokerError
from stoker.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stoker.rpc.client import Client

MOST_ERRORS = 3  # that are shown in words
LONGEST_NAME = 56


class ScreenAction(NamedTuple):
    """`done`: what has happened then, where the daemon does not answer the state of a job."""

    noun: str
    name: str
    method: str
    identified_by: str
    done: str


ACTIONS = {
    f"{action.noun}.{action.name}": action
    for action in (
        ScreenAction("job", "cancel", "job.cancel", "id", "cancelled, or being stopped"),
        ScreenAction("job", "retry", "job.retry", "id", "queued again"),
        ScreenAction("job", "hold", "job.hold", "id", "held"),
        ScreenAction("job", "release", "job.release", "id", "released"),
        ScreenAction("job", "skip", "job.skip", "id", "skipped"),
        ScreenAction("queue", "pause", "queue.pause", "name", "paused"),
        ScreenAction("queue", "resume", "queue.resume", "name", "open again"),
        ScreenAction("workflow", "cancel", "workflow.cancel", "id", "being cancelled"),
        ScreenAction("workflow", "pause", "workflow.pause", "id", "paused"),
        ScreenAction("workflow", "resume", "workflow.resume", "id", "going on"),
    )
}


class ActionResult(NamedTuple):
    """The answers for those that were changed, and the errors of the others."""

    answers: list[Any]
    errors: list[str]


def question(action: ScreenAction, keys: Sequence[int | str], names: Sequence[str]) -> tuple[str, str]:
    """`Cancel 3 jobs?`, and what they are."""
    what = f"{action.noun} {visible(str(keys[0]))}" if len(keys) == 1 else counted(len(keys), action.noun)
    shown = [visible(name)[:LONGEST_NAME] for name in names[:MOST_ERRORS] if name]
    more = [f"… and {len(keys) - MOST_ERRORS} more"] if len(keys) > MOST_ERRORS else []
    return f"{action.name.capitalize()} {what}?", "\n".join([*shown, *more])


def carry_out(client: Client, action: ScreenAction, keys: Sequence[int | str], reason: str) -> ActionResult:
    """Raises the errors that concern all of them, such as a daemon that is away."""
    extra: Mapping[str, str] = {"reason": reason} if reason else {}
    outcome = ActionResult([], [])
    for key in keys:
        try:
            outcome.answers.append(client.call(action.method, {action.identified_by: key, **extra}))
        except StokerError as error:
            if error.transient:
                raise
            outcome.errors.append(words(error))
    return outcome


def words(error: StokerError) -> str:
    """An error for a notice: what is wrong, and the next step."""
    return visible(f"{error.message}. {error.hint}" if error.hint else error.message)


def summary(action: ScreenAction, outcome: ActionResult, keys: Sequence[int | str]) -> str:
    """The text of the notice."""
    lines = [_changed(action, outcome.answers, keys)] if outcome.answers else []
    lines += outcome.errors[:MOST_ERRORS]
    left = len(outcome.errors) - MOST_ERRORS
    return "\n".join([*lines, *([f"… and {left} more errors"] if left > 0 else [])])


def _changed(action: ScreenAction, answers: Sequence[Any], keys: Sequence[int | str]) -> str:
    if action.noun == "job" and len(answers) == 1:
        return control.result(answers[0])
    what = f"{action.noun} {keys[0]}" if len(keys) == 1 else counted(len(answers), action.noun)
    return f"{visible(what)} {action.done}"
