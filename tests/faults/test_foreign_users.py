"""Workers that became root under a daemon that is not: it reports those that it may not signal.

Owns a daemon of an unprivileged user, and a set-uid program as sudo is one. A deed counts when the kernel says that the
process is root's.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.files import user_name
from tests.support import foreign
from tests.support.daemon import BIN, DaemonProcess
from tests.support.facts import until
from tests.support.torture import launchers
from tests.support.work import (
    alive,
    attempts_of,
    changes,
    end_of,
    job_view,
    kill9,
    running,
    shell,
    state,
    submit,
    submit_running,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker

pytestmark = pytest.mark.skipif(foreign.why_not() is not None, reason=str(foreign.why_not()))


class Host:
    """A daemon of the other user, and jobs whose child becomes root."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.work = daemon.home / "work"
        self.work.mkdir()
        self.program = foreign.become_root(self.work)
        foreign.give(daemon.home)
        os.chown(self.program, 0, 0)
        self.program.chmod(0o4755)
        self.rooted: set[int] = set()

    def submit(self, client: stoker.Client, *, before: str = "", **options: Any) -> tuple[int, int]:
        """A job and the pid of its child, which is root by now. `before`: a command that the child runs first."""
        pid_file = self.work / f"said-{len(self.rooted)}"
        script = (
            f"{before} {self.program} /bin/sleep 3600 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
        )
        job = submit(client, shell(script, working_dir=str(self.work), **options))
        until(pid_file.exists, why="the child's pid")
        child = int(pid_file.read_text())
        until(lambda: foreign.uids(child) == {0}, why="a child that is root's")
        self.rooted.add(child)
        return job, child

    def end(self) -> None:
        for pid in filter(alive, self.rooted):
            os.kill(pid, signal.SIGKILL)
        for path in Path("/proc").glob("[0-9]*/cwd"):  # of attempts that should not exist
            if path.is_symlink() and os.path.realpath(path) == str(self.work):
                os.kill(int(path.parts[2]), signal.SIGKILL)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    programs = tmp_path / "programs"
    programs.mkdir()
    foreign.wrapper(programs / "stokerd", str(BIN / "stokerd"))
    (programs / "stoker").symlink_to(BIN / "stoker")
    daemon = DaemonProcess("[launcher]\nstuck_ms = 60000\n", programs=programs)
    host = Host(daemon)
    try:
        daemon.start()
        yield host
    finally:
        host.end()
        daemon.end()


def check_answers(host: Host, client: stoker.Client, job: int, child: int) -> None:
    """Check the log event, `why` and the attempt."""
    event = host.daemon.logged("worker_unstoppable")[0]
    assert (event["job"], event["attempt"], event["pids"]) == (job, 1, [child])
    why = client.call("job.why", {"id": job})
    assert f"pid {child} became another user" in why["message"]
    assert why["hint"] == f"sudo kill {child}"
    (attempt,) = attempts_of(client, job)
    assert (attempt["unstoppable"], attempt["ended_at"]) == ([child], None)


@pytest.mark.parametrize(
    ("ends", "end"), [("cancel", ("cancelled", "user")), ("timeout", ("failed", "timeout"))], ids=["cancel", "timeout"]
)
def test_stop_when_a_child_became_root_then_it_is_reported_and_the_attempt_is_open(
    host: Host, ends: str, end: tuple[str, str]
) -> None:
    with host.daemon.client() as client:
        neighbour = submit_running(client, shell("exec sleep 3600"))
        limit: dict[str, Any] = {"timeout_ms": 4_000} if ends == "timeout" else {}
        job, child = host.submit(client, grace_ms=200, **limit)

        if ends == "cancel":
            assert client.call("job.cancel", {"id": job})["state"] == "running"
        check_answers(host, client, job, child)
        until(lambda: not alive(job_view(client, job)["pid"] or 0), why="the end of the main process")
        assert state(client, job) == "running"

        kill9(child)
        assert end_of(client, job) == end
        (attempt,) = attempts_of(client, job)
        assert f"could not signal pid {child}" in attempt["error"]
        assert state(client, neighbour) == "running"
        client.cancel(neighbour)


def test_cancel_when_the_worker_itself_became_root_then_it_is_not_called_cancelled(host: Host) -> None:
    with host.daemon.client() as client:
        marker = host.work / "up"
        script = f": > {marker}; exec sleep 3600"
        spec = {"command": str(host.program), "args": ["/bin/sh", "-c", script], "working_dir": str(host.work)}
        job = submit(client, spec)
        until(marker.exists, why="a worker that is root's")
        running(client, job)
        main = job_view(client, job)["pid"]
        host.rooted.add(main)

        client.call("job.cancel", {"id": job})
        check_answers(host, client, job, main)
        assert state(client, job) == "running"
        os.kill(main, signal.SIGHUP)

        assert end_of(client, job) == ("failed", "signal")
        (attempt,) = attempts_of(client, job)
        assert (attempt["signal"], attempt["stopped"]) == (signal.SIGHUP, False)


