"""The section [cluster], and what a queue with a backend asks its engine for.

As in settings.py the annotations are evaluated (no `from __future__`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Protocol

from msgspec import Meta

from stoker.config.section import Section, between, says
from stoker.core.cluster import EXTRA_OPTIONS, ClusterOptions

MOST = 1_000_000
YEAR_MS = 366 * 24 * 3_600_000
A_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.,&|*@:+=/()\[\]!-]{0,255}\Z"
AN_OPTION = r"^--[a-z][a-z-]*(=[^\x00-\x1f\x7f]{1,255})?\Z"


def a_name(text: str) -> Meta:
    """Help for a name that the engine knows; it never begins like an option."""
    return Meta(pattern=A_NAME, title="a name as Slurm has it", description=text)


Option = Annotated[str, Meta(pattern=AN_OPTION, title="long options of sbatch, with their values after =")]


class ClusterSettings(Section, frozen=True):
    """The directory that this daemon shares with the nodes of a cluster, for queues with a backend."""

    directory: Annotated[str, says('absolute path, the same on every node; "" = there is no cluster')] = ""
    python: Annotated[str, says("Python 3.11 or newer on the nodes, without any package")] = "python3"


class SlurmSection(Section, frozen=True):
    """The wishes of each job of the queue. Keys that are left out are as the cluster has them."""

    partition: Annotated[str, a_name("partition")] | None = None
    account: Annotated[str, a_name("account that is charged")] | None = None
    qos: Annotated[str, a_name("quality of service")] | None = None
    constraint: Annotated[str, a_name("features of the nodes")] | None = None
    cpus: Annotated[int, between(1, MOST, "processors of a job")] | None = None
    memory_mb: Annotated[int, between(1, 1 << 30, "memory of a job on its node, in MiB")] | None = None
    gpus: Annotated[int, between(1, MOST, "GPUs of a job")] | None = None
    time_ms: Annotated[int, between(60_000, YEAR_MS, "Slurm's own time limit of a job")] | None = None
    extra: Annotated[tuple[Option, ...], says("further options of sbatch, from a list of harmless ones")] = ()

    def options(self) -> ClusterOptions:
        return ClusterOptions(**{name: getattr(self, name) for name in self.__struct_fields__})


def mistakes_of_options(section: str, extra: Iterable[str]) -> Iterator[str]:
    for option in extra:
        if option.partition("=")[0] not in EXTRA_OPTIONS:
            allowed = ", ".join(sorted(EXTRA_OPTIONS))
            yield f"{section} extra: {option!r} is not among the options that are allowed: {allowed}"


class Overflowing(Protocol):
    """The part of a queue's section that says where its jobs go if there are too many."""

    @property
    def backend(self) -> str | None: ...
    @property
    def overflow(self) -> str | None: ...
    @property
    def overflow_above(self) -> int | None: ...


def overflow_mistakes(queues: Mapping[str, Overflowing]) -> Iterator[str]:
    """An overflow goes from a queue of this host to one of the cluster."""
    backends = sorted(name for name, queue in queues.items() if queue.backend is not None)
    for name, queue in queues.items():
        section = f"[queues.{name}]"
        if queue.overflow is None:
            if queue.overflow_above is not None:
                yield f"{section} overflow_above: it has no effect without overflow, the queue that takes the jobs"
        elif queue.backend is not None:
            yield f"{section} overflow: a queue with a backend starts no jobs on this host, so it cannot overflow"
        elif queue.overflow not in backends:
            named = ", ".join(backends) or "none has one"
            yield f"{section} overflow: {queue.overflow!r} is no queue with a backend ({named})"


def cluster_mistakes(cluster: ClusterSettings, queues: Collection[str], run_as: str) -> Iterator[str]:
    """A directory that cannot be the same everywhere, and what queues with a backend lack or exclude."""
    if cluster.directory and not cluster.directory.startswith("/"):
        yield f"[cluster] directory: {cluster.directory!r} is not an absolute path"
    if queues and not cluster.directory:
        names = ", ".join(sorted(queues))
        yield f"[cluster] directory: it is missing, and has to be shared with the nodes for the backend of {names}"
    if queues and run_as != "service":
        names = ", ".join(sorted(queues))
        yield f'[run_as] user = "{run_as}": on the cluster jobs of {names} would run as the user of the daemon'
