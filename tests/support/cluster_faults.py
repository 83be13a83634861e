"""A daemon and its Slurm under load and faults of both, all drawn from one seed.

Owns the jobs, the faults, and the checks beyond those of the audit: nothing is left on the node, in Slurm's queue or in
the shared directory. A fault that Slurm does to a run is noted, as it may kill the run right after its last word.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.core.errors import AlreadyFinished, AttemptMayLive, DaemonUnreachable, NotAllowed
from tests.support.audit import Audit
from tests.support.daemon import DaemonDied
from tests.support.facts import until, until_empty
from tests.support.ledger import Ledger
from tests.support.strace import Attached, Point, draw, points
from tests.support.torture import LIVE, become_quiet
from tests.support.work import alive

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import DaemonProcess
    from tests.support.slurm import Slurm

QUEUE = "hpc"
SETTINGS = """
[recovery]
window_ms = 5_000
[cluster]
directory = "{home}/shared"
[queues.hpc]
backend = "slurm"
max_running = 40
[queues.hpc.slurm]
partition = "main"
"""
AT_ONCE = 4  # jobs between two faults
QUIET_S = 120.0
LOST_WORD = "its own last word was"  # how the audit begins to say that an outcome is not that of the worker


class ClusterFaults:
    """`trace`: a directory for the traces of the daemon."""

    def __init__(self, daemon: DaemonProcess, slurm: Slurm, seed: int, trace: Path) -> None:
        self._daemon = daemon
        self._slurm = slurm
        self._trace = trace
        self._points: list[Point] = []
        self.ledger = Ledger(daemon.home / "ledger")
        self.dice = random.Random(f"cluster {seed}")
        self.fired: Counter[str] = Counter()
        self.harmed: set[str] = set()
        self.summary: dict[str, Any] = {}
        self._sent = 0
        self.fates: dict[str, Callable[[], None]] = {
            "daemon": self._kill_daemon,
            "syscall": self._kill_daemon_at_a_syscall,
            "controller": self._kill_controller,
            "node daemon": self._kill_node_daemon,
            "node": self._fail_node,
            "person": self._cancel_in_slurm,
            "requeue": self._requeue_in_slurm,
            "cancel": self._cancel,
        }

    # --- the load ---

    def submit(self, count: int = AT_ONCE) -> None:
        """Send jobs until each of them was answered, whatever happens to the daemon meanwhile."""
        keys = [f"k{self._sent + number}" for number in range(count)]
        self._sent += count
        for key in keys:
            self.ledger.send(key, self._draw_job(key))
        self._send(keys)

    def _send(self, keys: list[str]) -> None:
        while True:
            with contextlib.suppress(DaemonUnreachable), self._daemon.client() as client:
                jobs: Any = [self.ledger.sent[key] for key in keys]
                for key, answer in zip(keys, client.call("job.submit_many", {"jobs": jobs})["jobs"], strict=True):
                    self.ledger.answer(key, answer["id"])
                return
            self._start_again()

    def _draw_job(self, key: str) -> dict[str, Any]:
        common: dict[str, Any] = {"queue": QUEUE, "on_orphan": self.dice.choice(["fail", "requeue", "requeue", "hold"])}
        common |= {"max_orphanings": 1000, "grace_ms": self.dice.choice([100, 400])}
        lasts_s = self.dice.choice([0, 0, 0.3, 1.0, 3.0])
        match self.dice.choice(["plain", "plain", "fails", "retried", "hangs", "fork", "daemonise", "stubborn"]):
            case "fails":
                return self.ledger.spec(key, lasts_s=lasts_s, code=self.dice.randrange(1, 200), **common)
            case "retried":
                return self.ledger.spec(key, lasts_s=lasts_s / 4, code=7, max_attempts=2, base_delay_ms=1, **common)
            case "hangs":
                return self.ledger.spec(key, lasts_s=60, timeout_ms=self.dice.choice([300, 1_500]), **common)
            case "fork" | "daemonise" as trouble:
                return self.ledger.spec(key, lasts_s=lasts_s / 2, trouble=trouble, **common)
            case "stubborn":
                return self.ledger.spec(key, lasts_s=20, trouble="stubborn", timeout_ms=500, **common)
        return self.ledger.spec(key, lasts_s=lasts_s, **common)

    # --- the faults ---

    def strike(self, fate: str) -> None:
        self.fates[fate]()

    def _start_again(self) -> None:
        with contextlib.suppress(DaemonDied):
            self._daemon.wait()
        self._daemon.start()

    def _kill_daemon(self) -> None:
        self._daemon.kill_and_start()
        self.fired["daemon"] += 1

    def explore(self) -> None:
        """Run some jobs without a fault, to record the syscalls at which one can strike."""
        attached = Attached(self._daemon.pid, self._trace / "explored")
        self.submit()
        self._await_ends()
        attached.detach()
        self._points = draw(points(self._trace / "explored", ""), 10_000, self.dice)

    def _await_ends(self) -> None:
        become_quiet(self._daemon, QUIET_S)

    def _kill_daemon_at_a_syscall(self) -> None:
        point, pid = self._points.pop(), self._daemon.pid
        trace = self._trace / f"{len(self._points)}"
        attached = Attached(pid, trace, f"trace={point.syscall}", point.kill())
        self.submit()
        with contextlib.suppress(AssertionError):
            until(lambda: not alive(pid) or not self._live(), timeout_s=3)
        attached.detach()
        if alive(pid):
            return
        self.fired["syscall"] += 1
        if self._daemon.pid == pid:  # a submit has not noticed it
            self._start_again()

    def _live(self) -> bool:
        with contextlib.suppress(DaemonUnreachable), self._daemon.client() as client:
            return bool(client.list(states=LIVE, limit=1)["jobs"])
        return True

    def _kill_controller(self) -> None:
        """It may forget jobs of the last seconds, and give their numbers to others."""
        self._slurm.kill("slurmctld")
        self.submit(1)
        self._slurm.start("slurmctld")
        self.harmed |= self._running()
        self.fired["controller"] += 1

    def _kill_node_daemon(self) -> None:
        self._slurm.kill("slurmd")
        self.submit(1)
        self._slurm.start("slurmd")
        self.fired["node daemon"] += 1

    def _fail_node(self) -> None:
        """Slurm kills what runs on a node that is down."""
        self._answers()
        self.harmed |= self._running()
        self._slurm.run("scontrol", "update", f"NodeName={self._slurm.node}", "State=DOWN", "Reason=fault")
        self.submit(1)
        self._resume_node()
        self.fired["node"] += 1

    def _resume_node(self) -> bool:
        """Whether it is idle. Slurm refuses to resume a node that is up, or that has jobs which still end."""
        resume = ("scontrol", "update", f"NodeName={self._slurm.node}", "State=RESUME")
        if not self._slurm.is_idle():
            self._slurm.run(*resume, check=False)
        return self._slurm.is_idle()

    def _cancel_in_slurm(self) -> None:
        for number, run_id in self._some_in_slurm():
            self.harmed.add(run_id)
            self._slurm.run("scancel", number, check=False)
            self.fired["person"] += 1

    def _requeue_in_slurm(self) -> None:
        for number, run_id in self._some_in_slurm():
            self.harmed.add(run_id)
            self._slurm.run("scontrol", "update", f"JobId={number}", "Requeue=1", check=False)
            self._slurm.run("scontrol", "requeue", number, check=False)
            self.fired["requeue"] += 1

    def _cancel(self) -> None:
        with contextlib.suppress(DaemonUnreachable), self._daemon.client() as client:
            for job in client.list(states=LIVE, limit=2)["jobs"]:
                with contextlib.suppress(AlreadyFinished, AttemptMayLive, NotAllowed):
                    client.call("job.cancel", {"id": job["id"]})
                    self.fired["cancel"] += 1

    def _answers(self) -> None:
        until(lambda: "UP" in self._slurm.run("scontrol", "ping", check=False), why="slurmctld")

    def _running(self) -> set[str]:
        return {path.name for path in self._daemon.home.glob("shared/claims/[0-9]*")}

    def _some_in_slurm(self) -> list[tuple[str, str]]:
        """One or no job of ours that waits or runs: its number and its run."""
        self._answers()
        listed = [line.split() for line in self._slurm.run("squeue", "--noheader", "--format=%i %k").splitlines()]
        jobs = [(words[0], words[1]) for words in listed if len(words) > 1 and words[1].count(".") == 2]
        return self.dice.sample(jobs, min(1, len(jobs)))

    # --- the end ---

    def complaints(self) -> list[str]:
        """Wait until nothing runs, drain, and return all breaches."""
        self._answers()
        until(self._resume_node, QUIET_S, why="an idle node")
        self._await_ends()
        until_empty(self._in_slurm, why="the end of every job in Slurm")
        until_empty(self._left, why="the removal of all files of runs")
        assert self._daemon.stop() == 0
        audit = Audit(self._daemon.state_dir / "stoker.db", self.ledger)
        found = [one for one in audit.complaints() if not (LOST_WORD in one and one.partition(":")[0] in self.harmed)]
        self.summary = audit.summary()
        return [*found, *self._unfinished(audit)]

    def _unfinished(self, audit: Audit) -> list[str]:
        """A run of which Slurm knows nothing, and that left no record, is held (`stuck`)."""
        stuck = {job for job, row in audit.jobs.items() if row["reason"] == "stuck"}
        return [
            one for one in audit.unfinished() if not any(one.startswith((f"job {job} ", f"{job}.")) for job in stuck)
        ]

    def _in_slurm(self) -> list[str]:
        return self._slurm.run("squeue", "--noheader", "--states=PD,R,S,CF", "--format=%i %T %k").splitlines()

    def _left(self) -> list[str]:
        """The files of runs that are over. Those of a run that is held stay, as it may live."""
        held = {run_id for (run_id,) in self._daemon.rows("SELECT run_id FROM attempts WHERE ended_at IS NULL")}
        found = self._daemon.home.glob("shared/[cre]*s/[0-9]*")
        return [str(path) for path in found if path.name not in held]
