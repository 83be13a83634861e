"""The registry of resume strategies: the built-in ones, and those that Python modules register.

Modules named in `[daemon] handlers` register theirs when they are imported. A registered strategy is a function that
picks one of the built-in strategies for a step. Invariant: no name is registered twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from stoker.core.errors import StrategyFailed, StrategyNotFound
from stoker.core.job.model import Reason, State
from stoker.core.raw_bytes import storable
from stoker.core.workflow.state import Strategy


class Interrupted(Struct, frozen=True, kw_only=True):
    """The argument of a strategy: a step that started and did not complete."""

    workflow: int
    step: str
    job: int
    state: State
    reason: Reason | None
    attempts: int
    failures: int


Chooser = Callable[[Interrupted], Strategy | str]
STRATEGIES: dict[str, Chooser] = {}
BUILT_IN = {**{one.value: one for one in Strategy}, "adopt": Strategy.FROM_CHECKPOINT}  # "adopt": an older name


def strategy(name: str) -> Callable[[Chooser], Chooser]:
    """Register a function as the resume strategy `name`."""

    def register(function: Chooser) -> Chooser:
        if name in all_names():
            raise ValueError(f"two resume strategies are called {name!r}")
        STRATEGIES[name] = function
        return function

    return register


def all_names() -> list[str]:
    """Every name that a flow or a person may use."""
    return [*BUILT_IN, *sorted(STRATEGIES)]


def check(names: Iterable[str]) -> None:
    """Raises StrategyNotFound."""
    for name in names:
        if name not in all_names():
            raise StrategyNotFound(
                f"strategy: there is no resume strategy {name!r} (there are: {', '.join(all_names())})", path="strategy"
            )


def choose(name: str, step: Interrupted) -> Strategy:
    """The built-in strategy that `name` means for this step. Raises StrategyNotFound or StrategyFailed."""
    check([name])
    if name in BUILT_IN:
        return BUILT_IN[name]
    try:
        choice = STRATEGIES[name](step)
        return Strategy(BUILT_IN.get(choice, choice))
    except BaseException as error:
        cause = storable(f"{type(error).__name__}: {error}")
        raise StrategyFailed(
            f"the resume strategy {name!r} failed for step {step.step}: {cause}",
            hint=f"stoker workflow resume {step.workflow} --strategy from_checkpoint",
            step=step.step,
        ) from error
