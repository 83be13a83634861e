"""The output of workers, read while they write and afterwards.

Owns the way from a worker's stdout to a client: following, offsets, tails, holes, finished attempts.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import AttemptNotFound, LogUnreadable, WaitTimeout
from stoker.process.attempt_logs import log_of
from tests.support.facts import until
from tests.support.work import Gate, end_of, shell, submit, submit_running

if TYPE_CHECKING:
    import stoker
    from tests.support.daemon import DaemonProcess

SETTINGS = "[daemon]\nmax_running = 8\n[queues.stopped]\npaused = true\n"


def read(client: stoker.Client, job: int, **options: object) -> bytes:
    pieces = client.stream("job.logs", {"id": job, **options})
    return b"".join(base64.b64decode(piece["data"]) for piece in pieces if "data" in piece)


def sleeps_in_write(client: stoker.Client, job: int) -> bool:
    """Whether the main process of a job, or a child of it, waits until its output is read."""
    try:
        pids = [process["pid"] for process in client.call("worker.get", {"job": job})["processes"]]
    except WaitTimeout:  # a busy machine needs longer to read /proc than the daemon waits
        return False
    return any("pipe_write" in Path(f"/proc/{pid}/wchan").read_text() for pid in pids)


def test_log_when_followed_then_lines_come_at_once_and_it_ends_with_the_attempt(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    job = submit(client, shell(f"echo before; read _ < {gate.path}; echo after >&2"))
    with shared.client() as reader:
        stream = reader.logs(job, follow=True)

        first = next(stream)
        gate.open()
        rest = b"".join(stream)

    assert first == b"before\n"
    assert rest == b"after\n"


def test_log_when_its_last_bytes_are_asked_for_then_no_more_are_sent(client: stoker.Client) -> None:
    job = submit(client, shell("printf '123456789'"))
    end_of(client, job)

    assert read(client, job, tail_bytes=4) == b"6789"
    assert read(client, job, tail_lines=1, tail_bytes=3) == b"789"


def test_log_when_a_job_has_no_log_then_no_view_names_a_file(client: stoker.Client) -> None:
    silent, handler, loud = (
        submit(client, shell("exit 0")),
        submit(client, {"command": "stoker.tidy", "execution_mode": "in_process"}),
        submit(client, shell("echo hi")),
    )
    for job in (silent, handler, loud):
        end_of(client, job)

    listed = {view["id"]: view["log"] for view in client.list()["jobs"]}

    assert [client.get(job)["log"] for job in (silent, handler, loud)] == [None, None, listed[loud]]
    assert (listed[silent], listed[handler]) == (None, None)
    assert Path(listed[loud] or "").read_text() == "hi\n"


def test_log_when_it_is_there_before_its_attempt_then_the_job_is_held(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    """The disk is ahead of the database: this id was used before the database was restored."""
    job = submit(client, shell("exit 0")) + 1
    path = log_of(shared.state_dir, f"{job}.1.forgotten")
    path.parent.mkdir(parents=True)
    path.write_text("of that life\n")

    assert submit(client, shell("echo over it")) == job

    assert end_of(client, job) == ("held", "lost")
    assert path.read_text() == "of that life\n"
    client.call("job.release", {"id": job})
    assert end_of(client, job) == ("succeeded", "exit")
    assert read(client, job) == b"over it\n"


def test_log_when_followed_before_the_job_starts_then_it_waits_for_it(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    client.call("queue.set", {"name": "soon"})
    client.call("queue.pause", {"name": "soon"})
    job = submit(client, shell("echo here"), queue="soon")
    with shared.client() as reader:
        stream = reader.logs(job, follow=True)
        client.call("queue.resume", {"name": "soon"})

        assert b"".join(stream) == b"here\n"


def test_log_when_followed_and_the_job_never_starts_then_it_ends_with_the_job(
    shared: DaemonProcess, client: stoker.Client
) -> None:
    job = submit(client, shell("echo here"), queue="stopped")
    with shared.client() as reader:
        stream = reader.logs(job, follow=True)
        client.cancel(job)

        assert b"".join(stream) == b""


def test_log_when_there_were_several_attempts_then_each_has_its_own(client: stoker.Client) -> None:
    job = submit(client, shell('echo "attempt $STOKER_ATTEMPT"; exit 1'), max_attempts=3, base_delay_ms=1)
    end_of(client, job)

    logs = [read(client, job, attempt=number) for number in (1, 2, 3)]

    assert logs == [b"attempt 1\n", b"attempt 2\n", b"attempt 3\n"]
    assert read(client, job) == b"attempt 3\n"


def test_log_when_read_from_an_offset_or_from_its_tail_then_only_that_comes(client: stoker.Client) -> None:
    job = submit(client, shell("for i in 1 2 3 4 5; do echo line $i; done"))
    end_of(client, job)

    assert read(client, job, tail_lines=2) == b"line 4\nline 5\n"
    assert read(client, job, offset=28) == b"line 5\n"
    assert read(client, job, tail_lines=0) == b""


def test_log_when_the_worker_floods_then_head_and_tail_stay_and_the_hole_is_shown(client: stoker.Client) -> None:
    job = submit(client, shell("echo first; yes | head -c 20000000; echo last"), max_log_bytes=65_536)
    end_of(client, job)

    pieces = list(client.stream("job.logs", {"id": job}))

    data = b"".join(base64.b64decode(piece["data"]) for piece in pieces if "data" in piece)
    assert data.startswith(b"first\n")
    assert data.endswith(b"last\n")
    holes = sum(piece["hole"] for piece in pieces if "hole" in piece)
    assert holes + len(data) == 20_000_000 + len(b"first\nlast\n")


def test_log_when_its_follower_is_slow_then_the_worker_waits_for_it(
    shared: DaemonProcess, client: stoker.Client, gate: Gate
) -> None:
    bound, flood = 1 << 20, 20_000_000
    script = f"echo begin; read _ < {gate.path}; yes | head -c {flood}"
    job = submit_running(client, shell(script), max_log_bytes=bound)
    path = log_of(shared.state_dir, f"{job}.1.any")
    with shared.client() as reader:
        pieces = reader.stream("job.logs", {"id": job, "follow": True})
        first = next(pieces)
        until(lambda: f":{path.stat().st_ino} {len('begin ')} EOF" in Path("/proc/locks").read_text(), why="a lock")

        gate.open()
        until(lambda: path.stat().st_size > bound and sleeps_in_write(client, job), why="a worker that waits")
        size = path.stat().st_size
        rest = list(pieces)

    assert size <= 4 * bound
    assert [piece for piece in (first, *rest) if "hole" in piece] == []
    assert sum(len(base64.b64decode(piece["data"])) for piece in rest) == flood
    until(lambda: client.get(job)["state"] == "succeeded")


def test_log_when_nothing_was_written_then_it_is_empty(client: stoker.Client) -> None:
    job = submit(client, shell("exit 0"))
    end_of(client, job)

    assert read(client, job) == b""
    assert read(client, job, follow=True) == b""


@pytest.mark.parametrize("follow", [False, True])
def test_log_when_its_file_is_gone_then_that_is_reported(
    shared: DaemonProcess, client: stoker.Client, *, follow: bool
) -> None:
    job = submit(client, shell("echo said"))
    end_of(client, job)
    log_of(shared.state_dir, f"{job}.1.x").unlink()

    with pytest.raises(LogUnreadable, match="is gone: 5 bytes were written to it"):
        read(client, job, follow=follow)

    command = shared.cli("logs", str(job))
    assert command.returncode != 0
    assert "is gone" in command.stderr


@pytest.mark.parametrize("options", [{"attempt": 2}, {"attempt": 9, "follow": True}])
def test_log_when_there_is_no_such_attempt_then_the_error_says_how_many_there_are(
    client: stoker.Client, options: dict[str, object]
) -> None:
    job = submit(client, shell("exit 0"))
    end_of(client, job)

    with pytest.raises(AttemptNotFound, match=f"has no attempt {options['attempt']}; its newest is 1"):
        read(client, job, **options)


def test_log_when_its_reader_goes_away_then_worker_and_other_readers_go_on(
    shared: DaemonProcess, client: stoker.Client, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "own")
    job = submit_running(client, shell(f"echo one; read _ < {gate.path}; echo two"))
    with shared.client() as stays:
        staying = stays.logs(job, follow=True)
        with shared.client() as leaves:
            leaving = leaves.logs(job, follow=True)
            next(leaving)
            leaving.close()  # type: ignore[attr-defined]
        gate.open()

        assert b"".join(staying) == b"one\ntwo\n"
    assert end_of(client, job) == ("succeeded", "exit")


def test_log_when_the_daemon_restarts_then_finished_logs_are_still_there(daemon: DaemonProcess) -> None:
    with daemon.client() as client:
        job = submit(client, shell("echo kept"))
        end_of(client, job)
    daemon.kill_and_start()

    with daemon.client() as client:
        assert read(client, job) == b"kept\n"
