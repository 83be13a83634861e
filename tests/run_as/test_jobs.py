"""Jobs of several users at one daemon: each runs as its user, with that user's files, and no other."""

from __future__ import annotations

import base64
import os
import pwd
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.core.errors import StokerError
from stoker.process.identity import mark_of, read_mark
from tests.support import work
from tests.support.facts import until
from tests.support.run_as import shell

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stoker
    from tests.support.run_as import RunAsDaemon

MANY = 40
READS = max(200, 70 * int(os.environ.get("STOKER_FAULTS", "0")))  # a minute of them in `make test-faults`


@pytest.fixture(scope="module")
def users(system: RunAsDaemon) -> list[pwd.struct_passwd]:
    many = [system.accounts.add_group(f"g{number}") for number in range(MANY)]
    return [system.add_user(f"u{number}", groups=many if number == 0 else ()) for number in range(5)]


@pytest.fixture
def alice(system: RunAsDaemon, users: list[pwd.struct_passwd]) -> Iterator[stoker.Client]:
    with system.client_of(users[1]) as client:
        yield client


def submit(client: stoker.Client, text: str, **spec: object) -> int:
    return int(client.call("job.submit", shell(text, **spec))["id"])


def log_of(client: stoker.Client, job: int) -> str:
    """Empty until it has written anything."""
    path = Path(client.call("job.get", {"id": job})["log"])
    return path.read_text() if path.exists() else ""


def attempt_of(client: stoker.Client, job: int) -> dict[str, object]:
    return dict(client.call("job.get", {"id": job})["attempts_list"][-1])


def test_job_when_five_users_submit_then_each_has_the_ids_of_its_user(
    system: RunAsDaemon, users: list[pwd.struct_passwd]
) -> None:
    shown = []
    for user in users:
        with system.client_of(user) as client:
            job = submit(client, "id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL")
            assert work.end_of(client, job) == ("succeeded", "exit")
            shown.append(log_of(client, job).splitlines())

    for user, (uid, gid, groups, account) in zip(users, shown, strict=True):
        assert (int(uid), int(gid)) == (user.pw_uid, user.pw_gid)
        assert sorted(map(int, groups.split())) == sorted(os.getgrouplist(user.pw_name, user.pw_gid))
        assert account == f"{user.pw_dir} {user.pw_name} {user.pw_name} {user.pw_shell}"
    assert len(shown[0][2].split()) >= MANY


def test_job_when_it_hands_on_outputs_then_the_daemon_reads_them_whatever_its_umask(alice: stoker.Client) -> None:
    first = submit(alice, "umask 0777; printf 'a=1\\n' > $STOKER_OUTPUT")
    second = submit(alice, 'cat "$STOKER_INPUTS_FILE"', needs=[first])

    assert work.end_of(alice, second) == ("succeeded", "exit")
    assert '"a":"1"' in log_of(alice, second)


def test_job_when_it_sends_a_notice_then_the_daemon_hears_its_user(alice: stoker.Client) -> None:
    connect = "s.connect(os.environ['NOTIFY_SOCKET'])"
    send = (
        f"import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); {connect}; s.send(b'STATUS=heard')"
    )
    job = submit(alice, f'python3 -c "{send}"; sleep 60', notify=True)

    until(lambda: alice.call("job.get", {"id": job})["status_text"] == "heard", why="the notice")
    alice.call("job.cancel", {"id": job})
    assert work.end_of(alice, job)[0] == "cancelled"


def test_files_when_jobs_of_two_users_ran_then_neither_reaches_those_of_the_other(
    system: RunAsDaemon, users: list[pwd.struct_passwd], alice: stoker.Client
) -> None:
    with system.client_of(users[2]) as bob:
        secret = submit(bob, "echo secret")
        work.end_of(bob, secret)
        path = bob.call("job.get", {"id": secret})["log"]
    spy = submit(alice, f"cat {path} {system.state_dir}/stoker.db; ls {system.directory_of(users[2])}")

    assert work.end_of(alice, spy)[0] == "failed"
    assert "secret" not in log_of(alice, spy)
    assert log_of(alice, spy).count("Permission denied") == 3
    assert stat.S_IMODE(Path(path).stat().st_mode) & 0o007 == 0


