"""The jobs that words name: an id, or the address of a step.

`42` and `#42` are ids. `7/compile[lexer]` is a step of workflow 7, `7/build/link` a step of a workflow within it, and
`7/compile` stands for all steps of that group. Owns the way from these words to jobs; the daemon knows the steps
(core/workflow/step_names.py has the rule). An id asks the daemon nothing.
"""

from __future__ import annotations

from stoker.cli.kit import values
from stoker.cli.kit.connection import call
from stoker.core.errors import StepNotFound, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from stoker.cli.kit.parser import Given
    from stoker.core.views import StepStandingView

MOST_NAMED = 5
OPEN = ("waiting", "queued", "running", "held")
EXPAND = "stoker.expand"  # the command of a step that stands for a group until its list is known


class StepAddress(tuple[int, str]):
    """A workflow, and the name of a step or of a group of its steps."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{self[0]}/{self[1]}"


def address(text: str) -> int | StepAddress:
    """`42`, `#42`, `7/compile[lexer]` or `w7/compile[lexer]`."""
    workflow, slash, step = text.partition("/")
    if not slash:
        return values.job_id(text)
    try:
        ident = values.job_id(workflow.removeprefix("w"))
    except UsageError:
        raise UsageError(f"{text!r} names no step", hint="write WORKFLOW/STEP, as in 7/compile") from None
    if not step:
        raise UsageError(f"{text!r} names no step", hint=f"stoker workflow show {ident} --steps lists them")
    return StepAddress((ident, step))


class NamedGroup:
    """The steps that the name of a group stands for."""

    def __init__(self, address: StepAddress, steps: Sequence[StepStandingView]) -> None:
        self.address = address
        self.steps = steps

    @property
    def tasks(self) -> Sequence[StepStandingView]:
        """Without the step of Stoker's own that stands for the group, once that has succeeded: it runs no command."""
        return [step for step in self.steps if step["name"] != self.address[1] or step["state"] != "succeeded"]

    @property
    def title(self) -> str:
        return f"{self.address} is a group of {len(self.tasks)} steps"

    @property
    def some(self) -> str:
        """The addresses of its first steps; of one that has the name of the group its id."""
        more = f" and {len(self.tasks) - MOST_NAMED} more" if len(self.tasks) > MOST_NAMED else ""
        return " ".join(map(self._one, self.tasks[:MOST_NAMED])) + more

    def _one(self, step: StepStandingView) -> str:
        return str(step["job"]) if step["name"] == self.address[1] else f"{self.address[0]}/{step['name']}"


def job_or_group(given: Given, word: str) -> int | NamedGroup:
    """The one job that a word names, or the steps of a group."""
    asked = address(word)
    if not isinstance(asked, StepAddress):
        return asked
    steps = _steps(given, asked)
    return steps[0]["job"] if len(steps) == 1 else NamedGroup(asked, steps)


def job_named(given: Given, word: str | int | StepAddress) -> int:
    """The one job that a word names. Raises UsageError for a group of several steps."""
    asked = address(word) if isinstance(word, str) else word
    if not isinstance(asked, StepAddress):
        return asked
    group = NamedGroup(asked, _steps(given, asked))
    if len(group.tasks) > 1:
        raise UsageError(f"{group.title}; name one of them", hint=group.some)
    (job,) = [step["job"] for step in group.tasks] or [step["job"] for step in group.steps]
    return job


def jobs_named(given: Given, words: Iterable[str], states: Collection[str] | None = None) -> list[int]:
    """The jobs that words name, each once. Of a group only the steps in one of `states`. Raises UsageError if there is
    no such step."""
    jobs: dict[int, None] = {}
    for asked in [address(word) for word in words]:
        if not isinstance(asked, StepAddress):
            jobs[asked] = None
            continue
        steps = _steps(given, asked)
        fitting = [step for step in steps if states is None or len(steps) == 1 or step["state"] in states]
        if not fitting:
            count = len(NamedGroup(asked, steps).tasks)
            problem = f"none of the {count} steps of {asked} is {' or '.join(states or ())}"
            raise UsageError(problem, hint=f"stoker workflow show {asked[0]} --steps")
        jobs |= dict.fromkeys(step["job"] for step in fitting)
    return list(jobs)


def jobs_to_need(given: Given, asked: int | StepAddress) -> list[int]:
    """The jobs whose end is the end of what was named. Raises UsageError for a group that has no steps yet."""
    if not isinstance(asked, StepAddress):
        return [asked]
    steps = _steps(given, asked)
    if len(steps) == 1 and steps[0]["name"] == asked[1] and steps[0]["state"] in OPEN:
        job = call(given, "job.get", {"id": steps[0]["job"], "limit": 1})
        if job["command"] == EXPAND:
            raise UsageError(
                f"the steps of {asked} are not known yet: their list comes at run time",
                hint=f"--wait-for workflow:{asked[0]} starts it after the whole workflow",
            )
    return [step["job"] for step in steps]


def _steps(given: Given, asked: StepAddress) -> list[StepStandingView]:
    try:
        steps: list[StepStandingView] = call(given, "workflow.steps", {"id": asked[0], "step": asked[1]})["steps"]
    except StepNotFound as error:
        error.message = error.message.removeprefix("step: ")  # no option of that name was typed
        raise
    return steps