def stored_pid(daemon: DaemonProcess, job: int) -> int | None:
    ((pid,),) = daemon.rows("SELECT pid FROM jobs WHERE id = ?", job)
    return None if pid is None else int(pid)


@pytest.mark.parametrize("main_too", [False, True], ids=["main lives", "main has ended"])
@pytest.mark.parametrize("sheds", ["", "prlimit --rttime=unlimited"], ids=["marked", "as sudo does it"])
def test_safe_job_when_its_child_became_root_and_outlived_all_then_it_waits_for_it(
    host: Host, *, main_too: bool, sheds: str
) -> None:
    daemon = host.daemon
    with daemon.client() as client:
        job, child = host.submit(client, before=sheds, on_orphan="requeue", grace_ms=200)
        running(client, job)
        main = job_view(client, job)["pid"]
        until(lambda: submit(client, shell(":")) and stored_pid(daemon, job) == main, why="its pid rides with a commit")
    daemon.kill9()
    for pid in launchers(daemon.state_dir).values():
        kill9(pid)
    if main_too:
        kill9(main)

    for _ in range(2):  # also a daemon that did not see the main process
        daemon.start()
        with daemon.client() as client:
            until(lambda: not alive(main), why="the end of the main process")
            until(lambda: daemon.events("recovery_finished"), why="the end of the recovery")
            assert job_view(client, job)["attempts"] == 1
            assert job_view(client, job)["state"] in ("running", "held")
        daemon.kill9()
    assert alive(child)

    daemon.start()
    with daemon.client() as client:
        kill9(child)
        if state(client, job) == "held":
            until(lambda: attempts_of(client, job)[0]["ended_at"], why="the end of the attempt")
            client.call("job.release", {"id": job})
        until(lambda: job_view(client, job)["attempts"] == 2, why="the next attempt")
        assert len(changes(client, job, "dispatched")) == 2
        client.cancel(job)


def test_recovery_when_the_processes_of_others_are_hidden_then_it_goes_on(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    foreign.wrapper(programs / "visible", str(BIN / "stokerd"))
    hidden = f'mount -t proc -o hidepid=1 proc /proc && exec {programs}/visible "$@"'
    (programs / "stokerd").write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{hidden}' sh \"$@\"\n")
    (programs / "stokerd").chmod(0o755)
    (programs / "stoker").symlink_to(BIN / "stoker")
    daemon = DaemonProcess(programs=programs)
    foreign.give(daemon.home)
    try:
        daemon.start()
        with daemon.client() as client:
            job = submit_running(client, shell("setsid sleep 3600 & exec sleep 3600", grace_ms=100))
            workers = {one["pid"] for one in client.call("worker.get", {"job": job})["processes"]}
        daemon.kill9()
        for pid in launchers(daemon.state_dir).values():
            kill9(pid)
        daemon.start()
        with daemon.client() as client:
            ends = [end_of(client, job), end_of(client, submit(client, shell(":")))]
    finally:
        daemon.end()

    assert len(workers) == 2
    assert not any(map(alive, workers))
    assert ends == [("failed", "orphaned"), ("succeeded", "exit")]


def test_run_when_its_directory_is_closed_to_the_daemon_then_it_names_a_way_out(host: Host, tmp_path: Path) -> None:
    here = tmp_path / "private" / "here"
    here.mkdir(parents=True)
    here.parent.chmod(0o700)

    refused = host.daemon.cli("run", "--", "true", cwd=here)
    advised = host.daemon.cli("run", "--working-dir", "/", "--", "true", cwd=here)

    message = f"--working-dir: {here} may not be entered by {user_name(foreign.UID)}, the user of the daemon"
    hint = "name a directory that this user may enter: --working-dir /"
    assert (refused.returncode, refused.stderr) == (65, f"stoker: {message}\nhint: {hint}\n")
    assert (advised.returncode, advised.stderr) == (0, "")


def test_debug_when_the_job_is_of_another_user_then_no_shell_is_opened(host: Host, tmp_path: Path) -> None:
    as_other = foreign.wrapper(tmp_path / "stoker", str(BIN / "stoker"))
    socket = {**os.environ, "STOKER_SOCKET": str(host.daemon.socket)}
    command = [str(as_other), "submit", "--env", f"PROMPT_COMMAND=touch {tmp_path}/done", "--", "/bin/true"]
    submitted = subprocess.run(command, env=socket, cwd="/", capture_output=True, text=True, check=True)
    job = submitted.stdout.strip()

    refused = host.daemon.cli("debug", job, input="exit 0\n")
    opened = subprocess.run(
        [str(as_other), "debug", job],
        env=socket,
        cwd="/",
        input="echo here\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode == 77
    assert f"job {job} belongs to uid {foreign.UID}" in refused.stderr
    assert f"sudo -u '#{foreign.UID}' stoker debug {job}" in refused.stderr
    assert opened.stdout == "here\n"