def test_secrets_when_a_job_has_some_then_its_user_alone_reads_them(
    users: list[pwd.struct_passwd], alice: stoker.Client, system: RunAsDaemon
) -> None:
    gate = system.home / "secret-gate"
    os.mkfifo(gate)
    gate.chmod(0o644)
    text = f'cat "$STOKER_SECRETS_DIR/token"; echo; echo "$STOKER_SECRETS_DIR"; read _ < {gate}'
    job = submit(alice, text, secrets={"token": {"base64": "cHJpdmF0ZQ=="}})
    until(lambda: log_of(alice, job).count("\n") == 2, why="its secret")
    secret, path = log_of(alice, job).splitlines()
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (Path(path), Path(path, "token"))]
    with system.client_of(users[2]) as bob:
        spy = submit(bob, f"cat {path}/token; ls {path}; ls {Path(path).parent}")
        work.end_of(bob, spy)
        spied = log_of(bob, spy)
    gate.write_text("go\n")

    assert work.end_of(alice, job) == ("succeeded", "exit")
    assert secret == "private"
    assert modes == [0o750, 0o440]  # the bits of the group are the most that the entry of the user may give
    assert spied.count("Permission denied") == 3
    assert not Path(path).exists()


def test_sources_when_they_name_the_files_of_others_then_the_end_has_none(
    system: RunAsDaemon, alice: stoker.Client
) -> None:
    """The daemon can read the logs and secrets of all, and the end of a step shows the hashes of its sources."""
    member = system.accounts.add("member")
    job = submit(alice, 'echo "$STOKER_SECRETS_DIR"; read _ < /dev/zero', secrets={"T": {"base64": "cGlu"}})
    secrets = until(lambda: log_of(alice, job).strip(), why="its first line")
    system.home.chmod(0o711)
    places = [*secrets.split(), str(system.state_dir), str(Path(alice.call("job.get", {"id": job})["log"]).parent)]
    steps = {"a": shell("exit 0", sources=[f"{place}/*" for place in places])}
    with system.client_of(member) as client:
        workflow = client.call("workflow.submit", {"flow": {"name": "curious", "steps": steps}})["id"]
        until(lambda: client.call("workflow.get", {"id": workflow})["state"] == "succeeded", why="its end")
        found = client.call("checkpoint.list", {"workflow": workflow})["checkpoints"]
        (end,) = [one["id"] for one in found if one["kind"] == "step"]
        written = base64.b64decode(client.call("checkpoint.get", {"id": end, "offset": 0})["data"]).decode()
        launchers = [one["id"] for one in client.call("system.status")["launchers"]]
    alice.call("job.cancel", {"id": job})
    until(lambda: not Path(secrets).exists(), why="the end of its secrets")

    assert '"outcome":"exit"' in written
    for place in places:
        assert place.strip("/") not in written
    assert all(one.count("-") == 1 or one.endswith(f"-{member.pw_uid}") for one in launchers)


@pytest.mark.parametrize("place", ["log", "output"])
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_file_when_the_job_puts_something_else_there_then_nothing_of_others_is_read(
    system: RunAsDaemon, alice: stoker.Client, place: str, kind: str
) -> None:
    canary = system.home / "canary"
    canary.write_text("canary=read\n")
    canary.chmod(0o600)
    os.chown(canary, system.user.pw_uid, -1)
    make = {"symlink": f"ln -s {canary} $at", "fifo": "mkfifo $at", "directory": "mkdir $at"}[kind]
    log = "echo x; sleep 0.1; at=${STOKER_OUTPUT%/work/*}/logs/0/$STOKER_JOB_ID/1.log; rm -f $at"
    where = {"output": "at=$STOKER_OUTPUT", "log": log}
    job = submit(alice, f"{where[place]}; {make}")
    then = submit(alice, "cat $STOKER_INPUTS_FILE", needs=[{"job": job, "on": "any"}])
    work.end_of(alice, then)

    seen = log_of(alice, then).encode()
    with suppress(StokerError):  # its log is something else
        seen += b"".join(alice.logs(job))
    assert b"canary" not in seen
    assert b'"state"' in seen
    assert canary.read_text() == "canary=read\n"


def held(client: stoker.Client, job: int) -> str:
    """Why a job is held, once it is."""
    until(lambda: client.call("job.get", {"id": job})["state"] == "held", why=f"job {job} held")
    return str(client.why(job)["message"])


