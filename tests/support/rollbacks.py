"""Daemons that are ended by a fault during a rollback to a drawn checkpoint, and started again until the workflow ends.

Owns the programme and the checks behind it: the workflow is as before its rollback or as after it, completed steps did
not run again, and all steps were reset in one commit. Tests choose the faults.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from stoker.core.errors import DaemonUnreachable, NotAllowed
from tests.support.audit import Audit
from tests.support.daemon import DaemonDied
from tests.support.facts import until
from tests.support.flows import chain, flow, send, settled, step_states, workflow_view
from tests.support.lives import OPENED, Lives
from tests.support.strace import Attached, Point, Strace, draw, points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import DaemonProcess

LONG_S = 600
BACK = {"waiting", "queued", "succeeded"}


class Rollbacks(Lives):
    """Its daemon is traced while it rolls back, or while it starts after that; never both, as one tracer is all it may
    have. `interrupted` counts the workflows that a kill left before their rollback, and those after it.
    """

    def __init__(self, daemon: DaemonProcess, seed: int, most: int) -> None:
        super().__init__(daemon, seed, most)
        self._plain = daemon.programs
        self._around = Strace(daemon)
        self._traced, daemon.programs = daemon.programs, self._plain
        self.interrupted: Counter[str] = Counter()
        self.flows: list[int] = []

    def explore_rollback(self) -> tuple[list[Point], list[Point]]:
        """Two lives without a fault: where one could strike in a rollback, and in the start behind it."""
        trace = self.daemon.home / "explored"
        workflow, to = self._begin()
        attached = Attached(self.daemon.pid, trace)
        answered = self._roll_back(workflow, to)
        attached.detach()
        self.daemon.kill9()
        self._around.set()
        self._start_traced(workflow)
        self.daemon.kill_and_start()
        self._go_on(workflow, to, answered=answered)
        return points(trace, ""), points(self._around.trace, OPENED)

    def live(self, point: Point, starting: list[Point]) -> None:
        """One rollback with that fault; after it, by chance, a start with another."""
        workflow, to = self._begin()
        attached = Attached(self.daemon.pid, self.daemon.home / "trace.now", f"trace={point.syscall}", point.kill())
        answered = self._roll_back(workflow, to)
        attached.detach()
        if self._is_alive():
            self.unfired.append(point)
        else:
            self.fired += 1
            if self.dice.random() < 0.5:
                self._die_starting(workflow, draw(starting, 1, self.dice)[0])
            self.daemon.start()
        self._go_on(workflow, to, answered=answered)

    def _begin(self) -> tuple[int, int]:
        """A workflow with completed steps and a running one, and the checkpoint that it is to go back to."""
        key, survive = f"k{self._number}", self.dice.random() < 0.5
        self._number += 1
        steps = {
            "a": self._step(), "b": self._step("a"),
            "c": self._step("b", lasts_s=LONG_S, trouble="once", survive=survive),
            "d": self._step("c"), "e": self._step("a"),
        }  # fmt: skip
        self.ledger.send(key, flow(steps))
        with self.daemon.client() as client:
            answer = send(client, flow(steps), idempotency_key=key)
            self.ledger.answer(key, min(answer["steps"].values()))
            until(lambda: answer["steps"]["c"] in self.ledger.starts(), why="the long step")
            self.flows.append(answer["id"])
            return answer["id"], self.dice.choice(chain(client, workflow=answer["id"]))["id"]

    def _step(self, *needs: str, **options: Any) -> dict[str, Any]:
        spec = self.ledger.spec("", on_orphan="requeue", grace_ms=100, max_orphanings=1000, **options)
        del spec["idempotency_key"]
        return {**spec, "needs": list(needs)}

    def _roll_back(self, workflow: int, to: int) -> bool:
        """Until it is over, or the daemon has died; whether it was answered."""
        answered = False
        with contextlib.suppress(DaemonUnreachable), self.daemon.client() as client:
            client.call("workflow.rollback", {"id": workflow, "to": to})
            answered = True
        until(lambda: self._is_over(workflow), why=f"the rollback of workflow {workflow}")
        return answered

    def _is_over(self, workflow: int) -> bool:
        if not self._is_alive():
            return True
        with contextlib.suppress(DaemonUnreachable), self.daemon.client() as client:
            return bool(workflow_view(client, workflow)["state"] != "rolling_back")
        return False

    def _is_alive(self) -> bool:
        return self.daemon.process is not None and self.daemon.process.poll() is None

    def _die_starting(self, workflow: int, point: Point) -> None:
        """At that point, or else once it stands."""
        self._around.set(f"trace={point.syscall}", point.kill())
        with contextlib.suppress(DaemonDied, DaemonUnreachable):
            self._start_traced(workflow)
        self.twice_before_ready += not self._is_alive()
        if self._is_alive():
            self.daemon.kill9()

    def _start_traced(self, workflow: int) -> None:
        self.daemon.programs = self._traced
        try:
            self.daemon.start()
        finally:
            self.daemon.programs = self._plain
        until(lambda: self._is_over(workflow), why="the end of the rollback after a start")

    def _go_on(self, workflow: int, to: int, *, answered: bool) -> None:
        """It stands before its rollback or after it; it goes back once more in the first case, and on in both."""
        with self.daemon.client() as client:
            state = settled(client, workflow, "running", "paused", "succeeded")
            self.interrupted["after" if state == "paused" else "before"] += 1
            assert state == "paused" or not answered, f"workflow {workflow} is {state} after its rollback was answered"
            if state == "running":
                with contextlib.suppress(NotAllowed):  # its last step may just have ended
                    client.call("workflow.rollback", {"id": workflow, "to": to})
                state = settled(client, workflow, "paused", "succeeded")
            if state == "paused":
                steps = step_states(client, workflow)
                assert set(steps.values()) <= BACK, steps
                assert (steps["a"], steps["b"]) == ("succeeded", "succeeded"), (
                    "completed, and nobody asked for it again"
                )
                client.call("workflow.resume", {"id": workflow})
            assert settled(client, workflow) == "succeeded"

    def complaints(self) -> list[str]:
        """The checks of every torture, and those of rollbacks."""
        inherited = super().complaints()
        audit = Audit(self.daemon.state_dir / "stoker.db", self.ledger)
        return [*inherited, *_ran_twice(audit), *_half_done(audit, self.flows)]


def _ran_twice(audit: Audit) -> Iterator[str]:
    for job, attempts in audit.attempts.items():
        completed = [attempt["run_id"] for attempt in attempts if attempt["outcome"] == "exit"]
        if len(completed) > 1:
            yield f"job {job} was completed by {completed}"


def _half_done(audit: Audit, flows: list[int]) -> Iterator[str]:
    """Each rollback that was begun was ended once, and all steps that it reset were reset in the same commit."""
    for workflow in flows:
        jobs = {job for job, row in audit.jobs.items() if row["workflow_id"] == workflow}
        mine = [
            change for change in audit.changes if (change["kind"], change["subject"]) == ("workflow", str(workflow))
        ]
        causes = [change["cause"] for change in mine if change["cause"] in {"rollback", "rolled_back"}]
        if causes != ["rollback", "rolled_back"] * (len(causes) // 2):
            yield f"workflow {workflow}: {causes}"
        seqs = {change["seq"] for change in mine if change["cause"] == "rolled_back"}
        for change in audit.changes:
            if change["job_id"] in jobs and change["cause"] == "reset":
                if change["seq"] - 1 not in seqs:
                    yield f"workflow {workflow}: change {change['seq']} put job {change['job_id']} back by itself"
                seqs.add(change["seq"])
