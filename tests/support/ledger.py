"""The ledger: a record outside of the state directory of submits, answers, and the work of jobs.

Owns the ledger of one torture: a file to which workers append (O_APPEND) a START and an END line, a lock for each job
that the whole tree of an attempt holds, and the requests and answers of the client. The daemon is never asked: its
account is compared with the ledger (tests/support/audit.py). Invariant: a line is one write, so the order of the lines
is the order of the events.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from stoker.core.job.run_id import RunId

if TYPE_CHECKING:
    from pathlib import Path

SH = "/bin/sh"

# Arguments: the ledger's directory, how long to work, the exit code, the kind of trouble to make.
# All processes that the worker forks inherit the lock: while it is held, one of them lives.
WORKER = """
exec 9>>"$1/locks/$STOKER_JOB_ID"
read -r at _ < /proc/uptime
flock --nonblock 9 || echo "OVERLAP $STOKER_RUN_ID $$ $at -" >> "$1/work"
echo "START $STOKER_RUN_ID $$ $at -" >> "$1/work"
case "$4" in
    fork) sleep "$2" & ;;
    daemonise) setsid sh -c 'sleep 5 & sleep 5' & ;;
    stubborn) trap '' TERM ;;
    saves) stoker checkpoint save </proc/uptime >/dev/null; echo "attempt=$STOKER_ATTEMPT" >"$STOKER_OUTPUT" ;;
    uploads)
        stoker checkpoint save --status a <"$1/a" >/dev/null &
        stoker checkpoint save --status b <"$1/b" >/dev/null
        wait ;;
    once) [ "$STOKER_ATTEMPT" = 1 ] || set -- "$1" 0 "$3" ;;
esac
[ "$2" = 0 ] || sleep "$2"
read -r at _ < /proc/uptime
echo "END $STOKER_RUN_ID $$ $at $3" >> "$1/work"
exit "$3"
"""

UPLOADED = ("a", "b")  # checkpoints that are saved at once, each of one letter: so a mixture of both would show
UPLOAD_BYTES = 1_200_000


class Line(NamedTuple):
    """One line of a worker. `at`: seconds since boot; `code`: the exit code of an END."""

    what: str
    run_id: str
    pid: int
    at: float
    code: int | None

    @property
    def job(self) -> int:
        return RunId.parse(self.run_id).job_id


class Ledger:
    """The ledger of one torture."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "locks").mkdir(parents=True)
        self._script = directory / "worker.sh"
        self._script.write_text(WORKER)
        for letter in UPLOADED:
            (directory / letter).write_text(letter * UPLOAD_BYTES)
        self._work = directory / "work"
        self._work.touch()
        self.sent: dict[str, dict[str, Any]] = {}
        self.answered: defaultdict[str, list[int]] = defaultdict(list)
        self.refused: dict[str, str] = {}
        self.retried: defaultdict[int, int] = defaultdict(int)

    def spec(
        self, key: str, *, lasts_s: float = 0, code: int = 0, trouble: str = "-", **options: Any
    ) -> dict[str, Any]:
        """The spec of a job that writes its lines here. Its idempotency key identifies it."""
        args = [str(self._script), str(self._directory), f"{lasts_s:g}", str(code), trouble]
        return {"command": SH, "args": args, "idempotency_key": key, **options}

    # --- what the client did ---

    def send(self, key: str, spec: dict[str, Any]) -> dict[str, Any]:
        """Note a submit; to be called before it is sent."""
        self.sent[key] = spec
        return spec

    def answer(self, key: str, job: int) -> None:
        self.answered[key].append(job)

    def refuse(self, key: str, why: str) -> None:
        """Note that a submit was refused."""
        self.refused[key] = why

    # --- what the jobs did ---

    def lines(self) -> list[Line]:
        """All complete lines so far."""
        text = self._work.read_text()
        return [_line(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def count(self) -> int:
        return self._work.read_bytes().count(b"\n")

    def starts(self) -> dict[int, list[Line]]:
        by_job: defaultdict[int, list[Line]] = defaultdict(list)
        for line in self.lines():
            if line.what == "START":
                by_job[line.job].append(line)
        return by_job

    def ends(self) -> dict[str, Line]:
        """The END lines by run_id."""
        return {line.run_id: line for line in self.lines() if line.what == "END"}

    def overlaps(self) -> list[Line]:
        return [line for line in self.lines() if line.what == "OVERLAP"]


def _line(text: str) -> Line:
    what, run_id, pid, at, code = text.split(" ")
    return Line(what, run_id, int(pid), float(at), None if code == "-" else int(code))