def test_job_when_the_policy_refuses_its_user_then_it_is_held_in_words(
    system: RunAsDaemon, alice: stoker.Client
) -> None:
    refused = system.add_user("refused")
    system.spawner.allow(f'users = ["{system.user.pw_name}"]\n')
    try:
        with system.client_of(refused) as client:
            job = submit(client, "exit 0")
            why = held(client, job)
            system.spawner.allow("")
            assert system.cli("config", "reload").returncode == 0  # at the next start it is asked again
            client.call("job.release", {"id": job})
            assert work.end_of(client, job) == ("succeeded", "exit")
    finally:
        system.spawner.allow("")

    assert f"uid {refused.pw_uid} is neither in users nor a member of one of groups" in why
    assert work.end_of(alice, submit(alice, "exit 0")) == ("succeeded", "exit")


def test_job_when_its_user_is_locked_then_it_is_held_while_the_launcher_goes_on(system: RunAsDaemon) -> None:
    user = system.add_user("shut")
    gate = system.home / "shut-gate"
    os.mkfifo(gate)
    gate.chmod(0o644)
    with system.client_of(user) as client:
        running = submit(client, f"read _ < {gate}")
        until(lambda: client.call("job.get", {"id": running})["pid"], why="its start")
        system.accounts.change(user, "--password", "!$6$salt$hash")
        assert system.cli("config", "reload").returncode == 0  # forgets that the user was admitted just now
        why = held(client, submit(client, "exit 0"))
        gate.write_text("go\n")

        assert f"the account {user.pw_name} (uid {user.pw_uid}) is locked: passwd -u" in why
        assert work.end_of(client, running) == ("succeeded", "exit")


def test_job_when_the_access_section_shuts_its_user_out_then_it_is_held(system: RunAsDaemon) -> None:
    member = system.accounts.add("former")
    text = system.config.read_text()
    with system.client_of(member) as client, system.client() as root:
        root.call("queue.pause", {"name": "default"})
        waiting = submit(client, "exit 0")
        try:
            system.config.write_text(text.replace("everyone", "owner").replace(f'"{system.group}"', '""'))
            assert system.cli("config", "reload").returncode == 0
            root.call("queue.resume", {"name": "default"})
            why = held(root, waiting)
        finally:
            root.call("queue.resume", {"name": "default"})
            system.config.write_text(text)
            assert system.cli("config", "reload").returncode == 0

    assert f"uid {member.pw_uid} may not use this daemon any more: [access] admits none of its groups" in why


def test_job_when_its_directory_is_closed_to_its_user_then_it_fails_in_words(
    system: RunAsDaemon, alice: stoker.Client
) -> None:
    job = submit(alice, "exit 0", working_dir=str(system.state_dir))

    assert work.end_of(alice, job) == ("failed", "spawn_error")
    assert f"working_dir {system.state_dir}: Permission denied" in str(attempt_of(alice, job)["error"])


def launchers_of(system: RunAsDaemon, user: pwd.struct_passwd) -> list[int]:
    with system.client() as client:
        status = client.call("system.status")["launchers"]
    return [one["pid"] for one in status if one["id"].endswith(f"-{user.pw_uid}")]


def test_daemon_when_it_is_killed_then_the_next_one_adopts_the_job_under_its_user(
    system: RunAsDaemon, users: list[pwd.struct_passwd]
) -> None:
    gate = system.home / "gate"
    os.mkfifo(gate)
    gate.chmod(0o644)
    with system.client_of(users[1]) as client:
        job = submit(client, f"read _ < {gate}; id -u", survive=True)
        until(lambda: client.call("job.get", {"id": job})["pid"], why="its start")

    system.kill_and_start()

    with system.client_of(users[1]) as client:
        adopted = client.call("job.get", {"id": job})
        gate.write_text("go\n")
        assert (adopted["state"], adopted["attempts"]) == ("running", 1)
        assert work.end_of(client, job) == ("succeeded", "exit")
        assert log_of(client, job) == f"{users[1].pw_uid}\n"


