"""Jobs that wait for files, with real inotify: they start once it is so, and through restarts.

Owns the promises of a running daemon. How a path is looked at is in tests/host.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker.core.clock import Now
from stoker.core.errors import InvalidParams, TooManyPaths
from stoker.core.job import events as ev
from stoker.core.job.model import Actor, State
from stoker.engine.conditions import MOST_PATHS, problems
from stoker.engine.dependents import apply_command
from stoker.engine.memory import LiveState
from stoker.engine.turn import Turn
from stoker.store.loading import Loaded
from stoker.upkeep.file_watch import THREADS
from tests.support import jobs as any_job
from tests.support.daemon import BIN, DaemonProcess
from tests.support.disks import DeadDirectory
from tests.support.facts import until
from tests.support.flows import sent_flow, settled, step, step_states
from tests.support.work import changes, end_of, job_view, shell, state, submit, submit_many

if TYPE_CHECKING:
    from collections.abc import Callable

    import stoker

SETTINGS = "[queues.stopped]\npaused = true\n"
OK = ("succeeded", "exit")


def awaiting(client: stoker.Client, *conditions: str, **options: Any) -> int:
    return submit(client, shell("exit 0", wait_for={"all": list(conditions)}, **options))


def looked_at(client: stoker.Client, job: int) -> str:
    """The words of `why` once the daemon has looked at the paths."""
    return str(until(lambda: (words := client.why(job)["message"]) and "not checked yet" not in words and words))


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def replace(path: Path) -> None:
    """Another file takes the place of this one, with the same size and time of change."""
    new = path.with_name("new")
    new.write_text(path.read_text())
    os.utime(new, ns=(0, path.stat().st_mtime_ns))
    new.rename(path)


def test_file_when_it_is_there_already_then_the_job_starts(client: stoker.Client, tmp_path: Path) -> None:
    assert end_of(client, awaiting(client, f"file:{tmp_path}")) == OK


def test_file_when_a_link_leads_to_a_name_of_other_bytes_then_why_shows_it(
    client: stoker.Client, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(os.fsdecode(b"caf\xe9"))

    job = awaiting(client, f"file:{link}")

    assert looked_at(client, job).endswith(f": {tmp_path}/caf\\xe9 does not exist")
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9")).touch()
    assert end_of(client, job) == OK


def test_file_when_its_directories_come_later_then_the_job_starts_with_it(
    client: stoker.Client, tmp_path: Path
) -> None:
    path = tmp_path / "in" / "deep" / "ready"
    job = awaiting(client, f"file:{path}")
    assert f"{tmp_path}/in does not exist" in looked_at(client, job)

    path.parent.mkdir(parents=True)
    until(lambda: f"{path} does not exist" in client.why(job)["message"])
    assert state(client, job) == "waiting"
    path.touch()

    assert end_of(client, job) == OK
    (met,) = changes(client, job, "condition_met")
    assert met["note"] == f"file:{path}"


def test_file_when_many_jobs_wait_for_it_then_all_start(client: stoker.Client, tmp_path: Path) -> None:
    path = tmp_path / "ready"
    jobs = [answer["id"] for answer in submit_many(client, [shell("exit 0", wait_for=f"file:{path}")] * 450)]

    path.touch()

    assert {standing["state"] for standing in client.wait(*jobs, timeout_s=120)} == {"succeeded"}


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("other"), os.utime, replace, lambda path: (path.unlink(), path.touch())],
    ids=["written", "touched", "replaced by its like", "removed and made anew"],
)
def test_change_when_a_file_is_changed_then_the_job_starts(
    client: stoker.Client, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    path = tmp_path / "data"
    write(path, "as it was")
    job = awaiting(client, f"file-changed:{path}")
    assert f"{path} has not changed" in looked_at(client, job)

    change(path)

    assert end_of(client, job) == OK


def test_change_when_the_file_goes_away_then_the_job_waits_until_it_is_back(
    client: stoker.Client, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    write(path)
    job = awaiting(client, f"file-changed:{path}")

    path.unlink()
    until(lambda: f"{path} does not exist" in client.why(job)["message"])
    assert state(client, job) == "waiting"
    write(path)

    assert end_of(client, job) == OK


def test_change_when_it_comes_right_after_the_answer_then_it_counts(client: stoker.Client, tmp_path: Path) -> None:
    path = tmp_path / "data"
    for number in range(20):
        write(path, str(number))
        job = awaiting(client, f"file-changed:{path}")
        replace(path)
        assert end_of(client, job) == OK


def test_change_when_another_job_begins_to_wait_later_then_each_has_its_own_start(
    client: stoker.Client, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    write(path)
    early = awaiting(client, f"file-changed:{path}", resources={}, queue="stopped")
    write(path, "changed")
    late = awaiting(client, f"file-changed:{path}")

    until(lambda: state(client, early) == "queued")

    assert f"{path} has not changed" in looked_at(client, late)
    assert state(client, late) == "waiting"
    client.cancel(early)
    client.cancel(late)


def test_change_when_a_directory_gets_a_name_then_the_job_starts(client: stoker.Client, tmp_path: Path) -> None:
    job = awaiting(client, f"file-changed:{tmp_path}")
    assert "has not changed" in looked_at(client, job)

    (tmp_path / "new").touch()

    assert end_of(client, job) == OK


def test_files_when_a_directory_with_very_many_is_busy_then_the_job_still_starts(
    client: stoker.Client, tmp_path: Path
) -> None:
    job = awaiting(client, f"file:{tmp_path}/ready")
    looked_at(client, job)
    one, other = tmp_path / "one", tmp_path / "other"
    one.touch()

    for _ in range(40_000):  # more than the queue of the kernel holds
        one.rename(other)
        one, other = other, one
    (tmp_path / "ready").touch()

    assert end_of(client, job) == OK


def test_files_when_no_job_waits_any_more_then_nothing_is_watched(client: stoker.Client, tmp_path: Path) -> None:
    job, held = awaiting(client, f"file:{tmp_path}/a"), awaiting(client, f"file:{tmp_path}/b")
    client.call("job.hold", {"id": held})
    assert client.status()["files"]["paths"] == 2

    client.cancel(job)
    client.cancel(held)

    assert client.status()["files"]["paths"] == 0
    client.call("job.retry", {"id": job})
    assert client.status()["files"]["paths"] == 1
    (tmp_path / "a").touch()
    assert end_of(client, job) == OK


def test_files_when_the_job_is_held_then_the_condition_is_met_all_the_same(
    client: stoker.Client, tmp_path: Path
) -> None:
    job = awaiting(client, f"file:{tmp_path}/a")
    client.call("job.hold", {"id": job})

    (tmp_path / "a").touch()

    until(lambda: job_view(client, job)["conditions_open"] == [])
    assert state(client, job) == "held"
    client.call("job.release", {"id": job})
    assert end_of(client, job) == OK


def test_files_when_steps_of_a_workflow_wait_for_them_then_each_starts_with_its_own(
    client: stoker.Client, tmp_path: Path
) -> None:
    write(tmp_path / "data")
    flow = sent_flow(
        client,
        {
            "first": step("exit 0", wait_for=f"file-changed:{tmp_path}/data"),
            "second": step("exit 0", wait_for=f"file:{tmp_path}/ready"),
        },
    )
    (tmp_path / "ready").touch()
    until(lambda: step_states(client, flow)["second"] == "succeeded")
    assert step_states(client, flow)["first"] == "waiting"

    replace(tmp_path / "data")

    assert settled(client, flow) == "succeeded"


def test_file_when_the_ttl_is_over_then_the_job_has_expired(client: stoker.Client, tmp_path: Path) -> None:
    assert end_of(client, awaiting(client, f"file:{tmp_path}/never", ttl_ms=50)) == ("expired", "ttl")


def test_file_when_its_path_is_not_absolute_then_nothing_is_stored(client: stoker.Client) -> None:
    with pytest.raises(InvalidParams, match=r"wait_for\.all\[0\]: 'here' is not a path"):
        awaiting(client, "file:here")


# --- restarts, limits and dead file systems -----------------------------------------------------------------


def test_files_when_they_changed_while_no_daemon_ran_then_the_jobs_start(daemon: DaemonProcess, tmp_path: Path) -> None:
    write(tmp_path / "data")
    write(tmp_path / "same")
    with daemon.client() as client:
        appears = awaiting(client, f"file:{tmp_path}/ready")
        changed = awaiting(client, f"file-changed:{tmp_path}/data")
        same = awaiting(client, f"file-changed:{tmp_path}/same")
    daemon.kill9()
    (tmp_path / "ready").touch()
    replace(tmp_path / "data")

    daemon.start()

    with daemon.client() as client:
        assert end_of(client, appears) == OK
        assert end_of(client, changed) == OK
        assert f"{tmp_path}/same has not changed" in looked_at(client, same)
        replace(tmp_path / "same")
        assert end_of(client, same) == OK


def test_change_when_the_job_is_of_a_schedule_then_each_run_waits_for_its_own(
    client: stoker.Client, tmp_path: Path
) -> None:
    write(tmp_path / "data")
    template = shell("exit 0", wait_for=f"file-changed:{tmp_path}/data")
    client.call("schedule.add", {"name": "imports", "timing": "@yearly", "overlap": "allow", "job": template})

    for _ in range(2):
        job = client.call("schedule.run", {"name": "imports"})["job"]
        assert f"{tmp_path}/data has not changed" in looked_at(client, job)
        replace(tmp_path / "data")
        assert end_of(client, job) == OK
    client.call("schedule.remove", {"name": "imports"})


def test_paths_when_jobs_wait_for_too_many_then_only_another_one_is_refused() -> None:
    memory = LiveState({}, {}, 0, 0)
    memory.awaited.update({f"file:/{number}": 1 for number in range(MOST_PATHS)})
    turn = Turn(memory, Now(0, 0), Loaded())

    more, known, event = (list(problems(turn, text, 0)) for text in ("file-changed:/more", "file:/7", "event:go"))

    assert [type(problem) for problem in more] == [TooManyPaths]
    assert str(MOST_PATHS) in more[0].message
    assert (known, event) == ([], [])


def test_paths_when_a_job_that_has_ended_is_to_wait_again_then_it_is_refused_too() -> None:
    memory = LiveState({}, {}, 0, 0)
    memory.awaited.update({f"file:/{number}": 1 for number in range(MOST_PATHS)})
    more, known = (
        any_job.job(State.CANCELLED, id=ident, asked=any_job.spec(wait_for=text), conditions_open=1)
        for ident, text in enumerate(["file:/more", "file:/7"], start=1)
    )
    turn = Turn(memory, Now(0, 0), Loaded(jobs={more.id: more, known.id: known}))

    with pytest.raises(TooManyPaths, match=str(MOST_PATHS)):
        apply_command(turn, more.id, ev.Retry(actor=Actor(0)))

    assert turn.batch.changes == []
    assert apply_command(turn, known.id, ev.Retry(actor=Actor(0))).state is State.WAITING


@pytest.mark.skipif(os.geteuid() != 0, reason="a limit of its own needs a user namespace")
@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_files_when_the_user_has_no_inotify_left_then_they_are_looked_at_again(tmp_path: Path, limit: str) -> None:
    program = tmp_path / "stokerd"
    script = f'echo 0 > /proc/sys/user/{limit} && exec {BIN}/stokerd "$@"'
    program.write_text(f'#!/bin/sh\nexec unshare --user --map-root-user sh -c {shlex.quote(script)} sh "$@"\n')
    program.chmod(0o755)
    with DaemonProcess(programs=tmp_path) as daemon, daemon.client() as client:
        job = awaiting(client, f"file:{tmp_path}/ready")

        assert "fs.inotify.max_user_" in looked_at(client, job)
        assert client.status()["files"]["untold"] == 1
        (tmp_path / "ready").touch()

        assert end_of(client, job) == OK
        assert daemon.logged("file_untold")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_files_when_a_file_system_hangs_then_others_are_still_looked_at(tmp_path: Path) -> None:
    """FUSE without a server that answers: every look at it sleeps, as at a server that is gone."""
    with DaemonProcess() as daemon, daemon.client() as client, DeadDirectory(tmp_path / "dead"):
        dead = tmp_path / "dead"
        (tmp_path / "link").symlink_to(dead)
        places = [f"{at}/{number}" for number in range(THREADS + 2) for at in (tmp_path / "link", dead)]
        jobs = [awaiting(client, f"file:{place}") for place in places]
        until(lambda: any("has not answered" in client.why(job)["message"] for job in jobs))
        assert client.status()["files"]["hanging"] == [str(dead)]
        changed = awaiting(client, f"file-changed:{dead}/data")
        lives = awaiting(client, f"file:{tmp_path}/ready")

        (tmp_path / "ready").touch()

        assert end_of(client, lives) == OK
        assert state(client, changed) == "waiting"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_files_when_one_that_hangs_is_mounted_often_then_others_are_still_looked_at(tmp_path: Path) -> None:
    places = [tmp_path / f"dead{number}" for number in range(THREADS + 2)]
    with DaemonProcess() as daemon, daemon.client() as client, DeadDirectory(places[0], places[1:]):
        jobs = [awaiting(client, f"file:{place}/data") for place in places]
        until(lambda: any("has not answered" in client.why(job)["message"] for job in jobs))
        lives = awaiting(client, f"file:{tmp_path}/ready")

        (tmp_path / "ready").touch()

        assert end_of(client, lives) == OK
        assert len(client.status()["files"]["hanging"]) == 1
        changed = awaiting(client, f"file-changed:{places[-1]}/data")
        assert state(client, changed) == "waiting"


def resume(client: stoker.Client) -> int:
    """Let the schedule run at its next slot."""
    client.call("schedule.resume", {"name": "imports"})
    return int(until(lambda: client.call("schedule.get", {"name": "imports"})["last_job"]))


def run_now(client: stoker.Client) -> int:
    return int(client.call("schedule.run", {"name": "imports"})["job"])


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("begin", [resume, run_now])
def test_change_when_it_comes_right_after_the_slot_then_the_run_starts(
    tmp_path: Path, begin: Callable[[stoker.Client], int]
) -> None:
    """The first look after the commit comes too late: it waits for a look that hangs."""
    write(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "dead")
    template = shell("exit 0", wait_for=f"file-changed:{tmp_path}/data")
    with DaemonProcess() as daemon, daemon.client() as client, DeadDirectory(tmp_path / "dead"):
        schedule = {"name": "imports", "timing": "every 1s", "job": template, "paused": True}
        client.call("schedule.add", schedule)
        awaiting(client, f"file:{tmp_path}/link/ready")

        job = begin(client)
        replace(tmp_path / "data")

        assert end_of(client, job) == OK
