"""`stoker worker`, which shows the processes of a worker, and `stoker debug`, a shell in its place."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.errors import EX_TEMPFAIL, NotAllowed, WaitTimeout
from tests.support.facts import until
from tests.support.work import end_of, lines, running, shell, submit, submit_running

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess
    from tests.support.work import Gate

SETTINGS = "[queues.stopped]\npaused = true\n"
MIB = 1 << 20


def worker_view(client: stoker.Client, job: int) -> dict[str, Any]:
    """Asked again where a busy machine needs longer to read /proc than the daemon waits."""

    def answer() -> dict[str, Any] | None:
        with contextlib.suppress(WaitTimeout):
            return dict(client.call("worker.get", {"job": job}))
        return None

    view = until(answer, why="a look at the worker")
    assert view is not None
    return view


def test_worker_when_it_has_a_tree_then_every_process_of_it_is_seen_and_nothing_else(
    client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    beside = submit(client, gate.spec())
    script = f"setsid sh -c 'echo $$ >> {out}; read _ < {gate.path}' & echo $$ >> {out}; read _ < {gate.path}"
    job = submit(client, shell(script))
    running(client, job, beside)
    until(lambda: len(lines(out)) == 2, why="the tree")

    def view_at_rest() -> dict[str, Any] | None:
        """A shell that a busy machine has not let reach its gate yet does not sleep."""
        view = worker_view(client, job)
        return view if view["state"] == "sleeping" else None

    view = until(view_at_rest, why="a worker that waits")

    assert view is not None
    assert sorted(str(process["pid"]) for process in view["processes"]) == sorted(lines(out))
    assert view["processes"][0]["pid"] == view["pid"] == client.get(job)["pid"]
    assert (view["children"], view["launcher_state"]) == (1, "ok")
    assert view["open_files"] >= 6
    assert all(process["name"] == "sh" for process in view["processes"])


def test_worker_when_it_works_hard_then_its_cpu_and_memory_are_shown(client: stoker.Client) -> None:
    script = f"held = bytearray({64 * MIB})\nwhile True: pass"
    job = submit_running(client, {"command": sys.executable, "args": ["-c", script]})

    def view_at_work() -> dict[str, Any] | None:
        view = worker_view(client, job)
        return view if view["cpu_percent"] > 0 and view["memory_bytes"] > 64 * MIB else None

    busy = until(view_at_work, why="work")
    assert busy is not None

    assert busy["cpu_ms"] > 0
    assert busy["processes"][0]["state"] in ("running", "sleeping")
    client.call("job.cancel", {"id": job})


def worker_shown(shared: DaemonProcess, job: int, *options: str) -> subprocess.CompletedProcess[str]:
    """The output of the command; a busy machine may need longer to read /proc than the daemon waits."""
    tried: list[subprocess.CompletedProcess[str]] = []

    def answered() -> bool:
        tried.append(shared.cli("worker", str(job), *options))
        return tried[-1].returncode != EX_TEMPFAIL

    until(answered, why="a look at the worker")
    return tried[-1]


@pytest.mark.parametrize("queue", ["stopped", "default"])
def test_worker_when_the_job_does_not_run_then_the_hint_is_why(client: stoker.Client, queue: str) -> None:
    job = submit(client, shell("exit 0", queue=queue))
    if queue == "default":
        end_of(client, job)

    with pytest.raises(NotAllowed) as refused:
        worker_view(client, job)

    assert refused.value.hint == f"stoker why {job}"


def test_worker_when_shown_then_its_report_stands_beside_its_processes(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    say = "import os, socket; s = socket.socket(1, 2); s.sendto(b'X_STOKER_PROGRESS=5', os.environ['NOTIFY_SOCKET'])"
    job = submit(client, {"command": sys.executable, "args": ["-c", f"{say}; open('{gate.path}').read(1)"],
                          "notify": True})  # fmt: skip
    until(lambda: client.get(job)["progress"] == 5, why="progress")

    shown, as_json = (worker_shown(shared, job, *form) for form in ((), ("--json",)))
    view = json.loads(as_json.stdout)

    assert shown.returncode == 0
    assert "5%" in shown.stdout
    assert f"{view['pid']} " in shown.stdout
    assert view["said"]["progress"] == 5


# --- debug --------------------------------------------------------------------------------------------------


def test_debug_when_asked_for_then_the_shell_has_the_jobs_place_without_its_token(
    shared: DaemonProcess, client: stoker.Client, gate: Gate, tmp_path: Path
) -> None:
    job = submit_running(client, gate.spec(working_dir=str(tmp_path), env={"MODE": "fast", "A": "x y"}, notify=True))
    own = {**shared.environ, "SHELL": "/bin/sh", "STOKER_RUN_ID": "1.1.0", "STOKER_TOKEN": "mine", "MINE": "1"}
    own |= {"STOKER_SOCKET": str(shared.socket), "NOTIFY_SOCKET": "/mine", "TRACEPARENT": "mine"}
    shared.environ, kept = own, shared.environ
    try:
        shell_ran = shared.cli("debug", str(job), input="pwd; env -0 | tr '\\0' '\\n'; exit 7")
    finally:
        shared.environ = kept

    assert shell_ran.returncode == 7
    first, *variables = shell_ran.stdout.splitlines()
    seen = dict(line.split("=", 1) for line in variables)
    assert first == os.path.realpath(tmp_path)
    assert (seen["MODE"], seen["A"], seen["STOKER_JOB_ID"], seen["STOKER_ATTEMPT"]) == ("fast", "x y", str(job), "1")
    assert seen["PATH"] == shared.environ["PATH"]
    assert Path(seen["STOKER_INPUTS_FILE"]).read_text() == "{}\n"
    private = {"STOKER_RUN_ID", "STOKER_INSTANCE", "STOKER_TOKEN", "STOKER_OUTPUT", "NOTIFY_SOCKET", "TRACEPARENT"}
    assert not private & set(seen)
    assert "MINE" not in seen


def test_debug_when_the_directory_is_gone_then_the_error_names_it(
    shared: DaemonProcess, client: stoker.Client, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    job = submit(client, shell("exit 0", working_dir=str(home)))
    end_of(client, job)
    home.rmdir()

    failed = shared.cli("debug", str(job))

    assert failed.returncode != 0
    assert str(home) in failed.stderr
