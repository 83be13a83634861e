"""The launcher itself: it obeys one daemon, starts runs, reaps them, and keeps each outcome until acknowledged.

Owns the meaning of every message of the protocol. Sockets and waiting are in `loop.py`, which passes messages in and
sends `outbox`, one frame a turn.

Invariants: an older epoch is never obeyed; an order is carried out or refused, never dropped; an outcome is forgotten
only when acknowledged, and is on disk before this process leaves.
"""

from __future__ import annotations

import errno
import os
import resource

from . import kernel, rlimits
from .command import HOST_LACKS, SpawnFailedError
from .error_log import log_error
from .lean_stdlib import signal, suppress
from .logs import LogExistsError, LogFile
from .orphans import signal_orphans
from .outputs import PIPE_VARIABLE, Outputs
from .process_tree import MAX_PASSES, Delivery, ProcessTree
from .runs import CLOSING, ENDED, RUNNING, Run, Runs
from .sharing import share_output
from .spawn import Spawner

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable

    from .frames import Message
    from .outcomes import OutcomeLog
    from .outputs import Output

VERSION = 1
# Signals that ask a process to end. An exit after any other (a warning, a reload) is the worker's own.
STOPPING = frozenset({signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


def take_sigterm() -> bool:
    """Whether a SIGTERM came since the last call."""
    return kernel.take_pending(signal.SIGTERM)


class Launcher:
    """`shared_work`: the directory of outputs that the daemon, another user, is to read; None if it is our user.

    `took_sigterm` is asked before each death is recorded; a caller that waits for the signal itself gives its own.
    """

    def __init__(
        self,
        launcher: str,
        instance: str,
        outcome_log: OutcomeLog,
        shared_work: str | None = None,
        took_sigterm: Callable[[], bool] = take_sigterm,
    ) -> None:
        self.outbox: list[Message] = []
        self.outputs = Outputs()
        self.lack: OSError | None = None  # what the host lacked in the last call of `reap`
        self._launcher = launcher
        self._instance = instance
        self._outcome_log = outcome_log
        self._shared_work = shared_work
        self._took_sigterm = took_sigterm
        self._epoch = 0
        self._hears_leaked = False
        self._reported_leaked = (0, 0)
        self._runs = Runs()
        self._tree = ProcessTree(self._runs, instance)
        self._closing: dict[str, Run] = {}
        self._collected: list[tuple[Run, int, resource.struct_rusage]] = []
        self._spawner = Spawner()
        self._has_pidfs = kernel.has_pidfs()
        self._commands = {"list": self._list, "launch": self._launch, "signal": self._signal, "ack": self._acknowledge}
        self._commands |= {"read_logs": self._read_logs, "signal_orphans": self._signal_orphans}

    @property
    def idle(self) -> bool:
        """Whether no descendant lives, no output waits for its log, and no outcome is known to us alone."""
        busy = self._runs.mains or self._collected or self._closing or self._tree or self._runs.unwritten()
        return self.outputs.idle and not busy

    def refusal(self, hello: Message) -> str | None:
        """The reason to refuse this daemon, if there is one."""
        if hello["instance"] != self._instance:
            return "instance"
        return "epoch" if hello["epoch"] < self._epoch else None

    def greet(self, hello: Message) -> None:
        """Obey this daemon from now on. Call it once all messages of earlier daemons have been obeyed."""
        self._epoch = hello["epoch"]
        self._hears_leaked = "leaked" in hello.get("hears", ())
        self._reported_leaked = self._tree.leaked, self._tree.stopped
        facts = {"launcher": self._launcher, "pid": os.getpid(), "boot_id": kernel.boot_id()}
        epoch = {"pid_namespace": kernel.pid_namespace(), "epoch": self._epoch, "leaked": self._tree.leaked}
        self.outbox = [{"op": "hello", "version": VERSION, **facts, **epoch}]

    def obey(self, message: Message, *, late: bool = False) -> None:
        """Raises KeyError, TypeError or ValueError for a malformed message. `late`: its daemon has gone.

        A late order may be hours old, and a newer daemon may decide otherwise about its run, so it is not carried out.
        """
        if late and message["op"] == "launch":
            self._decline(message)
        else:
            self._commands[message["op"]](message)

    def reap(self) -> None:
        """Reap children that ended, report runs that ended, and take in the processes that they left.

        While /proc cannot be read `lack` says why; the next call reports what was reaped until then.
        """
        try:
            self._reap()
        except OSError as error:
            self.lack = error
        else:
            self.lack = None

    def _reap(self) -> None:
        self._collect()
        for _ in range(MAX_PASSES):
            complete = not self._tree.adopt()
            if complete:
                break
            self._collect()  # an adopted process may have ended by now
        if self._collected:
            self._note_sigterm()
            own_rss_kib = _own_max_rss_kib()
        while self._collected:
            self._record_exit(*self._collected[0], own_rss_kib)
            del self._collected[0]
        if complete:  # a tree may fork faster than we read /proc: the next death continues here
            for run in [run for run in self._closing.values() if not self._tree.has(run.run_id)]:
                self._record_gone(run)
        self._tree.stop_leaked()
        self._report_leaked()

    def _report_leaked(self) -> None:
        """Report the numbers of leaked processes when they change, if the daemon knows the message."""
        current = self._tree.leaked, self._tree.stopped
        if current != self._reported_leaked and self._hears_leaked:
            stopped = self._tree.stopped - self._reported_leaked[1]
            self.outbox.append({"op": "leaked", "count": self._tree.leaked, "stopped": stopped})
        self._reported_leaked = current

    def write_outcomes(self) -> None:
        """Write the outcomes to disk, while no daemon is connected. After an OSError they stay unwritten."""
        self.outbox.clear()
        unwritten = self._runs.unwritten()
        if unwritten:
            self._outcome_log.append([run.exit for run in unwritten if run.exit is not None])
            for run in unwritten:
                run.written = True

    # --- messages

    def _list(self, message: Message) -> None:
        self.reap()
        self.outputs.read()  # the daemon may be about to close a log
        for run in self._closing.values():
            self._note_left(run)
        runs = self._runs.describe(message["run_ids"])
        self.outbox.append({"op": "list", "tag": message["tag"], "leaked": self._tree.leaked, "runs": runs})

    def _launch(self, order: Message) -> None:
        refusal = "epoch" if order["epoch"] < self._epoch else self._runs.refusal(order["run_id"])
        if refusal:
            self._refuse(order["run_id"], refusal)
            return
        try:
            self._start(order)
        except LogExistsError as error:
            self._refuse(order["run_id"], "log_exists", str(error))
        except SpawnFailedError as error:
            self._record_failure(order, error)

    def _signal(self, message: Message) -> None:
        self.reap()  # so that no signal is delivered to a zombie
        run = self._runs.get(message["run_id"])
        delivery = Delivery(message["signal"])
        if run is not None:
            runs = self._runs.main_lives(run)
            self._deliver(run, message["signal"], message["scope"], delivery)
            run.stopped = run.stopped or (runs and bool(delivery) and message["signal"] in STOPPING)
        answer = {"op": "signalled", "run_id": message["run_id"], "tag": message["tag"], "delivered": bool(delivery)}
        self.outbox.append({**answer, "refused": sorted(delivery.refused)})

    def _acknowledge(self, message: Message) -> None:
        self._runs.acknowledge(message["run_ids"])

    def _read_logs(self, message: Message) -> None:
        self.outputs.take_over({run["run_id"]: run for run in message["runs"]})

    def _signal_orphans(self, message: Message) -> None:
        delivery = signal_orphans(message["processes"], message["signal"])
        answer = {"op": "signalled", "run_id": message["run_id"], "tag": message["tag"], "delivered": bool(delivery)}
        self.outbox.append({**answer, "refused": sorted(delivery.refused)})

    # --- starting

    def _start(self, order: Message) -> None:
        self._note_sigterm()
        output, writing_end = self._open_output(order)
        order["env"][PIPE_VARIABLE] = output.name
        try:
            in_force = rlimits.in_force(order["setup"]) if order["setup"] else None
            before_ns = kernel.now_at_boot_ns()
            pid = self._spawner.spawn(order, writing_end)
            after_ns = kernel.now_at_boot_ns()
        except BaseException:
            output.close()
            raise
        finally:
            os.close(writing_end)
        run = Run(order["run_id"], pid, output, _cgroup_of(order))
        self._runs.hold(run)
        self.outputs.watch(output)
        run.started = {
            "op": "started",
            "run_id": run.run_id,
            "pid": pid,
            "start_ticks": kernel.start_ticks(pid, before_ns, after_ns),
            "pidfs_inode": kernel.pidfs_inode(pid) if self._has_pidfs else None,
            "at_boot_ms": after_ns // 1_000_000,
            "at_ms": kernel.now_ms(),
            "cgroup": run.cgroup,
            "bounds": in_force,
        }
        self.outbox.append(run.started)

    def _open_output(self, order: Message) -> tuple[Output, int]:
        """The pipe and the log, before anything starts: a log that cannot be opened is the fault of the host."""
        try:
            if (refusal := self.outputs.refusal()) is not None:
                raise refusal
            return self.outputs.open(order["run_id"], LogFile.new(order["log"], order["max_log_bytes"]))
        except OSError as error:
            raise SpawnFailedError.of_host(f"log {order['log']}", error) from error

    def _refuse(self, run_id: str, reason: str, text: str = "") -> None:
        self.outbox.append({"op": "refused", "run_id": run_id, "why": reason, "error": text})

    def _decline(self, order: Message) -> None:
        """Note that the run of a late order never starts. Its outcome is kept and reported like any other."""
        if self._runs.refusal(order["run_id"]) is None:
            gone = SpawnFailedError(errno.EAGAIN, "the daemon that ordered it had gone before it was started")
            self._record_failure(order, gone, declined=True)

    def _record_failure(self, order: Message, error: SpawnFailedError, *, declined: bool = False) -> None:
        run = Run(order["run_id"], 0, None, _cgroup_of(order))
        run.state = ENDED
        run.exit = {
            "op": "exit",
            "run_id": run.run_id,
            "spawn_error": {"errno": error.errno, "error": error.text, "transient": error.transient},
            "declined": declined,
            "at_boot_ms": kernel.now_at_boot_ms(),
            "at_ms": kernel.now_ms(),
        }
        self._runs.hold(run)
        self.outbox.append(run.exit)

    # --- stopping

    def _deliver(self, run: Run, signum: int, scope: str, delivery: Delivery) -> None:
        if scope == "main":
            if self._runs.main_lives(run):
                delivery.send_to_main(run.pid)
        elif run.state is not ENDED:
            try:
                self._deliver_to_tree(run, signum, delivery)
            except OSError as error:  # the daemon sends SIGKILL until the tree is gone
                log_error(f"signal {signum} reached a part of run {run.run_id}: {error}")

    def _deliver_to_tree(self, run: Run, signum: int, delivery: Delivery) -> None:
        killed = signum == signal.SIGKILL and run.cgroup is not None and _kill_cgroup(run.cgroup)
        self._tree.signal_tree(run, delivery)
        if killed:  # cgroup.kill asks for no permission to signal
            delivery.refused -= {pid for pid in delivery.refused if self._tree.is_in_leaf(run, pid)}

    # --- ending

    def _note_sigterm(self) -> None:
        """If we got a SIGTERM, the system or the service is ending, and our workers get one from the same sender.

        It is checked after deaths were collected and before a run is added, as it does not apply to later runs.
        """
        if self._took_sigterm():
            for run in self._runs:
                run.stopping = run.state is RUNNING

    def _collect(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    break
                run = self._runs.mains.pop(pid, None)
                if run is not None:
                    self._collected.append((run, status, usage))
                else:
                    self._tree.forget(pid)

    def _record_exit(self, run: Run, status: int, usage: resource.struct_rusage, own_rss_kib: int) -> None:
        left = self._tree.has(run.run_id)
        self._read_rest(run, over=not left)
        if self._shared_work is not None:
            share_output(self._shared_work, run.run_id)
        signum = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        oom = run.cgroup is not None and _was_out_of_memory(run.cgroup)
        run.exit = {
            "op": "exit",
            "run_id": run.run_id,
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": signum,
            "stopped": run.stopped,
            "shutdown": run.stopping and signum in STOPPING and not (run.stopped or oom),
            "left": 0,
            "user_ms": int(usage.ru_utime * 1_000),
            "system_ms": int(usage.ru_stime * 1_000),
            "max_rss_kib": usage.ru_maxrss if usage.ru_maxrss > own_rss_kib else None,
            "log_bytes": run.log_bytes,
            "oom": oom,
            "at_boot_ms": kernel.now_at_boot_ms(),
            "at_ms": kernel.now_ms(),
        }
        if left:
            run.state = CLOSING
            self._closing[run.run_id] = run
            self._note_left(run)
        else:
            run.state = ENDED
        self.outbox.append(run.exit)

    def _record_gone(self, run: Run) -> None:
        del self._closing[run.run_id]
        self._read_rest(run, over=True)
        if run.exit is not None:
            run.exit = {**run.exit, "left": 0, "log_bytes": run.log_bytes}
        run.state = ENDED
        self.outbox.append({"op": "gone", "run_id": run.run_id})

    def _read_rest(self, run: Run, *, over: bool) -> None:
        """Read the rest of its output: it must be in the log before the end of the run is reported."""
        if run.output is not None:
            (self.outputs.finish if over else self.outputs.catch_up)(run.output)

    def _note_left(self, run: Run) -> None:
        """Note how many processes are left: at least one until `gone`; the last number if they cannot be counted."""
        if run.exit is not None:
            left = run.exit["left"]
            with suppress(OSError):
                left = self._tree.count(run)
            run.exit = {**run.exit, "left": max(1, left)}


def _kill_cgroup(cgroup: str) -> bool:
    """False before Linux 5.14, which has no cgroup.kill; then only the walk through the tree remains."""
    try:
        kernel.write_file(f"{cgroup}/cgroup.kill", b"1")
    except OSError:
        return False
    return True


def _own_max_rss_kib() -> int:
    """A child between spawn and exec shares our memory, and the kernel counts that as its maximum."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cgroup_of(order: Message) -> str | None:
    setup = order["setup"]
    return setup.get("cgroup") if setup else None


def _was_out_of_memory(cgroup: str) -> bool:
    """Whether the kernel counts an oom_kill; a SIGKILL alone proves nothing. Raises OSError if memory is short."""
    try:
        lines = kernel.read_file(f"{cgroup}/memory.events").split(b"\n")
    except OSError as error:
        if error.errno in HOST_LACKS:
            raise
        return False  # it has no memory controller, or was removed
    counts = (line.partition(b" ") for line in lines)
    return any(name == b"oom_kill" and int(count) > 0 for name, _, count in counts)
