"""Which steps of an edited flow need not run, because an earlier run completed them unchanged (`--reuse`). Pure.

Owns the comparison of a step with the same step of the earlier run, and its words. Invariants: a step is taken over
only if it succeeded there, each step that it needs is taken over, and all that decides about its work is the same;
every step gets a reason. A step that adds others runs; what needs it is compared once it has added them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Protocol

from msgspec import Struct

from stoker.core.job.model import ExecutionMode, Reason, Spec, State, When
from stoker.core.job.taken_over import FileHashes, TakenOver
from stoker.core.units import counted, few
from stoker.core.workflow.definition import OUTSIDE
from stoker.core.workflow.fan_out import COLLECT, EXPAND
from stoker.core.workflow.handlers import Handler
from stoker.core.workflow.state import Edge

# By command, why such a step of Stoker's own runs again: the same command may do something else.
AGAIN = {
    EXPAND: "it adds steps to the workflow, and each is compared then",
    OUTSIDE: "it looks at work outside of the workflow",
}
MOST_NAMED = 3
# The fields that decide about the work of a step. `env` and files are compared by name.
_COMPARED = (
    "command", "args", "stdin", "working_dir", "umask", "execution_mode", "success_exit_codes", "sources",
    "produces", "secrets",
)  # fmt: skip


class Compared(Protocol):
    """A step of the plan of a workflow, or of its row."""

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> tuple[Edge, ...]: ...
    @property
    def when(self) -> When | None: ...
    @property
    def handler(self) -> Handler | None: ...


class EarlierStep(Struct, frozen=True, kw_only=True):
    """A step of the earlier run. `output`: its outputs as JSON; `files`: their hashes, if it has any."""

    job: int
    state: State
    reason: Reason | None
    spec: Spec
    needs: tuple[Edge, ...] = ()
    when: When | None = None
    output: str | None = None
    files: FileHashes | None = None


class EarlierRun(Struct, frozen=True):
    """The run to reuse: its steps by name."""

    workflow: int
    steps: Mapping[str, EarlierStep]

    @property
    def completed(self) -> set[str]:
        return {name for name, step in self.steps.items() if step.state is State.SUCCEEDED}


class ReuseWish(Struct, frozen=True, kw_only=True):
    """The facts for the decisions. `earlier` is None if the flow has not run yet.

    `begins`: the part begins in the middle, so all of its steps run. `outside`: steps that stand outside of the part
    and only hand on what they had. `files`: the hashes of now, of the steps that have files.
    """

    earlier: EarlierRun | None
    begins: bool = False
    outside: Collection[str] = ()
    files: Mapping[str, FileHashes] = {}

    @property
    def later(self) -> int | None:
        """The run with which steps are compared that are added to the workflow later."""
        return None if self.earlier is None or self.begins else self.earlier.workflow


class ReuseDecision(Struct, frozen=True):
    """`taken`: the end that is taken over; None if the step runs, or if that is decided `later`."""

    step: str
    why: str
    taken: TakenOver | None = None
    later: bool = False


def decide(
    steps: Iterable[tuple[Compared, Spec]], wish: ReuseWish, running: Collection[str] = ()
) -> Iterator[ReuseDecision]:
    """One decision for each step, in an order in which the steps can run. `running`: others that are not reused."""
    run, adding = set(running), dict[str, str]()  # the second: of steps that are compared later, what adds steps first
    for planned, spec in steps:
        decision = _decide(planned, spec, wish, run, adding)
        name = planned.name
        run.discard(name)
        if decision.later:
            adding[name] = next(adding[edge.step] for edge in planned.needs if edge.step in adding)
        elif decision.taken is None and _is(EXPAND, spec):
            adding[name] = name
        elif decision.taken is None:
            run.add(name)
        yield decision


def _is(command: str, spec: Spec) -> bool:
    return spec.execution_mode is ExecutionMode.IN_PROCESS and spec.command == command


def _decide(
    planned: Compared, spec: Spec, wish: ReuseWish, running: Collection[str], adding: Mapping[str, str]
) -> ReuseDecision:
    name, run = planned.name, wish.earlier
    if run is None:
        return ReuseDecision(name, "there is no earlier run")
    earlier = run.steps.get(name)
    if earlier is None:
        return ReuseDecision(name, f"workflow {run.workflow} has no such step")
    taken = TakenOver(run.workflow, name, earlier.job, earlier.output, earlier.files)
    if name in wish.outside:
        return ReuseDecision(name, "outside the part", taken)
    first = next((adding[edge.step] for edge in planned.needs if edge.step in adding), None)
    why = (
        _why_anyway(planned, spec, earlier, wish, running)
        or _changed(planned, spec, earlier, same_needs=first is not None or _same_needs(planned, earlier))
        or changed_files(spec, earlier.files, wish.files.get(name))
    )
    if why is not None:
        return ReuseDecision(name, why)
    if first is not None:
        return ReuseDecision(name, f"it is compared once {first} has added its steps", later=True)
    return ReuseDecision(name, _same(planned, earlier.files), taken)


def _same_needs(planned: Compared, earlier: EarlierStep) -> bool:
    return set(planned.needs) == set(earlier.needs)


def _why_anyway(
    planned: Compared, spec: Spec, earlier: EarlierStep, wish: ReuseWish, running: Collection[str]
) -> str | None:
    """Why a step runs even if nothing of its own has changed; None if it need not."""
    if planned.handler is not None:
        return "a handler belongs to one run of the steps"
    if wish.begins:
        return "the part begins with it or before it"
    if earlier.state is not State.SUCCEEDED:
        reason = "" if earlier.reason is None else f" ({earlier.reason.value})"
        return f"it is {earlier.state.value}{reason} in the earlier run"
    again = next((why for command, why in AGAIN.items() if _is(command, spec)), None)
    return again or next((f"its need {edge.step} runs" for edge in planned.needs if edge.step in running), None)


def _changed(planned: Compared, spec: Spec, earlier: EarlierStep, *, same_needs: bool) -> str | None:
    """The fields that differ, in words."""
    words = {"args": "outputs"} if _is(COLLECT, spec) else {}
    changed = [words.get(name, name) for name in _COMPARED if getattr(spec, name) != getattr(earlier.spec, name)]
    changed += ["if"] if spec.run_if != earlier.spec.run_if else []
    then, now = earlier.spec.env, spec.env
    changed += sorted(f"env {name}" for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if not same_needs:
        changed.append("needs")
    elif planned.when is not earlier.when:
        changed.append("when")
    return f"{few(changed, MOST_NAMED)} changed" if changed else None


def changed_files(spec: Spec, then: FileHashes | None, now: FileHashes | None) -> str | None:
    """The files of a step that differ from those of its earlier end, in words."""
    if not (spec.sources or spec.produces):
        return None
    if then is None or then.unknown is not None:
        return f"its files were not recorded{'' if then is None else f': {then.unknown}'}"
    if now is None or now.unknown is not None:
        return f"its files are not known{'' if now is None else f': {now.unknown}'}"
    changes = [*_unlike("source", then.sources, now.sources), *_unlike("product", then.produces, now.produces)]
    return few(changes, MOST_NAMED) or None


def _unlike(noun: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for path in sorted(then.keys() | now.keys()):
        if then.get(path) != now.get(path):
            how = "is new" if path not in then else "is gone" if path not in now else "changed"
            yield f"{noun} {path} {how}"


def _same(planned: Compared, files: FileHashes | None) -> str:
    """The result of the comparison, in words."""
    counts = () if files is None else ((len(files.sources), "source"), (len(files.produces), "product"))
    same = "same command and inputs" if planned.needs else "same command"
    return ", ".join([same, *(counted(count, noun) for count, noun in counts if count)])
