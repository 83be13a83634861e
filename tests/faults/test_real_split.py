"""The split set-up under a real systemd: a closed-in daemon, and users' launchers under `stoker-launcher.service`.

Owns the installation of systemd/split.conf and of a policy in the shared container, and removes both with the users'
launchers. Clients are the real command, run as real users of the container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import container
from tests.support.service import DROP_INS, STATE, STOKERD, UNITS
from tests.support.work import end_of, job_view, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.service import Service
    from tests.support.work import Gate
WHY_NOT = container.missing()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

SPAWNER = "stoker-launcher.service"
SPAWNER_DROP_INS = f"/run/systemd/system/{SPAWNER}.d"
POLICY = "/etc/stoker/run-as.toml"
USERS_STATE = "/var/lib/stoker-users"
SETTINGS = '[access]\nusers = "everyone"\n[run_as]\nuser = "submitter"\n'
USERS = ("stk-alice", "stk-bob")


class Kept(NamedTuple):
    """The process of a job, its user and its unit: a restart of the daemon changes none of them."""

    pid: int
    uid: int
    unit: str


@pytest.fixture
def split(service: Service) -> Iterator[Service]:
    """The service with its drop-in, started together with the spawner."""
    inside = service.container
    for user in USERS:
        inside.run("useradd", "--no-create-home", "--user-group", "--shell", "/bin/sh", user)
    inside.write(POLICY, "")
    program = STOKERD.with_name("stoker-spawner")
    inside.write(f"{SPAWNER_DROP_INS}/path.conf", f"[Service]\nExecStart=\nExecStart={program}\n")
    inside.write(f"{DROP_INS}/split.conf", (UNITS / "split.conf").read_text())
    service.configure("RestartSec=300ms", SETTINGS)
    yield service.start()
    service.systemctl("stop", "stoker.service")
    service.systemctl("stop", SPAWNER)
    service.systemctl("kill", "--signal=KILL", SPAWNER, check=False)  # users' launchers
    inside.run("rm", "-rf", POLICY, SPAWNER_DROP_INS, USERS_STATE)
    for user in USERS:
        inside.run("userdel", "--force", user)


def submit_as(service: Service, user: str, script: str) -> int:
    """The id of a job with a secret, which survives the daemon, from the command as `user`."""
    asked = [str(STOKERD.with_name("stoker")), "submit", "--survive", "--working-dir", "/", "--nice", "5"]
    asked += ["--secret", "token=-", "--", "/bin/sh", "-c", script]
    return int(service.container.run("setpriv", f"--reuid={user}", "--init-groups", "--reset-env", *asked, stdin=user))


def kept(service: Service, job: int) -> Kept:
    with service.client() as client:
        running(client, job)
        pid = job_view(client, job)["pid"]
    process = service.container.root / "proc" / str(pid)
    cgroup = (process / "cgroup").read_text()
    unit = next(part for part in cgroup.strip().split("/") if part.endswith(".service"))
    return Kept(pid, process.stat().st_uid, unit)


def test_split_service_when_the_daemon_is_killed_then_it_adopts_the_jobs_of_all(
    split: Service, shared_gate: Gate
) -> None:
    who = (*USERS, "stoker")
    script = f'id -un; cat "$STOKER_SECRETS_DIR/token"; read _ < {shared_gate.path}; exit 7'
    jobs = [submit_as(split, user, script) for user in who]
    first = split.pid
    with split.client() as client:
        running(client, *jobs)
    before = [kept(split, job) for job in jobs]
    uids = [int(split.container.run("id", "-u", user)) for user in who]
    assert [(job.uid, job.unit) for job in before] == list(zip(uids, (SPAWNER, SPAWNER, "stoker.service"), strict=True))

    split.kill(first, "KILL")
    split.restarted(first)

    assert [kept(split, job) for job in jobs] == before
    shared_gate.open()
    with split.client() as client:
        assert [end_of(client, job) for job in jobs] == [("failed", "exit")] * 3
        views = [job_view(client, job) for job in jobs]
    assert [view["exit_code"] for view in views] == [7] * 3
    logs = [split.container.run("cat", view["log"]).split() for view in views]
    assert logs == [[user, user] for user in who]
    assert split.events("launcher_lost") == []


def test_split_service_when_it_is_looked_at_then_only_what_it_needs_is_open(split: Service) -> None:
    in_its_view = (
        "nsenter",
        f"--target={split.pid}",
        "--mount",
        "--net",
        "setpriv",
        "--reuid=stoker",
        "--clear-groups",
    )

    capabilities = split.container.run("grep", "^Cap", f"/proc/{split.pid}/status").split()[1::2]
    written = [
        path
        for path in ("/", "/etc", "/home", "/run", "/usr", STATE, "/run/stoker", "/tmp")
        if split.container.run(*in_its_view, "sh", "-c", 'test -w "$1" && echo yes; :', "writable", path)
    ]

    assert set(capabilities) == {"0" * 16}
    assert written == [STATE, "/run/stoker", "/tmp"]
    assert split.container.run(*in_its_view, "ls", "/sys/class/net") == "lo"
