"""A standstill: all running jobs of a queue, of several or of the daemon wait for jobs that are queued behind them.

Owns the decision, from what programs inside running jobs wait for, and its words. Nothing follows from it by itself: a
person raises a limit or cancels a job. Invariant: while one of the running jobs waits for nothing, or for a job that
may run, it is no standstill.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from stoker.core.units import counted, few

MOST_NAMED = 5
NONE_BESIDE: Mapping[str, int] = MappingProxyType({})


class Wait(Struct, frozen=True):
    """The jobs that a program inside a running job waits for, or a workflow."""

    jobs: tuple[int, ...] = ()
    workflow: int | None = None

    def __str__(self) -> str:
        if self.workflow is not None:
            return f"workflow {self.workflow}"
        return f"{'job' if len(self.jobs) == 1 else 'jobs'} {few(self.jobs, MOST_NAMED)}"


class Standing(Struct, frozen=True):
    """How the jobs of a wait stand. `queues`: those in which some are queued.

    `held_up`: one of them runs, and is itself one of the running jobs that wait; `moves`: another one runs.
    """

    queues: frozenset[str] = frozenset()
    held_up: bool = False
    moves: bool = False


class Standstill(Struct, frozen=True):
    """The running jobs with what each waits for. `queue`: the one whose limit they reach; None: that of the daemon.

    `beside`: other full queues, whose running jobs belong to it, by the number of these: each blocks another one.
    """

    queue: str | None
    waits: Mapping[int, Sequence[Wait]]
    beside: Mapping[str, int] = NONE_BESIDE

    def __str__(self) -> str:
        whose = "" if self.queue is None else f" of {self.where}"
        every = "the only running job" if len(self.waits) == 1 else f"all {len(self.waits)} running jobs"
        verb, them = ("waits", "it") if len(self.waits) == 1 else ("wait", "them")
        return f"{every}{whose} {verb} for jobs that are queued behind {them}: {self._named()}"

    @property
    def where(self) -> str:
        names = ", ".join(repr(name) for name in (self.queue, *sorted(self.beside)))
        return "the daemon" if self.queue is None else f"{'queues' if self.beside else 'queue'} {names}"

    @property
    def named(self) -> set[int]:
        """The jobs that it names."""
        return {*self.waits, *(job for each in self.waits.values() for wait in each for job in wait.jobs)}

    def _named(self) -> str:
        shown = sorted(self.waits.items())[:MOST_NAMED]
        more = len(self.waits) - len(shown)
        named = [f"job {job} waits for {', '.join(map(str, waits[:MOST_NAMED]))}" for job, waits in shown]
        return ", ".join([*named, f"and {counted(more, 'more job')}"] if more else named)

    @property
    def remedy(self) -> str:
        """The next command of a person, and how to do without it."""
        most = len(self.waits) - sum(self.beside.values()) + 1
        more = (
            f"set [daemon] max_running to {most} or more, then: stoker config reload"
            if self.queue is None
            else f"stoker queue set {self.queue} --max-running {most}"
        )
        return f'{more}; a step with `workflow = "child.toml"` holds no slot while it waits (docs/workflows.md)'


def standstill(
    queue: str | None,
    waits: Mapping[int, Sequence[Wait]],
    standings: Mapping[Wait, Standing],
    behind: Container[str],
    beside: Mapping[str, int] = NONE_BESIDE,
) -> Standstill | None:
    """Judge the jobs that hold all slots of a queue, or of the daemon: what each waits for, and how that stands.

    `behind`: the queues whose jobs cannot start before one of these slots is free. `beside`: see Standstill.
    """
    asked = [standings[wait] for each in waits.values() for wait in each]
    stands = all(waits.values()) and all(_is_stuck(standing, behind) for standing in asked)
    return Standstill(queue, waits, beside) if stands and any(standing.queues for standing in asked) else None


def _is_stuck(standing: Standing, behind: Container[str]) -> bool:
    """Whether no job of a wait can end before one of the running jobs does."""
    waits = bool(standing.queues) or standing.held_up
    return waits and not standing.moves and all(queue in behind for queue in standing.queues)
