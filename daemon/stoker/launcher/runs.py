"""The runs that a launcher holds, from the launch order until the daemon has acknowledged the outcome.

Owns one record a run and its messages. Processes, sockets and files are elsewhere.

Invariants: a run_id that was answered "unknown", or was acknowledged before an order for it came, is never started; the
pid of a main process leads to its run only until it is reaped, as another run may get it then; `ended` means that no
process of the tree is left.
"""

from __future__ import annotations

from .marks import mark_of

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .frames import Message
    from .outputs import Output

RUNNING = "running"
CLOSING = "closing"
ENDED = "ended"
UNKNOWN = "unknown"
MOST_SETTLED = 1_000


class Run:
    """One run. `stopping`: the launcher got SIGTERM while it ran. `written`: its outcome is in the outcome log."""

    __slots__ = ("cgroup", "exit", "output", "pid", "run_id", "started", "state", "stopped", "stopping", "written")

    def __init__(self, run_id: str, pid: int, output: Output | None, cgroup: str | None) -> None:
        self.run_id = run_id
        self.pid = pid
        self.output = output
        self.cgroup = cgroup
        self.state = RUNNING
        self.started: Message | None = None
        self.exit: Message | None = None
        self.stopped = False
        self.stopping = False
        self.written = False

    @property
    def log_bytes(self) -> int:
        return 0 if self.output is None else self.output.log.size

    def describe(self) -> Message:
        """Its element in the answer to `list`."""
        return {"run_id": self.run_id, "state": self.state, "started": self.started, "exit": self.exit}


class Runs:
    def __init__(self) -> None:
        self.mains: dict[int, Run] = {}
        self._held: dict[str, Run] = {}
        self._sessions: dict[int, Run] = {}  # by the pid of the leader: the newest run that had it
        self._tombstones: set[str] = set()
        self._settled: dict[str, None] = {}  # the newest MOST_SETTLED, oldest first

    def __iter__(self) -> Iterator[Run]:
        return iter(self._held.values())

    def get(self, run_id: str) -> Run | None:
        return self._held.get(run_id)

    def refusal(self, run_id: str) -> str | None:
        """The reason not to start this run, if there is one."""
        if run_id in self._tombstones or run_id in self._settled:
            return "tombstone"
        return "duplicate" if run_id in self._held else None

    def hold(self, run: Run) -> None:
        self._held[run.run_id] = run
        if run.state is RUNNING:
            self.mains[run.pid] = self._sessions[run.pid] = run

    def acknowledge(self, run_ids: Iterable[str]) -> list[Run]:
        """Forget and return runs that are over. A run that is not held is never started from now on."""
        over = []
        for run_id in run_ids:
            run = self._held.get(run_id)
            if run is None:
                self._settled[run_id] = None
            elif run.state is ENDED:
                over.append(self._forget(run_id))
                self._settled[run_id] = None
        while len(self._settled) > MOST_SETTLED:
            del self._settled[next(iter(self._settled))]
        return over

    def _forget(self, run_id: str) -> Run:
        run = self._held.pop(run_id)
        if self._sessions.get(run.pid) is run:
            del self._sessions[run.pid]
        return run

    def describe(self, asked: Iterable[str]) -> list[Message]:
        """All runs that are held, and the unknown ones among `asked`, which are never started from now on."""
        unknown = [run_id for run_id in asked if run_id not in self._held]
        self._tombstones.update(unknown)
        answers = [run.describe() for run in self]
        return answers + [{"run_id": run_id, "state": UNKNOWN} for run_id in unknown]

    def main_lives(self, run: Run) -> bool:
        """Whether its main process is not yet reaped. After that a later run may have the same pid."""
        return self.mains.get(run.pid) is run

    def of_session(self, session: int) -> Run | None:
        """The open run whose main process leads or led this session.

        The kernel gives no new process the id of a session in use. So an older run with that pid has no process left.
        """
        run = self._sessions.get(session)
        return None if run is None or run.state is ENDED else run

    def of_mark(self, mark: int) -> Run | None:
        """The open run with that mark; None for 0."""
        return next((run for run in self if mark and run.state is not ENDED and mark_of(run.run_id) == mark), None)

    def open_ids(self) -> set[str]:
        return {run.run_id for run in self if run.state is not ENDED}

    def unwritten(self) -> list[Run]:
        """Runs with an outcome that is neither acknowledged nor in the outcome log."""
        return [run for run in self if run.state is ENDED and not run.written]
