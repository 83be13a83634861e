"""A client under load, and the kills of daemon and launchers that it meets, all from one seed.

Owns the mix of jobs, the thread that submits, cancels and retries them, and how daemon and launchers are killed; the
checks are in tests/support/audit.py. Invariant: all random choices come from the seed, so the same seed makes the same
jobs, and kills at the same lines of the ledger.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.core.errors import DaemonUnreachable
from tests.support.daemon import DaemonDied, DaemonProcess
from tests.support.facts import DEADLINE_S, NeverCame, until
from tests.support.flows import draw_flow
from tests.support.ledger import Ledger
from tests.support.restless import NOT_TOLD, Restless

if TYPE_CHECKING:
    from collections.abc import Callable

    import stoker

SETTINGS = """
[daemon]
max_running = 12
drain_timeout_ms = 20000
[launcher]
stuck_ms = 20000
[cpu]
throttle_threshold = 100
"""
FATES = [
    "daemon", "daemon", "launcher", "daemon, launcher", "launcher, daemon", "starting", "socket", "hangup",
    "hangup, daemon", "stderr", "stderr, daemon",
]  # fmt: skip
POLICIES = [("fail", False), ("requeue", False), ("hold", False), ("fail", True), ("requeue", True), ("hold", True)]
LIVE = ["waiting", "queued", "running"]
MOST_LIVE = 40
UPLOADING = 0.08  # the share of jobs that save two large checkpoints at once: a second of work
FDS_ALLOWED = 12  # connections to launchers of earlier lives, clients that are just leaving


def draw_job(dice: random.Random, ledger: Ledger, key: str) -> dict[str, Any]:
    """One job of the mix: every policy, short and long, failing, retried, hanging, forking, daemonising, stubborn."""
    on_orphan, survive = dice.choice(POLICIES)
    common: dict[str, Any] = {"on_orphan": on_orphan, "survive": survive, "max_orphanings": 1000}
    common["grace_ms"] = dice.choice([100, 400])
    lasts_s = dice.choice([0, 0, 0, 0, 0.02, 0.1, 0.3, 1.0])
    kind = dice.choice(["plain", "plain", "plain", "fails", "retried", "hangs", "fork", "daemonise", "stubborn"])
    if dice.random() < UPLOADING:
        kind = "uploads"
    match kind:
        case "fails":
            return ledger.spec(key, lasts_s=lasts_s, code=dice.randrange(1, 200), **common)
        case "retried":
            more: dict[str, Any] = {"max_attempts": 3, "base_delay_ms": dice.choice([1, 50]), "max_delay_ms": 100}
            return ledger.spec(key, lasts_s=lasts_s / 4, code=7, **common, **more)
        case "hangs":
            return ledger.spec(key, lasts_s=30, timeout_ms=dice.choice([50, 300, 800]), **common)
        case "fork" | "daemonise" | "uploads":
            return ledger.spec(key, lasts_s=lasts_s / 2, trouble=kind, **common)
        case "stubborn":
            return ledger.spec(key, lasts_s=20, trouble=kind, timeout_ms=dice.choice([100, 400]), **common)
    return ledger.spec(key, lasts_s=lasts_s, **common)


class Load(Restless):
    """Submits, cancels and retries until it is stopped. By chance it sends a request without an answer again."""

    def __init__(self, daemon: DaemonProcess, ledger: Ledger, seed: int) -> None:
        super().__init__(daemon, f"load {seed}")
        self._ledger = ledger
        self._number = 0
        self._lost: list[str] = []

    def step(self, client: stoker.Client) -> None:
        drawn = self.dice.random()
        if drawn < 0.15:
            self._cancel(client)
        elif drawn < 0.2:
            self._retry(client)
        elif drawn < 0.35 and self._lost:
            self._submit_again(client, self._lost.pop(self.dice.randrange(len(self._lost))))
        elif drawn < 0.5:
            self._submit(client, [self._draw() for _ in range(self.dice.randrange(2, 6))])
        elif drawn < 0.6:
            self._submit_flow(client, self._draw(draw_flow))
        else:
            self._submit(client, [self._draw()])
        if self.dice.random() < 0.2:
            self._make_room(client)

    def _draw(self, draw: Callable[[random.Random, Ledger, str], dict[str, Any]] = draw_job) -> str:
        self._number += 1
        key = f"k{self._number}"
        self._ledger.send(key, draw(self.dice, self._ledger, key))
        return key

    def _submit_again(self, client: stoker.Client, key: str) -> None:
        if "flow" in self._ledger.sent[key]:
            self._submit_flow(client, key)
        else:
            self._submit(client, [key])

    def _submit_flow(self, client: stoker.Client, key: str) -> None:
        """In the ledger the key of a workflow is that of its first step."""
        try:
            answer = client.call("workflow.submit", self._ledger.sent[key])
        except NOT_TOLD:
            self._lost.append(key)
            raise
        if answer["steps"]:  # it is empty once retention has removed the job
            self._ledger.answer(key, min(answer["steps"].values()))
        self.done["workflow"] += 1

    def _submit(self, client: stoker.Client, keys: list[str]) -> None:
        jobs = [self._ledger.sent[key] for key in keys]
        try:
            if len(jobs) == 1:
                answers = [client.call("job.submit", jobs[0])]
            else:
                answers = client.call("job.submit_many", {"jobs": jobs, "atomic": self.dice.random() < 0.5})["jobs"]
        except NOT_TOLD:
            if self.dice.random() < 0.7:  # the rest is never sent again: each may have been stored, once
                self._lost += keys
            raise
        for key, answer in zip(keys, answers, strict=True):
            if "error" in answer:
                self._ledger.refuse(key, str(answer["error"]))
            else:
                self._ledger.answer(key, answer["id"])
                self.done["answered again" if answer["existing"] else "answered"] += 1

    def _some_job(self, client: stoker.Client, states: list[str]) -> int | None:
        jobs = client.list(states=states, limit=30)["jobs"]
        return self.dice.choice(jobs)["id"] if jobs else None

    def _cancel(self, client: stoker.Client) -> None:
        job = self._some_job(client, LIVE)
        if job is not None:
            self.ask(client, "job.cancel", {"id": job})

    def _retry(self, client: stoker.Client) -> None:
        job = self._some_job(client, ["failed", "cancelled", "held"])
        if job is not None:
            self.ask(client, "job.retry", {"id": job})

    def _make_room(self, client: stoker.Client) -> None:
        """Wait until so few jobs are live that the machine can cope."""
        while not self.enough.is_set() and len(client.list(states=LIVE, limit=200)["jobs"]) > MOST_LIVE:
            self.enough.wait(0.02)


class Faults:
    """Kills daemon and launchers, removes the socket and hangs up at drawn moments, and counts what really happened."""

    def __init__(self, daemon: DaemonProcess, ledger: Ledger, seed: int) -> None:
        self._daemon = daemon
        self._ledger = ledger
        self._dice = random.Random(f"faults {seed}")
        self.fired: Counter[str] = Counter()
        self.killed_launchers: set[str] = set()
        self._meet = {
            "daemon": self._kill_daemon,
            "launcher": self._kill_launcher,
            "socket": self._remove_socket,
            "hangup": self._hang_up,
            "stderr": self._block_stderr,
        }

    def strike(self) -> None:
        """Inject one fault at a drawn line of the ledger; afterwards a daemon runs."""
        self._await_lines(self._dice.randrange(12))
        fate = self._dice.choice(FATES)
        for victim in fate.replace("starting", "daemon").split(", "):
            self._meet[victim]()
        if self._daemon.process is None:
            self._await_lines(self._dice.randrange(4))
            if fate == "starting":
                self._kill_starting()
            self._daemon.start()
        if self._daemon.relay is not None:
            self._daemon.relay.unblock()

    def finish(self) -> None:
        """Wait until the daemon has made its socket again, if that was removed last."""
        until(self._answered, why="an answer after the last fault")

    def _answered(self) -> bool:
        with contextlib.suppress(DaemonUnreachable), self._daemon.client() as client:
            client.call("system.health")
            return True
        return False

    def _await_lines(self, more: int) -> None:
        """Wait for so many more lines of the ledger, or until nothing runs."""
        wanted = self._ledger.count() + more
        with contextlib.suppress(NeverCame):
            until(lambda: self._ledger.count() >= wanted, timeout_s=0.5)

    def _kill_daemon(self) -> None:
        process = self._daemon.process
        assert process is not None
        if process.poll() is not None:
            raise DaemonDied(f"it ended by itself with {process.returncode}: {self._daemon.tail()}")
        self._daemon.kill9()
        self._daemon.process = None
        self.fired["daemon"] += 1

    def _kill_starting(self) -> None:
        """SIGKILL in the middle of a recovery, after a number of its log lines."""
        before, wanted = self._log_lines(), self._dice.randrange(1, 6)
        process = self._daemon.spawn()
        until(lambda: self._log_lines() - before >= wanted or process.poll() is not None, why="lines of log")
        process.kill()
        process.wait()
        self._daemon.process = None
        self.fired["starting daemon"] += 1

    def _log_lines(self) -> int:
        return self._daemon.stderr.read_bytes().count(b"\n")

    def _remove_socket(self) -> None:
        """Remove the socket as logind does at a logout; the daemon makes it again."""
        self._daemon.socket.unlink(missing_ok=True)
        self.fired["socket"] += 1

    def _hang_up(self) -> None:
        """Send SIGHUP, as a closing terminal does, or as a person who wants a reload."""
        self._daemon.signal(signal.SIGHUP)
        self.fired["hangup"] += 1

    def _block_stderr(self) -> None:
        """Fill the stderr pipe and do not read it until the end of this fault: the daemon must go on answering."""
        relay = self._daemon.relay
        assert relay is not None, "this daemon's stderr is no pipe"
        relay.block()
        self._daemon.signal(signal.SIGHUP)  # it logs that it has read its settings
        until(lambda: relay.blocked, why="a line of the log in the pipe")
        until(self._answered, why="an answer while stderr is blocked")
        assert relay.blocked
        self.fired["stderr"] += 1

    def _kill_launcher(self) -> None:
        running = launchers(self._daemon.state_dir)
        if running:
            launcher = self._dice.choice(sorted(running))
            self.killed_launchers.add(launcher)
            with contextlib.suppress(ProcessLookupError):  # an old launcher may just have ended by itself
                os.kill(running[launcher], signal.SIGKILL)
                self.fired["launcher"] += 1


def launchers(state_dir: Path) -> dict[str, int]:
    """Pids of the launchers of a state directory, by id. A child of theirs looks like them until it has exec'ed."""
    oldest: dict[str, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "--id" in words and str(state_dir) in words:
                    started = int((entry / "stat").read_text().rpartition(")")[2].split()[19])
                    older = min(
                        (started, int(entry.name)), oldest.get(words[words.index("--id") + 1], (started + 1, 0))
                    )
                    oldest[words[words.index("--id") + 1]] = older
    return {launcher: pid for launcher, (_, pid) in oldest.items()}


def zombies_of(pid: int) -> list[str]:
    """The zombies among the children."""
    dead = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{child}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] == "Z":
                dead.append(stat)
    return dead


def become_quiet(daemon: DaemonProcess, timeout_s: float = DEADLINE_S) -> None:
    """Wait until no job waits, is queued or runs. To be called after all faults."""
    with daemon.client() as client:
        try:
            until(lambda: not client.list(states=LIVE, limit=1)["jobs"], timeout_s, why="the end of every live job")
        except NeverCame as never:
            live = [job["id"] for job in client.list(states=LIVE, limit=5)["jobs"]]
            reasons = [f"{client.why(job)} {client.get(job)}" for job in live]
            raise NeverCame("\n".join([str(never), str(client.status()), *reasons, daemon.tail(40)])) from None
