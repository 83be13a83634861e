"""One run on a node of a cluster: `python -I -S .../launcher/__main__.py node SHARED RUN_ID`, as a batch script.

The daemon is on another host and shares only the directory SHARED. This process is the parent of the run, as a launcher
is at home, and its record of the end is the truth about it: the engine of the cluster may forget the job.

Owns the claim and the record. Invariants: a run is started only by the process whose claim is the first, and never
after the daemon has revoked it by a claim of its own; the record is durable, and complete at the moment it appears; it
is written once the whole process tree is gone, and a failure only if no signal of the engine follows it at once.
"""

from __future__ import annotations

import errno
import os
import select
import time

from . import kernel, whole_files
from .error_log import log_error
from .launcher import Launcher, take_sigterm
from .lean_json import json_of, read_json
from .lean_stdlib import signal, suppress

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from .frames import Message

SIGNALFD_BYTES = 128 * 32
KILL_AGAIN_S = 1.0
WRITE_AGAIN_S = 1.0
REAP_AGAIN_S = 1.0
# The engine kills a job process by process, and may reach us after the worker: a failure that it caused is no failure.
LAST_SIGNAL_S = 1.0
# What the engine tells a job about itself. The rest of its environment is that of a person who submits.
FROM_ENGINE = ("SLURM_", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL")
# The daemon's commands are known to the engine by it, and a job is not to act in its name.
DAEMONS_OWN = "SLURM_JWT"
NOT_STARTED = 127
AWAITED = frozenset({signal.SIGTERM, signal.SIGUSR1})


class NoOutcomeLog:
    """In place of the outcome log of a launcher: the record has its place in the shared directory."""

    def append(self, outcomes: list[Message]) -> None:
        """Keep nothing."""


def main(arguments: list[str]) -> int:
    shared, run_id = arguments
    _isolate()
    claim = {"by": "node", "host": os.uname().nodename, "pid": os.getpid(), "boot_id": kernel.boot_id()}
    claim |= {"engine_job": os.environ.get("SLURM_JOB_ID"), "at_ms": kernel.now_ms()}
    if not whole_files.put_first(f"{shared}/claims/{run_id}", json_of(claim).encode()):
        log_error(f"run {run_id} was revoked, or is started elsewhere")
        return 0
    try:
        order = _read_order(f"{shared}/runs/{run_id}/order")
    except (OSError, ValueError) as error:
        end = _never_started(run_id, f"its order on {claim['host']}: {error}")
    else:
        end = RunOnNode(order, f"{shared}/runs/{run_id}").run_to_its_end()
    record(f"{shared}/ends/{run_id}", json_of(end).encode())
    return _exit_status(end)


def _read_order(path: str) -> dict[str, Any]:
    """The order, with what the engine tells the job. Raises OSError or ValueError."""
    order: dict[str, Any] = read_json(path)
    own = {name: text for name, text in os.environ.items() if name.startswith(FROM_ENGINE) and name != DAEMONS_OWN}
    order["env"] = own | order["env"]
    return order


def _never_started(run_id: str, why: str) -> dict[str, Any]:
    failed = {"errno": errno.EIO, "error": why, "transient": True}
    at = {"at_boot_ms": kernel.now_at_boot_ms(), "at_ms": kernel.now_ms()}
    return {"op": "exit", "run_id": run_id, "spawn_error": failed, **at}


def _exit_status(end: dict[str, Any]) -> int:
    """For the engine, as a shell has it: the lists of the engine then show which jobs failed."""
    if end.get("signal") is not None:
        return 128 + int(end["signal"])
    return NOT_STARTED if end.get("exit_code") is None else int(end["exit_code"])


def _isolate() -> None:
    """Signals come first: one that would come before the run can be stopped has to wait for that."""
    for signum in AWAITED:
        kernel.keep_pending(signum)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.chdir("/")
    kernel.ignore_signals(but=AWAITED)
    kernel.become_subreaper()


class RunOnNode:
    """The run of one order. A SIGTERM from the engine begins its stop: SIGTERM to the tree, SIGKILL after the grace.

    The daemon says in the file `stop` that the stop is its own, before it asks the engine for the signal. A SIGUSR1 is
    the daemon's: the file `warning` names the signal for the main process.
    """

    def __init__(self, order: dict[str, Any], directory: str) -> None:
        self._run_id: str = order["run_id"]
        self._grace_s: float = order.pop("grace_ms") / 1_000
        self._stop, self._warning = f"{directory}/stop", f"{directory}/warning"
        self._terms = kernel.open_signalfd(signal.SIGTERM)
        self._warnings = kernel.open_signalfd(signal.SIGUSR1)
        self._deaths = kernel.open_signalfd(signal.SIGCHLD)
        outcome_log: Any = NoOutcomeLog()
        instance = order["env"]["STOKER_INSTANCE"]
        self._launcher = Launcher("node", instance, outcome_log, took_sigterm=self._take_sigterm)
        self._epoll = select.epoll()
        for fd in (self._terms, self._warnings, self._deaths, self._launcher.outputs.fileno()):
            self._epoll.register(fd, select.EPOLLIN)
        self._end: Message | None = None
        self._stop_is_ours = False
        self._terminated = False
        self._must_stop = False
        self._kill_at: float | None = None
        self._reap_at: float | None = None
        self._record_at: float | None = None  # of a failure
        self._launcher.obey(order)

    def run_to_its_end(self) -> dict[str, Any]:
        """Return the end of the main process once nothing of its tree is left."""
        while not self._is_over():
            if not self._must_stop:  # it can be noted by a start or a death before anything waits
                self._wait()
            if self._must_stop:
                self._must_stop = False
                self._terminate()
            now = time.monotonic()
            if self._reap_at is not None and now >= self._reap_at:
                self._reap()
            if self._kill_at is not None and now >= self._kill_at:
                self._kill_at = now + KILL_AGAIN_S
                self._signal(signal.SIGKILL, "tree")
            if (due := self._launcher.outputs.due) is not None and now >= due:
                self._resume_outputs(now)
        assert self._end is not None
        foreign = self._terminated and not self._stop_is_ours
        stopped = self._end.get("stopped", False)
        cut_short = stopped or self._end.get("shutdown", False) or has_failed(self._end)
        return {**self._end, "stopped": stopped and self._stop_is_ours, "shutdown": cut_short and foreign}

    def _is_over(self) -> bool:
        """Whether the tree is gone, after its main process, whose end every later message repeats."""
        for message in self._launcher.outbox:
            if message["op"] == "exit":
                self._end = message
                if has_failed(message) and not self._stop_is_ours:
                    self._record_at = time.monotonic() + LAST_SIGNAL_S
                # What a job leaves behind must not go on: the engine would give its processors to others.
                if message.get("left") and self._kill_at is None:
                    self._terminate()
            elif message["op"] == "gone":
                self._end = self._newest_end()
            elif message["op"] == "refused":
                raise RuntimeError(f"run {self._run_id}: {message['why']} {message['error']}")
        self._launcher.outbox.clear()
        if self._end is None or self._end.get("left") or not self._launcher.outputs.idle:
            return False
        return self._may_record()

    def _may_record(self) -> bool:
        return self._record_at is None or self._terminated or self._has_waited()

    def _has_waited(self) -> bool:
        """Whether the time in which a signal of the engine explains a failure is over."""
        return self._record_at is not None and time.monotonic() >= self._record_at

    def _newest_end(self) -> Message:
        """The end with what the processes did that outlived the main one: the size of the log."""
        before, self._launcher.outbox = self._launcher.outbox, []
        self._launcher.obey({"op": "list", "run_ids": [self._run_id], "tag": 0})
        (answer,) = (message for message in self._launcher.outbox if message["op"] == "list")
        self._launcher.outbox = before
        end: Message = answer["runs"][0]["exit"]
        return end

    def _wait(self) -> None:
        times = [self._kill_at, self._reap_at, self._launcher.outputs.due]
        if not self._may_record():
            times.append(self._record_at)
        due = [at for at in times if at is not None]
        for fd, _ in self._epoll.poll(max(0.0, min(due) - time.monotonic()) if due else None):
            if fd == self._terms:
                self._take_sigterm()
            elif fd == self._warnings:
                os.read(self._warnings, SIGNALFD_BYTES)
                self._warn()
            elif fd == self._deaths:
                os.read(self._deaths, SIGNALFD_BYTES)
                self._reap()
            else:
                self._launcher.outputs.read()
                if self._launcher.outputs.resting:
                    self._epoll.modify(self._launcher.outputs.fileno(), 0)

    def _resume_outputs(self, now: float) -> None:
        self._launcher.outputs.resume(now)
        if not self._launcher.outputs.resting:
            self._epoll.modify(self._launcher.outputs.fileno(), select.EPOLLIN)

    def _reap(self) -> None:
        self._launcher.reap()
        self._reap_at = None if self._launcher.lack is None else time.monotonic() + REAP_AGAIN_S

    def _take_sigterm(self) -> bool:
        """Note a stop, and whose it is, if a SIGTERM came. Ours may shorten the grace, and may come a second time with
        none left. The launcher asks as well, in the middle of its work, so nothing is signalled here.
        """
        if not take_sigterm():
            return False
        self._must_stop = True
        self._terminated = self._terminated or not self._has_waited()
        with suppress(FileNotFoundError):
            self._grace_s = min(self._grace_s, read_json(self._stop)["grace_ms"] / 1_000)
            self._stop_is_ours = True
        return True

    def _terminate(self) -> None:
        if self._kill_at is None:
            self._signal(signal.SIGTERM, "tree")
        kill_at = time.monotonic() + self._grace_s
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)

    def _warn(self) -> None:
        """A SIGUSR1 without a readable file is not the daemon's, and means nothing here."""
        with suppress(FileNotFoundError):
            self._signal(read_json(self._warning)["signal"], "main")

    def _signal(self, signum: int, scope: str) -> None:
        self._launcher.obey({"op": "signal", "run_id": self._run_id, "signal": signum, "scope": scope, "tag": 0})


def has_failed(end: Message) -> bool:
    """Whether its main process began and failed, and not for lack of memory."""
    return "spawn_error" not in end and end.get("exit_code") != 0 and not end.get("oom", False)


def record(path: str, content: bytes) -> None:
    """Write the record, however long its file system is full or away: the engine ends this process if it must."""
    while True:
        try:
            whole_files.put(path, content)
        except OSError as error:
            log_error(f"the end is not recorded: {error}")
            time.sleep(WRITE_AGAIN_S)
        else:
            return
