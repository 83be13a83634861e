"""What a resume does with a step that stopped short, by name: five of our own, and what Python modules register.

Owns the registry. Modules named in `[daemon] handlers` fill it as they are imported. Refuses to run a step: a strategy
only answers which of the five is meant. Invariants: a name is given once; an unknown one is told with the known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from stoker.core.errors import StrategyFailed, StrategyNotFound
from stoker.core.job.model import Reason, State
from stoker.core.raw_bytes import storable
from stoker.core.workflow.state import Strategy


class Interrupted(Struct, frozen=True, kw_only=True):
    """A step that stopped short, as a strategy is shown it."""

    workflow: int
    step: str
    job: int
    state: State
    reason: Reason | None
    attempts: int
    failures: int


Chooser = Callable[[Interrupted], Strategy | str]
STRATEGIES: dict[str, Chooser] = {}


def strategy(name: str) -> Callable[[Chooser], Chooser]:
    """Register a function as the resume strategy `name`."""

    def register(function: Chooser) -> Chooser:
        if name in known():
            raise ValueError(f"two resume strategies are called {name!r}")
        STRATEGIES[name] = function
        return function

    return register


def known() -> list[str]:
    """Every name that a flow or a person may use."""
    return [*(own.value for own in Strategy), *sorted(STRATEGIES)]


def check(names: Iterable[str]) -> None:
    """Raises StrategyNotFound."""
    for name in names:
        if name not in known():
            raise StrategyNotFound(
                f"strategy: there is no resume strategy {name!r} (there are: {', '.join(known())})", path="strategy"
            )


def choose(name: str, step: Interrupted) -> Strategy:
    """Which of our own strategies `name` means for this step. Raises StrategyNotFound or StrategyFailed."""
    check([name])
    if name not in STRATEGIES:
        return Strategy(name)
    try:
        return Strategy(STRATEGIES[name](step))
    except BaseException as error:
        told = storable(f"{type(error).__name__}: {error}")
        raise StrategyFailed(
            f"the resume strategy {name!r} failed for step {step.step}: {told}",
            hint=f"stoker workflow resume {step.workflow} --strategy from_checkpoint",
            step=step.step,
        ) from error