def test_launcher_when_it_is_killed_then_a_fresh_one_stops_its_runs_and_no_decoy(
    system: RunAsDaemon, users: list[pwd.struct_passwd], alice: stoker.Client
) -> None:
    job = submit(alice, "trap '' TERM; while :; do sleep 1; done", grace_ms=100)
    pid = until(lambda: alice.call("job.get", {"id": job})["pid"], why="its start")
    with decoy(users[2], str(attempt_of(alice, job)["run_id"])) as other:
        for launcher in launchers_of(system, users[1]):
            os.kill(launcher, signal.SIGKILL)

        assert work.end_of(alice, job) == ("failed", "orphaned")
        assert not work.alive(pid)
        assert other.poll() is None
    assert attempt_of(alice, job)["unstoppable"] == []


@contextmanager
def decoy(user: pwd.struct_passwd, run_id: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of another user that carries the mark of the run, as any user can see it and set it."""
    mark = mark_of(run_id)
    words = ["setpriv", "--reuid", str(user.pw_uid), "--clear-groups", "prlimit", f"--rttime={mark}:", "sleep", "600"]
    with subprocess.Popen(words, cwd="/", env={"PATH": os.environ["PATH"]}) as process:
        try:
            until(lambda: read_mark(process.pid) == mark, why="the mark of the decoy")
            yield process
        finally:
            process.kill()


ATTACK = """
import os, random, shutil, sys, time
canary, seed, go, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
chance, number = random.Random(seed), 0
root = os.environ["STOKER_OUTPUT"].rsplit("/work/", 1)[0]
job = os.environ["STOKER_JOB_ID"]
places = [f"{root}/logs", f"{root}/logs/0", f"{root}/logs/0/{job}", f"{root}/logs/0/{job}/1.log", f"{root}/work",
    f"{root}/outcomes", os.environ["STOKER_OUTPUT"], os.environ["STOKER_CHECKPOINT"]]
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.01)
while not os.path.exists(stop):
    number += 1
    place = chance.choice(places)
    print(number, flush=True)
    try:
        aside = f"{root}/aside"
        shutil.rmtree(aside, ignore_errors=True)
        there = os.path.lexists(place)
        if there:
            os.rename(place, aside)
        match chance.randrange(5):
            case 0: os.symlink(canary, place)
            case 1: os.symlink(f"{canary}/secret", place)
            case 2: os.link(f"{canary}/secret", place)
            case 3: os.mkfifo(place)
            case 4: os.symlink("/proc/self/fd/0", place)
        time.sleep(0.003)
    except OSError:
        pass
    try:
        if os.path.lexists(place):
            os.unlink(place)
        if there:
            os.rename(aside, place)
    except OSError:
        pass
"""


def test_directories_when_a_job_swaps_them_for_links_then_the_canary_is_unread(
    system: RunAsDaemon, users: list[pwd.struct_passwd], alice: stoker.Client, seed: int
) -> None:
    sys.stderr.write(f"\nSTOKER_SEED={seed}\n")
    canary = system.home / f"canary-{seed}"
    canary.mkdir()
    script = system.home / "attack.py"
    script.write_text(ATTACK)
    go, stop = system.home / f"go-{seed}", system.home / f"stop-{seed}"
    job = submit(alice, f"exec python3 {script} {canary} {seed} {go} {stop}")
    files = [canary / name for name in ("secret", "1.log", f"{job}/1.log", f"0/{job}/1.log")]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("canary=read\n")
        path.chmod(0o600)
    for path in (canary, *canary.rglob("*")):
        os.chown(path, system.user.pw_uid, system.user.pw_gid)
    before = sorted(canary.rglob("*"))
    until(lambda: b"".join(alice.logs(job)) == b"ready\n", why="its log, as long as nothing is swapped")
    go.touch()

    seen = []
    for _ in range(READS):
        with suppress(StokerError):  # its log is something else just now
            seen.append(b"".join(alice.logs(job)))
    stop.touch()
    work.end_of(alice, job)

    assert b"canary=read" not in b"".join(seen)
    assert sorted(canary.rglob("*")) == before
    assert {path.read_text() for path in files} == {"canary=read\n"}
    assert {(path.stat().st_nlink, stat.S_IMODE(path.stat().st_mode)) for path in files} == {(1, 0o600)}
    assert work.end_of(alice, submit(alice, "exit 0"))[0] == "succeeded"
